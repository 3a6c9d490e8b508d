"""Comparing what was served with what history gives: cell by cell, row by row, and against the other cars of the race. Pure.

A cell is the same, close (32-bit rounding), different, null where history has a value, or a value where history has null. A row
is told by its event time: served from an older row than history uses, from a row of the future, from a row of another car.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureView
from numpy.typing import NDArray

from feature_repo.stores.asof import NULL_US, KeyIndex, SortedRows, factorize, to_us
from feature_repo.visibility import CREATED, EVENT

TOLERANCE = 1e-6
"""Relative difference up to which two numbers are close: one of them may have passed through 32 bits (2**-24 = 6e-8)."""
SAME, CLOSE, DIFFERENT, NULL_SERVED, VALUE_SERVED = range(5)
FIRST_MISMATCH = DIFFERENT
"""Cells with this code or a higher one are mismatches."""

Codes = NDArray[np.int8]
Ints = NDArray[np.int64]


def compare(served: pa.ChunkedArray, expected: Sequence[Any] | pd.Series) -> Codes:
    """How each served cell relates to what history gives, as one of the codes above.

    Args:
        served: (N) as logged, nulls are null.
        expected: (N) from history; None, NaN and NaT are null.
    """
    if pa.types.is_floating(served.type):
        mine = served.cast(pa.float64()).to_numpy(zero_copy_only=False)
        theirs = pd.to_numeric(pd.Series(expected)).to_numpy(dtype=np.float64, na_value=np.nan)
        return _compare_numbers(mine, theirs)
    pairs = zip(served.to_pylist(), expected, strict=True)
    return np.array([_compare_one(plain(mine), plain(theirs)) for mine, theirs in pairs], dtype=np.int8)


def _compare_numbers(mine: NDArray[np.float64], theirs: NDArray[np.float64]) -> Codes:
    codes = np.full(len(mine), DIFFERENT, dtype=np.int8)
    with np.errstate(invalid="ignore", over="ignore"):
        close = np.abs(mine - theirs) <= TOLERANCE * np.maximum(np.abs(mine), np.abs(theirs))
    codes[close & np.isfinite(mine) & np.isfinite(theirs)] = CLOSE
    codes[mine == theirs] = SAME
    no_mine, no_theirs = np.isnan(mine), np.isnan(theirs)
    codes[no_mine] = NULL_SERVED
    codes[no_theirs] = VALUE_SERVED
    codes[no_mine & no_theirs] = SAME
    return codes


def _compare_one(mine: Any, theirs: Any) -> int:
    if mine is None or theirs is None:
        return SAME if mine is theirs else NULL_SERVED if mine is None else VALUE_SERVED
    if mine == theirs:
        return SAME
    return CLOSE if _is_close(mine, theirs) else DIFFERENT


def _is_close(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, list) and isinstance(theirs, list):
        return len(mine) == len(theirs) and all(
            one == other or _is_close(one, other) for one, other in zip(mine, theirs, strict=True)
        )
    if isinstance(mine, float) and isinstance(theirs, float | int):
        return math.isclose(mine, theirs, rel_tol=TOLERANCE)
    return False


def plain(value: Any) -> Any:
    """A value as Python has it: lists for arrays, None for every kind of null."""
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    return value


def canonical(value: Any) -> Hashable:
    """A value that two equal cells share, whatever they passed through: numbers with 32 bits, lists as tuples."""
    value = plain(value)
    if isinstance(value, list):
        return tuple(canonical(item) for item in value)
    return float(np.float32(value)) if isinstance(value, float) else value


class ViewRows:
    """The rows of a view that questions about some keys can be answered from, searched by the as-of rule.

    Args:
        view: the view; its source is a Parquet file.
        keys: (M rows) join keys that will be asked about; rows of other keys are not read.
    """

    def __init__(self, view: FeatureView, keys: pd.DataFrame) -> None:
        self.keys = [str(key) for key in view.join_keys]
        self._path = view.batch_source.path
        # One key narrows enough; the race does best, because tables are written race by race.
        first = "race_id" if "race_id" in self.keys else self.keys[0]
        self._filters = [(first, "in", sorted(set(keys[first].dropna())))] if len(keys) else [(first, "in", [""])]
        table = pq.read_table(self._path, columns=[*self.keys, EVENT, CREATED], filters=self._filters)
        self._index, codes = KeyIndex.build([factorize(table[key], key) for key in self.keys], len(table))
        self.event_us = to_us(table[EVENT])
        self._sorted = SortedRows(codes, self._index.n_codes, self.event_us, to_us(table[CREATED]))
        self.ttl_us = int(view.ttl.total_seconds() * 1_000_000) if view.ttl else None

    def known_at(self, keys: pd.DataFrame, moment_us: Ints, *, ttl: bool) -> Ints:
        """(M) the row that history answers with, as a position; -1: none. Without `ttl` however old it is."""
        asked = [factorize(pa.array(keys[key], pa.string()), key) for key in self.keys]
        return self._sorted.find(self._index.encode(asked, len(keys)), moment_us, self.ttl_us if ttl else None)

    def events(self, rows: Ints) -> Ints:
        """Event times of rows, microseconds; `NULL_US` for -1."""
        return np.where(rows >= 0, self.event_us[rows], NULL_US) if len(self.event_us) else np.full(len(rows), NULL_US)

    def values(self, name: str, rows: Ints) -> list[Any]:
        """A feature in these rows, None for -1; read again from the file."""
        found = pq.read_table(self._path, columns=[name], filters=self._filters)[name]
        return found.take(pa.array(rows, mask=rows < 0)).to_pylist()


@dataclass(frozen=True)
class RowTimes:
    """How the rows that were served of one view lie to those that history would use; (N) masks, and the lag.

    Attributes:
        missing: none was held, history has one.
        older: an older row than history's; `lag_s` says by how much.
        newer: a newer row than history's, yet not after the moment: history has lost it.
        future: a row that became true after the moment.
        aged: older at the moment than the view's tag `fresh_for_s` (or its ttl) allows.
    """

    missing: NDArray[np.bool_]
    older: NDArray[np.bool_]
    newer: NDArray[np.bool_]
    future: NDArray[np.bool_]
    aged: NDArray[np.bool_]
    lag_s: NDArray[np.float64]


def row_times(
    served_us: Ints, expected_us: Ints, moment_us: Ints, *, told: NDArray[np.bool_], fresh_for_s: float | None
) -> RowTimes:
    """Judge event times (microseconds, `NULL_US` = no row).

    Args:
        served_us: (N) of the row served.
        expected_us: (N) of the row history uses.
        moment_us: (N) the moment.
        told: (N) the log knows which rows were held; where it does not, none is called missing.
        fresh_for_s: age from which a row is old; None = never.
    """
    served, expected = served_us != NULL_US, expected_us != NULL_US
    older = served & expected & (served_us < expected_us)
    future = served & (served_us > moment_us)
    age_s = np.where(served, (moment_us - np.where(served, served_us, moment_us)) / 1e6, 0.0)
    return RowTimes(
        missing=told & ~served & expected,
        older=older,
        newer=served & ~future & (~expected | (served_us > expected_us)),
        future=future,
        aged=served & (age_s > fresh_for_s) if fresh_for_s is not None else np.zeros(len(served), dtype=np.bool_),
        lag_s=np.where(older, (np.where(older, expected_us, 0) - np.where(older, served_us, 0)) / 1e6, 0.0),
    )


@dataclass(frozen=True)
class OtherCar:
    """What history gives for another car of the race at the same moment, of one view."""

    driver_id: str
    keys: tuple[str, ...]
    event_us: int


def whose(
    vector: tuple[Hashable, ...],
    *,
    keys: tuple[str, ...],
    served_us: int,
    own_us: int,
    others: Mapping[tuple[Hashable, ...], Sequence[OtherCar]],
) -> str | None:
    """The driver whose vector was served instead of the own one, or None.

    A vector that agrees with another car's is taken for it if its row has the time of that car's row, or, where times do not tell
    them apart, if at least three values (both of two) say so: small numbers agree by chance.

    Args:
        vector: the served values of one view, canonical.
        keys: the view's join keys of the car that was asked about; a car with the same keys (a team mate) has the same row.
        served_us: event time of the row served; `NULL_US` if nobody said.
        own_us: event time of the own row.
        others: the other cars by their vector.
    """
    told = sum(value is not None for value in vector)
    for other in others.get(vector, ()):
        if other.keys == keys or not told:
            continue
        by_time = served_us == other.event_us != own_us
        by_values = served_us in (own_us, NULL_US) and told >= max(2, min(3, len(vector)))
        if by_time or by_values:
            return other.driver_id
    return None
