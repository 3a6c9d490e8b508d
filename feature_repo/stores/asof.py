"""The newest row known at each moment: a kernel of numpy arrays that knows no file and no Feast.

Times are int64 microseconds since 1970 UTC; `NULL_US` is no time. A row is visible at a moment if event <= moment, created <=
moment and event >= moment - ttl. Of the visible rows of a key the newest event wins, among equal events the newest created time,
among equal both the row that comes last. Rows without key, event or created time are never visible.

Rows are kept sorted by (key, event, created) and key and event are packed into one integer, so that one binary search finds the
newest event of a key. Only where that row became known later than the moment, the search goes on: backwards over a hierarchy of
minima of the created times, which is exact and takes O(log n) steps however many late rows there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

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
# Codes of composite keys stay below this, so that a code times another column's count never overflows.
_MOST_CODES = 1 << 31
_MOST_PACKED = 1 << 63


class SortedRows:
    """Rows sorted by (key, event, created), packed for one binary search a question. Immutable; any number of threads may ask."""

    def __init__(self, codes: Ints, n_codes: int, event_us: Ints, created_us: Ints | None = None) -> None:
        """Sort rows, unless they are sorted.

        Args:
            codes: (n,) key of each row, in [0, n_codes); negative: no key.
            n_codes: how many keys there can be, at most 2**31.
            event_us: (n,) when each row became true.
            created_us: (n,) when it became known; None: at its event.
        """
        usable = (codes >= 0) & (event_us != NULL_US)
        if created_us is not None:
            usable &= created_us != NULL_US
        kept = None if usable.all() else np.flatnonzero(usable)
        if kept is not None:
            codes, event_us = codes[kept], event_us[kept]
            created_us = None if created_us is None else created_us[kept]
        self.n = len(codes)
        self._origin = int(event_us.min()) if self.n else 0
        span = int(event_us.max()) - self._origin + 1 if self.n else 1
        # Offsets from the first event need no search of their own; ranks of events always fit.
        self._times = None if max(n_codes, 1) * span < _MOST_PACKED else np.unique(event_us)
        self._span = span if self._times is None else len(self._times)
        packed = codes * self._span + self._offset(event_us)
        order = _order(packed, created_us)
        self._packed = packed if order is None else packed[order]
        self._created = created_us if order is None or created_us is None else created_us[order]
        self._rows = kept if order is None else order if kept is None else kept[order]
        self._may_be_late = created_us is not None and bool((created_us > event_us).any())
        self._minima: list[Ints] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held, the minima of created times included, whether or not they were needed yet."""
        arrays = [self._packed, self._rows, self._times, self._created, self._created if self._may_be_late else None]
        return sum(array.nbytes for array in arrays if array is not None)

    def find(self, codes: Ints, moments: Ints, ttl_us: int | None = None) -> Ints:
        """The row that answers each question, as its position in the arrays that were given; -1: nothing was known.

        Args:
            codes: (m,) key asked for; negative: none.
            moments: (m,) moment asked about; `NULL_US`: none.
            ttl_us: a row older than this at the moment has expired (exactly this old has not); None or 0: never.
        """
        return self.rows(self.locate(codes, moments, ttl_us))

    def locate(self, codes: Ints, moments: Ints, ttl_us: int | None = None) -> Ints:
        """Like `find`, with positions in sorted order, for `rows`, `event_us` and `created_us`."""
        ttl_us = None if not ttl_us or ttl_us >= FOREVER_US else ttl_us
        if self.n == 0:
            return np.full(len(codes), -1, dtype=np.int64)
        result = np.empty(len(codes), dtype=np.int64)
        for start in range(0, len(codes), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            result[part] = self._locate(codes[part], moments[part], ttl_us)
        return result

    def newest(self) -> Ints:
        """The newest row of each key, whenever it became known, as positions in the arrays that were given, ascending."""
        keys = self._packed // self._span
        last = np.ones(self.n, dtype=np.bool_)
        last[:-1] = keys[1:] != keys[:-1]
        return np.sort(self.rows(np.flatnonzero(last)))

    def rows(self, located: Ints) -> Ints:
        """Positions in the arrays that were given."""
        if self._rows is None:
            return located
        return np.where(located >= 0, self._rows.take(located, mode="wrap"), -1) if self.n else located

    def event_us(self, located: Ints) -> Ints:
        """Event times of located rows, none of which is -1."""
        offsets = self._packed[located] % self._span
        return offsets + self._origin if self._times is None else self._times[offsets]

    def created_us(self, located: Ints) -> Ints:
        """Created times of located rows, none of which is -1."""
        return self.event_us(located) if self._created is None else self._created[located]

    def _offset(self, times_us: Ints) -> Ints:
        """Where a time lies among the events: the largest offset whose event is <= the time; -1 before the first event."""
        if self._times is not None:
            return np.searchsorted(self._times, times_us, side="right") - 1
        return np.clip(times_us, self._origin - 1, self._origin + self._span - 1) - self._origin

    def _locate(self, codes: Ints, moments: Ints, ttl_us: int | None) -> Ints:
        asked = codes * self._span + self._offset(moments)
        # Sorted questions find their places several times faster than others: neighbours lie in the processor's cache.
        order = None if bool((asked[1:] >= asked[:-1]).all()) else np.argsort(asked)
        if order is not None:
            asked, codes, moments = asked[order], codes[order], moments[order]
        found = np.searchsorted(self._packed, asked, side="right") - 1
        first = codes * self._span  # no row of the key is packed below this
        missing = self._packed.take(found, mode="wrap") < first
        missing |= found < 0
        if self._may_be_late and self._created is not None:
            late = np.flatnonzero((self._created.take(found, mode="wrap") > moments) & ~missing)
            if len(late):
                earlier = self._newest_known(found[late], moments[late])
                found[late] = earlier
                missing[late] = (earlier < 0) | (self._packed.take(earlier, mode="wrap") < first[late])
        if ttl_us is not None:
            offsets = self._packed.take(found, mode="wrap") - first
            events = offsets + self._origin if self._times is None else self._times.take(offsets, mode="clip")
            missing |= events < moments - ttl_us
        found[missing] = -1
        if order is None:
            return found
        result = np.empty_like(found)
        result[order] = found
        return result

    def _newest_known(self, located: Ints, moments: Ints) -> Ints:
        """For each row, the nearest one before it that was known by the moment, of whatever key; -1: none.

        Climbs from the row to the first node on its left that holds a row known by then, and descends to the rightmost of those.
        """
        if self._minima is None:
            self._minima = _minima(self._created) if self._created is not None else []
        levels, node = self._minima, located.copy()
        found_at = np.full(len(node), -1)
        active = np.arange(len(node))
        for level, minima in enumerate(levels):
            here = node[active]
            hit = (here & 1 == 1) & (minima.take(here - 1, mode="wrap") <= moments[active])
            found_at[active[hit]] = level
            node[active[hit]] -= 1
            active = active[~hit & (here > 1)]
            if not len(active):
                break
            node[active] >>= 1
        for level in range(int(found_at.max()), 0, -1):
            going_down = np.flatnonzero(found_at >= level)
            below, right = levels[level - 1], 2 * node[going_down] + 1
            is_right = below.take(right, mode="clip") <= moments[going_down]
            node[going_down] = np.where(is_right & (right < len(below)), right, right - 1)
        return np.where(found_at >= 0, node, -1)


def _order(packed: Ints, created_us: Ints | None) -> Ints | None:
    """The stable order by (packed, created); None: it is the given one."""
    if len(packed) < 2:
        return None
    after, before = packed[1:], packed[:-1]
    if created_us is None:
        is_sorted = bool((after >= before).all())
    else:
        is_sorted = bool(((after > before) | ((after == before) & (created_us[1:] >= created_us[:-1]))).all())
    if is_sorted:
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
        ties = [rows, ordered[places]] if created_us is None else [rows, created_us[rows], ordered[places]]
        order[places] = rows[np.lexsort(ties)]
    return order


def _minima(values: Ints) -> list[Ints]:
    """`values`, then minima of pairs of them, of pairs of those, ... down to one."""
    levels = [values]
    while len(levels[-1]) > 1:
        below = levels[-1]
        pairs = np.minimum(below[: len(below) // 2 * 2 : 2], below[1::2])
        levels.append(pairs if len(below) % 2 == 0 else np.append(pairs, below[-1]))
    return levels


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

    def encode(self, asked: Sequence[Factorized], n_rows: int) -> Ints:
        """The code of each asked key, (n_rows,); -1: a part is null, or no row has this key.

        Raises:
            KeyTypeError: the columns' types cannot be compared.
        """
        codes = np.zeros(n_rows, dtype=np.int64)
        for values, column, known in zip(self.columns, asked, self._existing, strict=True):
            lookup = np.append(_positions(column.values, values, column.name), -1)
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
