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


@pytest.fixture(scope="module")
def exposed(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Name of every series after some requests -> its labels; of one without any series yet, those it declares."""
    settings = copy_of(loop, tmp_path_factory.mktemp("metrics") / "home")
    app = create_app(settings)
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.post("/v1/predict", json={"race_id": RACE, "lap": 0}).status_code == 200
        rows = [{"race_id": RACE, "driver_id": "ines_dubois"}]
        assert client.post("/v1/features", json={"entity_rows": rows}).status_code == 200
        page = client.get("/metrics")
        assert page.status_code == 200
    found: dict[str, set[str]] = {}
    declared = {"pitwall_model_problem": {"role"}, "pitwall_fallbacks_total": {"fallback"}}
    for family in text_string_to_metric_families(page.text):
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
