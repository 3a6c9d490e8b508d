"""The streamed search for each key's newest row equals looking at the whole table, however it lies on disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Float32, String
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.errors import DamagedFileError, DuplicateRowsError
from feature_repo.stores.packed import entity_keys
from pipelines import newest_rows
from pipelines.newest_rows import FeatureTable, find_newest

US = pa.timestamp("us", tz="UTC")
_FIXTURES = [HealthCheck.function_scoped_fixture]

_ROW = st.tuples(
    st.sampled_from(["2024_01", "2024_02"]),
    st.sampled_from(["norris", "alonso"]),
    st.none() | st.integers(-3, 3),
    st.none() | st.integers(-3, 3),
)
_ROWS = st.lists(_ROW, max_size=30, unique_by=lambda row: row if None not in row else object())


def a_view(path: Path, keys: tuple[str, ...]) -> FeatureView:
    """A view of the table with one feature, the number of the row."""
    return FeatureView(
        name="tyre",
        entities=[Entity(name=key[:-3], join_keys=[key], value_type=ValueType.STRING) for key in keys],
        schema=[*(Field(name=key, dtype=String) for key in keys), Field(name="number", dtype=Float32)],
        source=FileSource(path=str(path), timestamp_field="event_timestamp", created_timestamp_column="created_timestamp"),
    )


def write(path: Path, rows: list[Any], cuts: int = 1) -> pa.Table:
    """The rows as one file of small row groups, or as a folder of several."""
    race, driver, event, created = zip(*rows, strict=True) if rows else ((), (), (), ())
    table = pa.table(
        {
            "number": np.arange(len(rows), dtype=np.float32),
            "driver_id": pa.array(driver, pa.string()),
            "race_id": pa.array(race, pa.string()),
            "event_timestamp": pa.array(event, pa.int64()).cast(US),
            "created_timestamp": pa.array(created, pa.int64()).cast(US),
        }
    )
    if cuts == 1:
        pq.write_table(table, path, row_group_size=4)
    else:
        path.mkdir()
        size = -(-len(rows) // cuts)
        for number in range(cuts):
            pq.write_table(table.slice(number * size, size), path / f"part_{number}.parquet", row_group_size=3)
    return table


@settings(max_examples=60, deadline=None, suppress_health_check=_FIXTURES)
@given(
    rows=_ROWS, window=st.tuples(st.integers(-4, 4), st.integers(-4, 4)), cuts=st.integers(1, 3), with_race=st.booleans(),
    batch=st.integers(1, 7), hashes=st.sampled_from([5, 1000]),
)  # fmt: skip
def test_newest_rows_of_any_table(
    rows: list[Any], window: tuple[int, int], cuts: int, with_race: bool, batch: int, hashes: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    if not with_race:
        rows = [("2024_01", *row[1:]) for row in rows]
        rows = [row for place, row in enumerate(rows) if row not in rows[:place] or None in row]
    path = tmp_path_factory.mktemp("table") / "tyre.parquet"
    table = write(path, rows, cuts)
    view = a_view(path, ("race_id", "driver_id") if with_race else ("driver_id",))
    low, high = sorted(window)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(newest_rows, "BATCH_ROWS", batch)
        patch.setattr(newest_rows, "HASHES_AT_ONCE", hashes)
        source = FeatureTable(path)
        found = find_newest(source, view, low, high)
        newest_event = source.newest_event()
        if len(found.rows):
            order = np.argsort(found.rows)
            taken = source.take(found.rows[order], ["number", "event_timestamp"])
            assert taken["number"].to_pylist() == found.rows[order].tolist()
    expected: dict[bytes, tuple[int, int, int, str]] = {}
    for number, (key, row) in enumerate(zip(entity_keys(view, table), rows, strict=True)):
        race, _, event, created = row
        if event is not None and created is not None and low <= event <= high:
            expected[key] = max(expected.get(key, (-9, -9, -1, race)), (event, created, number, race))
    assert dict(zip(found.keys, found.rows.tolist(), strict=True)) == {key: held[2] for key, held in expected.items()}
    races = {race for _, _, _, race in expected.values()}
    if with_race:
        group_of = {
            held[3]: group for held, group in zip((expected[key] for key in found.keys), found.groups.tolist(), strict=True)
        }
        assert sorted(races, key=group_of.__getitem__) == sorted(races)
    else:
        assert set(found.groups.tolist()) <= {0}
    in_order = list(zip(found.groups.tolist(), found.keys, strict=True))
    assert in_order == sorted(in_order)
    assert found.never_visible == sum(created is None for *_, created in rows)
    assert newest_event == max((event for _, _, event, _ in rows if event is not None), default=None)


@pytest.mark.parametrize("hashes", [2, 1000])
def test_duplicates_are_found_wherever_they_are(hashes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest_rows, "HASHES_AT_ONCE", hashes)
    monkeypatch.setattr(newest_rows, "BATCH_ROWS", 2)
    path = tmp_path / "tyre.parquet"
    rows = [("2024_01", driver, event, 9) for event in range(5) for driver in ("norris", "alonso")]
    write(path, [*rows, ("2024_01", "norris", 1, 9), ("2024_01", "norris", 1, None), ("2024_01", "norris", 1, None)])
    view = a_view(path, ("race_id", "driver_id"))
    first = "the first race_id=2024_01, driver_id=norris, event_timestamp=1970-01-01 00:00:00.000001"
    with pytest.raises(DuplicateRowsError, match=rf"tyre\.parquet: 2 rows share key and times with another, {first}"):
        find_newest(FeatureTable(path), view, 4, 5)  # outside the window, too


def test_a_table_that_changes_while_it_is_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tyre.parquet"
    write(path, [("2024_01", "norris", 1, 1), ("2024_01", "norris", 1, 1)])
    view = a_view(path, ("race_id", "driver_id"))
    batches, passes = newest_rows._Scan.batches, iter(range(10))

    def gone_later(scan: Any) -> Any:
        return batches(scan) if next(passes) < 2 else iter(())

    monkeypatch.setattr(newest_rows._Scan, "batches", gone_later)
    with pytest.raises(DamagedFileError, match=r"tyre\.parquet: changed while it was read.*pitwall materialize"):
        find_newest(FeatureTable(path), view, 0, 5)


def test_rows_that_only_share_a_hash_are_no_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest_rows, "_mixed", lambda numbers: numbers % np.uint64(3))
    path = tmp_path / "tyre.parquet"
    rows = [("2024_01", driver, event, 9) for event in range(5) for driver in ("norris", "alonso")]
    write(path, rows)
    found = find_newest(FeatureTable(path), a_view(path, ("race_id", "driver_id")), 0, 9)
    assert sorted(found.rows.tolist()) == [8, 9]


def test_row_groups_without_wanted_rows_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tyre.parquet"
    write(path, [("2024_01", "norris", event, 9) for event in range(40)])
    read: list[int] = []
    original = pq.ParquetFile.iter_batches

    def counted(self: pq.ParquetFile, *args: Any, row_groups: list[int], **options: Any) -> Any:
        read.extend(row_groups)
        return original(self, *args, row_groups=row_groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    assert FeatureTable(path).take(np.array([5, 6, 39]), ["number"])["number"].to_pylist() == [5.0, 6.0, 39.0]
    assert read == [1, 9]
