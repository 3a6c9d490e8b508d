"""Materialization on Spark: the newest row of each key found by a grouped maximum, packed by the workers, written by the rule.

Which row is newest, what a packed row is and that an older row never replaces a newer one are decided where the embedded engine
decides them: `feature_repo.stores`. A store behind a server is written by the workers, race by race; a SQLite file has one
writer, so there the workers pack and the driver writes.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from feast import FeatureView, RepoConfig

from feature_repo.errors import DuplicateRowsError
from feature_repo.progress import Progress
from feature_repo.settings import Settings
from feature_repo.stores.online import PackedOnlineStore, WriteCounts
from feature_repo.stores.online_sqlite import PackedSqliteOnlineStore
from feature_repo.stores.packed import KeyLayout, Layout, pack
from feature_repo.stores.spark_session import n_tasks, session_of, worker_errors
from pipelines.newest_rows import micros

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from feature_repo.stores.offline_spark import SourceTable


CHUNK_ROWS = 10_000
"""Rows written together: whole races until there are so many, where races are part of the key."""

_RACE = "race_id"
_PACKED = "race string, entity_key binary, row binary"
_COUNTS = "written long, unchanged long, held_back long"


def transfer(
    settings: Settings,
    config: RepoConfig,
    online: PackedOnlineStore,
    view: FeatureView,
    low: int,
    high: int,
    progress: Progress | None = None,
) -> tuple[WriteCounts, int]:
    """Bring the newest visible row of each key with low <= event <= high (microseconds) into the online store.

    Args:
        settings: which Spark.
        config: of the feature store; workers that write get it, and take passwords from their own environment.
        online: the store written to.
        view: whose feature table is read; workers must see it under its path.
        low: first event time.
        high: last event time.
        progress: told after every chunk that the driver writes, and at the end.
    Returns:
        What became of the rows, and how many rows of the table have no created time.
    Raises:
        SparkNotAvailableError: no Spark session can be had.
        DuplicateRowsError: two rows of the table, inside the window or not, share key, event and created time.
    """
    from feature_repo.stores import offline_spark  # PySpark is an extra

    spark = session_of(settings)
    with worker_errors("materialize"):
        table = offline_spark.read_table(spark, view)
        never_visible = table.unknown_since_when.count()
        _refuse_duplicates(table, view)
        newest = offline_spark.newest_rows(table, [field.name for field in view.features], low, high)
        if _RACE in table.keys:  # whole races in one task, one after the other: a killed task leaves whole races
            newest = newest.repartition(n_tasks(spark), _RACE).sortWithinPartitions(_RACE)
        definition, times = view.to_proto().SerializeToString(), (table.event, table.created or table.event)
        packed = newest.mapInArrow(partial(_pack, definition, times), _PACKED)
        if isinstance(online, PackedSqliteOnlineStore):
            counts = _write_here(packed, config, online, view, progress)
        else:
            counts = _write_there(packed, config, type(online), definition)
    if progress is not None:
        n_rows = counts.written + counts.unchanged + counts.held_back
        progress(view.name, n_rows, n_rows)
    return counts, never_visible


def _refuse_duplicates(table: "SourceTable", view: FeatureView) -> None:
    twice = table.repeated().limit(1).collect()
    if twice:
        raise DuplicateRowsError(
            f"{Path(view.batch_source.path)}: several rows share key and times, one of them {twice[0].asDict()}; "
            "each (key, event, created) may occur once; rebuild the feature table"
        )


def _pack(definition: bytes, times: tuple[str, str], batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    view = _view(definition)
    layout, key_layout = Layout.of(view), KeyLayout.of(view)
    for batch in batches:
        rows = pa.Table.from_batches([batch])
        event, created = (micros(rows, column).to_numpy() for column in times)
        races = rows[_RACE].to_pylist() if _RACE in key_layout.join_keys else [""] * len(rows)
        columns = [races, key_layout.keys(rows), pack(layout, rows, event, created)]
        arrays = [pa.array(values, kind) for values, kind in zip(columns, (pa.string(), pa.binary(), pa.binary()), strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, ["race", "entity_key", "row"])


def _write_here(
    packed: "DataFrame", config: RepoConfig, online: PackedOnlineStore, view: FeatureView, progress: Progress | None
) -> WriteCounts:
    rows = ((row.race, bytes(row.entity_key), bytes(row.row)) for row in packed.toLocalIterator(prefetchPartitions=True))
    counts, done = WriteCounts(), 0
    for keys, values in _chunks(rows):
        counts += online.write_rows(config, view, keys, values)
        done += len(keys)
        if progress is not None:
            progress(view.name, done, done)
    return counts


def _write_there(
    packed: "DataFrame", config: RepoConfig, store: type[PackedOnlineStore], definition: bytes
) -> WriteCounts:  # fmt: skip
    # A task that Spark repeats, or runs twice, writes rows that are there already: nothing changes.
    counts = packed.mapInArrow(partial(_write, definition, config, store), _COUNTS).collect()
    return sum((WriteCounts(row.written, row.unchanged, row.held_back) for row in counts), WriteCounts())


def _write(
    definition: bytes, config: RepoConfig, store: type[PackedOnlineStore], batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    view, online = _view(definition), store()
    rows = (row for batch in batches for row in zip(*(column.to_pylist() for column in batch.columns), strict=True))
    try:
        for keys, values in _chunks(rows):
            counts = online.write_rows(config, view, keys, values)
            told = {"written": [counts.written], "unchanged": [counts.unchanged], "held_back": [counts.held_back]}
            yield pa.RecordBatch.from_pydict(told)
    finally:
        online.disconnect()


def _chunks(rows: Iterable[tuple[str, bytes, bytes]]) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """Keys and rows in chunks of `CHUNK_ROWS` or a little more: a race stays whole."""
    keys: list[bytes] = []
    values: list[bytes] = []
    race_before = ""
    for race, key, value in rows:
        if len(keys) >= CHUNK_ROWS and (race != race_before or not race):
            yield keys, values
            keys, values = [], []
        keys.append(key)
        values.append(value)
        race_before = race
    if keys:
        yield keys, values


def _view(definition: bytes) -> FeatureView:
    from feast.protos.feast.core.FeatureView_pb2 import FeatureView as FeatureViewProto

    return FeatureView.from_proto(FeatureViewProto.FromString(definition))
