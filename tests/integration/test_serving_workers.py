"""A service of two worker processes: one page speaks for both, both take a promotion over, and both finish what is under way."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loop_home import copy_of
from loop_setup import MLFLOW_WARNS, Loop, loop_environment
from prometheus_client.parser import text_string_to_metric_families
from serve_process import Served, answers_while_stopping, serving

from feature_repo.settings import Settings
from ml.registry import CHALLENGER, CHAMPION, alias_version, move_champion, open_registry, registry_lock

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)
RACE = "2024_04"
JSON = {"content-type": "application/json"}
ROWS = json.dumps({"entity_rows": [{"race_id": RACE, "driver_id": "ines_dubois"}] * 1_000}).encode()
QUESTION = json.dumps({"race_id": RACE, "lap": 3}).encode()


@pytest.fixture(scope="module")
def home(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home without a champion."""
    settings = copy_of(loop, tmp_path_factory.mktemp("workers") / "home")
    promote(settings, None)
    return settings


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes make their temporary folder of counts."""
    return tmp_path_factory.mktemp("counts")


@pytest.fixture(scope="module")
def served(home: Settings, counts: Path) -> Iterator[Served]:
    environment = {**loop_environment(home.home), "PITWALL_MODEL_POLL_S": "0.2", "TMPDIR": str(counts)}
    with serving(environment, workers=2) as running:
        # Each process answers itself once before it lets others ask.
        until(lambda: total(running, "pitwall_predictions_total") == 2)
        yield running


def promote(settings: Settings, version: str | None) -> None:
    registry = open_registry(settings)
    with registry_lock(settings):
        current = alias_version(registry, CHAMPION)
        if current != version:
            move_champion(registry, expected=current, new=version, reason="promote" if version else "rollback")


def until(true: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.05)


def ask(served: Served, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """The answer to a request on a connection of its own, which either process may accept."""
    connection = served.connect()
    try:
        connection.request(method, path, body, JSON)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def total(served: Served, name: str, **labels: str) -> float:
    """The sum of a metric's series that have some labels, as whichever process is asked tells it."""
    status, page = ask(served, "GET", "/metrics")
    assert status == 200, served.said()[-5000:]
    samples = [sample for family in text_string_to_metric_families(page.decode()) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())


def test_one_page_counts_what_both_answer(served: Served) -> None:
    before = total(served, "pitwall_request_seconds_count", endpoint="/v1/predict")
    for _ in range(10):
        assert ask(served, "POST", "/v1/predict", QUESTION)[0] == 200
    pages = [total(served, "pitwall_request_seconds_count", endpoint="/v1/predict") for _ in range(10)]
    assert set(pages) == {before + 10}, "the same, whoever is asked"


def test_each_says_how_it_is_without_being_asked(served: Served, counts: Path) -> None:
    for mode in ("livesum", "livemax"):
        until(lambda mode=mode: len([*counts.glob(f"pitwall-metrics-*/gauge_{mode}_*.db")]) == 2)
    for role in ("champion", "challenger", "baseline", "registry"):
        assert total(served, "pitwall_model_problem", role=role) == 0
    assert total(served, "pitwall_waiting") == 0


def test_both_take_a_promotion_over(served: Served, home: Settings) -> None:
    new = alias_version(open_registry(home), CHALLENGER)
    assert new is not None
    assert json.loads(ask(served, "POST", "/v1/predict", QUESTION)[1])["model"]["role"] == "baseline"
    promote(home, new)
    until(lambda: served.said().count(f"models_changed champion={new}") == 2)
    answers = [json.loads(ask(served, "POST", "/v1/predict", QUESTION)[1])["model"] for _ in range(20)]
    assert {(model["role"], model["version"]) for model in answers} == {("champion", new)}


def test_sigterm_lets_answers_of_both_finish(served: Served, counts: Path) -> None:
    """The last of this module: it ends the service."""
    answers = answers_while_stopping(served, "/v1/features", ROWS, n_requests=8)
    assert [status for status, _ in answers] == [200] * 8
    assert len({frozenset(json.loads(body)["features"]) for _, body in answers}) == 1
    assert served.process.wait(timeout=40) == 0, served.said()[-2000:]
    with pytest.raises(OSError, match="refused"):
        served.connect(timeout=2).connect()
    assert "Traceback" not in served.said()
    assert not [*counts.glob("pitwall-metrics-*")], "what was counted is removed"


def test_a_home_that_cannot_be_opened_ends_the_service_with_3(tmp_path: Path) -> None:
    said = pytest.raises(RuntimeError, match=r"(?s)ended with 3: .*run `pitwall apply` first")
    with said, serving(loop_environment(tmp_path), workers=2):
        pass
