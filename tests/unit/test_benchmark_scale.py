"""The script behind docs/scale.md still runs, fits the line it says it fits, and tells when the engines disagree."""

from typing import Any

import pytest
from benchmarks import scale
from strategies import small_lake

from pipelines import schemas


def figure(engine: str, rows: int, seconds: float, answer: str = "same") -> dict[str, Any]:
    return {"part": "join", "engine": engine, "rows": rows, "seconds": seconds, "peak_mib": 400.0, "answer": answer}


@pytest.mark.parametrize(("fixed", "per_row"), [(2.0, 3e-6), (0.0, 1e-3), (5.0, 0.0)])
def test_the_line_is_found_where_there_is_one(fixed: float, per_row: float) -> None:
    rows = [figure("spark", n, fixed + n * per_row) for n in (3_000, 10_000, 100_000, 1_000_000)]
    assert scale.line_of(rows) == pytest.approx((fixed, per_row), rel=1e-6, abs=1e-9)


def test_one_figure_is_all_per_row() -> None:
    assert scale.line_of([figure("spark", 100, 2.0)]) == (0.0, 0.02)


def test_a_size_is_skipped_only_when_two_figures_say_that_it_takes_too_long() -> None:
    slow_start = [figure("spark", 1_000, 9.0)]
    assert scale.expected_s(slow_start, 1_000_000) == 9.0
    assert scale.expected_s([*slow_start, figure("spark", 2_000, 9.5)], 1_000_000) == pytest.approx(508.5)


def test_races_moved_to_another_season_are_fit_for_a_lake() -> None:
    season = small_lake(seasons=(2022,))
    for name, frame in season.items():
        if len(frame):
            moved = scale._moved(frame, -60)
            assert len(schemas.validate(name, moved, 1962)) == len(frame)


def test_the_table_says_which_sizes_are_equal_and_which_were_not_compared() -> None:
    found = {
        "embedded": [figure("embedded", 3_000, 0.1), figure("embedded", 10_000, 0.2), figure("embedded", 100_000, 1.0)],
        "spark": [figure("spark", 3_000, 2.0), figure("spark", 10_000, 2.1, answer="another")],
    }
    table = [line for line in scale.as_markdown("join", found).splitlines() if line.startswith("| ")]
    assert [line.rsplit("|", 2)[1].strip() for line in table] == ["equal", "yes", "NO", "–"]


@pytest.mark.parametrize(("part", "n_rows"), [("join", 200), ("materialize", 200), ("pictures", 20)])
def test_a_step_is_measured(part: str, n_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "WARM_UP", dict.fromkeys(scale.PARTS, 20))
    found = scale.one(part, "embedded", n_rows)
    assert (found["part"], found["engine"]) == (part, "embedded")
    assert found["rows"] == n_rows
    assert found["seconds"] > 0
    assert len(found["answer"]) == 64
