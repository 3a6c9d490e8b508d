"""How answers are compared and findings reported."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from pipelines.conformance import report
from pipelines.conformance.outcome import Outcome, difference, plain

ROWS = [{"row_id": 0, "k": "a"}, {"row_id": 1, "k": "b"}]
RIGHT = [{"v": 1.0}, {"v": None}]


def _judged(*answer: dict[str, object], ordered: bool = False) -> tuple[str, str] | None:
    found = difference(ROWS, list(answer), RIGHT, ordered=ordered, row_ids=True)
    return None if found is None else (found.got, found.expected)


def test_right_answers() -> None:
    assert _judged({"row_id": 1, "v": math.nan}, {"row_id": 0, "v": np.float64(1.0)}) is None
    assert difference([], [], [], ordered=True, row_ids=True) is None


def test_lost_repeated_wrong_and_disordered_rows_are_told_apart() -> None:
    assert _judged({"row_id": 0, "v": 1.0}) == ("1 rows (lost [1], 0 repeated); the values of the others are right", "2 rows")
    assert _judged({"row_id": 0, "v": 2.0}) == ("1 rows (lost [1], 0 repeated); wrong values in rows [0]", "2 rows")
    repeated = _judged({"row_id": 0, "v": 1.0}, {"row_id": 0, "v": 1.0}, {"row_id": 1, "v": None})
    assert repeated == ("3 rows (lost [], 1 repeated); the values of the others are right", "2 rows")
    assert _judged({"row_id": 0, "v": None}, {"row_id": 1, "v": None}) == ("row 0 {'k': 'a'}: {'v': None}", "{'v': 1.0}")
    swapped = ({"row_id": 1, "v": None}, {"row_id": 0, "v": 1.0})
    assert _judged(*swapped, ordered=True) == ("rows in the order [1, 0]", "rows in the order [0, 1]")
    assert _judged({"row_id": 0}, {"row_id": 1}) == ("columns ['row_id']", "columns ['v'] too")


def test_integers_are_compared_with_all_their_digits() -> None:
    found = difference([{"row_id": 0}], [{"row_id": 0, "n": float(2**53)}], [{"n": 2**53 + 1}], ordered=False, row_ids=True)
    assert found is not None


def test_rows_without_an_id_are_a_multiset() -> None:
    asked = [{"k": "a"}, {"k": "a"}]
    right = [{"v": 1.0}, {"v": 1.0}]
    assert difference(asked, [{"k": "a", "v": 1}, {"k": "a", "v": 1.0}], right, ordered=False, row_ids=False) is None
    found = difference(asked, [{"k": "a", "v": 1.0}], right, ordered=False, row_ids=False)
    assert found is not None
    assert found.got.startswith("1 rows")
    stamps = [{"at": pd.Timestamp("2024-01-01T01:00", tz="Europe/Paris")}]
    same = [{"at": pd.Timestamp("2024-01-01"), "v": None}]
    assert difference(stamps, same, [{"v": None}], ordered=False, row_ids=False) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64("nan"), None),
        (pd.NaT, None),
        (pd.NA, None),
        (np.array([0.5, 1.5], dtype="float32"), [0.5, 1.5]),
        ([np.int64(3), None], [3, None]),
        (bytearray(b"\x00"), b"\x00"),
        (np.int64(2**53 + 1), 2**53 + 1),
        (np.bool_(True), True),
    ],
)
def test_plain(value: object, expected: object) -> None:
    assert plain(value) == expected


OUTCOMES = [
    Outcome("mine", "offline", "event_edge", "right", seconds=0.5),
    Outcome("other", "offline", "event_edge", "wrong", "80.0", "81.0"),
    Outcome("other", "offline", "ttl_edge", "not supported", "NotImplementedError"),
    Outcome("other", "offline default", "ttl_edge", "wrong", "80.0", "81.0"),
    Outcome("kv", "online", "missing_key", "error", "boom", "null"),
    Outcome("kv", "online", "expired_value_is_marked", "wrong", "True", "False", advisory=True),
]


def test_what_fails_a_store() -> None:
    failed = [(outcome.store, outcome.case) for outcome in report.failures(OUTCOMES)]
    assert failed == [("other", "event_edge"), ("other", "ttl_edge"), ("kv", "missing_key")]
    assert report.to_json(OUTCOMES)["passed"] is False
    assert report.to_json(OUTCOMES[:1])["passed"] is True


def test_json_holds_every_outcome() -> None:
    found = json.loads(json.dumps(report.to_json(OUTCOMES)))
    assert len(found["outcomes"]) == len(OUTCOMES)
    assert found["stores"]["offline: other"] == {"right": 0, "wrong": 1, "error": 0, "not supported": 1}
    assert found["versions"]["feast"]


def test_markdown_has_a_table_a_suite() -> None:
    text = report.to_markdown(OUTCOMES, {"missing_key": "nobody wrote it"})
    assert "| event_edge | ✓ | ✗ wrong | A row is true from its event time on" in text
    assert "| ttl_edge | – | – not supported |" in text
    assert "| missing_key | ✗ error | nobody wrote it |" in text
    assert "| expired_value_is_marked | ✗ wrong (advisory) |" in text
    assert "| **right** | 1 of 1 | 0 of 2 | |" in text
    assert "| **right** | 0 of 1 | |" in text


def test_the_terminal_names_each_failure(capsys: pytest.CaptureFixture[str]) -> None:
    report.show(OUTCOMES)
    shown = capsys.readouterr().out
    assert "other offline event_edge: wrong" in shown
    assert "expired_value_is_marked: wrong (advisory)" in shown
    assert "mine offline: 1 right" in shown
