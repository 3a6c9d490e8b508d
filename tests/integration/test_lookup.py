"""Lookup: online and offline give the same answer, with the right age, and errors where nothing is known."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tiny_home import DRIVERS, FORM_TTL, RACES, at, catalogue, form_row, rows, write_all, write_table

from feature_repo.errors import InvalidIdError, MissingInputError, NotAppliedError, UnknownEntityError, UnknownServiceError
from feature_repo.settings import Settings
from feature_repo.store import apply, open_store
from pipelines.materialize import materialize
from serving import lookup as lookup_module
from serving.errors import InconsistentFeaturesError, NotServedOnlineError
from serving.lookup import FeatureValue, lookup, lookup_grid

DAY = 86_400.0


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = Settings(home=tmp_path_factory.mktemp("template") / "home")
    write_all(home)
    return home.home


@pytest.fixture
def ready(settings: Settings, template: Path) -> Settings:
    """An applied home, materialized."""
    shutil.copytree(template, settings.home)
    apply(settings, catalogue(settings.home))
    materialize(settings)
    return settings


def test_online_gives_value_time_age_and_status(ready: Settings) -> None:
    now = at(3 * 90.5 + 3 + 60)
    found = lookup(ready, race_id="2024_08", driver_id="norris", now=now)
    assert (found.source, found.as_of) == ("online", now)
    assert list(found.features) == ["form_finish", "form_elo", "tyre_life_laps", "compound"]
    assert found.features["tyre_life_laps"] == FeatureValue(3.0, at(274.5), 60.0, "FRESH")
    assert found.features["compound"] == FeatureValue(None, at(274.5), 60.0, "MISSING")  # a row without a value
    late = lookup(ready, race_id="2024_08", driver_id="norris", now=now + pd.Timedelta(minutes=5))
    assert late.features["tyre_life_laps"].status == "STALE"  # its tag says 300 s
    assert late.features["form_finish"].status == "FRESH"  # its ttl is 30 days


def test_offline_is_what_was_known_at_that_instant(ready: Settings) -> None:
    found = lookup(ready, race_id="2024_08", driver_id="norris", as_of=at(200))
    assert (found.source, found.as_of) == ("offline", at(200))
    assert found.features["tyre_life_laps"] == FeatureValue(2.0, at(184), 16.0, "FRESH")
    assert found.features["form_finish"] == FeatureValue(3.0, at(-DAY), DAY + 200, "FRESH")
    before = lookup(ready, race_id="2024_08", driver_id="norris", as_of=at(-2 * DAY))
    assert set(before.features.values()) == {FeatureValue(None, None, None, "MISSING")}


def test_offline_an_expired_value_is_withheld_as_in_training_and_says_so(ready: Settings) -> None:
    edge = at(13 * DAY) + FORM_TTL
    assert lookup(ready, race_id="2024_09", driver_id="norris", as_of=edge).features["form_finish"].status == "FRESH"
    after = edge + pd.Timedelta(microseconds=1)
    found = lookup(ready, race_id="2024_09", driver_id="norris", as_of=after).features["form_finish"]
    assert (found.value, found.event_timestamp, found.status) == (None, at(13 * DAY), "MISSING")


def test_json_has_the_documented_shape(ready: Settings) -> None:
    for as_of in (None, at(200)):
        answer = lookup(ready, race_id="2024_08", driver_id="norris", as_of=as_of, service="speed_trace_v1").to_json()
        text = json.loads(json.dumps(answer, allow_nan=False))
        assert set(text) == {"race_id", "driver_id", "service", "as_of", "source", "features"}
        assert set(text["features"]["lap_numbers"]) == {"value", "event_timestamp", "age_s", "status"}
    assert text["features"]["lap_numbers"]["value"] == [1, 2]
    assert text["as_of"] == "2024-05-26T13:03:20+00:00"


def test_unknown_things_are_errors_and_not_nulls(ready: Settings, tmp_path: Path) -> None:
    with pytest.raises(UnknownEntityError, match="did you mean max_verstappen"):
        lookup(ready, race_id="2024_08", driver_id="max_verstapen")
    with pytest.raises(UnknownEntityError, match="race_id: got '2023_08'"):
        lookup(ready, race_id="2023_08", driver_id="norris")
    with pytest.raises(UnknownEntityError, match="driver_id: got 'hamilton'"):
        lookup_grid(open_store(ready), race_id="2024_08", driver_ids=["norris", "hamilton"])
    with pytest.raises(UnknownEntityError, match="race_id"):
        lookup_grid(open_store(ready), race_id="2024_10", driver_ids=["norris"])
    with pytest.raises(InvalidIdError):
        lookup(ready, race_id="../../etc", driver_id="norris")
    with pytest.raises(UnknownServiceError, match="expected one of"):
        lookup(ready, race_id="2024_08", driver_id="norris", service="finish_position_v2")
    with pytest.raises(NotServedOnlineError, match="--as-of"):
        lookup(ready, race_id="2024_08", driver_id="norris", service="race_result_v1")
    assert lookup(ready, race_id="2024_08", driver_id="norris", service="race_result_v1", as_of=at(18_000)).features[
        "finish_position"
    ] == FeatureValue(3, at(7200), 10_800.0, "FRESH")
    with pytest.raises(MissingInputError):
        lookup(Settings(home=tmp_path / "nothing"), race_id="2024_08", driver_id="norris")
    (ready.home / "registry.db").unlink()
    with pytest.raises(NotAppliedError):
        lookup(ready, race_id="2024_08", driver_id="norris")


def test_nothing_materialized_is_missing_everywhere(settings: Settings) -> None:
    write_all(settings)
    apply(settings, catalogue(settings.home))
    found = lookup(settings, race_id="2024_08", driver_id="norris")
    assert {feature.status for feature in found.features.values()} == {"MISSING"}


def test_a_grid_is_the_lookups_of_its_drivers_in_the_order_asked(ready: Settings) -> None:
    store = open_store(ready)
    order = ["norris", "alonso", "max_verstappen"]
    grid = lookup_grid(store, race_id="2024_09", driver_ids=order)
    frame = grid.frame()
    assert list(frame["driver_id"]) == order
    assert frame["tyre_life_laps"].dtype == np.float64
    for position, driver_id in enumerate(order):
        single = lookup(ready, race_id="2024_09", driver_id=driver_id, store=store)
        for name, feature in single.features.items():
            value = frame[name].iloc[position]
            assert (None if pd.isna(value) else value) == feature.value
            event_us = grid.features.event_us[position, grid.features.plan.view_of[name]]
            assert pd.Timestamp(event_us, unit="us", tz="UTC") == feature.event_timestamp


def test_expired_values_can_be_withheld_as_training_would(ready: Settings) -> None:
    grid = lookup_grid(open_store(ready), race_id="2024_09", driver_ids=DRIVERS)
    inside = grid.frame(expired_at=at(13 * DAY) + FORM_TTL)
    assert list(inside["form_finish"]) == [1.0, 2.0, 3.0]
    assert inside["tyre_life_laps"].isna().all()  # 6 hours
    assert grid.frame(expired_at=at(14 * DAY + 300))["tyre_life_laps"].notna().all()
    assert grid.frame(expired_at=at(13 * DAY) + FORM_TTL + pd.Timedelta(microseconds=1))["form_finish"].isna().all()
    assert grid.frame()["form_finish"].notna().all()


def test_entrants_are_read_again_when_the_file_changes(ready: Settings) -> None:
    store = open_store(ready)
    lookup_grid(store, race_id="2024_08", driver_ids=["norris"])
    entrants = pd.read_parquet(ready.features_dir / "entrants.parquet")
    write_table(ready, "entrants", entrants[entrants["driver_id"] != "norris"])
    with pytest.raises(UnknownEntityError):
        lookup_grid(store, race_id="2024_08", driver_ids=["norris"])


def test_offline_disagreement_of_the_two_readings_is_an_error(ready: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    real = lookup_module.historical

    def wrong(*args: Any) -> pd.DataFrame:
        return real(*args).assign(tyre_life_laps=99.0)

    monkeypatch.setattr(lookup_module, "historical", wrong)
    with pytest.raises(
        InconsistentFeaturesError, match=r"tire_state\.tyre_life_laps .* gives 99\.0, the newest visible row 2\.0"
    ):
        lookup(ready, race_id="2024_08", driver_id="norris", as_of=at(200))


def assert_online_is_offline(settings: Settings, store: FeatureStore, moment: pd.Timestamp) -> int:
    """Every feature of every entrant: value, event time and age are the same online and offline at `moment`."""
    compared = 0
    for service in ("finish_position_v1", "speed_trace_v1"):
        for race_id in RACES:
            for driver_id in DRIVERS:
                ids = {"race_id": race_id, "driver_id": driver_id, "service": service, "store": store}
                online = lookup(settings, now=moment, **ids)
                offline = lookup(settings, as_of=moment, **ids)
                for name, feature in offline.features.items():
                    assert online.features[name] == feature, name
                    compared += 1
    return compared


def test_online_is_offline_after_the_newest_row(ready: Settings) -> None:
    moment = at(14 * DAY + 300)
    # at a later moment the first race's tyres would be expired offline: give them a row at the same time
    tyres = pd.read_parquet(ready.features_dir / "tire_state.parquet")
    last = [
        {"race_id": "2024_08", "driver_id": driver, "tyre_life_laps": 9.0, "compound": "SOFT", "event": 14 * DAY}
        for driver in DRIVERS
    ]
    write_table(ready, "tire_state", pd.concat([tyres, rows(*last)]))
    materialize(ready)
    assert assert_online_is_offline(ready, open_store(ready), moment) == 36


_ROW = st.tuples(
    st.sampled_from(DRIVERS),
    st.integers(0, 20).map(lambda half: half * 0.5),
    st.sampled_from([0.0, 0.25, 3.0]),
    st.none() | st.floats(-1e6, 1e6, width=32),
    st.none() | st.floats(-1e6, 1e6, width=32),
)


@hypothesis_settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(_ROW, min_size=1, max_size=15, unique_by=lambda row: (row[0], row[1], row[2])))
def test_online_is_offline_for_any_table(ready: Settings, records: list[Any]) -> None:
    table = rows(*(form_row(driver, event, finish, elo, created=event + late) for driver, event, late, finish, elo in records))
    write_table(ready, "driver_form", table)
    materialize(ready, rebuild=True)
    store = open_store(ready)
    moment = at(15)
    for driver_id in DRIVERS:
        online = lookup(ready, race_id="2024_08", driver_id=driver_id, now=moment, store=store)
        offline = lookup(ready, race_id="2024_08", driver_id=driver_id, as_of=moment, store=store)
        for name in ("form_finish", "form_elo"):
            assert online.features[name] == offline.features[name]
