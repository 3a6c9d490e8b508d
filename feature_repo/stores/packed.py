"""Packed online rows: all features of one entity and view as one bytes value, made and read whole columns at a time.

The byte layout is in `packed_layout.py`. Values are what Feast's own writer and reader would give, so a store may pack rows from
tables here and serve them to any Feast client, or take a client's rows and read them here as numbers. A row that was packed under
another definition of its view is treated as absent when read, and replaced when written with times that are not older.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.type_map import PYTHON_LIST_VALUE_TYPE_TO_PROTO_VALUE
from numpy.typing import NDArray

from feature_repo.errors import PackingError
from feature_repo.stores.packed_columns import NO_TIME, fixed, slices
from feature_repo.stores.packed_keys import KeyLayout, entity_keys
from feature_repo.stores.packed_layout import STAMP_LENGTH, STAMP_OFFSET, Layout, PackedField

__all__ = [
    "STAMP_LENGTH", "STAMP_OFFSET", "KeyLayout", "Layout", "PackedField", "Unpacked", "entity_keys", "from_protos", "pack",
    "rows_from_protos", "rows_to_protos", "stamps", "to_protos", "unpack",
]  # fmt: skip

_SIGN = np.uint64(1 << 63)
_LIST_TYPES = {kind.name: made for kind, (made, _, _) in PYTHON_LIST_VALUE_TYPE_TO_PROTO_VALUE.items()}


def pack(
    layout: Layout, table: pa.Table, event_us: NDArray[np.int64], created_us: NDArray[np.int64]
) -> list[bytes]:  # fmt: skip
    """The rows of a table as packed values, in their order.

    Args:
        layout: of the view.
        table: N rows with every feature of the view; other columns are ignored. Types may differ from the view's as far as Feast
            would convert them.
        event_us: (N,) when each row became true, microseconds since 1970 UTC.
        created_us: (N,) when it became known.
    Raises:
        PackingError: a feature is absent, or its values cannot be converted to its type.
    """
    record = np.zeros(table.num_rows, layout.record)
    record["tag"] = np.void(layout.tag)
    record["event"] = np.asarray(event_us, np.int64).view(np.uint64) ^ _SIGN
    record["created"] = np.asarray(created_us, np.int64).view(np.uint64) ^ _SIGN
    nulls = np.zeros((table.num_rows, len(layout.fields)), np.bool_)
    parts: list[list[bytes]] = []
    for position, field in enumerate(layout.fields):
        try:
            if field.block:
                record[field.block][:, field.position], nulls[:, position] = fixed(table[field.name], field)
            else:
                part, nulls[:, position] = slices(table[field.name], field)
                parts.append(part)
        except KeyError:
            raise PackingError(f"view {layout.view}: lacks {field.name}; the table has {table.column_names}") from None
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            kind = table.schema.field(field.name).type
            raise PackingError(
                f"view {layout.view}, feature {field.name}: cannot pack {kind} as {field.dtype}: {error}"
            ) from error
    record["nulls"] = np.packbits(nulls, axis=1, bitorder="little")
    if parts:
        lengths = np.array([[len(piece) for piece in part] for part in parts], np.int64).reshape(len(parts), -1)
        record["ends"] = np.cumsum(lengths, axis=0).T
    width, data = layout.record.itemsize, record.tobytes()
    rows = [data[start : start + width] for start in range(0, len(data), width)]
    return list(map(b"".join, zip(rows, *parts, strict=True))) if parts else rows


@dataclass(frozen=True, eq=False)
class Unpacked:
    """N packed rows, read. Columns are decoded when they are asked for.

    Attributes:
        present: (N,) whether a row of this definition is held.
        event_us: (N,) when it became true, microseconds since 1970 UTC; 0 where not present.
        created_us: (N,) when it became known; 0 where not present.
        numbers: (N, K) float64, the numeric scalar features in the order of `layout.number_names`; NaN = null or not present.
            Integers beyond 2**53 lose their last bits here, not in `column`.
    """

    present: NDArray[np.bool_]
    event_us: NDArray[np.int64]
    created_us: NDArray[np.int64]
    numbers: NDArray[np.float64]
    layout: Layout
    _held: list[bytes]
    _record: NDArray[Any]

    def column(self, name: str) -> list[Any]:
        """The values of a feature as Feast's `to_dict` gives them; None = null or not present.

        Raises:
            PackingError: the view has no such feature.
        """
        field = self.layout.field(name)
        nulls = self._nulls(field)
        if field.block:
            values = self._block(field.block)[field.position]
            if field.kind == "number" and True not in nulls:
                return self._spread(values)
        else:
            values = [b"" if null else piece for piece, null in zip(self._pieces(field), nulls, strict=True)]
        decode = _decoder(field)
        return self._spread([None if null else decode(value) for value, null in zip(values, nulls, strict=True)])

    def arrays(self, name: str) -> list[NDArray[Any] | None]:
        """The values of an array of numbers without making Python numbers of them: one read-only array a row.

        Raises:
            PackingError: the view has no such feature, or it is not an array of numbers.
        """
        field = self.layout.field(name)
        if not field.is_list or field.kind != "number":
            raise PackingError(f"view {self.layout.view}, feature {name}: got type {field.dtype}, expected an array of numbers")
        nulls = self._nulls(field)
        pieces = zip(self._pieces(field), nulls, strict=True)
        return self._spread([None if null else np.frombuffer(piece, field.numpy) for piece, null in pieces])

    def _nulls(self, field: PackedField) -> list[bool]:
        return self._is_null[self.layout.position_of[field.name]]

    @functools.cached_property
    def _is_null(self) -> list[list[bool]]:
        """Per field of the view, whether each row held has no value."""
        bits = np.unpackbits(self._record["nulls"], axis=1, count=len(self.layout.fields), bitorder="little")
        table: list[list[bool]] = bits.astype(np.bool_).T.tolist()
        return table

    @functools.cached_property
    def _blocks(self) -> dict[str, list[list[Any]]]:
        return {}

    def _block(self, name: str) -> list[list[Any]]:
        """Per field of a block, the rows' values; taken apart at once, because features are asked for one after the other."""
        if name not in self._blocks:
            self._blocks[name] = self._record[name].T.tolist()
        return self._blocks[name]

    def _pieces(self, field: PackedField) -> list[bytes]:
        ends, base = self._record["ends"], self.layout.record.itemsize
        last = ends[:, field.position].tolist()
        first = ends[:, field.position - 1].tolist() if field.position else [0] * len(last)
        return [row[base + begin : base + end] for row, begin, end in zip(self._held, first, last, strict=True)]

    def _spread(self, values: list[Any]) -> list[Any]:
        if len(values) == len(self.present):
            return values
        filled = iter(values)
        return [next(filled) if present else None for present in self.present]


def unpack(layout: Layout, values: Sequence[bytes | None]) -> Unpacked:
    """Read packed rows; None, and a row of another definition or format, is not present."""
    tag, width, n_rows = layout.tag, layout.record.itemsize, len(values)
    held = [value for value in values if value is not None and value.startswith(tag)]
    whole = len(held) == n_rows
    data = b"".join([value[:width] for value in held] if layout.variable else held)
    record = np.frombuffer(data, layout.record)
    event_us, created_us = _from_stamps(record["event"]), _from_stamps(record["created"])
    numbers = np.empty((len(held), len(layout.number_names)))
    for block, begin, end in layout.number_blocks:
        numbers[:, begin:end] = record[block]
        if block.startswith("int"):
            positions = np.array([layout.position_of[name] for name in layout.number_names[begin:end]])
            numbers[:, begin:end][
                (record["nulls"][:, positions // 8] >> (positions % 8).astype(np.uint8) & 1).astype(np.bool_)
            ] = np.nan
    if whole:
        return Unpacked(np.ones(n_rows, np.bool_), event_us, created_us, numbers, layout, held, record)
    present = np.array([value is not None and value.startswith(tag) for value in values], np.bool_)
    all_event, all_created = np.zeros(n_rows, np.int64), np.zeros(n_rows, np.int64)
    all_numbers = np.full((n_rows, numbers.shape[1]), np.nan)
    all_event[present], all_created[present], all_numbers[present] = event_us, created_us, numbers
    return Unpacked(present, all_event, all_created, all_numbers, layout, held, record)


def stamps(values: Sequence[bytes]) -> NDArray[np.int64]:
    """(N, 2) event and created time of packed rows of any definition, microseconds since 1970 UTC."""
    data = b"".join([value[STAMP_OFFSET : STAMP_OFFSET + STAMP_LENGTH] for value in values])
    return _from_stamps(np.frombuffer(data, ">u8").reshape(-1, 2))


def to_protos(layout: Layout, value: bytes, names: Sequence[str] | None = None) -> dict[str, ValueProto]:
    """One packed row as Feast's value messages, by feature; an empty message is null. Empty for a row of another definition."""
    return rows_to_protos(layout, [value], names)[0] or {}


def rows_to_protos(
    layout: Layout, values: Sequence[bytes | None], names: Sequence[str] | None = None
) -> list[dict[str, ValueProto] | None]:
    """Packed rows as Feast's value messages; None where no row of this definition is held.

    Args:
        layout: of the view.
        values: packed rows.
        names: features wanted; default all.
    """
    unpacked = unpack(layout, values)
    wanted = [layout.field(name) for name in names] if names is not None else list(layout.fields)
    columns = []
    for field in wanted:
        plain = unpacked.column(field.name)
        if field.is_list:
            made = _LIST_TYPES[field.dtype.to_value_type().name]
            columns.append(
                [ValueProto() if v is None else ValueProto(**{field.proto: made(val=_seconds_in(field, v))}) for v in plain]
            )
        else:
            columns.append([ValueProto() if v is None else ValueProto(**{field.proto: _seconds_of(field, v)}) for v in plain])
    labels = [field.name for field in wanted]
    rows = zip(*columns, strict=True) if columns else iter([()] * len(values))
    return [dict(zip(labels, row, strict=True)) if present else None for row, present in zip(rows, unpacked.present, strict=True)]


def from_protos(layout: Layout, values: dict[str, ValueProto], event: datetime, created: datetime | None) -> bytes:
    """One row of Feast's value messages as a packed value; see `rows_from_protos`."""
    return rows_from_protos(layout, [(values, event, created)])[0]


def rows_from_protos(layout: Layout, rows: Sequence[tuple[dict[str, ValueProto], datetime, datetime | None]]) -> list[bytes]:
    """Rows of Feast's value messages, event and created time as packed values.

    A feature that a row lacks is null. Naive times are UTC. A row without created time became known when it became true.

    Raises:
        PackingError: a message holds a value of another type than the feature.
    """
    columns = {
        field.name: _column([values.get(field.name) for values, _, _ in rows], field, layout.view) for field in layout.fields
    }
    event_us = np.array([_micros(event) for _, event, _ in rows], np.int64)
    created_us = np.array([_micros(event if created is None else created) for _, event, created in rows], np.int64)
    return pack(layout, pa.table(columns), event_us, created_us)


def _column(values: list[ValueProto | None], field: PackedField, view: str) -> pa.Array:
    plain = []
    for value in values:
        held = None if value is None else value.WhichOneof("val")
        content: Any = getattr(value, held) if held else None
        plain.append(list(content.val) if field.is_list and hasattr(content, "val") else content)
    try:
        return pa.array(plain, _arrow_type(field))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise PackingError(f"view {view}, feature {field.name}: got a value that is no {field.dtype}: {error}") from error


def _arrow_type(field: PackedField) -> pa.DataType:
    if field.kind in {"text", "bytes"}:
        item = pa.large_string() if field.kind == "text" else pa.large_binary()
    else:
        item = pa.bool_() if field.kind == "bool" else pa.from_numpy_dtype(np.dtype(field.numpy))
    return pa.large_list(item) if field.is_list else item


def _micros(moment: datetime) -> int:
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    since = aware - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _from_stamps(flipped: NDArray[Any]) -> NDArray[np.int64]:
    return (flipped.astype(np.uint64) ^ _SIGN).view(np.int64)


@functools.lru_cache(maxsize=64)
def _decoder(field: PackedField) -> Any:
    """How one stored value of a field becomes Feast's Python value."""
    if not field.is_list:
        return {"number": _same, "bool": bool, "time": _time, "text": bytes.decode, "bytes": _same}[field.kind]
    if field.kind in {"text", "bytes"}:
        return functools.partial(_blobs, decode=bytes.decode if field.kind == "text" else _same)
    decode: Callable[[Any], Any] | None = bool if field.kind == "bool" else _time if field.kind == "time" else None

    def numbers(piece: bytes) -> list[Any]:
        items = np.frombuffer(piece, field.numpy).tolist()
        return items if decode is None else [decode(item) for item in items]

    return numbers


def _same(value: Any) -> Any:
    return value


def _time(seconds: int) -> datetime | None:
    return None if seconds == NO_TIME else datetime.fromtimestamp(seconds, UTC)


def _blobs(piece: bytes, *, decode: Any) -> list[Any]:
    count = int.from_bytes(piece[:4], "little")
    ends = np.cumsum(np.frombuffer(piece, "<u4", count, 4), dtype=np.int64) + 4 * (count + 1)
    begins = [4 * (count + 1), *ends.tolist()]
    return [decode(piece[begin:end]) for begin, end in zip(begins, ends.tolist(), strict=False)]


def _seconds_of(field: PackedField, value: Any) -> Any:
    return int(value.timestamp()) if field.kind == "time" else value


def _seconds_in(field: PackedField, values: list[Any]) -> list[Any]:
    return [NO_TIME if value is None else int(value.timestamp()) for value in values] if field.kind == "time" else values
