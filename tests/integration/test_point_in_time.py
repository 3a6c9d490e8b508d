"""What retrieval from Feast answers, against a brute-force reading of the rule, row by row."""

import shutil
import sqlite3
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tiny_home import DRIVERS, FORM_TTL, at, catalogue, form_row, rows, write_all, write_table

from feature_repo.errors import NotAppliedError, PointInTimeError, UnknownServiceError
from feature_repo.settings import Settings
from feature_repo.store import apply, feature_names, historical, online_path, open_store
from feature_repo.stores.online import table_id

# Times in units of 10 days with a ttl of 30: few enough values that ties, edges and expiry all happen often.
_DAY = 86_400.0
_TIMES = st.integers(0, 8).map(lambda tens: 10 * _DAY * tens)
_EDGE = st.sampled_from([0.0, 0.0, 0.0, -1e-6, 1e-6])
_VALUE = st.one_of(st.none(), st.floats(-100, 100, width=32))


@st.composite
def _form_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows of few drivers, some known late, corrected, or never known; (key, event, created) once each."""
    records: dict[tuple[str, float, float | None], dict[str, Any]] = {}
    for _ in range(draw(st.integers(1, 40))):
        driver = draw(st.sampled_from(DRIVERS[:2]))
        event = draw(_TIMES) + draw(_EDGE)
        late = draw(st.sampled_from([0.0, 0.0, 10 * _DAY, 20 * _DAY, 1e-6, None]))
        created = None if late is None else event + late
        records[driver, event, created] = form_row(driver, event, draw(_VALUE), draw(_VALUE), created=created)
    return list(records.values())


_SPINE = st.lists(st.tuples(st.sampled_from(DRIVERS), _TIMES, _EDGE), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def applied() -> Any:
    folder = Path(tempfile.mkdtemp())
    here = Settings(home=folder / "home")
    write_all(here)
    apply(here, catalogue(here.home))
    yield here, open_store(here)
    shutil.rmtree(folder)


def oracle(table: pd.DataFrame, driver_id: str, moment: pd.Timestamp) -> tuple[float, float]:
    """The rule, one row at a time."""
    best: Any = None
    for row in table.itertuples():
        if row.driver_id != driver_id or row.created_timestamp is pd.NaT:
            continue
        if row.event_timestamp > moment or row.created_timestamp > moment or row.event_timestamp < moment - FORM_TTL:
            continue
        if best is None or (row.event_timestamp, row.created_timestamp) > (best.event_timestamp, best.created_timestamp):
            best = row
    return (np.nan, np.nan) if best is None else (best.form_finish, best.form_elo)


@hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=_form_rows(), asked=_SPINE)
def test_retrieval_is_the_rule(applied: tuple[Settings, FeatureStore], records: list[dict[str, Any]], asked: list[Any]) -> None:
    here, store = applied
    table = rows(*records)
    write_table(here, "driver_form", table)
    spine = pd.DataFrame(
        {
            "race_id": "2024_08",
            "driver_id": [driver for driver, _, _ in asked],
            "event_timestamp": [at(time + edge) for _, time, edge in asked],
        }
    )
    answer = historical(store, "finish_position_v1", spine)
    stored = pd.read_parquet(here.features_dir / "driver_form.parquet")
    expected = [oracle(stored, driver, at(time + edge)) for driver, time, edge in asked]
    np.testing.assert_array_equal(answer[["form_finish", "form_elo"]].to_numpy(dtype=float), np.array(expected, dtype=float))
    assert list(answer["driver_id"]) == list(spine["driver_id"])


def _ask(store: FeatureStore, moment: float) -> float:
    spine = pd.DataFrame({"race_id": ["2024_08"], "driver_id": ["norris"], "event_timestamp": [at(moment)]})
    return float(historical(store, "finish_position_v1", spine)["form_finish"].iloc[0])


def test_the_newest_event_among_those_known_by_then_wins(applied: tuple[Settings, FeatureStore]) -> None:
    """An event whose only row, or whose correction, became known later does not hide what was known."""
    here, store = applied
    write_table(
        here,
        "driver_form",
        rows(
            form_row("norris", 0, 1.0),
            form_row("norris", 100, 2.0),
            form_row("norris", 100, 3.0, created=500),  # a correction of the second event
            form_row("norris", 200, 4.0, created=400),  # a newer event, known late
        ),
    )
    assert _ask(store, 99.999999) == 1.0
    assert _ask(store, 100) == 2.0
    assert _ask(store, 300) == 2.0
    assert _ask(store, 400) == 4.0
    assert _ask(store, 600) == 4.0  # the late correction of an older event does not come back over the newer event


def test_a_value_exactly_ttl_old_is_included_and_one_microsecond_more_is_not(applied: tuple[Settings, FeatureStore]) -> None:
    here, store = applied
    write_table(here, "driver_form", rows(form_row("norris", 0.5, 7.0)))
    assert _ask(store, 0.5 + FORM_TTL.total_seconds()) == 7.0
    assert np.isnan(_ask(store, 0.5 + FORM_TTL.total_seconds() + 1e-6))


def test_rows_keep_their_order_repeats_and_other_columns(applied: tuple[Settings, FeatureStore]) -> None:
    here, store = applied
    write_table(here, "driver_form", rows(form_row("norris", 0, 1.0), form_row("alonso", 0, 2.0)))
    drivers = ["norris", "alonso", "nobody", "norris", "norris"]
    times = [at(10), at(10), at(10), at(-10), at(10)]
    spine = pd.DataFrame({"race_id": "2024_08", "driver_id": drivers, "event_timestamp": times, "note": list("abcde")})
    spine.index = pd.Index([9, 9, 3, 1, 0])
    before = spine.copy()
    answer = historical(store, "finish_position_v1", spine)
    pd.testing.assert_frame_equal(spine, before)
    assert list(answer["note"]) == list("abcde")
    np.testing.assert_array_equal(answer["form_finish"], [1.0, 2.0, np.nan, np.nan, 1.0])
    assert list(answer.columns) == [*spine.columns, *feature_names(store, "finish_position_v1")]
    assert len(historical(store, "finish_position_v1", spine.iloc[:0])) == 0


def test_a_naive_moment_is_utc_and_nanoseconds_are_cut(applied: tuple[Settings, FeatureStore]) -> None:
    here, store = applied
    write_table(here, "driver_form", rows(form_row("norris", 0, 1.0)))
    naive = pd.DataFrame({"race_id": "2024_08", "driver_id": "norris", "event_timestamp": [at(0).tz_localize(None)]})
    assert historical(store, "finish_position_v1", naive)["form_finish"].iloc[0] == 1.0
    nanos = naive.assign(event_timestamp=[at(0) + pd.Timedelta(999, unit="ns")])
    assert historical(store, "finish_position_v1", nanos)["event_timestamp"].iloc[0] == at(0)


def test_what_cannot_be_answered_is_refused(applied: tuple[Settings, FeatureStore]) -> None:
    _, store = applied
    spine = pd.DataFrame({"race_id": ["2024_08"], "driver_id": ["norris"], "event_timestamp": [at(0)]})
    with pytest.raises(UnknownServiceError, match="expected one of finish_position_v1"):
        historical(store, "finish_position_v9", spine)
    with pytest.raises(PointInTimeError, match="lacks \\['race_id'\\]"):
        historical(store, "finish_position_v1", spine.drop(columns="race_id"))
    with pytest.raises(PointInTimeError, match="names of features"):
        historical(store, "finish_position_v1", spine.assign(compound="SOFT"))
    with pytest.raises(PointInTimeError, match="driver_id is empty in row 0"):
        historical(store, "finish_position_v1", spine.assign(driver_id=[None]))


def test_a_home_that_was_copied_must_be_applied_again(applied: tuple[Settings, FeatureStore], tmp_path: Path) -> None:
    here, _ = applied
    copied = Settings(home=tmp_path / "copy")
    shutil.copytree(here.home, copied.home)
    spine = pd.DataFrame({"race_id": ["2024_08"], "driver_id": ["norris"], "event_timestamp": [at(0)]})
    with pytest.raises(NotAppliedError, match="outside the home"):
        historical(open_store(copied), "finish_position_v1", spine)
    apply(copied, catalogue(copied.home))
    assert len(historical(open_store(copied), "finish_position_v1", spine)) == 1


def test_open_store_wants_an_applied_home(settings: Settings) -> None:
    with pytest.raises(NotAppliedError, match="pitwall apply"):
        open_store(settings)


def test_apply_is_idempotent_and_prunes(settings: Settings) -> None:
    write_all(settings)
    first = apply(settings, catalogue(settings.home))
    text = (settings.home / "feature_store.yaml").read_bytes()
    assert apply(settings, catalogue(settings.home)) == first
    assert first.deleted == ()
    assert (settings.home / "feature_store.yaml").read_bytes() == text
    fewer = [item for item in catalogue(settings.home) if item.name not in {"trace", "speed_trace_v1"}]
    report = apply(settings, fewer)
    assert sorted(report.deleted) == ["FeatureService speed_trace_v1", "FeatureView trace", "FileSource trace_source"]
    store = open_store(settings)
    assert {view.name for view in store.list_feature_views()} == {"driver_form", "tire_state", "race_result"}
    assert {entity.name for entity in store.list_entities()} >= {"race", "driver"}


def test_any_feast_client_can_open_the_home(settings: Settings) -> None:
    write_all(settings)
    apply(settings, catalogue(settings.home))
    plain = FeatureStore(repo_path=str(settings.home))
    assert {service.name for service in plain.list_feature_services()} == {
        "finish_position_v1",
        "speed_trace_v1",
        "race_result_v1",
    }
    spine = pd.DataFrame({"race_id": ["2024_08"], "driver_id": ["norris"], "event_timestamp": [at(200)]})
    answer = plain.get_historical_features(entity_df=spine, features=plain.get_feature_service("finish_position_v1")).to_df()
    assert answer["tyre_life_laps"].iloc[0] == 2.0


def test_concurrent_applies_and_retrievals_lose_nothing(settings: Settings) -> None:
    write_all(settings)
    barrier = threading.Barrier(4)

    def run(_: int) -> int:
        barrier.wait()
        apply(settings, catalogue(settings.home))
        spine = pd.DataFrame({"race_id": "2024_08", "driver_id": list(DRIVERS), "event_timestamp": at(200)})
        return int(historical(open_store(settings), "finish_position_v1", spine)["tyre_life_laps"].notna().sum())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(4))) == [3, 3, 3, 3]
    assert len(open_store(settings).list_feature_views()) == 4


def test_the_catalogue_itself_applies_to_an_empty_home(settings: Settings) -> None:
    report = apply(settings)
    assert set(report.services) >= {"finish_position_v1", "race_state_v1", "speed_trace_v1", "race_result_v1"}
    store = open_store(settings)
    for service in report.services:
        names = feature_names(store, service)
        assert names
        assert len(names) == len(set(names))
    with sqlite3.connect(online_path(settings)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    served = {table_id(store.config, view) for view in store.list_feature_views() if view.online}
    assert tables == served | {"packed_notes"}
    assert "pitwall_race_result" not in served
