"""Answering questions from a source: from indexes and columns in memory where they fit, else batch by batch.

Both ways give the same rows. A source that fits the budget is indexed whole, once, and searched. One that does not is read twice,
a batch of row groups at a time: first keys and times, keeping for each question the newest visible row so far (the newest of a
whole is the newest of the newest of its parts), then the features of the rows that won.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_repo.stores.asof import NULL_US, Factorized, Ints, KeyIndex, SortedRows, factorize, to_us
from feature_repo.stores.errors import SourceChangedError, SourceError
from feature_repo.stores.offline_cache import BoundedCache
from feature_repo.stores.offline_columns import Column
from feature_repo.stores.offline_source import Group, Layout, Source, SourceMovedError

# Building an index takes about this much a row, beside its key values.
INDEX_BYTES = 100
_ATTEMPTS = 5

CACHE = BoundedCache()

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """How much a retrieval may use.

    Attributes:
        memory_bytes: for what is read of one source at once, beside the entity rows and the answer.
        cache_bytes: for what the process keeps between retrievals.
        deadline: on `time.monotonic`'s clock; None: no end.
    """

    memory_bytes: int
    cache_bytes: int
    deadline: float | None = None

    def check(self) -> None:
        """Raise `TimeoutError` if the deadline has passed."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise TimeoutError("retrieval: the timeout passed; ask for fewer rows or give it more time")


@dataclass(frozen=True)
class Wanted:
    """What is asked of a source; all names are the source's own.

    Attributes:
        keys: key columns.
        event: column of event times.
        created: column of created times; None: rows are known at their event.
        features: columns to answer with.
        ttl_us: age at which a row expires; None: never.
    """

    keys: tuple[str, ...]
    event: str
    created: str | None
    features: tuple[str, ...]
    ttl_us: int | None = None

    @property
    def index_columns(self) -> tuple[str, ...]:
        """Columns that decide which row answers."""
        return tuple(dict.fromkeys([*self.keys, self.event, *([self.created] if self.created else [])]))


@dataclass(frozen=True)
class Index:
    """Rows of (a part of) a source that can be searched."""

    keys: KeyIndex
    rows: SortedRows

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.keys.nbytes + self.rows.nbytes


@dataclass(frozen=True)
class Answer:
    """Which rows of `columns` answer each question: position, or -1 where nothing was known."""

    rows: Ints
    columns: Mapping[str, Column]


def look_up(opened: Callable[[], Source], wanted: Wanted, asked: Sequence[Factorized], moments: Ints, limits: Limits) -> Answer:
    """The features of `wanted` as they were known at each moment, for each asked key.

    Args:
        opened: opens the source, as it is when called.
        wanted: what is asked.
        asked: key columns of the questions, in the order of `wanted.keys`.
        moments: (m,) moments in microseconds.
        limits: memory and time.
    Raises:
        SourceError: the source lacks a column.
        SourceChangedError: its files kept changing.
        TimeoutError: the deadline passed.
    """
    return _steadily(opened, lambda source: _look_up(source, wanted, asked, moments, limits))


def latest(
    opened: Callable[[], Source], wanted: Wanted, window_us: tuple[int, int], limits: Limits, known_by_us: int | None = None
) -> pa.Table:
    """The newest row of each key with its event within the window (both ends included).

    Args:
        opened: as for `look_up`.
        wanted: as for `look_up`; without ttl.
        window_us: first and last event.
        limits: as for `look_up`.
        known_by_us: rows that became known later do not count; None: all count.
    Returns:
        Columns keys, features, event, created (times in UTC microseconds), one row a key, in the order of the source.
    Raises:
        As `look_up`.
    """
    return _steadily(opened, lambda source: _latest(source, wanted, window_us, limits, known_by_us))


def whole(opened: Callable[[], Source], wanted: Wanted, window_us: tuple[int, int], limits: Limits) -> pa.Table:
    """Every row with its event within the window (both ends included), in the order of the source.

    Returns:
        Columns keys, features, event, created (times in UTC microseconds); no features named: all columns.
    Raises:
        As `look_up`.
    """
    return _steadily(opened, lambda source: _whole(source, wanted, window_us, limits))


def _steadily(opened: Callable[[], Source], read: Callable[[Source], T]) -> T:
    for _ in range(_ATTEMPTS):
        source = opened()
        try:
            return read(source)
        except SourceMovedError:
            continue
    raise SourceChangedError(f"source {source.name}: changed {_ATTEMPTS} times while it was read; ask again when it is written")


def _layout(source: Source, wanted: Wanted, limits: Limits) -> Layout:
    bounded = (*wanted.keys, wanted.event)
    key = ("layout", source.key, bounded)
    layout = CACHE.find(key, Layout)
    if layout is None:
        layout = source.layout(bounded)
        CACHE.put(key, layout, limits.cache_bytes)
    lacking = [name for name in dict.fromkeys([*wanted.index_columns, *wanted.features]) if name not in layout.schema.names]
    if lacking:
        raise SourceError(f"source {source.name}: lacks {lacking}; {source.base} has {layout.schema.names}")
    return layout


def _look_up(source: Source, wanted: Wanted, asked: Sequence[Factorized], moments: Ints, limits: Limits) -> Answer:
    layout = _layout(source, wanted, limits)
    groups = _worth_reading(layout, wanted, asked, moments)
    n_rows = sum(group.n_rows for group in groups)
    feature_bytes = sum(layout.width(name) for name in wanted.features)
    if n_rows * max(INDEX_BYTES, feature_bytes) <= limits.memory_bytes:
        index = _index(source, groups, wanted, limits)
        limits.check()
        rows = index.rows.find(index.keys.encode(asked, len(moments)), moments, wanted.ttl_us)
        return Answer(rows, _columns(source, groups, wanted.features, limits))
    won = _winners(source, groups, wanted, asked, moments, limits)
    rows, places = np.unique(won, return_inverse=True)  # -1, if there is one, comes first
    unknown = int(len(rows) > 0 and rows[0] < 0)
    return Answer(places - unknown, _taken(source, layout, groups, rows[unknown:], wanted.features, limits))


def _worth_reading(layout: Layout, wanted: Wanted, asked: Sequence[Factorized], moments: Ints) -> tuple[Group, ...]:
    """Row groups that can hold an answer, by the bounds of their times and keys; all of them if that spares less than half."""
    known = moments[moments != NULL_US]
    if not len(known):
        return ()
    first = int(known.min()) - wanted.ttl_us if wanted.ttl_us else None
    bounds: dict[str, tuple[Any, Any]] = {wanted.event: (first, int(known.max()))}
    for name, column in zip(wanted.keys, asked, strict=True):
        type_ = layout.schema.field(name).type
        held = type_.value_type if pa.types.is_dictionary(type_) else type_
        whole, text = (pa.types.is_integer, pa.types.is_string)
        comparable = any(check(held) and check(column.values.type) for check in (whole, text))
        if len(column.values) and comparable:  # keys of other types are compared too, but not by the bounds of their groups
            ends = pc.min_max(column.values).as_py()
            bounds[name] = (ends["min"], ends["max"])
    groups = tuple(group for group in layout.groups if group.may_hold(bounds))
    return layout.groups if 2 * sum(group.n_rows for group in groups) > layout.n_rows else groups


def _index(source: Source, groups: tuple[Group, ...], wanted: Wanted, limits: Limits) -> Index:
    key = ("index", source.key, _part(groups), wanted.keys, wanted.event, wanted.created)
    index = CACHE.find(key, Index)
    if index is None:
        with CACHE.building(key):
            index = CACHE.find(key, Index)
            if index is None:
                index = _built(source.read(groups, wanted.index_columns), wanted)
                CACHE.put(key, index, limits.cache_bytes)
    return index


def _built(table: pa.Table, wanted: Wanted) -> Index:
    keys, codes = KeyIndex.build([factorize(table.column(name), name) for name in wanted.keys], table.num_rows)
    created = to_us(table.column(wanted.created)) if wanted.created else None
    return Index(keys, SortedRows(codes, keys.n_codes, to_us(table.column(wanted.event)), created))


def _columns(source: Source, groups: tuple[Group, ...], names: Sequence[str], limits: Limits) -> dict[str, Column]:
    keys = {name: ("column", source.key, _part(groups), name) for name in names}
    columns = {name: column for name, key in keys.items() if (column := CACHE.find(key, Column)) is not None}
    if len(columns) < len(keys):
        with CACHE.building(("columns", source.key, _part(groups))):
            columns |= {name: found for name, key in keys.items() if (found := CACHE.find(key, Column)) is not None}
            lacking = [name for name in names if name not in columns]
            table = source.read(groups, lacking) if lacking else pa.table({})
            for name in lacking:
                columns[name] = Column(table.column(name))
                table = table.drop_columns([name])  # so that no column is held twice for longer than it takes
                CACHE.put(keys[name], columns[name], limits.cache_bytes)
    return columns


def _part(groups: tuple[Group, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((group.file, group.number) for group in groups)


def _batches(groups: Sequence[Group], memory_bytes: int, row_bytes: int) -> Iterator[tuple[Group, ...]]:
    """Row groups in order, as many at once as fit; one that does not fit comes alone."""
    batch: list[Group] = []
    for group in groups:
        if batch and (sum(member.n_rows for member in batch) + group.n_rows) * row_bytes > memory_bytes:
            yield tuple(batch)
            batch = []
        batch.append(group)
    if batch:
        yield tuple(batch)


def _row_numbers(groups: Sequence[Group]) -> Ints:
    """Number within the source of each row of `groups`."""
    return np.concatenate([np.arange(group.start, group.start + group.n_rows) for group in groups])


def _winners(
    source: Source, groups: Sequence[Group], wanted: Wanted, asked: Sequence[Factorized], moments: Ints, limits: Limits
) -> Ints:
    """The number within the source of the row that answers each question; -1: none. Reads keys and times, once."""
    won = np.full(len(moments), -1, dtype=np.int64)
    event = np.full(len(moments), NULL_US, dtype=np.int64)
    created = np.full(len(moments), NULL_US, dtype=np.int64)
    for batch in _batches(groups, limits.memory_bytes, INDEX_BYTES):
        limits.check()
        table = source.read(batch, wanted.index_columns)
        index = _built(table, wanted)
        found = index.rows.find(index.keys.encode(asked, len(moments)), moments, wanted.ttl_us)
        hit = np.flatnonzero(found >= 0)
        found = found[hit]
        events = to_us(table.column(wanted.event))[found]
        createds = to_us(table.column(wanted.created))[found] if wanted.created else events
        newer = (events > event[hit]) | ((events == event[hit]) & (createds >= created[hit]))
        hit, found = hit[newer], found[newer]
        event[hit], created[hit] = events[newer], createds[newer]
        won[hit] = _row_numbers(batch)[found]
    return won


def _taken(
    source: Source, layout: Layout, groups: Sequence[Group], rows: Ints, names: Sequence[str], limits: Limits
) -> dict[str, Column]:
    """Columns of the rows with these numbers (ascending), and of no others. Reads those row groups that hold one."""
    ends = np.array([group.start + group.n_rows for group in groups], dtype=np.int64)
    holding = sorted(set(np.searchsorted(ends, rows, side="right").tolist()))
    row_bytes = max(1, 2 * sum(layout.width(name) for name in names))
    pieces = [source.read((), names)]
    for batch in _batches([groups[place] for place in holding], limits.memory_bytes, row_bytes):
        limits.check()
        numbers = _row_numbers(batch)
        here = rows[(rows >= numbers[0]) & (rows <= numbers[-1])]
        pieces.append(source.read(batch, names).take(pa.array(np.searchsorted(numbers, here))))
    table = pa.concat_tables(pieces)
    return {name: Column(table.column(name)) for name in names}


def _latest(source: Source, wanted: Wanted, window_us: tuple[int, int], limits: Limits, known_by_us: int | None) -> pa.Table:
    layout = _layout(source, wanted, limits)
    groups = [group for group in layout.groups if group.may_hold({wanted.event: window_us})]
    number = "__row_number"
    best = source.read((), wanted.index_columns).append_column(number, pa.array([], pa.int64()))
    for batch in _batches(groups, limits.memory_bytes, INDEX_BYTES):
        limits.check()
        table = source.read(batch, wanted.index_columns).append_column(number, pa.array(_row_numbers(batch)))
        kept = _within(table, wanted.event, window_us)
        if known_by_us is not None and wanted.created:
            kept &= to_us(table.column(wanted.created)) <= known_by_us
        table = table.filter(pa.array(kept))
        table = pa.concat_tables([best, table]).unify_dictionaries()
        best = table.take(pa.array(_built(table, wanted).rows.newest()))
    rows = best.column(number).to_numpy()
    names = _named(wanted, wanted.features)
    columns = _taken(source, layout, groups, rows, names, limits)
    everything = np.arange(len(rows))
    return _in_utc(pa.table({name: columns[name].arrow(everything) for name in names}), wanted)


def _whole(source: Source, wanted: Wanted, window_us: tuple[int, int], limits: Limits) -> pa.Table:
    layout = _layout(source, wanted, limits)
    groups = [group for group in layout.groups if group.may_hold({wanted.event: window_us})]
    names = _named(wanted, wanted.features or [name for name in layout.schema.names if name not in wanted.index_columns])
    pieces = [source.read((), names)]
    for group in groups:
        limits.check()
        table = source.read([group], names)
        pieces.append(table.filter(pa.array(_within(table, wanted.event, window_us))))
    table = pa.concat_tables(pieces)
    everything = np.arange(table.num_rows)
    return _in_utc(pa.table({name: Column(table.column(name)).arrow(everything) for name in names}), wanted)


def _named(wanted: Wanted, features: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*wanted.keys, *features, wanted.event, *([wanted.created] if wanted.created else [])]))


def _within(table: pa.Table, event: str, window_us: tuple[int, int]) -> NDArray[np.bool_]:
    events = to_us(table.column(event))
    return (events >= window_us[0]) & (events <= window_us[1]) & (events != NULL_US)


def _in_utc(table: pa.Table, wanted: Wanted) -> pa.Table:
    for name in [wanted.event, *([wanted.created] if wanted.created else [])]:
        us = to_us(table.column(name))
        times = pa.array(us, mask=us == NULL_US).cast(pa.timestamp("us", "UTC"))
        table = table.set_column(table.column_names.index(name), name, times)
    return table
