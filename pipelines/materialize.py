"""Copy the newest row of every key from the feature tables into Feast's online store, and never an older one over a newer one.

Reads `features/<view>.parquet`, writes the online store of the configuration, whichever it is: the store keeps the rule. One pass
over keys and times finds each key's newest row; only those rows are read further, packed, and written by whole races. A process
killed at any instant leaves whole races, and the next run ends in the same state.

Memory is bounded by the number of keys, not of rows: see `newest_rows.py` for the pass, then `_BYTES_AT_ONCE` of chosen rows.
"""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from feast import FeatureStore, FeatureView, RepoConfig
from numpy.typing import NDArray

from feature_repo.errors import MissingInputError, NotAppliedError
from feature_repo.files import sha256_file, sha256_json
from feature_repo.progress import Progress
from feature_repo.settings import Settings
from feature_repo.store import open_store
from feature_repo.stores.online import PackedOnlineStore, WriteCounts, packed_store
from feature_repo.stores.packed import KeyLayout, Layout, pack
from feature_repo.visibility import CREATED, EVENT, as_utc
from pipelines.newest_rows import FeatureTable, NewestRows, find_newest, micros

logger = logging.getLogger(__name__)

"""Called with the view, the rows done and the rows to do."""

CHUNK_ROWS = 10_000
"""Rows written together: whole races until there are so many, where races are part of the key."""

_BYTES_AT_ONCE = 64 * 2**20
_EPOCH = pd.Timestamp(0, tz=UTC)
_US = pd.Timedelta(microseconds=1)
_EARLIEST = -(2**53)  # the year 1684, in microseconds: before anything pandas and the sport know
_JOURNAL = "journal"


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
    online = packed_store(store)
    views = _online_views(store)
    now = pd.Timestamp.now(UTC)
    try:
        _check_installed(store, online, settings, views)
        reports = [_ViewWriter(settings, store.config, online, view, progress).run(start, end, rebuild, now) for view in views]
    finally:
        online.disconnect()
    report = MaterializeReport(start, end, tuple(reports))
    logger.info("materialized views=%d written=%d", len(reports), report.written)
    return report


def online_status(settings: Settings, now: datetime | None = None) -> dict[str, OnlineView]:
    """What the online store holds, per online view; empty if nothing was applied."""
    try:
        store = open_store(settings)
    except NotAppliedError:
        return {}
    online = packed_store(store)
    clock = as_utc(now or datetime.now(UTC))
    try:
        ready = [view for view in _online_views(store) if online.is_ready_for(store.config, view)]
        return {view.name: _held(store.config, online, view, clock) for view in ready}
    finally:
        online.disconnect()


class _ViewWriter:
    """Materializes one view."""

    def __init__(
        self, settings: Settings, config: RepoConfig, online: PackedOnlineStore, view: FeatureView, progress: Progress | None
    ) -> None:  # fmt: skip
        self.settings = settings
        self.config = config
        self.online = online
        self.view = view
        self.progress = progress
        self.layout = Layout.of(view)
        self.source = Path(view.batch_source.path)
        keys = KeyLayout.of(view)
        self.definition = sha256_json(
            [view.name, keys.prefix.hex(), [kind.name for kind in keys.types], self.layout.fingerprint.hex()]
        )

    def run(self, since: pd.Timestamp | None, until: pd.Timestamp | None, rebuild: bool, now: pd.Timestamp) -> ViewReport:
        started = time.perf_counter()
        if not self.source.exists():
            raise MissingInputError(f"view {self.view.name}: no feature table {self.source}; run `pitwall features` first")
        table = FeatureTable(self.source)
        fingerprint = sha256_json([[file.name, sha256_file(file)] for file in table.files])
        if rebuild:
            self.online.clear(self.config, self.view)
        newest = table.newest_event() or 0
        low = _micros(since) if since is not None else _EARLIEST
        high = min(_micros(until), newest) if until is not None else newest
        counts, never_visible = WriteCounts(), 0
        journal = self._journal(fingerprint)
        done_before = any(first <= low and last >= high for first, last in journal["windows"])
        if not done_before and low <= high:
            counts, never_visible = self._transfer(table, low, high)
            self._record(journal, low, high)
        held = _held(self.config, self.online, self.view, now)
        seconds = time.perf_counter() - started
        report = ViewReport(
            self.view.name, held.rows, held.newest, held.age_s, counts.written, counts.unchanged, counts.held_back,
            never_visible=never_visible, up_to_date=done_before, seconds=seconds,
        )  # fmt: skip
        level = logging.WARNING if report.held_back and since is None and until is None else logging.INFO
        logger.log(level, "view_materialized view=%s rows=%d written=%d unchanged=%d held_back=%d seconds=%.2f",
                   report.view, report.rows, report.written, report.unchanged, report.held_back, seconds)  # fmt: skip
        return report

    def _transfer(self, table: FeatureTable, low: int, high: int) -> tuple[WriteCounts, int]:
        """Bring the newest row of each key in the window online; what became of the rows, and how many are never visible."""
        if self.settings.engine == "spark":
            from pipelines.spark.materialize import transfer  # PySpark is an extra

            return transfer(self.settings, self.config, self.online, self.view, low, high, self.progress)
        chosen = find_newest(table, self.view, low, high)
        return self._write_all(table, chosen), chosen.never_visible

    def _write_all(self, table: FeatureTable, chosen: NewestRows) -> WriteCounts:
        counts, done = WriteCounts(), 0
        rows_at_once = max(CHUNK_ROWS, int(_BYTES_AT_ONCE // max(1.0, table.bytes_per_row())))
        for start, end in _blocks(chosen.groups, rows_at_once):
            by_row = np.argsort(chosen.rows[start:end])
            rows = table.take(chosen.rows[start:end][by_row], [*(field.name for field in self.layout.fields), EVENT, CREATED])
            packed = pack(self.layout, rows, micros(rows, EVENT).to_numpy(), micros(rows, CREATED).to_numpy())
            keys = chosen.keys[start:end]
            values = [packed[place] for place in np.argsort(by_row).tolist()]
            for first, last in _blocks(chosen.groups[start:end], CHUNK_ROWS):
                counts += self.online.write_rows(self.config, self.view, keys[first:last], values[first:last])
                done += last - first
                if self.progress is not None:
                    self.progress(self.view.name, done, len(chosen.keys))
        return counts

    def _journal(self, fingerprint: str) -> dict[str, Any]:
        """Which windows were completed from this file under this definition. If the store holds fewer rows than it did then,
        somebody took rows away, and nothing counts as done.
        """
        fresh: dict[str, Any] = {"source_sha256": fingerprint, "definition_sha256": self.definition, "windows": [], "rows": 0}
        noted = self.online.get_notes(self.config, self.view).get(_JOURNAL)
        journal: dict[str, Any] = json.loads(noted) if noted else fresh
        same = all(journal[name] == fresh[name] for name in ("source_sha256", "definition_sha256"))
        whole = same and self.online.count_rows(self.config, self.view) >= journal["rows"]
        return journal if whole else fresh

    def _record(self, journal: dict[str, Any], low: int, high: int) -> None:
        windows = [window for window in journal["windows"] if window[0] < low or window[1] > high]
        rows = self.online.count_rows(self.config, self.view)
        noted = json.dumps(journal | {"windows": sorted([*windows, [low, high]]), "rows": rows})
        self.online.set_note(self.config, self.view, _JOURNAL, noted)


def _blocks(groups: NDArray[np.int64], size: int) -> Iterator[tuple[int, int]]:
    """Ranges of about `size` keys: whole races until there are so many; where all are in one group, exactly so many."""
    ends = np.flatnonzero(np.append(groups[1:] != groups[:-1], True)) + 1 if len(groups) else np.empty(0, np.int64)
    if len(ends) == 1:
        ends = np.append(np.arange(size, len(groups), size), len(groups))
    start = 0
    for end in ends.tolist():
        if end - start >= size or end == len(groups):
            yield start, end
            start = end


def _online_views(store: FeatureStore) -> list[FeatureView]:
    return sorted((view for view in store.list_feature_views() if view.online), key=lambda view: view.name)


def _check_installed(store: FeatureStore, online: PackedOnlineStore, settings: Settings, views: list[FeatureView]) -> None:
    absent = [view.name for view in views if not online.is_ready_for(store.config, view)]
    if absent:
        raise NotAppliedError(f"{settings.home}: the online store lacks {', '.join(absent)}; run `pitwall apply` first")
    outside = [view for view in views if not Path(view.batch_source.path).is_relative_to(settings.home)]
    if outside:
        source = outside[0].batch_source.path
        raise NotAppliedError(f"view {outside[0].name}: reads {source}, outside {settings.home}; run `pitwall apply` again")


def _held(config: RepoConfig, online: PackedOnlineStore, view: FeatureView, now: pd.Timestamp) -> OnlineView:
    rows, newest_us = online.count_rows(config, view), online.newest_event(config, view)
    newest = None if newest_us is None else pd.Timestamp(newest_us, unit="us", tz=UTC)
    return OnlineView(rows, newest, None if newest is None else (now - newest).total_seconds())


def _micros(moment: datetime | pd.Timestamp) -> int:
    return int((pd.Timestamp(moment) - _EPOCH) // _US)
