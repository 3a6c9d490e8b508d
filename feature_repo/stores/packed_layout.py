"""Where each feature of a view lies in a packed row: the byte layout, derived from the view's definition alone.

A packed row is one bytes value, all fields of one entity and view:

    tag       9 bytes: format version, then the fingerprint of the definition; a reader checks it first
    event     8 bytes: microseconds since 1970 UTC, big-endian, sign bit flipped
    created   8 bytes: likewise; so comparing these 16 bytes as unsigned bytes compares (event, created)
    nulls     one bit a field in the view's order, lowest bit first; 1 = null
    numbers   fixed-width fields, little-endian, one block a numpy type (a null float is also NaN there)
    ends      4 bytes a field of variable length, little-endian: where it ends in the variable part
    variable  texts as UTF-8, bytes, lists; each right after the other
"""

import functools
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from feast import FeatureView
from feast.type_map import VALUE_TYPE_TO_PROTO_VALUE_MAP
from feast.types import (
    Array,
    Bool,
    Bytes,
    FeastType,
    Float32,
    Float64,
    ImageBytes,
    Int32,
    Int64,
    PdfBytes,
    String,
    UnixTimestamp,
)

from feature_repo.errors import PackingError

FORMAT = b"\x01"
STAMP_OFFSET = 9
STAMP_LENGTH = 16

Kind = Literal["number", "bool", "time", "text", "bytes"]

# Order of the fixed-width blocks in a row, wide ones first.
_BLOCKS = {"float64": "<f8", "int64": "<i8", "time": "<i8", "float32": "<f4", "int32": "<i4", "bool": "u1"}
_NUMBERS = ("float64", "int64", "float32", "int32")
_SCALARS: dict[Any, tuple[Kind, str, str]] = {
    # Feast type: kind, block of a scalar, numpy type of one element in a list
    Float32: ("number", "float32", "<f4"),
    Float64: ("number", "float64", "<f8"),
    Int32: ("number", "int32", "<i4"),
    Int64: ("number", "int64", "<i8"),
    Bool: ("bool", "bool", "u1"),
    UnixTimestamp: ("time", "time", "<i8"),
    String: ("text", "", ""),
    Bytes: ("bytes", "", ""),
    PdfBytes: ("bytes", "", ""),
    ImageBytes: ("bytes", "", ""),
}


@dataclass(frozen=True)
class PackedField:
    """One feature of a packed row.

    Attributes:
        name: of the feature.
        dtype: its Feast type.
        kind: what one element is.
        is_list: whether it is an array of them.
        numpy: numpy type of one element, as stored; empty for texts and bytes.
        proto: the field of Feast's value message that holds it.
        block: the fixed-width block it is in; empty if it is of variable length.
        position: its place in that block, or among the fields of variable length.
    """

    name: str
    dtype: FeastType
    kind: Kind
    is_list: bool
    numpy: str
    proto: str
    block: str
    position: int


@dataclass(frozen=True)
class Layout:
    """Byte layout of one view's packed rows; made by `Layout.of(view)`.

    Attributes:
        view: name of the view.
        fields: its features, in the view's order.
        fingerprint: 8 bytes of the hash of (name, type) of every field.
        tag: what every packed row of this definition starts with.
        record: the part of a row before the variable part, as a numpy record.
        number_names: numeric scalar features, in the order of `Unpacked.numbers`.
        variable: fields of variable length, in the order in which they are stored.
    """

    view: str
    fields: tuple[PackedField, ...]
    fingerprint: bytes
    tag: bytes
    record: np.dtype[Any]
    number_names: tuple[str, ...]
    number_blocks: tuple[tuple[str, int, int], ...]
    variable: tuple[PackedField, ...]

    @staticmethod
    def of(view: FeatureView) -> "Layout":
        """The layout of a view's rows; kept per definition.

        Raises:
            PackingError: a feature has a type that cannot be packed.
        """
        return _layout(view.name, tuple((field.name, field.dtype) for field in view.features))

    def field(self, name: str) -> PackedField:
        """The field `name`.

        Raises:
            PackingError: the view has none of that name.
        """
        try:
            return self._by_name[name]
        except KeyError:
            known = ", ".join(field.name for field in self.fields)
            raise PackingError(f"view {self.view}: got feature {name!r}, expected one of {known}") from None

    @functools.cached_property
    def _by_name(self) -> dict[str, PackedField]:
        return {field.name: field for field in self.fields}

    @functools.cached_property
    def number_at(self) -> dict[str, int]:
        """Numeric scalar feature -> its column of `Unpacked.numbers`."""
        return {name: column for column, name in enumerate(self.number_names)}

    @functools.cached_property
    def position_of(self) -> dict[str, int]:
        """Field name -> its place in the view's order, which is its bit among the nulls."""
        return {field.name: position for position, field in enumerate(self.fields)}


@functools.lru_cache(maxsize=512)
def _layout(view: str, definition: tuple[tuple[str, FeastType], ...]) -> Layout:
    used: dict[str, int] = {}
    fields = []
    for name, dtype in definition:
        is_list = isinstance(dtype, Array)
        base = dtype.base_type if isinstance(dtype, Array) else dtype
        if base not in _SCALARS:
            supported = ", ".join(str(known) for known in _SCALARS)
            raise PackingError(
                f"view {view}, feature {name}: type {dtype} cannot be packed, only {supported} and Array of these; "
                "change the type or keep the view in one of Feast's own online stores"
            )
        kind, scalar_block, numpy_type = _SCALARS[base]
        block = "" if is_list else scalar_block
        position = used[block] = used.get(block, -1) + 1
        proto = VALUE_TYPE_TO_PROTO_VALUE_MAP[dtype.to_value_type()]
        fields.append(PackedField(name, dtype, kind, is_list, numpy_type, proto, block, position))
    listed = json.dumps([[name, str(dtype)] for name, dtype in definition])
    fingerprint = hashlib.sha256(listed.encode()).digest()[:8]
    variable = tuple(field for field in fields if not field.block)
    blocks = [(block, numpy_type, (used[block] + 1,)) for block, numpy_type in _BLOCKS.items() if block in used]
    record = np.dtype(
        [
            ("tag", "V9"),
            ("event", ">u8"),
            ("created", ">u8"),
            ("nulls", "u1", ((len(fields) + 7) // 8,)),
            *blocks,
            ("ends", "<u4", (len(variable),)),
        ]
    )
    names: list[str] = []
    number_blocks = []
    for block in _NUMBERS:
        inside = [field.name for field in fields if field.block == block]
        if inside:
            number_blocks.append((block, len(names), len(names) + len(inside)))
            names += inside
    return Layout(
        view, tuple(fields), fingerprint, FORMAT + fingerprint, record, tuple(names), tuple(number_blocks), variable
    )  # fmt: skip
