"""The log of served vectors: whole files, exact values, bounded, and never in the way of an answer."""

import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore
from feast.feature_logging import FeatureServiceLoggingSource
from tiny_home import DRIVERS, at, catalogue, write_all

from feature_repo.errors import InvalidIdError, UnknownServiceError
from feature_repo.feature_log import FeatureLog
from feature_repo.feature_log_files import (
    DRIVER_ID,
    MOMENT,
    RACE_ID,
    REQUEST_ID,
    SERVED_AT,
    log_folder,
    logged_services,
    read_log,
)
from feature_repo.parquet_log import dropped_so_far, log_files
from feature_repo.settings import Settings
from feature_repo.store import PROJECT, apply, get_service, open_store

SERVICE = "finish_position_v1"
EVER = {"since": pd.Timestamp("2000-01-01", tz="UTC"), "until": pd.Timestamp("2100-01-01", tz="UTC")}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = Settings(home=tmp_path_factory.mktemp("log") / "home")
    write_all(settings)
    apply(settings, catalogue(settings.home))
    return settings


@pytest.fixture(scope="module")
def store(home: Settings) -> FeatureStore:
    return open_store(home)


@pytest.fixture
def folder(home: Settings) -> Path:
    """An empty log."""
    found = log_folder(home, SERVICE)
    for path in found.glob("*") if found.exists() else ():
        path.unlink()
    return found


def grid(**changes: Any) -> dict[str, Any]:
    """One answer about three cars, as `append` takes it."""
    frame = pd.DataFrame(
        {
            "race_id": "2024_08",
            "driver_id": list(DRIVERS),
            "form_finish": [1.0, np.nan, 3.0],
            "form_elo": [1500.1, 1501.2, 1502.3],
            "tyre_life_laps": [np.nan] * 3,
            "compound": ["HARD", None, "SOFT"],
        }
    )
    event_us = np.array([[at(-5.000001).value // 1000, 0], [7, 8], [0, at(1.5).value // 1000]])
    rows = [{"race_id": "2024_08", "driver_id": driver} for driver in DRIVERS]
    return {"frame": frame, "entity_rows": rows, "event_us": event_us, "moment": at(3.000007), "withheld": True, **changes}


def append(log: FeatureLog, **changes: Any) -> None:
    said = grid(**changes)
    log.append(said.pop("frame"), **said)


def logged(settings: Settings) -> pa.Table:
    return pa.concat_tables([table for _, table in read_log(settings, SERVICE, **EVER) if table is not None])


def test_what_was_served_is_logged_exactly(home: Settings, store: FeatureStore, folder: Path) -> None:
    with FeatureLog(home, SERVICE, store=store) as log:
        append(log, model_version="7", request_id="abc-1", served_at=at(9.25))
    row = logged(home).to_pylist()[0]
    assert (row[RACE_ID], row[DRIVER_ID], row["driver_id"], row[REQUEST_ID]) == ("2024_08", "alonso", "alonso", "abc-1")
    assert (row[MOMENT], row[SERVED_AT], row["__model_version"]) == (at(3.000007), at(9.25), "7")
    assert (row["driver_form__timestamp"], row["tire_state__timestamp"]) == (at(-5.000001), None)
    assert (row["driver_form__form_elo"], row["tire_state__compound"]) == (float(np.float32(1500.1)), "HARD")
    assert logged(home)["driver_form__form_finish"].to_pylist() == [1.0, None, 3.0]
    assert logged(home)["tire_state__tyre_life_laps"].null_count == 3
    assert logged_services(home) == [SERVICE]


def test_lists_are_logged_as_lists(home: Settings, store: FeatureStore) -> None:
    speeds = [[200.5, 201.25], None, []]
    frame = pd.DataFrame({"race_id": "2024_08", "driver_id": list(DRIVERS), "lap_numbers": [[1, 2], None, []]})
    with FeatureLog(home, "speed_trace_v1", store=store) as log:
        rows = [{"race_id": "2024_08", "driver_id": driver} for driver in DRIVERS]
        given = frame.assign(lap_speeds_kph=pd.Series(speeds, dtype=object))
        log.append(given, entity_rows=rows, event_us=None, moment=at(3), withheld=False, source="offline")
    table = next(table for _, table in read_log(home, "speed_trace_v1", **EVER) if table is not None)
    assert table["trace__lap_speeds_kph"].to_pylist() == speeds
    assert table["trace__lap_numbers"].to_pylist() == [[1, 2], None, []]
    assert table["trace__timestamp"].null_count == 3


def test_columns_are_those_of_feasts_own_log_where_it_has_them(home: Settings, store: FeatureStore) -> None:
    """All but the status, and one time a view instead of one a feature; Feast's times have whole seconds, these microseconds."""
    ours = {field.name: field.type for field in FeatureLog(home, SERVICE, store=store).layout.schema}
    theirs = FeatureServiceLoggingSource(get_service(store, SERVICE), PROJECT).get_schema(store.registry)
    same = [field for field in theirs if not field.name.endswith(("__timestamp", "__status")) and field.name != "__log_date"]
    assert len(same) >= 8
    assert {field.name: field.type for field in same}.items() <= ours.items()


@pytest.mark.parametrize(
    "changes",
    [
        {"frame": grid()["frame"].assign(race_id="../../etc")},
        {"frame": grid()["frame"].assign(driver_id="a/b")},
        {"entity_rows": [{"race_id": "2024_08", "driver_id": "x'; DROP TABLE"}] * 3},
        {"entity_rows": [{"race_id": "2024_08"}] * 3},
        {"entity_rows": []},
        {"request_id": "../x"},
        {"frame": grid()["frame"].drop(columns="form_elo")},
        {"frame": grid()["frame"].assign(form_elo="fast")},
        {"event_us": np.zeros((3, 5), dtype=np.int64)},
    ],
    ids=["race", "driver", "key", "no key", "no rows", "request", "no feature", "wrong type", "wrong shape"],
)
def test_what_cannot_be_logged_is_counted_and_stops_nothing(
    home: Settings, store: FeatureStore, folder: Path, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with FeatureLog(home, SERVICE, store=store) as log:
        append(log)
        append(log, **changes)
        append(log)
        log.flush()
        assert (log.counts.written, log.counts.failed) == (6, 3)
    assert logged(home).num_rows == 6
    assert "feature_log_failed" in caplog.text


def test_a_moment_that_is_none_is_counted(home: Settings, store: FeatureStore, folder: Path) -> None:
    with FeatureLog(home, SERVICE, store=store) as log:
        append(log, moment=pd.NaT)
        assert log.counts.failed == 1


@pytest.mark.parametrize("service", ["../../etc", "a/b", "", "A", "x" * 65])
def test_a_hostile_service_is_refused(home: Settings, store: FeatureStore, service: str) -> None:
    with pytest.raises(InvalidIdError):
        FeatureLog(home, service, store=store)
    with pytest.raises(UnknownServiceError):
        FeatureLog(home, "nobody_v1", store=store)


def test_a_disk_that_refuses_is_counted_and_stops_nothing(home: Settings, store: FeatureStore, tmp_path: Path) -> None:
    other = Settings(home=tmp_path / "home")
    other.home.mkdir()
    (other.home / "feature_log").write_text("a file where the folder should be", encoding="utf-8")
    with FeatureLog(other, SERVICE, store=store) as log:
        append(log)
        log.flush()
        assert (log.counts.written, log.counts.failed) == (0, 3)


def test_files_are_written_by_rows_and_by_time(home: Settings, store: FeatureStore, folder: Path) -> None:
    with FeatureLog(home, SERVICE, store=store, rotate_rows=6, rotate_s=3600) as log:
        append(log)
        append(log)
        wait_for(lambda: log.counts.written == 6)
        assert [file.rows for file in log_files(folder)] == [6]
        append(log)
    assert [file.rows for file in log_files(folder)] == [6, 3], "closing writes the rest"
    with FeatureLog(home, SERVICE, store=store, rotate_s=0.05) as log:
        append(log)
        wait_for(lambda: log.counts.written == 3)


def test_what_waits_for_the_disk_is_bounded(home: Settings, store: FeatureStore, folder: Path) -> None:
    with FeatureLog(home, SERVICE, store=store, rotate_s=3600, buffer_rows=7) as log:
        for _ in range(4):
            append(log)
        assert (log.counts.accepted, log.counts.failed) == (6, 6)
    append(log)
    assert log.counts.failed == 9, "a closed log takes nothing"
    assert logged(home).num_rows == 6


def test_the_oldest_files_are_dropped_and_said_to_be(home: Settings, store: FeatureStore, folder: Path) -> None:
    with FeatureLog(home, SERVICE, store=store) as log:
        append(log, served_at=at(0))
        log.flush()
        size = log_files(folder)[0].path.stat().st_size
    with FeatureLog(home, SERVICE, store=store, max_bytes=int(2.5 * size)) as log:
        for second in (1, 2, 3):
            append(log, served_at=at(second))
            log.flush()
        assert log.counts.dropped == 6
    assert [file.first_us for file in log_files(folder)] == [at(2).value // 1000, at(3).value // 1000]
    assert dropped_so_far(folder) == {"files": 2, "rows": 6, "until_us": at(1).value // 1000}
    with FeatureLog(home, SERVICE, store=store, max_bytes=1) as log:
        append(log, served_at=at(4))
    assert [file.first_us for file in log_files(folder)] == [at(4).value // 1000], "the newest file stays"


def test_many_threads_lose_and_double_nothing(home: Settings, store: FeatureStore, folder: Path) -> None:
    with FeatureLog(home, SERVICE, store=store, rotate_rows=30) as log:

        def serve(worker: int) -> None:
            for number in range(25):
                append(log, request_id=f"{worker}-{number}")

        workers = [threading.Thread(target=serve, args=(worker,)) for worker in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    counts = logged(home)[REQUEST_ID].value_counts().to_pylist()
    assert len(counts) == 200
    assert {count["counts"] for count in counts} == {3}
    assert (log.counts.written, log.counts.failed) == (600, 0)


def test_a_window_is_found_by_names_and_a_damaged_file_is_left_out(home: Settings, store: FeatureStore, folder: Path) -> None:
    with FeatureLog(home, SERVICE, store=store) as log:
        for second in (1, 2, 3):
            append(log, served_at=at(second))
            if second != 2:
                log.flush()
    found = [(file.rows, table) for file, table in read_log(home, SERVICE, since=at(2), until=at(2))]
    assert [(rows, table.num_rows) for rows, table in found if table is not None] == [(6, 3)], "3 of the 6 vectors of its file"
    (folder / "0000000000000000-9999999999999999-3-abc.parquet").write_bytes(b"PAR1")
    (folder / "notes.parquet").write_bytes(b"of somebody else")
    (folder / ".tmp-half.parquet").write_bytes(b"PAR1")
    tables = [table for _, table in read_log(home, SERVICE, **EVER)]
    assert [None if table is None else table.num_rows for table in tables] == [None, 3, 6]


def test_the_setting_decides(home: Settings, store: FeatureStore) -> None:
    assert FeatureLog.where_wanted(home, SERVICE, store=store) is None
    log = FeatureLog.where_wanted(home.model_copy(update={"log_features": True}), SERVICE, store=store)
    assert log is not None
    log.close()


def test_a_killed_process_leaves_whole_files_only(home: Settings, folder: Path) -> None:
    """Killed with SIGKILL while it writes: what is there is readable, in order, and without gaps or doubles."""
    code = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        import numpy as np, pandas as pd
        from feature_repo.feature_log import FeatureLog
        from feature_repo.settings import Settings
        log = FeatureLog(Settings(home=Path({str(home.home)!r})), {SERVICE!r}, rotate_rows=6)
        frame = pd.DataFrame({{"race_id": "2024_08", "driver_id": ["alonso"], "form_finish": [1.0], "form_elo": [2.0],
                               "tyre_life_laps": [3.0], "compound": ["HARD"]}})
        rows = [{{"race_id": "2024_08", "driver_id": "alonso"}}]
        number = 0
        while True:
            log.append(frame, entity_rows=rows, event_us=np.ones((1, 2), dtype=np.int64), moment=pd.Timestamp(1, tz="UTC"),
                       withheld=True, request_id=str(number))
            number += 1
            time.sleep(0.0005)
        """
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: len(log_files(folder)) >= 3 or process.poll() is not None, seconds=120)
        finally:
            process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    numbers = []
    for file in log_files(folder):
        table = pq.read_table(file.path)
        assert table.num_rows == file.rows
        numbers += [int(number) for number in table[REQUEST_ID].to_pylist()]
    assert sorted(numbers) == list(range(len(numbers)))
    assert len(numbers) >= 18


def wait_for(condition: Any, *, seconds: float = 30.0) -> None:
    """Return as soon as `condition()` holds; fail if it does not come to hold at all."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never happened"
        time.sleep(0.01)
