"""The as-of kernel against ten lines that read the rule aloud, and its arrays against the edges of int64."""

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.stores import asof
from feature_repo.stores.asof import NULL_US, KeyIndex, SortedRows, factorize, to_us
from feature_repo.stores.errors import KeyTypeError

MIDNIGHT = datetime(2024, 5, 26, tzinfo=UTC)
_KEYS = st.sampled_from(["a", "b", "c", None])
_TIMES = st.one_of(st.integers(0, 6), st.sampled_from([10, 11, 1_000_000, 1_000_001]))
_LATE = st.one_of(st.just(0), st.integers(-3, 12), st.none())
_ROWS = st.lists(st.tuples(_KEYS, st.integers(0, 2), st.one_of(_TIMES, st.none()), _LATE), max_size=40)
_ASKED = st.lists(st.tuples(st.sampled_from(["a", "b", "c", "d", None]), st.integers(0, 3), _TIMES), max_size=40)
_TTL = st.sampled_from([None, 0, 1, 3, 999_999, 1_000_000, 1 << 62])


def oracle(rows: list[tuple[Any, Any, int, int]], key: Any, moment: int, ttl: int | None) -> int:
    """The rule, one row at a time."""
    best, found = None, -1
    for position, (*parts, event, created) in enumerate(rows):
        if parts != list(key) or None in parts or event is None or created is None:
            continue
        if event > moment or created > moment or (ttl and event < moment - ttl):
            continue
        if best is None or (event, created) >= best:
            best, found = (event, created), position
    return found


def rows_of(drawn: list[Any]) -> list[Any]:
    return [(a, b, event, None if event is None or late is None else event + late) for a, b, event, late in drawn]


def us(values: list[int | None]) -> asof.Ints:
    return np.array([NULL_US if value is None else value for value in values], dtype=np.int64)


def index(rows: list[Any]) -> tuple[KeyIndex, SortedRows]:
    columns = [
        factorize(pa.array([row[0] for row in rows], pa.string())),
        factorize(pa.array([row[1] for row in rows], pa.int32())),
    ]
    keys, codes = KeyIndex.build(columns, len(rows))
    return keys, SortedRows(codes, keys.n_codes, us([row[2] for row in rows]), us([row[3] for row in rows]))


def ask(keys: KeyIndex, asked: list[Any]) -> asof.Ints:
    columns = [
        factorize(pa.array([row[0] for row in asked], pa.string())),
        factorize(pa.array([row[1] for row in asked], pa.int64())),
    ]
    return keys.encode(columns, len(asked))


@settings(max_examples=400, deadline=None)
@given(drawn=_ROWS, asked=_ASKED, ttl=_TTL, ranks=st.booleans(), few_codes=st.booleans(), chunk=st.sampled_from([1, 3, 1000]))
def test_the_kernel_is_the_rule(
    drawn: list[Any], asked: list[Any], ttl: int | None, ranks: bool, few_codes: bool, chunk: int
) -> None:
    """However keys and times are packed and however many questions are asked at once."""
    rows = rows_of(drawn)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asof, "CHUNK_ROWS", chunk)
        patch.setattr(asof, "_MOST_CODES", 2 if few_codes else asof._MOST_CODES)
        patch.setattr(asof, "_MOST_PACKED", 0 if ranks else asof._MOST_PACKED)
        keys, table = index(rows)
        found = table.find(ask(keys, asked), us([moment for *_, moment in asked]), ttl)
    assert list(found) == [oracle(rows, key, moment, ttl) for *key, moment in asked]


@settings(max_examples=150, deadline=None)
@given(drawn=_ROWS, asked=_ASKED)
def test_the_order_of_rows_changes_nothing_but_exact_ties(drawn: list[Any], asked: list[Any]) -> None:
    rows = rows_of(drawn)
    ordered = sorted(
        rows,
        key=lambda row: tuple((value is None, value or 0) if not isinstance(value, str) else (False, value) for value in row[2:]),
    )
    answers = []
    for some in (rows, ordered, ordered[::-1]):
        keys, table = index(some)
        found = table.find(ask(keys, asked), us([moment for *_, moment in asked]))
        answers.append([None if place < 0 else some[place] for place in found])
    assert answers[0] == answers[1] == answers[2]


@settings(max_examples=100, deadline=None)
@given(
    late=st.lists(st.integers(0, 300), min_size=1, max_size=200),
    moments=st.lists(st.integers(-5, 600), min_size=1, max_size=60),
)
def test_any_number_of_late_rows_in_a_row(late: list[int], moments: list[int]) -> None:
    """Nearly every newest event was not known yet."""
    rows = [("a", 0, position, position + delay) for position, delay in enumerate(late)]
    keys, table = index(rows)
    asked = [("a", 0, moment) for moment in moments]
    found = table.find(ask(keys, asked), us(moments))
    assert list(found) == [oracle(rows, ("a", 0), moment, None) for moment in moments]


@settings(max_examples=100, deadline=None)
@given(drawn=_ROWS)
def test_the_newest_row_of_each_key_is_what_is_known_in_the_end(drawn: list[Any]) -> None:
    rows = rows_of(drawn)
    keys = sorted({(a, b) for a, b, *_ in rows if a is not None})
    expected = {oracle(rows, key, 1 << 60, None) for key in keys} - {-1}
    assert list(index(rows)[1].newest()) == sorted(expected)


def test_times_at_the_ends_of_int64() -> None:
    end = np.iinfo(np.int64).max
    events = np.array([NULL_US + 1, 0, end - 1], dtype=np.int64)
    table = SortedRows(np.zeros(3, dtype=np.int64), 1, events)
    moments = np.array([NULL_US, NULL_US + 1, -1, 0, end - 2, end - 1, end], dtype=np.int64)
    assert list(table.find(np.zeros(7, dtype=np.int64), moments)) == [-1, 0, 0, 1, 1, 2, 2]


def test_without_created_times_rows_are_known_at_their_event() -> None:
    table = SortedRows(np.array([0, 0, 1]), 2, np.array([5, 3, 4]))
    assert list(table.find(np.array([0, 0, 1, 1]), np.array([4, 5, 3, 9]))) == [1, 0, -1, 2]


def test_a_view_without_keys_has_one_key() -> None:
    keys, codes = KeyIndex.build([], 2)
    table = SortedRows(codes, keys.n_codes, np.array([1, 2]))
    assert list(table.find(keys.encode([], 3), np.array([0, 1, 5]))) == [-1, 0, 1]


@pytest.mark.parametrize(
    ("held", "asked", "expected"),
    [
        (pa.array(["x", "y", None]), pa.array(["y", "z", None, "x"]), [1, -1, -1, 0]),
        (pa.array(["x", "y", "x"]).dictionary_encode(), pa.array(["y", "x"], pa.large_string()), [1, 0]),
        (pa.chunked_array([["x"], ["y", "x"]]).dictionary_encode(), pa.array(["y", "x"]).dictionary_encode(), [1, 0]),
        (pa.array([7, 300, None], pa.int16()), pa.array([300, 7, 1 << 40], pa.int64()), [1, 0, -1]),
        (pa.array([7, 300], pa.int64()), pa.array([300.0, 7.5, None, float("nan"), 1e300]), [1, -1, -1, -1, -1]),
        (pa.array([7.0, None, 8.5]), pa.array([8, 7]), [-1, 0]),
        (pa.array([-0.0, 1.5]), pa.array([0.0, 1.5]), [0, 1]),
        (pa.array([b"\x00", b"\xff"]), pa.array([b"\xff", b""]), [1, -1]),
        (pa.array([True, False]), pa.array([False, None, True]), [1, -1, 0]),
        (
            pa.array([MIDNIGHT], pa.timestamp("ns")),
            pa.array([MIDNIGHT, None], pa.timestamp("us", "Europe/Monaco")),
            [0, -1],
        ),
        (pa.array([date(2024, 5, 26)]), pa.array([MIDNIGHT], pa.timestamp("s")), [0]),
        (pa.array(["x"]), pa.array([None], pa.null()), [-1]),
    ],
)
def test_keys_of_every_type(held: Any, asked: Any, expected: list[int]) -> None:
    keys, codes = KeyIndex.build([factorize(held)], len(held))
    found = keys.encode([factorize(asked)], len(asked))
    rows = [-1 if code < 0 else int(np.flatnonzero(codes == code)[0]) for code in found]
    assert rows == expected


def test_keys_that_cannot_be_compared_are_refused() -> None:
    keys, _ = KeyIndex.build([factorize(pa.array([1, 2]))], 2)
    with pytest.raises(KeyTypeError, match="join key driver_id: got string, expected what the feature rows hold, int64"):
        keys.encode([factorize(pa.array(["1"]), "driver_id")], 1)
    with pytest.raises(KeyTypeError, match="join key lap: got a column of type list"):
        factorize(pa.array([[1]]), "lap")


def test_times_of_every_type() -> None:
    moment = datetime(2024, 5, 26, 13, 0, 0, 1, tzinfo=UTC)
    expected = int(moment.timestamp()) * 1_000_000 + 1
    assert list(to_us(pa.array([moment, None], pa.timestamp("us", "Asia/Tokyo")))) == [expected, NULL_US]
    assert list(to_us(pa.array([expected * 1000 + 999, -1], pa.timestamp("ns")))) == [expected, -1]
    assert list(to_us(pa.array([1, None], pa.timestamp("ms", "UTC")).slice(1))) == [NULL_US]
    assert list(to_us(pa.array([date(1970, 1, 2)]))) == [86_400_000_000]
    assert list(to_us(pa.chunked_array([[1], [2]], pa.timestamp("s")))) == [1_000_000, 2_000_000]
    assert list(to_us(pa.array([None]))) == [NULL_US]
    with pytest.raises(KeyTypeError, match="got a column of type double"):
        to_us(pa.array([1.0]))
