"""A packed row gives back what Feast's own path through value messages gives, for every type that can be packed."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, Json, String, UnixTimestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.errors import PackingError
from feature_repo.stores.packed import (
    STAMP_LENGTH,
    STAMP_OFFSET,
    KeyLayout,
    Layout,
    entity_keys,
    from_protos,
    pack,
    rows_from_protos,
    rows_to_protos,
    stamps,
    to_protos,
    unpack,
)

_US = st.integers(-(2**62), 2**62)
_TIMES = pa.timestamp("us", tz="UTC")
_MOMENTS = st.integers(-(2**51), 2**52).map(lambda us: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us))
# Feast passes integers beside nulls through float64, so only these come out of it as they went in.
_SMALL = st.integers(-(2**53), 2**53)
_TEXT = st.text(st.characters(exclude_categories=["Cs"]))

SCALARS: dict[str, tuple[Any, pa.DataType, st.SearchStrategy[Any]]] = {
    "f32": (Float32, pa.float32(), st.floats(width=32)),
    "f64": (Float64, pa.float64(), st.floats()),
    "i32": (Int32, pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "i64": (Int64, pa.int64(), _SMALL),
    "yes": (Bool, pa.bool_(), st.booleans()),
    "text": (String, pa.string(), _TEXT),
    "blob": (Bytes, pa.binary(), st.binary()),
    "time": (UnixTimestamp, _TIMES, _MOMENTS),
}


def _lists(name: str, items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Lists, null lists, and lists with nulls in them, which Feast refuses where they are of integers."""
    return st.none() | st.lists(items if name in {"i32", "i64"} else st.none() | items, max_size=4)


TYPES = {
    **{name: (kind, arrow, st.none() | values) for name, (kind, arrow, values) in SCALARS.items()},
    **{f"{name}s": (Array(kind), pa.list_(arrow), _lists(name, values)) for name, (kind, arrow, values) in SCALARS.items()},
}


def view_of(features: dict[str, Any], keys: dict[str, ValueType] | None = None) -> FeatureView:
    """A view with these features and join keys."""
    keys = keys or {"driver_id": ValueType.STRING}
    types = {ValueType.STRING: String, ValueType.INT64: Int64, ValueType.INT32: Int32, ValueType.BYTES: Bytes}
    return FeatureView(
        name="everything",
        entities=[Entity(name=f"entity_{name}", join_keys=[name], value_type=kind) for name, kind in keys.items()],
        schema=[Field(name=name, dtype=types[kind]) for name, kind in keys.items()]
        + [Field(name=name, dtype=dtype) for name, dtype in features.items()],
        source=FileSource(
            path="nowhere.parquet", timestamp_field="event_timestamp", created_timestamp_column="created_timestamp"
        ),
    )


VIEW = view_of({name: kind for name, (kind, _, _) in TYPES.items()})
LAYOUT = Layout.of(VIEW)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Rows of the view, nulls and empty lists among them, in one or more chunks."""
    n_rows = draw(st.integers(1, 5))
    columns = {
        name: pa.array(draw(st.lists(values, min_size=n_rows, max_size=n_rows)), arrow)
        for name, (_, arrow, values) in TYPES.items()
    }
    table = pa.table(columns)
    cut = draw(st.integers(0, n_rows))
    return pa.concat_tables([table.slice(0, cut), table.slice(cut)])


def by_feast(table: pa.Table, name: str) -> list[Value]:
    """The column as Feast's writer would store it.

    Feast takes empty bytes for nulls if no row of the batch has anything else. That depends on the batch, so each batch is given
    one more row that has.
    """
    column = table[name]
    more = [b"a"] if name == "blob" else []
    values = pa.chunked_array([*column.chunks, pa.array(more, column.type)]).combine_chunks().to_numpy(zero_copy_only=False)
    return python_values_to_proto_values(values, LAYOUT.field(name).dtype.to_value_type())[: len(column)]


def same(ours: Any, feasts: Any) -> bool:
    """Equal in value and type, NaN equal to NaN."""
    if isinstance(ours, list) and isinstance(feasts, list):
        return len(ours) == len(feasts) and all(map(same, ours, feasts))
    if type(ours) is not type(feasts):
        return False
    return bool(ours == feasts or (isinstance(ours, float) and np.isnan(ours) and np.isnan(feasts)))


@settings(max_examples=60, deadline=None)
@given(table=tables(), event=_US, created=_US)
def test_columns_are_what_feast_gives_back(table: pa.Table, event: int, created: int) -> None:
    n_rows = table.num_rows
    values = pack(LAYOUT, table, np.full(n_rows, event), np.full(n_rows, created))
    read = unpack(LAYOUT, values)
    assert read.present.all()
    assert set(read.event_us.tolist()) == {event}
    assert set(read.created_us.tolist()) == {created}
    protos = rows_to_protos(LAYOUT, values)
    for name in TYPES:
        expected = [feast_value_type_to_python_type(value) for value in by_feast(table, name)]
        assert same(read.column(name), expected), name
        ours = [feast_value_type_to_python_type(row[name]) for row in protos if row is not None]
        assert same(ours, expected), name
    for position, name in enumerate(LAYOUT.number_names):
        as_floats = [np.nan if value is None else float(value) for value in read.column(name)]
        assert np.array_equal(read.numbers[:, position], as_floats, equal_nan=True)


@settings(max_examples=40, deadline=None)
@given(table=tables(), event=_MOMENTS, created=_MOMENTS | st.none())
def test_rows_of_messages_pack_as_rows_of_a_table(table: pa.Table, event: datetime, created: datetime | None) -> None:
    messages = {name: by_feast(table, name) for name in TYPES}
    rows = [({name: messages[name][row] for name in TYPES}, event, created) for row in range(table.num_rows)]
    packed = rows_from_protos(LAYOUT, rows)
    moments = [(moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) for moment in (event, created or event)]
    times = [np.full(table.num_rows, moment) for moment in moments]
    assert packed == pack(LAYOUT, table, *times)
    assert from_protos(LAYOUT, *rows[0]) == packed[0]
    assert rows_from_protos(LAYOUT, [(to_protos(LAYOUT, value), event, created) for value in packed]) == packed


def test_every_nan_is_packed_as_the_same_bytes() -> None:
    layout = Layout.of(view_of({"one": Float64, "many": Array(Float32)}))
    odd = np.array([0xFFF0000000000001, 0x7FF8000000000000, 0xFFF8000000000000], np.uint64).view(np.float64)
    odd_singles = np.array([0x7F800001, 0x7FC00000, 0xFFC00001], np.uint32).view(np.float32)
    table = pa.table(
        {"one": odd, "many": pa.FixedSizeListArray.from_arrays(pa.array(odd_singles), 1).cast(pa.list_(pa.float32()))}
    )
    assert len(set(pack(layout, table, *np.zeros((2, 3), np.int64)))) == 1


@settings(max_examples=40, deadline=None)
@given(table=tables())
def test_the_rows_held_are_told_from_the_others(table: pa.Table) -> None:
    times = np.arange(table.num_rows) - 1
    values = pack(LAYOUT, table, times, times + 7)
    other = Layout.of(view_of({"f32": Float64}))
    strange = pack(other, pa.table({"f32": [1.0]}), np.array([5]), np.array([6]))
    mixed = [None, *values, *strange, b"", None]
    read = unpack(LAYOUT, mixed)
    assert read.present.tolist() == [False, *[True] * len(values), False, False, False]
    assert read.event_us.tolist() == [0, *times.tolist(), 0, 0, 0]
    whole = unpack(LAYOUT, values)
    for name in TYPES:
        assert same(read.column(name), [None, *whole.column(name), None, None, None])
    assert np.array_equal(read.numbers[1:-3], whole.numbers, equal_nan=True)
    assert np.isnan(read.numbers[[0, -1]]).all()
    assert stamps([*values, *strange]).tolist() == [*np.column_stack([times, times + 7]).tolist(), [5, 6]]


@given(left=st.tuples(_US, _US), right=st.tuples(_US, _US))
def test_stamps_compare_as_bytes_as_times_do(left: tuple[int, int], right: tuple[int, int]) -> None:
    layout = Layout.of(view_of({"f32": Float32}))
    table = pa.table({"f32": [1.0, 2.0]})
    packed = pack(layout, table, np.array([left[0], right[0]]), np.array([left[1], right[1]]))
    ours, theirs = (value[STAMP_OFFSET : STAMP_OFFSET + STAMP_LENGTH] for value in packed)
    assert (ours < theirs) == (left < right)
    assert stamps(packed).tolist() == [list(left), list(right)]


_KEY_VALUES = {
    ValueType.STRING: _TEXT,
    ValueType.BYTES: st.binary(),
    ValueType.INT32: st.integers(-(2**31), 2**31 - 1),
    ValueType.INT64: st.integers(-(2**63), 2**63 - 1),
}
_PROTO_FIELDS = {
    ValueType.STRING: "string_val",
    ValueType.BYTES: "bytes_val",
    ValueType.INT32: "int32_val",
    ValueType.INT64: "int64_val",
}


@given(data=st.data())
def test_entity_keys_are_feasts_bytes(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), min_size=1, max_size=3, unique=True))
    kinds = {name: data.draw(st.sampled_from(list(_KEY_VALUES))) for name in names}
    n_rows = data.draw(st.integers(1, 4))
    columns = {name: data.draw(st.lists(_KEY_VALUES[kind], min_size=n_rows, max_size=n_rows)) for name, kind in kinds.items()}
    view = view_of({"f32": Float32}, kinds)
    expected = [
        serialize_entity_key(
            EntityKey(
                join_keys=names, entity_values=[Value(**{_PROTO_FIELDS[kinds[name]]: columns[name][row]}) for name in names]
            ),
            entity_key_serialization_version=3,
        )
        for row in range(n_rows)
    ]
    table = pa.table(columns)
    assert entity_keys(view, table) == expected
    assert entity_keys(view, columns) == expected
    assert entity_keys(view, pd.DataFrame(columns)) == expected
    assert entity_keys(view, pa.concat_tables([table.slice(0, 1), table.slice(1)])) == expected


def test_integers_beside_nulls_keep_every_bit() -> None:
    layout = Layout.of(view_of({"i64": Int64, "i32": Int32}))
    table = pa.table({"i64": pa.array([2**63 - 1, None, -(2**63)]), "i32": pa.array([None, 2**31 - 1, -(2**31)], pa.int32())})
    read = unpack(layout, pack(layout, table, np.zeros(3, np.int64), np.zeros(3, np.int64)))
    assert read.column("i64") == [2**63 - 1, None, -(2**63)]
    assert read.column("i32") == [None, 2**31 - 1, -(2**31)]


def test_an_embedding_is_read_without_python_numbers() -> None:
    layout = Layout.of(view_of({"embedding": Array(Float32), "text": String}))
    numbers = np.arange(1024, dtype=np.float32).reshape(2, 512)
    table = pa.table({"embedding": [*numbers, None], "text": ["a", None, "c"]})
    read = unpack(layout, [*pack(layout, table, np.zeros(3, np.int64), np.zeros(3, np.int64)), None])
    first, second, *rest = read.arrays("embedding")
    assert first is not None
    assert second is not None
    assert np.array_equal(np.stack([first, second]), numbers)
    assert rest == [None, None]
    assert read.column("text") == ["a", None, "c", None]
    with pytest.raises(PackingError, match="feature text: got type String, expected an array of numbers"):
        read.arrays("text")


def test_other_arrow_types_are_converted_as_feast_would() -> None:
    layout = Layout.of(view_of({"f32": Float32, "i64": Int64, "text": String, "f32s": Array(Float32), "time": UnixTimestamp}))
    table = pa.table(
        {
            "f32": pa.array([1, None], pa.int16()),
            "i64": pa.array([2.7, float("nan")]),
            "text": pa.array(["a", None]).dictionary_encode(),
            "f32s": pa.array([[1.0, 2.0], None], pa.list_(pa.float64(), 2)),
            "time": pa.array([-500_000_000, None], pa.timestamp("ns")),
            "ignored": [1, 2],
        }
    )
    read = unpack(layout, pack(layout, table, np.zeros(2, np.int64), np.zeros(2, np.int64)))
    assert [read.column(field.name) for field in layout.fields] == [
        [1.0, None],
        [2, None],
        ["a", None],
        [[1.0, 2.0], None],
        [datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), None],
    ]


def test_what_cannot_be_packed_is_said() -> None:
    layout = Layout.of(view_of({"i32": Int32, "text": String}))
    zero = np.zeros(1, np.int64)
    with pytest.raises(PackingError, match=r"lacks text; the table has \['i32'\]"):
        pack(layout, pa.table({"i32": [1]}), zero, zero)
    with pytest.raises(PackingError, match="feature i32: cannot pack int64 as Int32"):
        pack(layout, pa.table({"i32": [2**40], "text": ["a"]}), zero, zero)
    with pytest.raises(PackingError, match="feature i32: got a value that is no Int32"):
        from_protos(layout, {"i32": Value(string_val="one")}, datetime(2024, 1, 1, tzinfo=UTC), None)
    with pytest.raises(PackingError, match="feature settings: type Json cannot be packed"):
        Layout.of(view_of({"settings": Json}))
    with pytest.raises(PackingError, match="got feature 'speed', expected one of i32, text"):
        layout.field("speed")


def test_keys_that_are_incomplete_or_of_another_type_are_refused() -> None:
    view = view_of({"f32": Float32}, {"driver_id": ValueType.STRING, "number": ValueType.INT64})
    with pytest.raises(PackingError, match=r"lacks join keys \['number'\]"):
        entity_keys(view, {"driver_id": ["norris"]})
    with pytest.raises(PackingError, match="join key driver_id: empty in row 1"):
        entity_keys(view, pd.DataFrame({"driver_id": ["norris", None], "number": [4, 5]}))
    with pytest.raises(PackingError, match="join key number: got string, expected INT64"):
        entity_keys(view, pa.table({"driver_id": ["norris"], "number": ["four"]}))
    with pytest.raises(PackingError, match="got keys"):
        entity_keys(view, {"driver_id": [None], "number": [4]})


def test_a_view_without_entities_has_one_key() -> None:
    view = FeatureView(name="weather", entities=[], schema=[Field(name="f32", dtype=Float32)], source=VIEW.batch_source)
    expected = serialize_entity_key(
        EntityKey(join_keys=["__dummy_id"], entity_values=[Value(string_val="")]), entity_key_serialization_version=3
    )
    assert entity_keys(view, pa.table({"f32": [1.0, 2.0]})) == [expected, expected]
    assert KeyLayout.of(view).keys({}) == [expected]
