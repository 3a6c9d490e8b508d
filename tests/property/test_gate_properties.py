"""Whatever the evidence: no promotion when any condition fails, and the same verdict from stored inputs."""

import json
from dataclasses import replace
from fractions import Fraction

from builders import make_evidence, make_gate_inputs
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.evidence import EarlierTry, Evidence, FoldEvidence, GateInputs, KnownAnswer
from ml.gate import decide_from, replay

N_RACES = 24


def now_and_then(draw: st.DrawFn) -> bool:
    """True about one time in twenty, so that several parts of the evidence are rarely broken at once."""
    return draw(st.integers(0, 19)) == 13


@st.composite
def evidences(draw: st.DrawFn, name: str, level: int, *, version: str = "") -> Evidence:
    """`level` hits a race, give or take three; now and then other rows, a metric not finite, or a fold that saw too much."""
    around = st.lists(st.integers(-3, 3), min_size=N_RACES, max_size=N_RACES)
    hits = [max(0, level + change) for change in draw(around)]
    errors = [80 - 5 * level + change for change in draw(around)]
    evidence = make_evidence(name, hits, absolute_error=errors, version=version)
    if now_and_then(draw):
        evidence = replace(evidence, races=evidence.races[draw(st.integers(0, N_RACES)) :])
    if now_and_then(draw):
        metric = draw(st.sampled_from(sorted(evidence.metrics)))
        evidence = replace(evidence, metrics={**evidence.metrics, metric: draw(st.sampled_from([float("nan"), float("inf")]))})
    if now_and_then(draw):
        evidence = replace(evidence, folds=(*evidence.folds[:-1], FoldEvidence(2021, "2021_01", 10, 10)))
    return evidence


@st.composite
def gate_inputs(draw: st.DrawFn) -> GateInputs:
    """Anything the gate could be asked; candidates range from worse than the baseline to far better."""
    champion = draw(st.none() | evidences("champion", draw(st.integers(3, 7)), version="3"))
    current = champion.version if champion else ""
    answers = st.sampled_from([True] * 12 + [False])
    return GateInputs(
        candidate=draw(evidences("candidate", draw(st.integers(3, 10)))),
        baseline=draw(evidences("baseline", draw(st.integers(3, 5)))),
        champion=champion,
        current_champion="4" if now_and_then(draw) else current,
        history=tuple(EarlierTry(f"try {index}", (2020,)) for index in range(draw(st.integers(0, 5)))),
        trivial=() if now_and_then(draw) else (draw(evidences("grid_order", draw(st.integers(1, 6)))),),
        known_answer=KnownAnswer(draw(answers), draw(answers), draw(st.sampled_from([0.0, 1e-6, 0.0, 1e-3, float("nan"), 0.0]))),
    )


@settings(max_examples=150, deadline=None)
@given(gate_inputs())
def test_promotion_implies_every_condition(inputs: GateInputs) -> None:
    decision = decide_from(inputs)
    assert decision.promote == all(check.passed for check in decision.checks)
    assert len(decision.reasons) == sum(not check.passed for check in decision.checks)
    if not decision.promote:
        return
    candidate, baseline = inputs.candidate, inputs.baseline
    everyone = [candidate, baseline, *inputs.trivial, *([inputs.champion] if inputs.champion else [])]
    assert all(abs(value) < float("inf") for model in everyone for value in model.metrics.values())
    assert [(race.race_id, race.rows_sha256) for race in candidate.races] == [
        (race.race_id, race.rows_sha256) for race in baseline.races
    ]
    assert Fraction(candidate.hits, baseline.hits) > Fraction(21, 20)
    assert sum(race.absolute_error for race in candidate.races) <= sum(race.absolute_error for race in baseline.races)
    assert candidate.hits > inputs.trivial[0].hits
    assert all(int(fold.last_race_seen[:4]) < fold.test_season for fold in candidate.folds)
    assert inputs.known_answer.loaded
    assert inputs.known_answer.answered
    assert inputs.known_answer.largest_difference < 1e-3
    assert (inputs.champion.version if inputs.champion else "") == inputs.current_champion


@settings(max_examples=60, deadline=None)
@given(gate_inputs())
def test_stored_inputs_replay_to_the_same_decision(inputs: GateInputs) -> None:
    stored = json.loads(json.dumps(inputs.to_dict(), allow_nan=False))
    assert replay(stored) == decide_from(inputs)


_BREAKS = {
    "finite": lambda x: replace(x, candidate=replace(x.candidate, metrics={**x.candidate.metrics, "mae": float("nan")})),
    "same_rows_as_baseline": lambda x: replace(x, baseline=replace(x.baseline, races=x.baseline.races[1:])),
    "enough_races": lambda _: make_gate_inputs(3),
    "gain_over_baseline": lambda x: replace(x, baseline=replace(x.baseline, races=x.candidate.races)),
    "mae_not_worse_than_baseline": lambda x: replace(
        x, candidate=replace(x.candidate, races=tuple(replace(race, absolute_error=99) for race in x.candidate.races))
    ),
    "beats_grid_order": lambda x: replace(x, trivial=(replace(x.candidate, name="grid_order"),)),
    "champion_current": lambda x: replace(x, current_champion="8"),
    "test_season_unseen": lambda x: replace(x, candidate=replace(x.candidate, folds=())),
    "known_answer": lambda x: replace(x, known_answer=KnownAnswer(False, False, float("nan"))),
}


@settings(max_examples=60, deadline=None)
@given(st.sets(st.sampled_from(sorted(_BREAKS)), min_size=1), st.integers(5, 20))
def test_any_broken_condition_stops_what_would_otherwise_be_promoted(broken: set[str], hits: int) -> None:
    inputs = make_gate_inputs(40, candidate_hits=hits)
    assert decide_from(inputs).promote
    for name in sorted(broken, key=lambda name: name != "enough_races"):  # this one replaces all evidence
        inputs = _BREAKS[name](inputs)
    decision = decide_from(inputs)
    assert not decision.promote
    names = {check.name for check in decision.checks if not check.passed}
    assert broken & names
