"""Uniting frames loses no row silently: every row is kept or counted, keys are unique, and the last frame wins."""

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ingest.base import IngestReport
from pipelines.ingest.canonical.reading import FILE, ROW
from pipelines.ingest.canonical.sieve import Sieve, is_bad_ref, outside

ROWS = st.lists(st.tuples(st.integers(1, 4), st.one_of(st.none(), st.integers(0, 2))), max_size=8)


def frame(rows: list[tuple[int, int | None]], number: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "season": pd.Series([2030.0] * len(rows), dtype="float64"),
            "key": pd.Series([key for key, _ in rows], dtype="float64"),
            "value": pd.Series([value for _, value in rows], dtype="float64"),
            FILE: f"file_{number}",
            ROW: range(1, len(rows) + 1),
        }
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=3))
def test_union_keeps_the_books_and_lets_the_last_frame_win(contents: list[list[tuple[int, int | None]]]) -> None:
    report = IngestReport("files", is_simulated=False, seasons=[2030])
    sieve = Sieve(report, [2030])
    asked = [sieve.asked("laps", frame(rows, number)) for number, rows in enumerate(contents)]
    united = sieve.union("laps", asked, ["season", "key"], ["season", "key", "value"])

    expected: dict[int, int | None] = {}
    for rows in contents:
        first: dict[int, int | None] = {}
        for key, value in rows:
            first.setdefault(key, value)
        expected |= first
    got = {int(key): None if pd.isna(value) else int(value) for key, value in zip(united["key"], united["value"], strict=True)}
    assert got == expected
    assert len(united) == len(expected)
    account = report.table("laps")
    assert account.rows_read == sum(map(len, contents))
    assert account.unaccounted == len(united)
    assert account.rows_quarantined == sum(len(part) for part in sieve.rejected(2030).values())


def test_ids_that_could_become_paths_are_bad() -> None:
    values = pd.Series(["max_verstappen", "../../etc", "a/b", "A", "", None, "x" * 65, "rb", "ok\n"], dtype=object)
    assert is_bad_ref(values).tolist() == [False, True, True, True, True, True, True, False, True]


def test_outside_ignores_nulls_and_catches_infinity() -> None:
    values = pd.DataFrame({"v": [None, 1.0, 0.5, 2.0, float("inf"), -1.0]})
    assert outside("v", 0, 1)(values).tolist() == [False, False, False, True, True, True]
    assert outside("v", 0, 1, whole=True)(values).tolist() == [False, False, True, True, True, True]
