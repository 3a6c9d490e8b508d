"""What people are shown: every report has a view, and numbers that do not exist are said so."""

import copy
from typing import Any

import pytest

from pipelines import shown
from pipelines.flows import STEPS, StepOutcome

SCORES = {"name": "model", "accuracy": 0.2, "top3": 0.5, "mae": 2.5, "rps": 0.1, "log_loss": None}
GAIN = {"estimate": 0.125, "low": -0.01, "high": 0.3, "confidence": 0.95}
DECISION = {
    "promote": False,
    "relative_gain": 0.125,
    "gain_low": -0.01,
    "gain_high": 0.3,
    "checks": [
        {"name": "finite", "passed": True, "message": "finite: all metrics"},
        {"name": "enough_races", "passed": False, "message": "enough_races: 4 races, limit at least 12"},
    ],
}
EVALUATION = {
    "candidate": SCORES,
    "baseline": {**SCORES, "accuracy": 0.18, "mae": None},
    "twin": SCORES,
    "trivial": {"grid_order": SCORES},
    "controls": {"blank_pictures": SCORES},
    "comparisons": {"candidate_vs_baseline": {"accuracy": GAIN, "mae": None}},
    "n_races": 4,
    "n_rows": 80,
    "test_seasons": [2023, 2024],
    "moment": "fraction:0.5",
}
PROMOTION = {
    "version": "2",
    "baseline_version": "1",
    "champion": None,
    "previous_champion": None,
    "moved": False,
    "already_decided": True,
    "decision": DECISION,
}


def test_every_step_has_a_line_and_a_view() -> None:
    assert set(shown._LINES) == set(STEPS)
    assert set(STEPS) <= set(shown._VIEWS)


def test_an_evaluation_is_a_table_with_gains_and_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    shown.show("evaluate", {**EVALUATION, "decision": DECISION})
    said = capsys.readouterr().out
    assert "4 races, 80 rows, test seasons 2023, 2024, moment fraction:0.5" in said
    assert "control: blank_pictures" in said
    assert "candidate_vs_baseline accuracy: +12.5% (95% interval -1.0% ... +30.0%)" in said
    assert "candidate_vs_baseline mae" not in said
    assert "gate: REFUSE: relative gain in exact accuracy +12.5% (95% interval -1.0% ... +30.0%)" in said
    assert "FAILED  enough_races: 4 races, limit at least 12" in said


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"high": None}, "+12.5% (95% interval -1.0% ... no limit)"),
        ({"low": None, "high": None}, "+12.5% (95% interval no limit ... no limit)"),
        ({"estimate": None, "low": None, "high": None}, "cannot be computed"),
    ],
)
def test_an_interval_without_limit_is_shown_as_such(
    changed: dict[str, None], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With few races the baseline may have no hit in a resampled set, so that a gain has no upper limit."""
    report = copy.deepcopy(EVALUATION)
    report["comparisons"] = {"candidate_vs_baseline": {"accuracy": {**GAIN, **changed}}}
    shown.show("evaluate", report)
    assert f"candidate_vs_baseline accuracy: {expected}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "gate: REFUSE: relative gain in exact accuracy +12.5%"),
        (
            {"promote": True, "gain_high": None},
            "gate: PROMOTE: relative gain in exact accuracy +12.5% (95% interval -1.0% ... no lim",
        ),
        (
            {"checks": [{"name": "gain_bound", "passed": True, "value": 0.0235, "message": "gain_bound: +2.35 %"}]},
            "(95% interval -1.0% ... +30.0%); its one-sided lower bound, which decides, is +2.4%",
        ),
        ({"relative_gain": None, "gain_low": None, "gain_high": None}, "gate: REFUSE: gain cannot be computed"),
    ],
)
def test_a_verdict_is_shown_with_what_can_be_computed(
    changed: dict[str, Any], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown.show("promote", {**PROMOTION, "decision": {**DECISION, **changed}})
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "champion: none; predictions come from the tabular baseline (version 1)"),
        ({"champion": "2", "moved": True}, "champion: version 2, before none"),
        ({"champion": "5"}, "champion: still version 5"),
    ],
)
def test_the_champion_after_a_promotion(changed: dict[str, Any], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown.show("promote", {**PROMOTION, **changed})
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize(("same", "verdicts"), [(True, 1), (False, 2)])
def test_a_replay_shows_both_verdicts_where_they_differ(same: bool, verdicts: int, capsys: pytest.CaptureFixture[str]) -> None:
    shown.show("replay", {"version": "2", "same": same, "stored": DECISION, "replayed": {**DECISION, "promote": True}})
    said = capsys.readouterr().out
    assert said.count("gate: ") == verdicts
    assert ("same verdict" if same else "ANOTHER VERDICT") in said


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"version": "1", "previous": "2"}, "champion: version 1; taken back: version 2"),
        ({"version": None, "previous": "2"}, "champion: none; the tabular baseline answers; taken back: version 2"),
    ],
)
def test_a_rollback_says_who_answers_now(report: dict[str, Any], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown.show("rollback", report)
    assert expected in capsys.readouterr().out


def test_ingest_shows_accounts_reasons_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    account = {"rows_read": 5, "rows_written": 3, "rows_quarantined": 1, "rows_duplicate": 1, "rows_replaced": 0,
               "rows_other_season": 0, "rows_other_session": 0}  # fmt: skip
    report = {
        "source": "files",
        "is_simulated": False,
        "skipped_up_to_date": False,
        "tables": {"laps": account},
        "quarantine_reasons": {"laps": {"lap 0": 1}},
        "corrected": {"entries": 2},
        "notes": ["one race has no laps"],
    }
    shown.show("ingest", report)
    said = capsys.readouterr().out
    assert "lake from files" in said
    assert "quarantined: laps: 1 x lap 0" in said
    assert "note: one race has no laps" in said
    assert "corrected: entries: 2 rows" in said
    shown.show_step(StepOutcome("ingest", 1.25, 100.0, report))
    assert "0 races, 0 entries, 3 laps, 1 rows quarantined" in capsys.readouterr().out


def test_a_run_that_had_nothing_to_ingest_does_not_say_that_there_are_no_races(capsys: pytest.CaptureFixture[str]) -> None:
    report = {"source": "simulator", "is_simulated": True, "skipped_up_to_date": True, "tables": {}, "seasons": [2023, 2024]}
    shown.show_step(StepOutcome("ingest", 0.01, 100.0, report))
    said = capsys.readouterr().out
    assert "seasons 2023-2024 up to date SIMULATED" in said
    assert "0 races" not in said


def test_traces_name_what_has_no_picture(capsys: pytest.CaptureFixture[str]) -> None:
    missing = [f"2024_01/driver_{car}" for car in range(10)]
    report = {"rendered": 3, "up_to_date": 2, "share": 0.5, "missing": missing, "failed": ["2024_01/x"], "skipped": []}
    shown.show("traces", report)
    said = capsys.readouterr().out
    assert "5 pictures (3 drawn now), 50.0% of entrants with laps, 10 without a lap by the moment, 1 failed" in said
    assert "2024_01/driver_7, ..." in said
    assert "failed: 2024_01/x" in said
    assert "skipped" not in said


def test_an_empty_home_has_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    shown.show("status", {
        "home": "home", "simulated": False, "lake": {"races": 0, "entries": 0, "laps": 0, "quarantined": 0},
        "traces": {"count": 0, "missing": 0}, "embeddings": {"count": 0}, "features": {"grid": {"rows": 0}}, "online": {},
        "models": [], "champion": None,
    })  # fmt: skip
    said = capsys.readouterr().out
    assert "lake: 0 races" in said
    assert "champion: none" in said


def test_apply_and_pretrain_say_what_they_made(capsys: pytest.CaptureFixture[str]) -> None:
    shown.show("apply", {"views": ["grid"], "services": ["finish_position_v1"], "deleted": ["FeatureView old"]})
    shown.show("pretrain-encoder", {"new": True, "file": "weights/x"})
    said = capsys.readouterr().out
    assert "1 views, services finish_position_v1, removed FeatureView old" in said
    assert "new: True" in said
