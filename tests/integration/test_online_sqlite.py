"""The embedded online store: what Feast's own serves, and never an older row over a newer one, whoever writes."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp

from feature_repo.errors import NotAppliedError
from feature_repo.stores.errors import UnsupportedStoreError
from feature_repo.stores.online import PackedOnlineStore, WriteCounts, newest_per_key, packed_store
from feature_repo.stores.online_sqlite import PackedSqliteOnlineStore
from feature_repo.stores.packed import Layout, entity_keys, pack, stamps, unpack

OURS = "feature_repo.stores.online_sqlite.PackedSqliteOnlineStore"
LAP = timedelta(seconds=90, microseconds=500_001)
START = datetime(2024, 5, 26, 13, tzinfo=UTC)
TYPES: dict[str, Any] = {
    "f32": Float32, "f64": Float64, "i32": Int32, "i64": Int64, "yes": Bool, "text": String, "blob": Bytes, "time": UnixTimestamp,
    "f32s": Array(Float32), "i64s": Array(Int64), "texts": Array(String), "yeses": Array(Bool), "times": Array(UnixTimestamp),
}  # fmt: skip
ARROW = {
    "f32": pa.float32(), "f64": pa.float64(), "i32": pa.int32(), "i64": pa.int64(), "yes": pa.bool_(), "text": pa.string(),
    "blob": pa.binary(), "time": pa.timestamp("us", tz="UTC"), "f32s": pa.list_(pa.float32()), "i64s": pa.list_(pa.int64()),
    "texts": pa.list_(pa.string()), "yeses": pa.list_(pa.bool_()), "times": pa.list_(pa.timestamp("us", tz="UTC")),
}  # fmt: skip
DRIVERS = ["norris", "räikkönen", "alonso"]
CELLS: dict[str, list[Any]] = {
    "f32": [0.1, None, float("inf")], "f64": [-0.1, 1e300, float("nan")], "i32": [1, -(2**31), 2**31 - 1],
    "i64": [2**53, 0, -1], "yes": [True, False, None], "text": ["", "é", None], "blob": [b"\x00", b"ab", None],
    "time": [START, START - timedelta(days=30_000), START], "f32s": [[1.5, 2.5], [], None], "i64s": [[1], None, [2, 3]],
    "texts": [["a", ""], ["é"], None], "yeses": [[True], [], None], "times": [[START], None, []],
}  # fmt: skip


def everything(folder: Path, *, name: str = "everything", online: bool = True) -> list[Any]:
    """A view with a feature of every kind and its entity."""
    driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.STRING)
    source = FileSource(
        name=f"{name}_source",
        path=str(folder / "table.parquet"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
    schema = [Field(name=feature, dtype=dtype) for feature, dtype in TYPES.items()]
    return [driver, FeatureView(name=name, entities=[driver], schema=schema, source=source, online=online)]


def frame() -> pd.DataFrame:
    """Three drivers, in no order of time."""
    columns = {name: pa.array(cells, ARROW[name]) for name, cells in CELLS.items()}
    micros = pa.timestamp("us", tz="UTC")
    event = pa.array([START + LAP, START, START - LAP], micros)
    created = pa.array([START + 2 * LAP] * 3, micros)
    return pa.table({"driver_id": DRIVERS, **columns, "event_timestamp": event, "created_timestamp": created}).to_pandas()


def open_feast(folder: Path, kind: str = OURS, objects: Sequence[Any] | None = None) -> FeatureStore:
    """A Feast store with an online store of this type, applied."""
    folder.mkdir(parents=True, exist_ok=True)
    name = kind.rsplit(".", 1)[-1]
    config = RepoConfig(
        repo_path=folder,
        project="pitwall",
        provider="local",
        registry={"registry_type": "sql", "path": f"sqlite:///{folder / name}_registry.db"},
        offline_store={"type": "dask"},
        online_store={"type": kind, "path": str(folder / f"{name}.db")},
        entity_key_serialization_version=3,
        data_quality_monitoring={"auto_baseline": False},
    )
    store = FeatureStore(config=config)
    store.apply(list(everything(folder) if objects is None else objects))
    return store


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """An applied store with nothing online."""
    return open_feast(tmp_path)


def parts(store: FeatureStore) -> tuple[PackedOnlineStore, RepoConfig, FeatureView]:
    """The online store, the configuration and the view."""
    return packed_store(store), store.config, store.get_feature_view("everything")


def packed(view: FeatureView, times: Sequence[tuple[int, int]], numbers: Sequence[float] | None = None) -> list[bytes]:
    """Rows with these (event, created) microseconds that differ in `f64`."""
    n_rows = len(times)
    columns = {name: pa.array([None] * n_rows, kind) for name, kind in ARROW.items()}
    columns["f64"] = pa.array([float(number) for number in (numbers if numbers is not None else range(n_rows))])
    event, created = (np.array([time[which] for time in times], np.int64) for which in (0, 1))
    return pack(Layout.of(view), pa.table(columns), event, created)


def test_feast_serves_what_its_own_store_would(tmp_path: Path) -> None:
    ours, feasts = open_feast(tmp_path, OURS), open_feast(tmp_path, "sqlite")
    entities = [{"driver_id": driver} for driver in [*reversed(DRIVERS), "nobody", "norris"]]
    features = [f"everything:{name}" for name in TYPES]
    served = []
    for each in (ours, feasts):
        each.write_to_online_store("everything", frame())
        served.append(each.get_online_features(features=features, entity_rows=entities))
    left, right = (response.to_dict(include_event_timestamps=True) for response in served)
    assert repr(left) == repr(right)  # in which NaN equals NaN
    assert served[0].proto.results[-1].statuses == served[1].proto.results[-1].statuses
    named = list(served[0].proto.metadata.feature_names.val).index("f32")
    exact = [stamp.ToMicroseconds() for stamp in served[0].proto.results[named].event_timestamps]
    assert exact[-1] == int((START + LAP).timestamp()) * 1_000_000 + LAP.microseconds
    in_a_loop = asyncio.run(ours.get_online_features_async(features=features, entity_rows=entities))
    assert repr(in_a_loop.to_dict(include_event_timestamps=True)) == repr(left)
    one = ours.get_online_features(features=["everything:text"], entity_rows=entities[:1], full_feature_names=True)
    assert one.to_dict() == {"driver_id": ["alonso"], "everything__text": [None]}


def test_an_older_row_of_any_client_is_held_back(store: FeatureStore) -> None:
    def serve() -> list[Any]:
        asked = store.get_online_features(features=["everything:i32"], entity_rows=[{"driver_id": "norris"}])
        return list(asked.to_dict()["i32"])

    row = frame().iloc[:1]
    store.write_to_online_store("everything", row.assign(i32=5))
    store.write_to_online_store("everything", row.assign(i32=6, event_timestamp=START))  # an older event
    store.write_to_online_store("everything", row.assign(i32=7, created_timestamp=START + LAP))  # an older correction
    assert serve() == [5]
    store.write_to_online_store("everything", row.assign(i32=8))  # equal times: computed again
    assert serve() == [8]
    newer = row["created_timestamp"] + pd.Timedelta(microseconds=1)
    both = pd.concat([row.assign(i32=9, created_timestamp=newer), row.assign(i32=10)])  # in one batch
    asyncio.run(store.write_to_online_store_async("everything", both))
    assert serve() == [9]
    store.write_to_online_store("everything", row.assign(i32=11, created_timestamp=pd.NaT))  # never known
    assert serve() == [9]


def test_rows_of_another_definition_are_absent_until_written_again(store: FeatureStore, tmp_path: Path) -> None:
    store.write_to_online_store("everything", frame())
    driver, view = everything(tmp_path)
    kept = [field for field in view.schema if field.name in {"f32", "f64", "i32"}]
    fewer = FeatureView(name=view.name, entities=[driver], schema=kept, source=view.batch_source)
    store.apply([driver, fewer])
    asked = {"features": ["everything:f32"], "entity_rows": [{"driver_id": "norris"}]}
    found = store.get_online_features(**asked)
    assert found.to_dict()["f32"] == [None]
    assert found.proto.results[-1].event_timestamps[0].seconds == 0
    store.write_to_online_store("everything", frame()[["driver_id", "f32", "f64", "i32", "event_timestamp", "created_timestamp"]])
    assert store.get_online_features(**asked).to_dict()["f32"] == [pytest.approx(0.1)]


def test_rows_go_with_their_view(store: FeatureStore, tmp_path: Path) -> None:
    store.write_to_online_store("everything", frame())
    online, config, view = parts(store)
    online.set_note(config, view, "journal", "one")
    driver, _ = everything(tmp_path)
    renamed = everything(tmp_path, name="all_of_it")
    store.apply(renamed, objects_to_delete=[view], partial=False)
    assert not online.is_ready_for(config, view)
    with pytest.raises(NotAppliedError, match=r"no such table: pitwall_everything; run `pitwall apply`"):
        online.count_rows(config, view)
    store.apply([driver, everything(tmp_path)[1]])
    assert (online.count_rows(config, view), online.get_notes(config, view)) == (0, {})
    store.teardown()
    assert not list(tmp_path.glob("Packed*OnlineStore.db*"))
    with pytest.raises(NotAppliedError, match=r"no online store here; run `pitwall apply`"):
        online.read_rows(config, view, [b"a"])
    assert not online.is_ready_for(config, view)


def test_a_table_of_feasts_own_store_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "PackedSqliteOnlineStore.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE pitwall_everything (entity_key BLOB, feature_name TEXT, value BLOB, event_ts timestamp)")
        connection.execute("INSERT INTO pitwall_everything VALUES (x'00', 'f32', x'00', 0)")
    online, config, view = parts(open_feast(tmp_path))
    assert online.is_ready_for(config, view)
    assert online.count_rows(config, view) == 0


def test_only_packed_stores_are_written_to_directly(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedStoreError, match=r"online_store.type: got SqliteOnlineStore"):
        packed_store(open_feast(tmp_path, "sqlite"))


def test_threads_read_through_one_store_while_one_writes(store: FeatureStore) -> None:
    """32 readers at once, of two keys that are always written together: each sees both of one write."""
    online, config, view = parts(store)
    keys = [b"a", b"b"]
    written = [packed(view, [(time, time)] * 2) for time in range(200)]
    online.write_rows(config, view, keys, written[0])
    ended = threading.Event()

    def read(_: int) -> int:
        seen, last = 0, False
        while not last:
            last = ended.is_set()
            first, second = stamps([value for value in online.read_rows(config, view, keys) if value])[:, 0].tolist()
            assert first == second >= seen
            seen = first
        return seen

    with ThreadPoolExecutor(32) as pool:
        readers = [pool.submit(read, number) for number in range(32)]
        for values in written:
            online.write_rows(config, view, keys, values)
        ended.set()
        assert {reader.result() for reader in readers} == {199}


def test_a_writer_does_not_block_readers_and_a_failed_write_leaves_nothing(store: FeatureStore, tmp_path: Path) -> None:
    online, config, view = parts(store)
    old = packed(view, [(1, 1)])
    online.write_rows(config, view, [b"a"], old)
    writer = sqlite3.connect(tmp_path / "PackedSqliteOnlineStore.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM pitwall_everything")
    assert online.read_rows(config, view, [b"a"]) == old
    writer.execute("ROLLBACK")
    writer.close()
    with pytest.raises(sqlite3.IntegrityError):
        online.write_rows(config, view, [b"a", b"b"], [*packed(view, [(2, 2)]), None])  # type: ignore[list-item]
    assert online.read_rows(config, view, [b"a", b"b"]) == [*old, None]


def test_more_keys_than_one_statement_takes(store: FeatureStore) -> None:
    online, config, view = parts(store)
    keys = [b"%d" % number for number in range(2_345)]
    values = packed(view, [(number, 0) for number in range(2_345)])
    online.write_rows(config, view, keys, values)
    asked = [*reversed(keys), b"nobody"]
    assert online.read_many(config, [(view, asked), (view, []), (view, keys[:3])]) == [
        [*reversed(values), None],
        [],
        values[:3],
    ]


def test_a_forked_process_opens_its_own_connections(store: FeatureStore) -> None:
    online, config, view = parts(store)
    online.write_rows(config, view, [b"a"], packed(view, [(1, 1)]))
    child = os.fork()
    if child == 0:
        counts = online.write_rows(config, view, [b"a"], packed(view, [(2, 2)]))
        os._exit(0 if counts == WriteCounts(written=1) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert online.newest_event(config, view) == 2
    online.disconnect()
    assert online.newest_event(config, view) == 2


def test_a_database_that_was_made_again_is_seen(store: FeatureStore) -> None:
    """A serving process that is open for long while somebody tears the store down and fills it again."""
    online, config, view = parts(store)
    online.write_rows(config, view, [b"a"], packed(view, [(1, 1)]))
    other = PackedSqliteOnlineStore()
    other.teardown(config, [view], [])
    other.update(config, [], [view], [], [], partial=False)
    again = packed(view, [(5, 5)])
    other.write_rows(config, view, [b"a"], again)
    assert online.read_rows(config, view, [b"a"]) == again


def test_a_batch_keeps_the_newest_row_of_each_key() -> None:
    rows = [b"x" * 9 + bytes([*[0] * 15, time]) + name for time, name in ((2, b"a"), (1, b"b"), (2, b"c"), (3, b"d"))]
    assert newest_per_key([b"k", b"k", b"k", b"l"], rows) == ([b"k", b"l"], [rows[2], rows[3]])


def test_keys_are_those_that_feast_looks_up(store: FeatureStore) -> None:
    store.write_to_online_store("everything", frame())
    online, config, view = parts(store)
    held = online.read_rows(config, view, entity_keys(view, {"driver_id": DRIVERS}))
    assert unpack(Layout.of(view), held).column("text") == CELLS["text"]
