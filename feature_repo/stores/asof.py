"""The newest row known at each moment: a kernel of numpy arrays that knows no file and no Feast.

Times are int64 microseconds since 1970 UTC; `NULL_US` is no time. A row is visible at a moment if event <= moment, created <=
moment and event >= moment - ttl. Of the visible rows of a key the newest event wins, among equal events the newest created time,
among equal both the row that comes last. Rows without key, event or created time are never visible.

A row is visible from the later of its two times on. In the order of becoming visible, a row answers only if its event is not
older than every event of the key before it: it is the newest so far, and stays so until the next such row. So rows that never
answer are dropped, the others are sorted by (key, moment of becoming visible), both packed into one integer, and one binary
search answers a question exactly, however many rows came late. (Rows with equal events become visible in the order of their
created times, so the newest correction comes last.)
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_repo.stores.errors import KeyTypeError

Ints: TypeAlias = NDArray[np.int64]

NULL_US = int(np.iinfo(np.int64).min)
FOREVER_US = 1 << 62
# Rows asked for at once: their temporary arrays take about 80 bytes a row.
CHUNK_ROWS = 1 << 20
# A question of at most so many different keys is looked up in dictionaries of at most so many values.
_FEW_ASKED, _MOST_PLACES = 64, 100_000
# Codes of composite keys stay below this, so that a code times another column's count never overflows.
_MOST_CODES = 1 << 31
_MOST_PACKED = 1 << 63


class SortedRows:
    """Rows that can answer, sorted by (key, moment of becoming visible), packed for one binary search a question.

    Immutable; any number of threads may ask.
    """

    def __init__(self, codes: Ints, n_codes: int, event_us: Ints, created_us: Ints | None = None) -> None:
        """Sort rows, unless they are sorted, and drop those that never answer.

        Args:
            codes: (n,) key of each row, in [0, n_codes); negative: no key.
            n_codes: how many keys there can be, at most 2**31.
            event_us: (n,) when each row became true.
            created_us: (n,) when it became known; None: at its event.
        """
        usable = (codes >= 0) & (event_us != NULL_US)
        if created_us is not None:
            usable &= created_us != NULL_US
        rows = None if usable.all() else np.flatnonzero(usable)
        if rows is not None:
            codes, event_us = codes[rows], event_us[rows]
            created_us = None if created_us is None else created_us[rows]
        visible_us = event_us if created_us is None else np.maximum(event_us, created_us)
        is_late = created_us is not None and bool((visible_us > event_us).any())
        self._origin = int(event_us.min()) if len(codes) else 0
        span = int(visible_us.max()) - self._origin + 1 if len(codes) else 1
        # Offsets from the first event need no search of their own; ranks among the times always fit.
        fits = max(n_codes, 1) * span < _MOST_PACKED
        self._times = None if fits else np.unique(np.concatenate([event_us, visible_us]))
        self._span = span if self._times is None else len(self._times)
        packed = codes * self._span + self._offset(visible_us)
        order = _order(packed, event_us if is_late else None, created_us)
        if order is not None:
            packed, rows = packed[order], order if rows is None else rows[order]
        self._event = None
        if is_late:
            event_us, codes = (event_us, codes) if order is None else (event_us[order], codes[order])
            by_event = codes * self._span + self._offset(event_us)
            # The newest event so far, of the key: codes ascend, so no other key's event is above it.
            answers = by_event == np.maximum.accumulate(by_event)
            if not answers.all():
                rows = np.flatnonzero(answers) if rows is None else rows[answers]
                packed, event_us = packed[answers], event_us[answers]
            self._event = event_us
        self._packed, self._rows = packed, rows

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(array.nbytes for array in (self._packed, self._rows, self._event, self._times) if array is not None)

    def find(self, codes: Ints, moments: Ints, ttl_us: int | None = None) -> Ints:
        """The row that answers each question, as its position in the arrays that were given; -1: nothing was known.

        Args:
            codes: (m,) key asked for; negative: none.
            moments: (m,) moment asked about; `NULL_US`: none.
            ttl_us: a row older than this at the moment has expired (exactly this old has not); None or 0: never.
        """
        if not len(self._packed):
            return np.full(len(codes), -1, dtype=np.int64)
        ttl_us = None if not ttl_us or ttl_us >= FOREVER_US else ttl_us
        result = np.empty(len(codes), dtype=np.int64)
        for start in range(0, len(codes), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            result[part] = self._find(codes[part], moments[part], ttl_us)
        return result

    def newest(self) -> Ints:
        """The newest row of each key, whenever it became known, as positions in the arrays that were given, ascending."""
        keys = self._packed // self._span
        last = np.ones(len(keys), dtype=np.bool_)
        last[:-1] = keys[1:] != keys[:-1]
        found = np.flatnonzero(last)
        return found if self._rows is None else np.sort(self._rows[found])

    def _offset(self, times_us: Ints) -> Ints:
        """Where a time lies among those of the rows: the largest offset whose time is <= it; -1 before the first event."""
        if self._times is not None:
            return np.searchsorted(self._times, times_us, side="right") - 1
        return np.clip(times_us, self._origin - 1, self._origin + self._span - 1) - self._origin

    def _find(self, codes: Ints, moments: Ints, ttl_us: int | None) -> Ints:
        asked = codes * self._span + self._offset(moments)
        # Sorted questions find their places several times faster than others: neighbours lie in the processor's cache.
        order = None if bool((asked[1:] >= asked[:-1]).all()) else np.argsort(asked)
        if order is not None:
            asked = asked[order]
        found = np.searchsorted(self._packed, asked, side="right") - 1
        first = (codes if order is None else codes[order]) * self._span  # no row of the key is packed below this
        missing = self._packed.take(found, mode="wrap") < first
        missing |= found < 0
        if ttl_us is not None:
            missing |= self._events(found, first) < (moments if order is None else moments[order]) - ttl_us
        rows = found if self._rows is None else self._rows.take(found, mode="wrap")
        rows[missing] = -1
        if order is None:
            return rows
        result = np.empty_like(rows)
        result[order] = rows
        return result

    def _events(self, found: Ints, first: Ints) -> Ints:
        if self._event is not None:
            return self._event.take(found, mode="wrap")
        offsets = self._packed.take(found, mode="wrap") - first
        return offsets + self._origin if self._times is None else self._times.take(offsets, mode="clip")


def _order(packed: Ints, event_us: Ints | None, created_us: Ints | None) -> Ints | None:
    """The stable order by (packed, event, created); None: it is the given one."""
    ties = [times for times in (created_us, event_us) if times is not None]
    after, before = packed[1:], packed[:-1]
    if bool((after >= before).all()):
        same = np.flatnonzero(after == before)
        is_sorted = np.ones(len(same), dtype=np.bool_)
        for times in ties:  # the one that decides first comes last
            earlier, later = times[same], times[same + 1]
            is_sorted = (earlier < later) | ((earlier == later) & is_sorted)
        if is_sorted.all():
            return None
    order = np.argsort(packed)  # not stable, and several times faster than the stable sort: only ties are sorted again
    ordered = packed[order]
    same = ordered[1:] == ordered[:-1]
    if same.any():
        tied = np.zeros(len(packed), dtype=np.bool_)
        tied[1:] = same
        tied[:-1] |= same
        places = np.flatnonzero(tied)
        rows = order[places]
        order[places] = rows[np.lexsort([rows, *(times[rows] for times in ties), ordered[places]])]
    return order


@dataclass(frozen=True)
class Factorized:
    """One column as its distinct values and, per row, which of them it is.

    Attributes:
        values: (k,) distinct values without nulls, of a canonical type (see `factorize`).
        codes: (n,) positions in `values`; -1: null.
        name: of the column, for messages.
    """

    values: pa.Array
    codes: Ints
    name: str = ""


def factorize(column: pa.Array | pa.ChunkedArray, name: str = "") -> Factorized:
    """Distinct values of a key column. Integers become int64, times UTC microseconds, text string; NaN counts as null.

    Raises:
        KeyTypeError: the column's type cannot be a key.
    """
    if isinstance(column, pa.ChunkedArray):
        if pa.types.is_dictionary(column.type):
            column = column.unify_dictionaries()
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    _kind(column.type.value_type if pa.types.is_dictionary(column.type) else column.type, name)
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    indices = encoded.indices
    codes = pc.fill_null(indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    values = _canonical(encoded.dictionary, name)
    again = values.dictionary_encode()  # casting may join values; a dictionary that was read may hold nulls or repeats
    if len(again.dictionary) < len(values) or values.null_count:
        lookup = pc.fill_null(again.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
        codes = np.append(lookup, -1)[codes]
        values = again.dictionary
    return Factorized(values, codes, name)


def _canonical(values: pa.Array, name: str) -> pa.Array:
    kind = _kind(values.type, name)
    if kind == "float":
        values = pc.add(values.cast(pa.float64()), 0.0)  # minus zero becomes zero
        return pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
    if kind == "time":
        missing = values.is_null().to_numpy(zero_copy_only=False)
        return pa.array(to_us(values), mask=missing).cast(pa.timestamp("us", "UTC"))
    targets = {"int": pa.int64(), "text": pa.string(), "bytes": pa.binary(), "bool": pa.bool_(), "none": pa.int64()}
    return values.cast(targets[kind])


def _kind(type_: pa.DataType, name: str) -> str:
    checks = {
        "int": pa.types.is_integer,
        "float": pa.types.is_floating,
        "text": lambda t: pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t),
        "bytes": lambda t: pa.types.is_binary(t) or pa.types.is_large_binary(t) or pa.types.is_fixed_size_binary(t),
        "bool": pa.types.is_boolean,
        "time": lambda t: pa.types.is_timestamp(t) or pa.types.is_date(t),
        "none": pa.types.is_null,
    }
    for kind, check in checks.items():
        if check(type_):
            return kind
    raise KeyTypeError(f"join key {name}: got a column of type {type_}, expected integers, text, bytes, booleans or times")


def to_us(column: pa.Array | pa.ChunkedArray) -> Ints:
    """A time column as (n,) microseconds since 1970 UTC; null is `NULL_US`. Naive times are UTC, dates midnight, nanoseconds cut.

    Raises:
        KeyTypeError: it holds no times.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.timestamp("us", "UTC"))
    if pa.types.is_null(column.type):
        return np.full(len(column), NULL_US, dtype=np.int64)
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    if not pa.types.is_timestamp(column.type):
        raise KeyTypeError(f"times: got a column of type {column.type}, expected timestamps or dates")
    ticks = column.view(pa.int64()) if column.offset == 0 else column.cast(pa.timestamp(column.type.unit)).cast(pa.int64())
    values = ticks.fill_null(0).to_numpy(zero_copy_only=False)
    unit = column.type.unit
    us = values if unit == "us" else values // 1000 if unit == "ns" else values * {"s": 1_000_000, "ms": 1000}[unit]
    if column.null_count:
        us = np.where(column.is_valid().to_numpy(zero_copy_only=False), us, NULL_US)
    return us


@dataclass(frozen=True)
class KeyIndex:
    """Which code each combination of key values has: dictionary codes per column, combined into one integer.

    Attributes:
        columns: distinct values of each key column.
        n_codes: codes are below this.
    """

    columns: tuple[pa.Array, ...]
    n_codes: int
    # After each column: the combinations that exist, sorted, where their number would otherwise grow too large.
    _existing: tuple[Ints | None, ...] = field(repr=False)

    @classmethod
    def build(cls, columns: Sequence[Factorized], n_rows: int) -> tuple["KeyIndex", Ints]:
        """The index of the rows' keys and the code of each row, -1 where a part of the key is null. No columns: one key."""
        codes, n_codes, existing = np.zeros(n_rows, dtype=np.int64), 1, []
        for column in columns:
            codes, n_codes = _combined(codes, column.codes, len(column.values)), n_codes * len(column.values)
            known = None
            if n_codes > _MOST_CODES:
                known = np.unique(codes[codes >= 0])
                codes, n_codes = _among(known, codes), len(known)
            existing.append(known)
        return cls(tuple(column.values for column in columns), n_codes, tuple(existing)), codes

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(values.nbytes for values in self.columns) + sum(known.nbytes for known in self._existing if known is not None)

    @functools.cached_property
    def _places(self) -> tuple[dict[Any, int] | None, ...]:
        """Per column, value -> position, for a few keys at a time: Arrow would hash all values anew for each question. None where
        a dictionary would be large, or equal values are not equal to Python (floats).
        """
        plain = (pa.string(), pa.int64())
        return tuple(
            {value: place for place, value in enumerate(values.to_pylist())}
            if values.type in plain and len(values) <= _MOST_PLACES
            else None
            for values in self.columns
        )

    def encode(self, asked: Sequence[Factorized], n_rows: int) -> Ints:
        """The code of each asked key, (n_rows,); -1: a part is null, or no row has this key.

        Raises:
            KeyTypeError: the columns' types cannot be compared.
        """
        codes = np.zeros(n_rows, dtype=np.int64)
        for at, (values, column, known) in enumerate(zip(self.columns, asked, self._existing, strict=True)):
            few = len(column.values) <= _FEW_ASKED and column.values.type == values.type
            places = self._places[at] if few else None
            if places is not None:
                found = np.array([places.get(value, -1) for value in column.values.to_pylist()], dtype=np.int64)
            else:
                found = _positions(column.values, values, column.name)
            lookup = np.append(found, -1)
            codes = _combined(codes, lookup[column.codes], len(values))
            if known is not None:
                codes = _among(known, codes)
        return codes


def _combined(codes: Ints, more: Ints, n_more: int) -> Ints:
    combined = codes * n_more + more
    combined[(codes < 0) | (more < 0)] = -1
    return combined


def _among(known: Ints, codes: Ints) -> Ints:
    if not len(known):
        return np.full(len(codes), -1, dtype=np.int64)
    places = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    return np.where(known[places] == codes, places, -1)


def _positions(asked: pa.Array, values: pa.Array, name: str) -> Ints:
    """Where each asked value lies in `values`; -1: nowhere."""
    kinds = {_kind(asked.type, name), _kind(values.type, name)}
    if not len(asked) or not len(values):
        return np.full(len(asked), -1, dtype=np.int64)
    if kinds == {"int", "float"}:  # pandas turns integers with nulls into floats
        asked, values = _as_integers(asked), _as_integers(values)
    elif len(kinds) > 1:
        raise KeyTypeError(
            f"join key {name}: got {asked.type}, expected what the feature rows hold, {values.type}; "
            "give the entity rows the type of the feature table"
        )
    return pc.fill_null(pc.index_in(asked, value_set=values, skip_nulls=True).cast(pa.int64()), -1).to_numpy(zero_copy_only=False)


def _as_integers(values: pa.Array) -> pa.Array:
    """int64, null where a float is no integer."""
    if pa.types.is_integer(values.type):
        return values
    whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), float(1 << 62)))
    return pc.if_else(whole, values, pa.scalar(None, pa.float64())).cast(pa.int64())
