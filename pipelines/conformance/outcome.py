"""What a store made of a case: right, wrong, an error, or not supported; and how answers are compared."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

Verdict = Literal["right", "wrong", "error", "not supported"]
SHOWN_CHARACTERS = 400


@dataclass(frozen=True)
class Outcome:
    """One store, one case.

    Attributes:
        store: as it was asked for.
        suite: `offline` (created cutoff on), `offline default` (Feast's default, without it) or `online`.
        case: its name.
        verdict: what came of it.
        got: what the store answered, or its error.
        expected: the right answer; empty where the verdict is right.
        seconds: wall clock.
        advisory: shown, but not needed to pass.
    """

    store: str
    suite: str
    case: str
    verdict: Verdict
    got: str = ""
    expected: str = ""
    seconds: float = 0.0
    advisory: bool = False

    @property
    def failed(self) -> bool:
        """The store does not pass because of this case."""
        return self.verdict != "right" and not self.advisory


@dataclass(frozen=True)
class Difference:
    """How an answer differs from the right one, as text."""

    got: str
    expected: str


def plain(value: Any) -> Any:
    """A cell as a plain Python value: nulls of all kinds as None, arrays as lists, numpy scalars as numbers."""
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return None
    return value


def difference(
    rows: Sequence[Mapping[str, Any]],
    answer: Sequence[Mapping[str, Any]],
    expected: Sequence[Mapping[str, Any]],
    *,
    ordered: bool,
    row_ids: bool,
) -> Difference | None:
    """How a store's answer differs from the right one; None: it does not.

    Args:
        rows: what was asked for, one mapping an entity row: its columns, `row_id` included where there is one.
        answer: what came back: those columns and the features.
        expected: the right features, row by row of `rows`.
        ordered: the answer must keep the order of the rows.
        row_ids: rows are matched by `row_id`; otherwise both sides are compared as multisets.
    """
    features = list(expected[0]) if expected else []
    lacking = [name for name in features if answer and name not in answer[0]]
    if lacking:
        return Difference(f"columns {sorted(answer[0])}", f"columns {lacking} too")
    if not row_ids:
        return _multisets(rows, answer, expected, features)
    ids = [plain(found["row_id"]) for found in answer]
    repeated = len(ids) - len(set(ids))
    by_id = {plain(found["row_id"]): found for found in answer}
    lost = [number for number in range(len(rows)) if number not in by_id]
    wrong = [
        (number, got)
        for number, right in enumerate(expected)
        if number in by_id and (got := {name: plain(by_id[number][name]) for name in features}) != dict(right)
    ]
    if lost or repeated or len(by_id) + len(lost) != len(rows):
        rest = f"wrong values in rows {[number for number, _ in wrong]}" if wrong else "the values of the others are right"
        return Difference(f"{len(ids)} rows (lost {lost}, {repeated} repeated); {rest}", f"{len(rows)} rows")
    if wrong:
        number, got = wrong[0]
        asked = {name: str(value) for name, value in rows[number].items() if name != "row_id"}
        return Difference(f"row {number} {asked}: {got}"[:SHOWN_CHARACTERS], f"{dict(expected[number])}"[:SHOWN_CHARACTERS])
    if ordered and ids != sorted(ids):
        return Difference(f"rows in the order {ids}", f"rows in the order {sorted(ids)}")
    return None


def _multisets(
    rows: Sequence[Mapping[str, Any]],
    answer: Sequence[Mapping[str, Any]],
    expected: Sequence[Mapping[str, Any]],
    features: Sequence[str],
) -> Difference | None:
    columns = list(rows[0]) if rows else []

    def counted(cells: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Counter[str]:
        return Counter(repr([_comparable(row[name]) for name in names]) for row in cells)

    got = counted(answer, [*columns, *features])
    right = counted([{**row, **found} for row, found in zip(rows, expected, strict=True)], [*columns, *features])
    if got == right:
        return None
    return Difference(
        f"{len(answer)} rows, not among the right ones {list((got - right).elements())}"[:SHOWN_CHARACTERS],
        f"{len(rows)} rows, missing {list((right - got).elements())}"[:SHOWN_CHARACTERS],
    )


def _comparable(value: Any) -> Any:
    found = plain(value)
    if isinstance(found, pd.Timestamp):
        return found.tz_localize("UTC").isoformat() if found.tzinfo is None else found.tz_convert("UTC").isoformat()
    return float(found) if isinstance(found, int) and not isinstance(found, bool) else found
