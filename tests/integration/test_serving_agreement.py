"""What /v1/features calls missing or stale, /v1/predict calls missing or stale: one rule, then and now."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from fastapi.testclient import TestClient
from loop_home import copy_of
from loop_setup import MLFLOW_WARNS, Loop

from feature_repo.settings import Settings
from feature_repo.spine import Moment, load_entrants, load_moments, resolve_moment
from feature_repo.store import apply, online_path
from pipelines.materialize import materialize
from serving.app import create_app

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)
RACE, NEXT = "2024_03", "2024_04"
EXPIRED = "2024-03-31T17:00:00Z"
"""When the state of the cars in `RACE`, a day's worth, had long expired."""

ByDriver = dict[str, list[str]]


@pytest.fixture(scope="module")
def settings(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The loop's home whose online store stands in the middle of the newest race."""
    copied = copy_of(loop, tmp_path_factory.mktemp("agreement") / "home")
    online_path(copied).unlink()
    apply(copied)
    materialize(copied, until=resolve_moment(load_moments(copied), NEXT, Moment.parse("fraction:0.5")).as_of)
    return copied


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    """The service over it."""
    with TestClient(create_app(settings), raise_server_exceptions=False) as one:
        yield one


def features(client: TestClient, settings: Settings, race_id: str, service: str, **asked: Any) -> dict[str, Any]:
    """The columns of a service for every car of a race, and the cars."""
    entrants = load_entrants(settings)
    cars = sorted(entrants.loc[entrants["race_id"] == race_id, "driver_id"])
    rows = [{"race_id": race_id, "driver_id": car} for car in cars]
    answer = client.post("/v1/features", json={"service": service, "entity_rows": rows, **asked})
    assert answer.status_code == 200, answer.text
    columns = answer.json()["features"]
    for name, column in columns.items():
        missing = [value is None for value in column["value"]]
        assert [status == "MISSING" for status in column["status"]] == missing, f"{name}: missing is what has no value"
    return {"cars": cars, "columns": columns}


def marked(found: dict[str, Any], wanted: str) -> ByDriver:
    """Feature -> cars with that status; features without any are left out."""
    cars = {
        name: [car for car, status in zip(found["cars"], column["status"], strict=True) if status == wanted]
        for name, column in found["columns"].items()
    }
    return {name: those for name, those in cars.items() if those}


def ordered(by_feature: ByDriver) -> ByDriver:
    """The same with the cars of each feature in order."""
    return {name: sorted(cars) for name, cars in by_feature.items()}


@pytest.mark.parametrize(
    "as_of", ["2024-03-24T10:00:00Z", "2024-03-24T14:00:00Z", EXPIRED], ids=["before the race", "in the race", "a week later"]
)
def test_past_values_are_missing_and_stale_alike(client: TestClient, settings: Settings, as_of: str) -> None:
    said = client.post("/v1/predict", json={"race_id": RACE, "as_of": as_of})
    assert said.status_code == 200, said.text
    found = features(client, settings, RACE, said.json()["model"]["feature_service"], as_of=as_of)
    assert ordered(said.json()["missing"]["features"]) == marked(found, "MISSING")
    assert ordered(said.json()["stale"]) == marked(found, "STALE")


def test_a_value_that_expired_is_missing_and_says_when_it_was_true(client: TestClient, settings: Settings) -> None:
    found = features(client, settings, RACE, "race_state_v1", as_of=EXPIRED)
    column = found["columns"]["running_position"]
    assert set(column["status"]) == {"MISSING"}
    ages = [age for age in column["age_s"] if age is not None]
    assert len(ages) > 15, "all but cars of which nothing was ever known"
    assert min(ages) > 3 * 86_400
    assert [event is None for event in column["event_timestamp"]] == [age is None for age in column["age_s"]]


def test_live_answers_miss_what_has_no_value_or_had_expired(client: TestClient, settings: Settings) -> None:
    said = client.post("/v1/predict", json={"race_id": NEXT, "live": True})
    assert said.status_code == 200, said.text
    as_of = pd.Timestamp(said.json()["moment"]["as_of"])
    found = features(client, settings, NEXT, said.json()["model"]["feature_service"])
    views = {view["name"]: view["ttl_s"] for view in client.get("/v1/catalogue").json()["views"]}
    expected: ByDriver = {}
    for name, column in found["columns"].items():
        ttl_s = views[column["view"]] or float("inf")
        for car, value, event in zip(found["cars"], column["value"], column["event_timestamp"], strict=True):
            if value is None or (as_of - pd.Timestamp(event)).total_seconds() > ttl_s:
                expected.setdefault(name, []).append(car)
    assert ordered(said.json()["missing"]["features"]) == expected
    assert set(marked(found, "STALE")) - set(expected), "a value of any age is shown online, as Feast does, and called stale"
