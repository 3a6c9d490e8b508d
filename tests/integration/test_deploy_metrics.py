"""The dashboard and the alerts of `deploy/` ask for metrics and labels that the service exposes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fastapi.testclient import TestClient
from loop_home import copy_of
from loop_setup import MLFLOW_WARNS, Loop
from prometheus_client.parser import text_string_to_metric_families

from serving.app import create_app

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)
DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RACE = "2024_04"
OF_PROMETHEUS = {"le"}
SERVICE = "finish_position_v1"


def asked(client: TestClient) -> str:
    page = client.get("/metrics")
    assert page.status_code == 200
    return page.text


def value(page: str, name: str, **labels: str) -> float:
    """The value of a series; 0 where it has not begun."""
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return next((sample.value for sample in samples if sample.name == name and sample.labels == labels), 0.0)


def values_by_status(page: str) -> dict[str, float]:
    return {
        status: value(page, "pitwall_feature_values_total", service=SERVICE, status=status)
        for status in ("FRESH", "STALE", "MISSING")
    }


@pytest.fixture(scope="module")
def client(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = copy_of(loop, tmp_path_factory.mktemp("metrics") / "home")
    with TestClient(create_app(settings), raise_server_exceptions=False) as running:
        yield running


def test_values_of_predictions_are_counted_as_those_of_lookups(client: TestClient) -> None:
    before = values_by_status(asked(client))
    said = client.post("/v1/predict", json={"race_id": RACE, "lap": 3}).json()
    after = values_by_status(asked(client))
    assert said["model"]["feature_service"] == SERVICE
    counted = {status: after[status] - before[status] for status in after}
    assert counted["MISSING"] == sum(map(len, said["missing"]["features"].values()))
    assert sum(counted.values()) == 63 * len(said["drivers"])
    assert client.post("/v1/predict", json={"race_id": RACE, "lap": 3, "drivers": ["ines_dubois"]}).status_code == 200
    assert sum(values_by_status(asked(client)).values()) - sum(after.values()) == 63


def test_stages_are_those_of_their_endpoint(client: TestClient) -> None:
    before = asked(client)
    assert client.post("/v1/predict", json={"race_id": RACE, "lap": 3}).status_code == 200
    rows = [{"race_id": RACE, "driver_id": "ines_dubois"}]
    assert client.post("/v1/features", json={"entity_rows": rows}).status_code == 200
    page = asked(client)
    stages = {
        "/v1/predict": ("wait", "features", "pictures", "model", "total"),
        "/v1/features": ("wait", "features", "json", "total"),
    }
    for endpoint, names in stages.items():
        for stage in names:
            counts = [value(one, "pitwall_stage_seconds_count", endpoint=endpoint, stage=stage) for one in (before, page)]
            assert counts[1] - counts[0] == 1, (endpoint, stage)


def test_every_role_says_that_it_has_no_problem(client: TestClient) -> None:
    page = asked(client)
    for role in ("champion", "challenger", "baseline", "registry"):
        assert f'pitwall_model_problem{{role="{role}"}} 0.0' in page


@pytest.fixture(scope="module")
def exposed(client: TestClient) -> dict[str, set[str]]:
    """Name of every series after some requests -> its labels; of one without any series yet, those it declares."""
    assert client.post("/v1/predict", json={"race_id": RACE, "lap": 0}).status_code == 200
    rows = [{"race_id": RACE, "driver_id": "ines_dubois"}]
    assert client.post("/v1/features", json={"entity_rows": rows}).status_code == 200
    page = asked(client)
    found: dict[str, set[str]] = {}
    declared = {"pitwall_fallbacks_total": {"fallback"}}
    for family in text_string_to_metric_families(page):
        names = [family.name, f"{family.name}_total"] if family.type == "counter" else [family.name]
        for name in names:
            found.setdefault(name, set()).update(declared.get(name, set()))
        seen = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
        assert len(seen) == len(set(seen)), f"{family.name}: a series is given twice, which Prometheus refuses"
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def queries() -> Iterator[tuple[str, str]]:
    """Title and expression of every panel and alert."""
    for panel in json.loads((DEPLOY / "grafana" / "dashboards" / "pitwall.json").read_text(encoding="utf-8"))["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def test_what_is_drawn_and_watched_is_exposed(exposed: dict[str, set[str]]) -> None:
    for title, query in queries():
        bare = re.sub(r'"[^"]*"', '""', query)
        names = set(re.findall(r"\bpitwall_\w+", bare))
        assert names or 'job=""' in bare, title
        assert names <= exposed.keys(), f"{title}: {names - exposed.keys()}"
        asked = {label for given in re.findall(r"\{([^}]*)\}", bare) for label in re.findall(r"(\w+)\s*[=!]", given)}
        asked |= {label.strip() for given in re.findall(r"\bby \(([^)]*)\)", bare) for label in given.split(",")}
        known = set().union(*(exposed[name] for name in names)) | OF_PROMETHEUS | (set() if names else {"job"})
        assert asked <= known, f"{title}: {asked - known}"


def test_what_is_exposed_is_drawn(exposed: dict[str, set[str]]) -> None:
    drawn = " ".join(query for _, query in queries())
    ours = {re.sub(r"_(bucket|count|sum|created|total)$", "", name) for name in exposed if name.startswith("pitwall_")}
    assert ours
    assert [name for name in sorted(ours) if name not in drawn] == []
