"""Copy the newest row of every key from the feature tables into Feast's online store, and never an older one over a newer one.

Reads `features/<view>.parquet`, writes `online_store.db`. Each view is scanned once; its newest rows go in by race, one SQLite
transaction each: features, exact times and journal change together, so a process killed at any instant leaves whole races, and
the next run ends in the same state. Values are encoded by Feast's own code, so its readers see what its writer would write.
"""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureStore, FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import extract_text_and_num
from feast.utils import _convert_arrow_to_proto

from feature_repo import online_guard
from feature_repo.errors import DuplicateRowsError, MissingInputError, NotAppliedError
from feature_repo.files import sha256_bytes, sha256_file, sha256_json
from feature_repo.online_guard import epoch_s, quoted
from feature_repo.settings import Settings
from feature_repo.store import online_path, open_store, table_name
from feature_repo.visibility import CREATED, EVENT, as_utc, latest_visible

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with the view, the rows done and the rows to do."""

# Views without a race in their key hold hundreds of keys, not thousands: blocks of this many rows.
_BLOCK_ROWS = 500
_EPOCH = pd.Timestamp(0, tz=UTC)
_US = pd.Timedelta(microseconds=1)
_EARLIEST = -(2**53)  # the year 1684, in microseconds: before anything pandas and the sport know


@dataclass(frozen=True)
class ViewReport:
    """One view after materialization.

    Attributes:
        view: its name.
        rows: keys the online store holds now.
        newest: newest event time among them; null if none.
        age_s: seconds from `newest` to the start of this run; null if none.
        written: rows new, newer or changed in this run.
        unchanged: rows of this window that were there already, value for value.
        held_back: rows of this window that are older than what the online store holds, so that they were not written.
        never_visible: rows without created time in the source; they are never visible.
        up_to_date: this window of this file was materialized before; nothing was read.
        seconds: time spent.
    """

    view: str
    rows: int
    newest: pd.Timestamp | None
    age_s: float | None
    written: int
    unchanged: int
    held_back: int
    never_visible: int
    up_to_date: bool
    seconds: float


@dataclass(frozen=True)
class MaterializeReport:
    """All online views after materialization.

    Attributes:
        since: start of the window of event times, included; null = from the beginning.
        until: end of the window as asked, included; null = to the newest row.
        views: one report per online view, in the order they were done.
    """

    since: pd.Timestamp | None
    until: pd.Timestamp | None
    views: tuple[ViewReport, ...]

    @property
    def written(self) -> int:
        """Rows written in all views."""
        return sum(view.written for view in self.views)


@dataclass(frozen=True)
class OnlineView:
    """What the online store holds of one view: number of keys, newest event time and its age in seconds (null when empty)."""

    rows: int
    newest: pd.Timestamp | None
    age_s: float | None


def materialize(
    settings: Settings,
    *,
    since: datetime | str | pd.Timestamp | None = None,
    until: datetime | str | pd.Timestamp | None = None,
    rebuild: bool = False,
    progress: Progress | None = None,
) -> MaterializeReport:
    """Bring the online store up to date with the feature tables. Idempotent; safe to kill; safe beside readers and other writers.

    A row goes in if its (event, created) is not older than what its key holds. Late data, corrections (same event, later created)
    and recomputed values (same times) therefore go in; a backfill of an older window changes only keys that hold nothing newer.

    Args:
        settings: which home; applied, with feature tables.
        since: only rows with event_timestamp >= since.
        until: only rows with event_timestamp <= until; a time after the newest row means the newest row.
        rebuild: empty each view first. The only way to take back a row that is newer than anything the source still has.
        progress: told after every chunk.
    Raises:
        NotAppliedError: the catalogue was not applied to this home.
        MissingInputError: a feature table is absent.
        DuplicateRowsError: a feature table holds two rows with the same key and times.
        ValueError: since > until.
    """
    start = None if since is None else as_utc(since)
    end = None if until is None else as_utc(until)
    if start is not None and end is not None and start > end:
        raise ValueError(f"materialize: since {start.isoformat()} is after until {end.isoformat()}")
    store = open_store(settings)
    views = sorted((view for view in store.list_feature_views() if view.online), key=lambda view: view.name)
    now = pd.Timestamp.now(UTC)
    with online_guard.connect(online_path(settings)) as connection:
        _check_installed(connection, settings, views)
        reports = [_ViewWriter(store, view, connection, progress).run(start, end, rebuild, now) for view in views]
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    report = MaterializeReport(start, end, tuple(reports))
    logger.info("materialized views=%d written=%d", len(reports), report.written)
    return report


def online_status(settings: Settings, now: datetime | None = None) -> dict[str, OnlineView]:
    """What the online store holds, per online view; empty if nothing was applied. Read from SQLite, without Feast."""
    path = online_path(settings)
    if not path.exists():
        return {}
    clock = as_utc(now or datetime.now(UTC))
    with online_guard.connect(path) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'pitwall_views'").fetchone():
            return {}
        tables = connection.execute("SELECT view, table_name FROM pitwall_views ORDER BY view").fetchall()
        return {view: _held(connection, table, clock) for view, table in tables}


class _ViewWriter:
    """Materializes one view over one connection."""

    def __init__(self, store: FeatureStore, view: FeatureView, connection: sqlite3.Connection, progress: Progress | None) -> None:
        self.view = view
        self.connection = connection
        self.progress = progress
        self.table = table_name(view)
        self.source = Path(view.batch_source.path)
        self.keys = list(view.join_keys)
        self.key_types = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
        self.features = [field.name for field in view.features]
        self.version = store.config.entity_key_serialization_version
        self.definition = sha256_json([self.table, self.keys, [[field.name, str(field.dtype)] for field in view.features]])

    def run(self, since: pd.Timestamp | None, until: pd.Timestamp | None, rebuild: bool, now: pd.Timestamp) -> ViewReport:
        started = time.perf_counter()
        if not self.source.exists():
            raise MissingInputError(f"view {self.view.name}: no feature table {self.source}; run `pitwall features` first")
        fingerprint = sha256_file(self.source)
        if rebuild:
            self._empty()
        self._drop_records_of_lost_rows()
        stamps = pq.read_table(self.source, columns=[EVENT])[EVENT]
        newest = _micros(pc.max(stamps).as_py()) if len(stamps) else 0
        low = _micros(since) if since is not None else _EARLIEST
        high = min(_micros(until), newest) if until is not None else newest
        counts = {"written": 0, "unchanged": 0, "held_back": 0}
        never_visible, done_before = 0, self._done_before(fingerprint, low, high)
        if not done_before and low <= high:
            rows, never_visible = self._newest_rows(low, high)
            self._write_all(rows, counts)
            self._record(fingerprint, low, high, rows.num_rows)
        held = _held(self.connection, self.table, now)
        seconds = time.perf_counter() - started
        report = ViewReport(
            self.view.name, held.rows, held.newest, held.age_s, **counts, never_visible=never_visible, up_to_date=done_before,
            seconds=seconds,
        )  # fmt: skip
        level = logging.WARNING if report.held_back and since is None and until is None else logging.INFO
        logger.log(level, "view_materialized view=%s rows=%d written=%d unchanged=%d held_back=%d seconds=%.2f",
                   report.view, report.rows, report.written, report.unchanged, report.held_back, seconds)  # fmt: skip
        return report

    def _newest_rows(self, low: int, high: int) -> tuple[pa.Table, int]:
        """The newest row of each key with low <= event <= high (microseconds), sorted by key; how many lack a created time."""
        index = pq.read_table(self.source, columns=[*self.keys, EVENT, CREATED]).to_pandas()
        twice = index.duplicated([*self.keys, EVENT, CREATED], keep=False) & index[CREATED].notna()
        if twice.any():
            row = index[twice].iloc[0]
            raise DuplicateRowsError(
                f"{self.source}: {int(twice.sum())} rows share key and times with another, the first {row.to_dict()}; "
                "each (key, event, created) may occur once; rebuild the feature table"
            )
        begin, end = _stamp(low), _stamp(high)
        within = index[index[EVENT].between(begin, end)]
        if within.empty:
            return pq.read_table(self.source).slice(0, 0), int(index[CREATED].isna().sum())
        chosen = latest_visible(within, self.keys, within[[EVENT, CREATED]].max().max())
        # Only the rows chosen are decoded further: the scan of the wide columns is one take.
        table = pq.read_table(self.source, columns=[*self.keys, *self.features, EVENT, CREATED])
        return table.take(pa.array(chosen.index.to_numpy())).combine_chunks(), int(index[CREATED].isna().sum())

    def _write_all(self, rows: pa.Table, counts: dict[str, int]) -> None:
        done = 0
        for chunk, part in self._chunks(rows):
            content = sha256_bytes(self.definition.encode() + _ipc(part))
            if not self._chunk_done(chunk, content):
                for name, count in self._write(chunk, content, part).items():
                    counts[name] += count
            else:
                counts["unchanged"] += part.num_rows
            done += part.num_rows
            if self.progress is not None:
                self.progress(self.view.name, done, rows.num_rows)

    def _chunks(self, rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        """Rows by race, where races are part of the key (rows come sorted by key), else in blocks."""
        if "race_id" not in self.keys:
            for start in range(0, rows.num_rows, _BLOCK_ROWS):
                yield f"block {start}", rows.slice(start, _BLOCK_ROWS)
            return
        races = pd.Series(rows["race_id"].to_pandas())
        for race_id, where in races.groupby(races, sort=True).indices.items():
            yield f"race {race_id}", rows.take(pa.array(where))

    def _write(self, chunk: str, content: str, part: pa.Table) -> dict[str, int]:
        micros = pa.timestamp("us", tz="UTC")
        events, createds = (part[column].cast(micros).cast(pa.int64()).to_pylist() for column in (EVENT, CREATED))
        encoded = _convert_arrow_to_proto(part.combine_chunks(), self.view, self.key_types)
        counts = {"written": 0, "unchanged": 0, "held_back": 0}
        with online_guard.transaction(self.connection):
            for (key_proto, values, _, _), event, created in zip(encoded, events, createds, strict=True):
                key = serialize_entity_key(key_proto, entity_key_serialization_version=self.version)
                new = {name: (value.SerializeToString(), extract_text_and_num(value, False)[0]) for name, value in values.items()}
                counts[self._write_row(key, new, (event, created))] += 1
            self.connection.execute("INSERT OR REPLACE INTO pitwall_chunks VALUES (?, ?, ?)", (self.view.name, chunk, content))
        return counts

    def _write_row(self, key: bytes, new: dict[str, tuple[bytes, str | None]], stamp: tuple[int, int]) -> str:
        execute, table = self.connection.execute, quoted(self.table)
        there = execute(f"SELECT feature_name, value, event_ts, created_ts FROM {table} WHERE entity_key = ?", (key,)).fetchall()
        if there:
            held = self._held_stamp(key, max((row[2], row[3] or 0) for row in there))
            if stamp < held:
                return "held_back"
            if stamp == held and {row[0]: row[1] for row in there} == {name: value for name, (value, _) in new.items()}:
                return "unchanged"
        seconds = (epoch_s(stamp[0]), epoch_s(stamp[1]))
        execute(f"DELETE FROM {table} WHERE entity_key = ?", (key,))
        self.connection.executemany(
            f"INSERT INTO {table} (entity_key, feature_name, value, value_text, event_ts, created_ts) VALUES (?, ?, ?, ?, ?, ?)",
            [(key, name, value, text, *seconds) for name, (value, text) in new.items()],
        )
        execute("INSERT OR REPLACE INTO pitwall_newest VALUES (?, ?, ?, ?)", (self.view.name, key, *stamp))
        return "written"

    def _held_stamp(self, key: bytes, seconds: tuple[int, int]) -> tuple[int, int]:
        """Exact (event, created) of what a key holds: ours, unless another Feast client has written since, in whole seconds."""
        exact: tuple[int, int] | None = self.connection.execute(
            "SELECT event_us, created_us FROM pitwall_newest WHERE view = ? AND entity_key = ?", (self.view.name, key)
        ).fetchone()
        if exact is not None and (epoch_s(exact[0]), epoch_s(exact[1])) == seconds:
            return exact
        return seconds[0] * 1_000_000, seconds[1] * 1_000_000

    def _empty(self) -> None:
        with online_guard.transaction(self.connection):
            self.connection.execute(f"DELETE FROM {quoted(self.table)}")
            online_guard.forget(self.connection, self.view.name)

    def _drop_records_of_lost_rows(self) -> None:
        """If somebody deleted online rows, what was recorded of them says nothing any more: look at every row again."""
        lost = f"view = ? AND NOT EXISTS (SELECT 1 FROM {quoted(self.table)} t WHERE t.entity_key = pitwall_newest.entity_key)"
        with online_guard.transaction(self.connection):
            if self.connection.execute(f"DELETE FROM pitwall_newest WHERE {lost}", (self.view.name,)).rowcount:
                online_guard.forget(self.connection, self.view.name, ("pitwall_chunks", "pitwall_journal"))

    def _done_before(self, fingerprint: str, low: int, high: int) -> bool:
        """Whether a window that covers this one was completed from the same file under the same definition."""
        query = (
            "SELECT 1 FROM pitwall_journal WHERE view = ? AND source_sha256 = ? AND definition_sha256 = ? "
            "AND since_us <= ? AND until_us >= ?"
        )
        return self.connection.execute(query, (self.view.name, fingerprint, self.definition, low, high)).fetchone() is not None

    def _chunk_done(self, chunk: str, content: str) -> bool:
        query = "SELECT 1 FROM pitwall_chunks WHERE view = ? AND chunk = ? AND content_sha256 = ?"
        return self.connection.execute(query, (self.view.name, chunk, content)).fetchone() is not None

    def _record(self, fingerprint: str, low: int, high: int, n_rows: int) -> None:
        with online_guard.transaction(self.connection):
            # What an earlier file or definition gave is no longer a reason to skip anything.
            self.connection.execute(
                "DELETE FROM pitwall_journal WHERE view = ? AND (source_sha256 <> ? OR definition_sha256 <> ?)",
                (self.view.name, fingerprint, self.definition),
            )
            self.connection.execute(
                "INSERT OR REPLACE INTO pitwall_journal VALUES (?, ?, ?, ?, ?, ?, ?)",
                (self.view.name, low, high, fingerprint, self.definition, n_rows, _micros(pd.Timestamp.now(UTC))),
            )


def _check_installed(connection: sqlite3.Connection, settings: Settings, views: list[FeatureView]) -> None:
    present = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    absent = sorted({"pitwall_views", *(table_name(view) for view in views)} - present)
    if absent:
        raise NotAppliedError(f"{online_path(settings)}: lacks tables {absent}; run `pitwall apply` first")
    outside = [view for view in views if not Path(view.batch_source.path).is_relative_to(settings.home)]
    if outside:
        source = outside[0].batch_source.path
        raise NotAppliedError(f"view {outside[0].name}: reads {source}, outside {settings.home}; run `pitwall apply` again")


def _held(connection: sqlite3.Connection, table: str, now: pd.Timestamp) -> OnlineView:
    rows, newest_s = connection.execute(f"SELECT COUNT(DISTINCT entity_key), MAX(event_ts) FROM {quoted(table)}").fetchone()
    newest = None if newest_s is None else pd.Timestamp(newest_s, unit="s", tz=UTC)
    return OnlineView(rows, newest, None if newest is None else (now - newest).total_seconds())


def _micros(moment: datetime | pd.Timestamp) -> int:
    return int((pd.Timestamp(moment) - _EPOCH) // _US)


def _stamp(microseconds: int) -> pd.Timestamp:
    return pd.Timestamp(microseconds, unit="us", tz=UTC)


def _ipc(table: pa.Table) -> bytes:
    """The table's content as bytes, without the file's metadata."""
    sink = pa.BufferOutputStream()
    plain = table.replace_schema_metadata(None).combine_chunks()
    with pa.ipc.new_stream(sink, plain.schema) as writer:
        writer.write_table(plain)
    return sink.getvalue().to_pybytes()
