"""Two answers to one question, compared bit for bit, and what exactly differs."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_repo.files import sha256_bytes
from feature_repo.visibility import CREATED, EVENT
from pipelines.leak.answer import Answer

Kind = Literal[
    "entrant", "row", "feature", "picture", "embedding", "prediction", "stored picture", "stored embedding", "training row"
]
_SHOWN = 60  # characters of a value


@dataclass(frozen=True)
class Leak:
    """One thing that is said otherwise when the future is taken away.

    Attributes:
        kind: what it is.
        name: `<view>.<column>`, `<service>.<feature>` or the model's name.
        race_id: the race asked about.
        driver_id: whose; "" for a row of a view without drivers.
        as_of: instant asked about, UTC, ISO 8601.
        variant: how the future was taken away: `deleted` or `scrambled`.
        got: what the home says.
        expected: what it says without its future.
    """

    kind: Kind
    name: str
    race_id: str
    driver_id: str
    as_of: str
    variant: str
    got: str
    expected: str

    def __str__(self) -> str:
        who = f" of {self.driver_id}" if self.driver_id else ""
        where = f"{self.race_id} as of {self.as_of}, future {self.variant}"
        return f"{self.kind} {self.name}{who} ({where}): got {self.got}, expected {self.expected}"

    def to_json(self) -> dict[str, str]:
        """The leak as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Counts:
    """How much was compared: values of features and tables, pictures, embeddings, predictions (one a car and model)."""

    cells: int = 0
    pictures: int = 0
    embeddings: int = 0
    predictions: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(one + two for one, two in zip(vars(self).values(), vars(other).values(), strict=True)))


def compare(got: Answer, expected: Answer, *, race_id: str, as_of: pd.Timestamp, variant: str) -> tuple[list[Leak], Counts]:
    """What a home says against what it says without its future: everything that differs, and how much was compared."""

    def leak(kind: Kind, name: str, driver_id: str, one: Any, two: Any) -> Leak:
        return Leak(kind, name, race_id, driver_id, as_of.isoformat(), variant, shown(one), shown(two))

    leaks = [leak("entrant", name, *cell) for name, *cell in cells_that_differ(got.spine, expected.spine, race_id)]
    cells = got.spine.size
    for view, table in got.tables.items():
        cells += table.num_rows * table.num_columns
        leaks += [leak("row", f"{view}.{column}", *cell) for column, *cell in _rows_that_differ(table, expected.tables[view])]
    for service, frame in got.features.items():
        cells += frame.size
        differ = cells_that_differ(frame, expected.features[service], race_id)
        leaks += [leak("feature", f"{service}.{name}", *cell) for name, *cell in differ]
    leaks += [leak("picture", "speed trace", *cell) for cell in entries_that_differ(got.pictures, expected.pictures)]
    for name, embedded in got.embeddings.items():
        leaks += [leak("embedding", name, *cell) for cell in entries_that_differ(embedded, expected.embeddings[name])]
    for name, said in got.probabilities.items():
        leaks += [leak("prediction", name, *cell) for cell in entries_that_differ(said, expected.probabilities[name])]
    counts = Counts(cells, len(got.pictures), sum(map(len, got.embeddings.values())), sum(map(len, got.probabilities.values())))
    return leaks, counts


def cells_that_differ(one: pd.DataFrame, two: pd.DataFrame, race_id: str) -> Iterator[tuple[str, str, Any, Any]]:
    """Column, driver and both values of every cell of two frames, a row a driver, whose bits differ."""
    if list(one["driver_id"]) != list(two["driver_id"]):
        for driver in sorted({*one["driver_id"]} ^ {*two["driver_id"]}):
            here = driver in set(one["driver_id"])
            yield f"entrants of {race_id}", str(driver), "entered" if here else "nobody", "nobody" if here else "entered"
        common = [driver for driver in one["driver_id"] if driver in set(two["driver_id"])]
        one, two = (frame.set_index("driver_id").loc[common].reset_index() for frame in (one, two))
    for column in one.columns:
        for driver, left, right in zip(one["driver_id"], one[column], two[column], strict=True):
            if _bits(left) != _bits(right):
                yield str(column), str(driver), left, right


def entries_that_differ(one: dict[str, Any], two: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Driver and both values of every entry whose bits differ, or that only one of the two has."""
    for driver in sorted({*one, *two}):
        left, right = one.get(driver), two.get(driver)
        if _bits(left) != _bits(right):
            yield driver, left, right


def _rows_that_differ(one: pa.Table, two: pa.Table) -> Iterator[tuple[str, str, Any, Any]]:
    """Column, driver and both values wherever two tables of known rows differ; whole columns first, rows only if they do."""
    if one.num_rows == two.num_rows and all(_column_bits(one[name]) == _column_bits(two[name]) for name in one.column_names):
        return
    keys = [name for name in ("race_id", "driver_id", "constructor_id", "circuit_id") if name in one.column_names]
    stamped = [*keys, EVENT, CREATED]
    left, right = ({tuple(row[name] for name in stamped): row for row in table.to_pylist()} for table in (one, two))
    for key in [key for key in left if key not in right] + [key for key in right if key not in left]:
        row = left.get(key) or right[key]
        there = f"{' '.join(str(part) for part in key[: len(keys)])} at {row[EVENT]:%Y-%m-%d %H:%M:%S}"
        yield "row", str(row.get("driver_id") or ""), there if key in left else "no row", "no row" if key in left else there
    for key, row in left.items():
        for column, value in row.items():
            if key in right and _bits(value) != _bits(right[key][column]):
                yield column, str(row.get("driver_id") or ""), value, right[key][column]


def _column_bits(column: pa.ChunkedArray) -> tuple[bytes, ...]:
    """The bits of a column: values, which are null, and the lengths of lists."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    valid = np.asarray(array.is_valid()).tobytes()
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        lengths = np.asarray(pc.list_value_length(array).fill_null(-1)).tobytes()
        return (valid, lengths, *_column_bits(array.flatten()))
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.int64())
    if pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
        return valid, np.asarray(array.fill_null(0)).tobytes()
    return valid, "\0".join(str(value) for value in array.to_pylist()).encode()


def _bits(value: Any) -> Any:
    """A value as something that is equal only for equal bits; every kind of missing is one."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, np.ndarray | list | tuple):
        return _array_bits(np.asarray(value))
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and np.isnan(value)):
        return None
    return float(value).hex() if isinstance(value, float | np.floating) else value


def _array_bits(array: NDArray[Any]) -> tuple[str, bytes]:
    values = repr(array.tolist()).encode() if array.dtype.kind in "OU" else array.tobytes()
    return str(array.shape), values


def shown(value: Any) -> str:
    """A value as a report shows it, short."""
    if isinstance(value, bytes):
        return f"{len(value):,} bytes with sha256 {sha256_bytes(value)[:12]}"
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        inner = ", ".join(f"{item:.6g}" if isinstance(item, float) else str(item) for item in value[-4:])
        return f"{len(value)} values ending in {inner}"
    text = "nothing" if _bits(value) is None else str(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
