"""Arrow columns as packed rows need them: fixed-width numbers with their nulls, and one bytes slice a row for the rest.

Values come out as Feast's own writer would store them: numbers cast to the feature's type, NaN of a scalar is null, times cut
to whole seconds, a null inside a list is the type's zero (NaN for floats). Unlike Feast's writer, integers beside nulls keep
all 64 bits: Feast passes them through float64.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_repo.stores.packed_layout import PackedField

NO_TIME = int(np.iinfo(np.int64).min)
"""Feast's mark of a missing time, in seconds."""

_ARROW = {"<f4": pa.float32(), "<f8": pa.float64(), "<i4": pa.int32(), "<i8": pa.int64(), "u1": pa.bool_()}
_UNITS_PER_S = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def fixed(column: pa.ChunkedArray, field: PackedField) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The values (N,) of a scalar field of fixed width, and where they are null (there the value is 0, NaN for floats)."""
    values, nulls = _numbers(column, field, null=np.nan if field.numpy in {"<f4", "<f8"} else 0)
    if field.kind == "time":
        nulls = nulls | (values == NO_TIME)
        values = np.where(nulls, 0, values)
    return values, nulls


def slices(column: pa.ChunkedArray, field: PackedField) -> tuple[list[bytes], NDArray[np.bool_]]:
    """The stored bytes of a field of variable length, row by row (empty where null), and where it is null."""
    nulls = column.is_null().to_numpy()
    if not field.is_list:
        starts, data = _blobs(column, field)
        return _cut(data, starts[:-1], starts[1:]), nulls
    lists = _one(column.cast(pa.large_list(_item_type(column.type))))
    starts = _offsets(lists)
    begins, ends = starts[:-1], np.where(nulls, starts[:-1], starts[1:])
    items = pa.chunked_array([lists.values])
    if field.numpy:
        null = {"number": np.nan if "f" in field.numpy else 0, "bool": 0, "time": NO_TIME}[field.kind]
        numbers, _ = _numbers(items, field, null=null)
        return _cut(memoryview(numbers.tobytes()), begins * numbers.itemsize, ends * numbers.itemsize), nulls
    inner, data = _blobs(items, field)
    lengths = np.diff(inner).astype("<u4")
    counts = (ends - begins).astype("<u4")
    return [
        count.tobytes() + lengths[begin:end].tobytes() + bytes(data[inner[begin] : inner[end]])
        for count, begin, end in zip(counts, begins, ends, strict=True)
    ], nulls


def _numbers(column: pa.ChunkedArray, field: PackedField, *, null: float) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    if field.kind == "time":
        return _seconds(column, field, null=int(null))
    target = _ARROW[field.numpy]
    if pa.types.is_floating(target):
        # Arrow gives NaN where a float is null, and Feast calls a NaN null: one mask for both.
        plain = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
        with np.errstate(over="ignore"):
            values = (column if plain else column.cast(pa.float64())).to_numpy().astype(field.numpy, copy=False)
        nulls = np.isnan(values)
        if nulls.any():  # every NaN as the same bytes, or a row that says the same would not be found unchanged
            values = np.where(nulls, np.array(np.nan, field.numpy), values)
        return values, nulls
    missing = pc.is_null(column, nan_is_null=True)
    filled = pc.if_else(missing, pa.scalar(None, column.type), column)  # a NaN has no integer
    cast = pc.cast(filled, options=pc.CastOptions(target, allow_float_truncate=True)).fill_null(
        False if field.kind == "bool" else 0
    )
    values = cast.to_numpy().astype(field.numpy, copy=False)
    nulls = missing.to_numpy()
    return (np.where(nulls, np.array(null, field.numpy), values) if null else values), nulls


def _seconds(column: pa.ChunkedArray, field: PackedField, *, null: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    nulls = column.is_null().to_numpy()
    if pa.types.is_timestamp(column.type):
        units = column.cast(pa.int64()).fill_null(0).to_numpy()
        seconds, rest = np.divmod(units, _UNITS_PER_S[column.type.unit])
        if field.is_list:
            seconds += (seconds < 0) & (rest > 0)  # before 1970, Feast cuts times down, but those in lists up
    elif pa.types.is_date(column.type):
        seconds = column.cast(pa.timestamp("s")).cast(pa.int64()).fill_null(0).to_numpy()
    else:
        seconds = column.cast(pa.int64()).fill_null(0).to_numpy()
    return np.where(nulls, null, seconds), nulls


def _blobs(column: pa.ChunkedArray, field: PackedField) -> tuple[NDArray[np.int64], memoryview]:
    """Offsets (N + 1,) and data of texts or bytes; nulls are empty."""
    if field.kind == "text":
        column = column.cast(pa.large_string())
    array = _one(column.cast(pa.large_binary()).fill_null(b""))
    data = array.buffers()[2]
    return _offsets(array), memoryview(data if data is not None else b"")


def _offsets(array: pa.Array) -> NDArray[np.int64]:
    if len(array) == 0:
        return np.zeros(1, np.int64)
    return np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]


def _one(column: pa.ChunkedArray) -> Any:
    """The column as one array."""
    return (
        column.chunk(0)
        if column.num_chunks == 1
        else pa.concat_arrays(column.chunks)
        if column.num_chunks
        else column.combine_chunks()
    )


def _item_type(kind: pa.DataType) -> pa.DataType:
    return pa.null() if pa.types.is_null(kind) else kind.value_type


def _cut(data: memoryview, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> list[bytes]:
    return [bytes(data[begin:end]) for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
