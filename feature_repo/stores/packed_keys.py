"""Entity keys as Feast serialises them (version 3), made whole columns at a time.

    count of join keys | per join key, by name: type STRING, length, name | per value, in the same order: type, length, bytes

All numbers are 4 bytes, little-endian.
"""

import functools
import itertools
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureView, ValueType
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.key_encoding_utils import serialize_entity_key_prefix

from feature_repo.errors import PackingError

VERSION = 3
_REMEMBERED = 4096  # keys a view, of about 100 bytes

# Value type: what Arrow is asked for, struct format of a fixed-width value.
_TYPES: dict[ValueType, tuple[pa.DataType, str]] = {
    ValueType.STRING: (pa.large_string(), ""),
    ValueType.BYTES: (pa.large_binary(), ""),
    ValueType.INT32: (pa.int32(), "<i4"),
    ValueType.INT64: (pa.int64(), "<i8"),
}


@dataclass(frozen=True)
class KeyLayout:
    """How the entity keys of a view are serialised; made by `KeyLayout.of(view)`.

    Attributes:
        view: name of the view.
        join_keys: columns of the key, sorted by name, as they are stored.
        types: their value types.
        prefix: what every key starts with.
    """

    view: str
    join_keys: tuple[str, ...]
    types: tuple[ValueType, ...]
    prefix: bytes

    @staticmethod
    def of(view: FeatureView) -> "KeyLayout":
        """The layout of a view's keys.

        Raises:
            PackingError: a join key is neither text, bytes nor an integer.
        """
        columns = sorted((column.name, column.dtype.to_value_type()) for column in view.entity_columns)
        return _key_layout(view.name, tuple(columns) or ((DUMMY_ENTITY_ID, ValueType.STRING),))

    def keys(self, rows: pa.Table | pd.DataFrame | Mapping[str, Sequence[Any]]) -> list[bytes]:
        """The serialised key of each row.

        Args:
            rows: has the join keys as columns; other columns are ignored.
        Raises:
            PackingError: a join key is absent, null, or of another type.
        """
        if not isinstance(rows, pa.Table | pd.DataFrame):
            return self._small({name: rows[name] for name in self._checked(rows)})
        names = self._checked(rows.column_names if isinstance(rows, pa.Table) else rows.columns)
        columns = [self._column(rows[name], name, kind) for name, kind in zip(names, self.types, strict=False)]
        parts = [part for column, kind in zip(columns, self.types, strict=False) for part in _parts(column, kind)]
        n_rows = len(rows)
        if not names:
            return [self.prefix + _value(DUMMY_ENTITY_VAL, ValueType.STRING)] * n_rows
        prefix = self.prefix
        return [b"".join((prefix, *pieces)) for pieces in zip(*parts, strict=True)]

    def _checked(self, columns: Any) -> tuple[str, ...]:
        missing = [name for name in self.join_keys if name not in columns]
        if missing == [DUMMY_ENTITY_ID]:
            return ()  # a view without entities has one row for everybody
        if missing:
            raise PackingError(f"view {self.view}: lacks join keys {missing}; got columns {list(columns)}")
        return self.join_keys

    def _small(self, columns: dict[str, Sequence[Any]]) -> list[bytes]:
        """Few rows at once: plain Python is faster than building Arrow columns, and the keys asked for are often the same."""
        try:
            keys = [self._key(*values) for values in zip(*columns.values(), strict=True)]
        except (struct.error, TypeError, AttributeError) as error:
            expected = dict(zip(self.join_keys, (kind.name for kind in self.types), strict=True))
            raise PackingError(f"view {self.view}: got keys {columns}, expected {expected}: {error}") from error
        return keys if columns else [self.prefix + _value(DUMMY_ENTITY_VAL, ValueType.STRING)]

    @functools.cached_property
    def _key(self) -> Callable[..., bytes]:
        """The key of some values; the last ones are remembered."""

        @functools.lru_cache(maxsize=_REMEMBERED, typed=True)
        def key(*values: Any) -> bytes:
            pieces = (_value(value, kind) for value, kind in zip(values, self.types, strict=True))
            return b"".join((self.prefix, *pieces))

        return key

    def _column(self, column: Any, name: str, kind: ValueType) -> pa.Array:
        try:
            array = pa.chunked_array([pa.array(column, from_pandas=True)]) if isinstance(column, pd.Series) else column
            array = array.cast(_TYPES[kind][0])
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            got = column.dtype if isinstance(column, pd.Series) else column.type
            raise PackingError(f"view {self.view}, join key {name}: got {got}, expected {kind.name}: {error}") from error
        if array.null_count:
            row = int(np.flatnonzero(array.is_null().to_numpy())[0])
            raise PackingError(f"view {self.view}, join key {name}: empty in row {row}; a key must be complete")
        return (
            array.chunk(0)
            if array.num_chunks == 1
            else pa.concat_arrays(array.chunks)
            if array.num_chunks
            else array.combine_chunks()
        )


def entity_keys(view: FeatureView, rows: pa.Table | pd.DataFrame | Mapping[str, Sequence[Any]]) -> list[bytes]:
    """The entity key of each row, byte for byte what Feast's `serialize_entity_key` (version 3) makes of it.

    Args:
        view: gives the join keys and their types.
        rows: has the join keys as columns: a table, a frame, or sequences by name (fastest for few rows).
    Raises:
        PackingError: a join key is absent, null, or of another type than the view's.
    """
    return KeyLayout.of(view).keys(rows)


@functools.lru_cache(maxsize=512)
def _key_layout(view: str, columns: tuple[tuple[str, ValueType], ...]) -> KeyLayout:
    for name, kind in columns:
        if kind not in _TYPES:
            supported = ", ".join(known.name for known in _TYPES)
            raise PackingError(f"view {view}, join key {name}: got type {kind.name}, expected one of {supported}")
    names = tuple(name for name, _ in columns)
    return KeyLayout(view, names, tuple(kind for _, kind in columns), serialize_entity_key_prefix(list(names), VERSION))


def _parts(array: pa.Array, kind: ValueType) -> list[list[bytes]]:
    """The bytes of one join key's values, as lists of (N) pieces to be put one after the other."""
    numpy_type = _TYPES[kind][1]
    if numpy_type:
        record = np.empty(len(array), [("type", "<u4"), ("length", "<u4"), ("value", numpy_type)])
        record["type"], record["length"], record["value"] = kind.value, np.dtype(numpy_type).itemsize, array.to_numpy()
        return [_rows(record)]
    offsets = (
        np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
        if len(array)
        else np.zeros(1, np.int64)
    )
    data = memoryview(array.buffers()[2] or b"")
    head = np.empty(len(array), [("type", "<u4"), ("length", "<u4")])
    head["type"], head["length"] = kind.value, np.diff(offsets)
    ends = offsets.tolist()
    return [_rows(head), [bytes(data[begin:end]) for begin, end in itertools.pairwise(ends)]]


def _rows(record: Any) -> list[bytes]:
    data, width = record.tobytes(), record.dtype.itemsize
    return [data[start : start + width] for start in range(0, len(data), width)]


def _value(value: Any, kind: ValueType) -> bytes:
    if kind is ValueType.STRING:
        content = value.encode()
    elif kind is ValueType.BYTES:
        content = bytes(value)
    else:
        content = struct.pack("<i" if kind is ValueType.INT32 else "<q", value)
    return struct.pack("<II", kind.value, len(content)) + content
