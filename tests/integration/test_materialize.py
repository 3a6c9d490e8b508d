"""Materialization: the online store always ends up holding the newest row of every key, whatever happened on the way."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import FeatureStore
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tiny_home import DRIVERS, START, at, catalogue, form_row, rows, write_all, write_table

import pipelines
from feature_repo.errors import DuplicateRowsError, MissingInputError, NotAppliedError
from feature_repo.settings import Settings
from feature_repo.store import apply, online_path, open_store
from feature_repo.visibility import latest_visible
from pipelines.materialize import MaterializeReport, ViewReport, materialize, online_status

DAY = 86_400.0
ONLINE_TABLES = ("pitwall_driver_form", "pitwall_tire_state", "pitwall_trace")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(pipelines.__file__).parent.parent)}
"""Of child processes, which run in another folder."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Feature tables written once; every test applies them to a home of its own."""
    home = Settings(home=tmp_path_factory.mktemp("template") / "home")
    write_all(home)
    return home.home


@pytest.fixture
def ready(settings: Settings, template: Path) -> Settings:
    """An applied home with all feature tables and nothing online."""
    shutil.copytree(template, settings.home)
    apply(settings, catalogue(settings.home))
    return settings


def of(report: MaterializeReport, view: str) -> ViewReport:
    return next(item for item in report.views if item.view == view)


def online_form(settings: Settings, store: FeatureStore | None = None) -> dict[str, tuple[float | None, pd.Timestamp]]:
    """What Feast's SDK serves of driver_form: finish and event time per driver."""
    response = (store or open_store(settings)).get_online_features(
        features=["driver_form:form_finish"], entity_rows=[{"driver_id": driver} for driver in DRIVERS]
    )
    served = response.to_dict()["form_finish"]
    stamps = response.proto.results[list(response.proto.metadata.feature_names.val).index("form_finish")].event_timestamps
    times = [pd.Timestamp(stamp.ToMicroseconds(), unit="us", tz="UTC") for stamp in stamps]
    return dict(zip(DRIVERS, zip(served, times, strict=True), strict=True))


def contents(settings: Settings) -> dict[str, list[Any]]:
    """Everything in the online store, by table."""
    with sqlite3.connect(online_path(settings)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        return {name: sorted(connection.execute(f'SELECT * FROM "{name}"').fetchall(), key=repr) for name in tables}


def test_first_load_holds_the_newest_row_of_every_key(ready: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.materialize.CHUNK_ROWS", 3)  # the rows of one race
    seen: list[tuple[str, int, int]] = []
    report = materialize(ready, progress=lambda view, done, total: seen.append((view, done, total)))
    assert {view.view: (view.rows, view.written) for view in report.views} == {
        "driver_form": (3, 3),
        "tire_state": (6, 6),
        "trace": (6, 6),
    }
    assert seen[-1] == ("trace", 6, 6)
    assert [entry[1] for entry in seen if entry[0] == "tire_state"] == [3, 6]  # by race
    assert online_form(ready)["norris"] == (3.0, at(13 * DAY))


def test_a_second_run_has_nothing_to_do(ready: Settings) -> None:
    materialize(ready)
    before = contents(ready)
    again = materialize(ready)
    assert all(view.up_to_date and view.written == 0 for view in again.views)
    assert {view.view: view.rows for view in again.views} == {"driver_form": 3, "tire_state": 6, "trace": 6}
    assert contents(ready) == before


def test_rows_are_the_bytes_that_feast_itself_would_write(ready: Settings, tmp_path: Path) -> None:
    materialize(ready)
    other = Settings(home=tmp_path / "by_feast")
    shutil.copytree(ready.features_dir, other.features_dir)
    apply(other, catalogue(other.home))
    open_store(other).materialize((START - pd.Timedelta(days=99)).to_pydatetime(), at(99 * DAY).to_pydatetime())
    ours, feasts = contents(ready), contents(other)
    for table in ONLINE_TABLES:
        assert ours[table] == feasts[table]
        assert ours[table]


def test_late_data_goes_in_and_older_late_data_does_not(ready: Settings) -> None:
    materialize(ready)
    table = pd.read_parquet(ready.features_dir / "driver_form.parquet")
    newer = rows(form_row("norris", 20 * DAY, 9.0, created=21 * DAY), form_row("alonso", -50 * DAY, 8.0, created=21 * DAY))
    write_table(ready, "driver_form", pd.concat([table, newer]))
    report = of(materialize(ready), "driver_form")
    assert (report.written, report.unchanged, report.held_back) == (1, 2, 0)
    assert online_form(ready)["norris"] == (9.0, at(20 * DAY))
    assert online_form(ready)["alonso"] == (1.0, at(13 * DAY))


def test_a_correction_of_the_same_event_goes_in_and_the_corrected_row_does_not_come_back(ready: Settings) -> None:
    write_table(ready, "driver_form", rows(form_row("norris", 100.25, 2.0, created=100.25)))
    materialize(ready)
    write_table(ready, "driver_form", rows(form_row("norris", 100.25, 5.0, created=100.5)))  # the same second
    assert of(materialize(ready), "driver_form").written == 1
    assert online_form(ready)["norris"] == (5.0, at(100.25))
    write_table(ready, "driver_form", rows(form_row("norris", 100.25, 2.0, created=100.25)))
    assert of(materialize(ready), "driver_form").held_back == 1
    assert online_form(ready)["norris"] == (5.0, at(100.25))


def test_recomputed_values_with_the_same_times_go_in(ready: Settings) -> None:
    materialize(ready)
    table = pd.read_parquet(ready.features_dir / "driver_form.parquet")
    table.loc[table["driver_id"] == "norris", "form_finish"] = 4.5
    write_table(ready, "driver_form", table)
    report = of(materialize(ready), "driver_form")
    assert (report.written, report.unchanged) == (1, 2)
    assert online_form(ready)["norris"][0] == 4.5


def test_backfilling_an_older_window_changes_only_keys_that_hold_nothing_newer(ready: Settings) -> None:
    materialize(ready, since=at(10 * DAY))
    assert of(materialize(ready, since=at(10 * DAY)), "tire_state").rows == 3
    report = materialize(ready, since=at(-10 * DAY), until=at(5 * DAY))
    assert (of(report, "tire_state").written, of(report, "tire_state").rows) == (3, 6)
    assert (of(report, "driver_form").written, of(report, "driver_form").held_back) == (0, 3)
    assert online_form(ready)["norris"] == (3.0, at(13 * DAY))


def test_windows_in_any_order_end_in_the_same_rows(ready: Settings, tmp_path: Path) -> None:
    materialize(ready)
    whole = contents(ready)
    other = Settings(home=tmp_path / "other")
    shutil.copytree(ready.features_dir, other.features_dir)
    apply(other, catalogue(other.home))
    for since, until in [(0, 20), (-5, 0), (5, 20), (-5, 5)]:
        materialize(other, since=at(since * DAY), until=at(until * DAY))
    piecewise = contents(other)
    for table in ONLINE_TABLES:
        assert piecewise[table] == whole[table]


def test_the_end_of_a_window_is_included_and_a_future_end_means_the_newest_row(ready: Settings) -> None:
    tyres = of(materialize(ready, until=at(90.5 + 1)), "tire_state")
    assert tyres.newest == at(91.5)
    assert tyres.rows == 1
    assert of(materialize(ready, until=at(-99 * DAY)), "tire_state").rows == 1
    materialize(ready, until="2199-01-01")
    assert all(view.up_to_date for view in materialize(ready).views)
    with pytest.raises(ValueError, match="is after until"):
        materialize(ready, since=at(1), until=at(0))


def test_rows_without_created_time_are_never_served(ready: Settings) -> None:
    write_table(ready, "driver_form", rows(form_row("norris", 0, 2.0), form_row("norris", 50, 3.0, created=None)))
    report = of(materialize(ready), "driver_form")
    assert (report.rows, report.never_visible) == (1, 1)
    assert online_form(ready)["norris"] == (2.0, at(0))


def test_labels_are_not_served(ready: Settings) -> None:
    assert "race_result" not in {view.view for view in materialize(ready).views}
    assert "race_result" not in online_status(ready)


def test_an_empty_table_is_no_error(ready: Settings) -> None:
    write_table(ready, "driver_form", rows(form_row("norris", 0)).iloc[:0])
    report = of(materialize(ready), "driver_form")
    assert (report.rows, report.newest, report.age_s) == (0, None, None)


def test_two_rows_with_one_key_and_times_are_an_error(ready: Settings) -> None:
    write_table(ready, "driver_form", rows(form_row("norris", 0, 1.0), form_row("norris", 0, 2.0)))
    with pytest.raises(DuplicateRowsError, match=r"driver_form\.parquet: 2 rows share key and times"):
        materialize(ready)


def test_errors_say_what_to_run(settings: Settings, ready: Settings) -> None:
    (ready.features_dir / "trace.parquet").unlink()
    with pytest.raises(MissingInputError, match=r"view trace: no feature table .* run `pitwall features`"):
        materialize(ready)
    online_path(ready).unlink()
    with pytest.raises(NotAppliedError, match="pitwall apply"):
        materialize(ready)


def test_no_feast_client_can_put_an_older_row_over_a_newer_one(ready: Settings) -> None:
    """`feast materialize` of an old window, by a client that knows nothing of Pitwall."""
    materialize(ready)
    plain = FeatureStore(repo_path=str(ready.home))
    plain.materialize((START - pd.Timedelta(days=99)).to_pydatetime(), at(5 * DAY).to_pydatetime())
    assert online_form(ready)["norris"] == (3.0, at(13 * DAY))
    frame = rows(form_row("norris", 13 * DAY, 99.0, created=12 * DAY), form_row("alonso", 15 * DAY, 98.0))
    plain.write_to_online_store("driver_form", frame)
    assert online_form(ready)["norris"][0] == 3.0
    assert online_form(ready)["alonso"] == (98.0, at(15 * DAY))
    # and what such a client wrote that is newer is not overwritten by our older row either
    materialize(ready, rebuild=False)
    assert of(materialize(ready, since=at(-99 * DAY)), "driver_form").rows == 3
    assert online_form(ready)["alonso"] == (98.0, at(15 * DAY))


def test_rebuild_takes_back_what_the_source_no_longer_has(ready: Settings) -> None:
    materialize(ready)
    table = pd.read_parquet(ready.features_dir / "driver_form.parquet")
    write_table(ready, "driver_form", table[(table["event_timestamp"] < at(0)) & (table["driver_id"] != "alonso")])
    held = of(materialize(ready), "driver_form")
    assert (held.held_back, held.rows) == (2, 3)
    rebuilt = of(materialize(ready, rebuild=True), "driver_form")
    assert (rebuilt.written, rebuilt.rows) == (2, 2)
    assert online_form(ready)["norris"] == (3.0, at(-DAY))
    assert online_form(ready)["alonso"][0] is None


def test_a_feature_added_to_a_view_is_filled_for_every_key(ready: Settings) -> None:
    apply(ready, catalogue(ready.home, form_fields=["form_finish"]))
    materialize(ready)
    apply(ready, catalogue(ready.home))
    assert of(materialize(ready), "driver_form").written == 3
    served = open_store(ready).get_online_features(features=["driver_form:form_elo"], entity_rows=[{"driver_id": "norris"}])
    assert served.to_dict()["form_elo"] == [1503.0]


def test_a_view_that_left_and_came_back_is_filled_again(ready: Settings) -> None:
    materialize(ready)
    apply(ready, [item for item in catalogue(ready.home) if item.name not in {"trace", "speed_trace_v1"}])
    assert set(online_status(ready)) == {"driver_form", "tire_state"}
    apply(ready, catalogue(ready.home))
    report = materialize(ready)
    assert of(report, "trace").written == 6
    assert of(report, "driver_form").up_to_date


def test_rows_that_somebody_deleted_are_filled_again(ready: Settings) -> None:
    materialize(ready)
    before = contents(ready)
    with sqlite3.connect(online_path(ready)) as connection:
        connection.execute("DELETE FROM pitwall_trace WHERE entity_key = (SELECT MIN(entity_key) FROM pitwall_trace)")
    report = materialize(ready)
    assert (of(report, "trace").written, of(report, "trace").unchanged) == (1, 5)
    assert contents(ready) == before


def test_status_says_how_many_and_how_old(ready: Settings, tmp_path: Path) -> None:
    assert online_status(Settings(home=tmp_path / "nothing")) == {}
    materialize(ready)
    status = online_status(ready, now=at(14 * DAY).to_pydatetime())
    assert (status["driver_form"].rows, status["driver_form"].age_s) == (3, DAY)
    assert status["trace"].newest == at(14 * DAY + 3 * 90.5 + 3)


def test_two_materializations_at_once_agree_with_one(ready: Settings, tmp_path: Path) -> None:
    other = Settings(home=tmp_path / "alone")
    shutil.copytree(ready.features_dir, other.features_dir)
    apply(other, catalogue(other.home))
    materialize(other)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: materialize(ready), range(3)))
    for table in ONLINE_TABLES:
        assert contents(ready)[table] == contents(other)[table]


_EVENTS = st.integers(0, 5).map(lambda step: step * 0.5)
_TABLE = st.lists(st.tuples(st.sampled_from(DRIVERS), _EVENTS, _EVENTS, st.integers(0, 9)), min_size=1, max_size=12)
_WINDOW = st.tuples(st.none() | _EVENTS, st.none() | _EVENTS)


@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(_TABLE, _WINDOW), min_size=1, max_size=4))
def test_after_any_history_each_key_holds_the_newest_row_it_was_ever_given(ready: Settings, steps: list[Any]) -> None:
    """Tables change and windows jump about; times differ by half seconds, which Feast's own store cannot tell apart."""
    with sqlite3.connect(online_path(ready)) as connection:
        for table in ("pitwall_driver_form", "packed_notes"):
            connection.execute(f"DELETE FROM {table}")
    given_so_far: dict[str, tuple[pd.Timestamp, pd.Timestamp, float]] = {}
    for records, (since, until) in steps:
        by_key = {(driver, event, event + late): value for driver, event, late, value in records}
        frame = rows(
            *(form_row(driver, event, float(value), created=created) for (driver, event, created), value in by_key.items())
        )
        write_table(ready, "driver_form", frame)
        low, high = (since, until) if since is None or until is None or since <= until else (until, since)
        materialize(ready, since=None if low is None else at(low), until=None if high is None else at(high))
        inside = frame[frame["event_timestamp"].between(at(-1 if low is None else low), at(99 if high is None else high))]
        for row in latest_visible(inside, ["driver_id"], at(999)).itertuples():
            candidate = (row.event_timestamp, row.created_timestamp, row.form_finish)
            held = given_so_far.get(row.driver_id)
            if held is None or candidate[:2] >= held[:2]:
                given_so_far[row.driver_id] = candidate
    served = online_form(ready)
    for driver in DRIVERS:
        if driver in given_so_far:
            event, _, value = given_so_far[driver]
            assert served[driver] == (value, event)
        else:
            assert served[driver][0] is None


_KILLED = """
import os, signal, sys
from pathlib import Path
from feature_repo.settings import Settings
from feature_repo.stores.online_sqlite import PackedSqliteOnlineStore
from pipelines import materialize as module

def child(home, kill_at):
    rows = 0
    write_rows = PackedSqliteOnlineStore.write_rows

    class Deadly(list):
        def __iter__(self):
            nonlocal rows
            for key in list.__iter__(self):
                yield key
                rows += 1
                if rows == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)  # in the middle of a transaction

    def write(self, config, view, keys, values):
        return write_rows(self, config, view, Deadly(keys), values)

    PackedSqliteOnlineStore.write_rows = write
    module.CHUNK_ROWS = 3  # the rows of one race
    module.materialize(Settings(home=Path(home)))

for home, kill_at in zip(sys.argv[1::2], map(int, sys.argv[2::2])):
    pid = os.fork()
    if pid == 0:
        child(home, kill_at)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    print(os.WIFSIGNALED(status) and os.WTERMSIG(status))
"""


def test_killed_at_any_row_and_run_again_ends_as_a_clean_run(ready: Settings, tmp_path: Path) -> None:
    clean = Settings(home=tmp_path / "clean")
    shutil.copytree(ready.features_dir, clean.features_dir)
    apply(clean, catalogue(clean.home))
    points = [1, 3, 5, 9, 10, 15]
    homes = [Settings(home=tmp_path / f"killed_{point}") for point in points]
    for home in homes:
        shutil.copytree(ready.features_dir, home.features_dir)
        apply(home, catalogue(home.home))
    arguments = [text for home, point in zip(homes, points, strict=True) for text in (str(home.home), str(point))]
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, *arguments], capture_output=True, text=True, timeout=120, check=True, env=ENVIRONMENT
    )
    assert done.stdout.split() == ["9"] * len(points)
    materialize(clean)
    expected = contents(clean)
    written_again = []
    for home, point in zip(homes, points, strict=True):
        assert contents(home) != expected
        report = materialize(home)
        written_again.append(report.written)
        ended = contents(home)
        for table, held in expected.items():
            assert ended[table] == held, (point, table)
    assert written_again == [15, 15, 12, 9, 6, 3]  # whole races stay, the race it was killed in is done again


def test_times_are_utc_in_whatever_zone_a_process_runs(ready: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Paris")
    time.tzset()
    try:
        materialize(ready)
        plain = rows(form_row("alonso", 15 * DAY, 98.0))
        open_store(ready).write_to_online_store("driver_form", plain)
        in_paris = online_form(ready)
        monkeypatch.setenv("TZ", "America/New_York")
        time.tzset()
        assert online_form(ready) == in_paris
    finally:
        monkeypatch.setenv("TZ", "UTC")
        time.tzset()
    assert online_form(ready) == in_paris
    assert in_paris["norris"] == (3.0, at(13 * DAY))
    assert in_paris["alonso"] == (98.0, at(15 * DAY))


@pytest.fixture(autouse=True)
def _no_stray_files(settings: Settings) -> Iterator[None]:
    yield
    assert not list(settings.home.rglob(".tmp-*"))
