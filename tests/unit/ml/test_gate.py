"""The gate promotes only what is better beyond doubt, says why it refuses, and decides the same again from what it stored."""

import json
from dataclasses import replace

import numpy as np
import pytest
from builders import make_evidence, make_gate_inputs, with_race

from ml.errors import EvidenceError
from ml.evidence import EarlierTry, FoldEvidence, GateInputs, KnownAnswer, Limits
from ml.gate import Decision, decide, decide_from, level_of_try, replay


def failed(decision: Decision) -> set[str]:
    return {check.name for check in decision.checks if not check.passed}


def test_clearly_better_candidate_is_promoted() -> None:
    decision = decide_from(make_gate_inputs())
    assert decision.promote
    assert decision.reasons == ()
    assert decision.relative_gain == pytest.approx(0.25)


def test_decide_takes_the_same_as_decide_from() -> None:
    inputs = make_gate_inputs()
    decision = decide(
        inputs.candidate,
        inputs.baseline,
        inputs.champion,
        inputs.history,
        trivial=inputs.trivial,
        known_answer=inputs.known_answer,
        current_champion="3",
    )
    assert decision == decide_from(inputs)


def test_first_promotion_needs_no_champion() -> None:
    assert decide_from(replace(make_gate_inputs(), champion=None, current_champion="")).promote


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("metric", ["accuracy", "rps", "log_loss"])
def test_a_number_that_is_not_finite_is_refused(metric: str, value: float) -> None:
    inputs = make_gate_inputs()
    broken = replace(inputs.candidate, metrics={**inputs.candidate.metrics, metric: value})
    decision = decide_from(replace(inputs, candidate=broken))
    assert failed(decision) == {"finite"}
    assert f"candidate.{metric} = {value}" in decision.reasons[0]


def test_a_metric_that_was_not_measured_is_refused() -> None:
    inputs = make_gate_inputs()
    decision = decide_from(replace(inputs, candidate=replace(inputs.candidate, metrics={"accuracy": 0.2})))
    assert "candidate.log_loss = missing" in decision.reasons[0]


def test_exactly_five_percent_is_refused() -> None:
    inputs = make_gate_inputs()
    inputs = replace(
        inputs,
        candidate=make_evidence("candidate", [21] * 100, n_rows=40),
        baseline=make_evidence("baseline", [20] * 100, n_rows=40),
        champion=None,
        current_champion="",
        trivial=(make_evidence("grid_order", [1] * 100, n_rows=40),),
    )
    decision = decide_from(inputs)
    assert 21 / 20 - 1 > 0.05  # what floating point says about exactly 5 %
    assert failed(decision) == {"gain_over_baseline"}
    assert decision.reasons == ("gain_over_baseline: +5 % (2100 exact hits against 2000), limit more than +5 %",)


def test_a_millionth_of_a_percent_more_than_five_passes() -> None:
    inputs = make_gate_inputs()
    baseline, candidate = [1_000_000] * 100, [1_050_000] * 99 + [1_050_001]
    inputs = replace(
        inputs,
        candidate=make_evidence("candidate", candidate, n_rows=2_000_000),
        baseline=make_evidence("baseline", baseline, n_rows=2_000_000),
        champion=None,
        current_champion="",
        trivial=(make_evidence("grid_order", [1] * 100, n_rows=2_000_000),),
    )
    assert sum(candidate) / sum(baseline) - 1 == pytest.approx(0.05000001)
    assert decide_from(inputs).promote


def test_missing_rows_are_refused() -> None:
    inputs = make_gate_inputs()
    short = replace(inputs.candidate, races=inputs.candidate.races[:-1])
    decision = decide_from(replace(inputs, candidate=short))
    assert {"same_rows_as_baseline", "same_rows_as_grid_order"} == failed(decision)
    assert "1 of 107 races" in decision.reasons[0]
    assert "the first is 2024_19" in decision.reasons[0]


@pytest.mark.parametrize("change", [{"rows_sha256": "other rows"}, {"n_rows": 19}])
def test_different_rows_are_refused(change: dict[str, object]) -> None:
    inputs = make_gate_inputs()
    decision = decide_from(replace(inputs, candidate=with_race(inputs.candidate, 5, **change)))
    assert "same_rows_as_baseline" in failed(decision)
    assert "2020_06" in decision.reasons[0]


def test_nothing_scored_is_refused() -> None:
    inputs = make_gate_inputs()
    nothing = replace(inputs.candidate, races=())
    decision = decide_from(replace(inputs, candidate=nothing, baseline=replace(inputs.baseline, races=())))
    assert {"same_rows_as_baseline", "enough_races", "gain_over_baseline", "gain_bound", "test_season_unseen"} <= failed(decision)
    assert decision.relative_gain is None


def test_a_lucky_small_sample_is_refused() -> None:
    """+20 % over one season, from races that go both ways: likely enough by chance."""
    rng = np.random.default_rng(11)
    baseline = rng.binomial(20, 0.18, 22)
    candidate = rng.permutation(baseline)
    candidate[np.argsort(candidate)[: max(1, round(0.2 * baseline.sum()))]] += 1
    inputs = make_gate_inputs(22)
    inputs = replace(
        inputs,
        candidate=make_evidence("candidate", candidate),
        baseline=make_evidence("baseline", baseline),
        champion=None,
        current_champion="",
        trivial=(make_evidence("grid_order", [0] * 22),),
    )
    decision = decide_from(inputs)
    assert decision.relative_gain is not None
    assert decision.relative_gain > 0.15
    assert failed(decision) == {"gain_bound"}


def test_few_races_are_refused_however_clear() -> None:
    decision = decide_from(make_gate_inputs(5, baseline_hits=2, candidate_hits=18))
    assert failed(decision) == {"enough_races"}
    assert "5 races" in decision.reasons[0]


def test_worse_absolute_error_is_refused() -> None:
    inputs = make_gate_inputs()
    decision = decide_from(replace(inputs, candidate=with_race(inputs.candidate, 0, absolute_error=51)))
    assert failed(decision) == {"mae_not_worse_than_baseline", "mae_not_worse_than_champion"}


def test_grid_order_must_be_beaten_not_equalled() -> None:
    inputs = make_gate_inputs()
    decision = decide_from(replace(inputs, trivial=(make_evidence("grid_order", [5] * 107),)))
    assert failed(decision) == {"beats_grid_order"}


def test_grid_order_must_have_been_scored() -> None:
    assert failed(decide_from(replace(make_gate_inputs(), trivial=()))) == {"beats_grid_order"}


def test_running_order_counts_only_for_models_that_may_read_it() -> None:
    inputs = make_gate_inputs()
    trivial = (*inputs.trivial, make_evidence("order_at_moment", [9] * 107))
    assert decide_from(replace(inputs, trivial=trivial)).promote
    reads_order = replace(inputs.candidate, services=("race_state_v1",))
    assert failed(decide_from(replace(inputs, trivial=trivial, candidate=reads_order))) == {"beats_order_at_moment"}
    assert failed(decide_from(replace(inputs, candidate=reads_order))) == {"beats_order_at_moment"}


def test_a_stale_champion_is_refused() -> None:
    """Another promoter moved the alias after the comparison was made."""
    decision = decide_from(replace(make_gate_inputs(), current_champion="4"))
    assert failed(decision) == {"champion_current"}
    assert "version 3" in decision.reasons[0]
    assert "now is 4" in decision.reasons[0]


def test_a_champion_that_was_not_compared_with_is_refused() -> None:
    assert failed(decide_from(replace(make_gate_inputs(), champion=None))) == {"champion_current"}


def test_worse_than_champion_is_refused() -> None:
    inputs = make_gate_inputs()
    better = with_race(make_evidence("champion", [5] * 107, version="3"), 0, hits=6)
    decision = decide_from(replace(inputs, champion=better))
    assert failed(decision) == {"not_worse_than_champion"}
    assert "535 exact hits on 107 common races, limit at least 536" in decision.reasons[0]


def test_champion_is_compared_on_common_races_only() -> None:
    inputs = make_gate_inputs()
    older = make_evidence("champion", [5] * 80, version="3")
    assert decide_from(replace(inputs, champion=older)).promote
    elsewhere = make_evidence("champion", [1] * 20, version="3", first_season=2010)
    assert "not_worse_than_champion" in failed(decide_from(replace(inputs, champion=elsewhere)))


def test_a_candidate_that_saw_the_test_season_is_refused() -> None:
    inputs = make_gate_inputs()
    folds = (*inputs.candidate.folds[:-1], FoldEvidence(2024, "2024_02", 600, 120))
    decision = decide_from(replace(inputs, candidate=replace(inputs.candidate, folds=folds)))
    assert failed(decision) == {"test_season_unseen"}
    assert "season 2024 was scored by a model that had seen race 2024_02" in decision.reasons[0]


def test_a_season_without_a_fold_is_refused() -> None:
    inputs = make_gate_inputs()
    decision = decide_from(replace(inputs, candidate=replace(inputs.candidate, folds=inputs.candidate.folds[1:])))
    assert "season 2020 has 0 folds" in decision.reasons[0]


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (KnownAnswer(False, False, float("nan"), "no such file"), "did not load (no such file)"),
        (KnownAnswer(True, False, float("nan")), "loaded but did not answer"),
        (KnownAnswer(True, True, 0.2), "largest difference 0.2"),
        (KnownAnswer(True, True, float("nan")), "largest difference nan"),
    ],
)
def test_a_model_that_does_not_load_or_answer_is_refused(answer: KnownAnswer, part: str) -> None:
    decision = decide_from(replace(make_gate_inputs(), known_answer=answer))
    assert failed(decision) == {"known_answer"}
    assert part in decision.reasons[0]


def test_every_earlier_try_raises_the_bar() -> None:
    """A gain that a first try may show is not enough for a tenth."""
    rng = np.random.default_rng(5)
    baseline = rng.binomial(20, 0.18, 107)
    candidate = np.clip(baseline + rng.choice([-2, -1, 0, 1, 2, 3], 107), 0, 20)
    inputs = make_gate_inputs()
    inputs = replace(
        inputs,
        candidate=make_evidence("candidate", candidate),
        baseline=make_evidence("baseline", baseline),
        champion=None,
        current_champion="",
        trivial=(make_evidence("grid_order", [0] * 107),),
    )
    bounds = []
    for tries in (0, 1, 9):
        history = tuple(EarlierTry(f"try {index}", (2023, 2024)) for index in range(tries))
        check = next(check for check in decide_from(replace(inputs, history=history)).checks if check.name == "gain_bound")
        assert check.value is not None
        assert f"try {tries + 1} " in check.message
        bounds.append(check.value)
    assert bounds[0] > bounds[1] > bounds[2]


def test_the_same_candidate_again_and_other_seasons_are_not_new_tries() -> None:
    inputs = make_gate_inputs()
    history = (EarlierTry(inputs.candidate.fingerprint, (2024,)), EarlierTry("other", (2012, 2013)))
    check = next(check for check in decide_from(replace(inputs, history=history)).checks if check.name == "gain_bound")
    assert "try 1 " in check.message


def test_levels_of_all_tries_sum_to_alpha() -> None:
    assert level_of_try(1) == pytest.approx(0.04)
    assert sum(level_of_try(n) for n in range(1, 20_000)) == pytest.approx(0.05, abs=1e-5)
    with pytest.raises(ValueError, match="n_try"):
        level_of_try(0)


def test_replay_from_json_gives_the_same_decision() -> None:
    inputs = make_gate_inputs()
    broken = replace(inputs.candidate, metrics={**inputs.candidate.metrics, "mae": float("nan"), "rps": float("inf")})
    history = (EarlierTry("a", (2024,)),)
    for asked in (
        inputs,
        replace(inputs, candidate=broken, history=history),
        replace(inputs, champion=None, current_champion=""),
    ):
        stored = json.loads(json.dumps(asked.to_dict(), allow_nan=False))
        assert replay(stored) == decide_from(asked)
        assert json.loads(json.dumps(replay(stored).to_dict(), allow_nan=False))["promote"] == decide_from(asked).promote


def test_stored_inputs_that_were_edited_are_noticed() -> None:
    decision = decide_from(make_gate_inputs())
    stored = make_gate_inputs().to_dict()
    stored["candidate"]["races"][0]["hits"] = 6
    assert replay(stored).inputs_sha256 != decision.inputs_sha256


def test_damaged_inputs_are_an_error_that_names_the_field() -> None:
    stored = make_gate_inputs().to_dict()
    del stored["candidate"]["races"][3]["hits"]
    with pytest.raises(EvidenceError, match=r"candidate\.races\.3\.hits"):
        replay(stored)
    stored = make_gate_inputs().to_dict()
    stored["surprise"] = 1
    with pytest.raises(EvidenceError, match="surprise"):
        GateInputs.from_dict(stored)


@pytest.mark.parametrize(
    "change", [{"hits": 21}, {"hits": -1}, {"hits": 2.5}, {"n_rows": 0, "hits": 0}, {"absolute_error": float("nan")}]
)
def test_impossible_counts_are_an_error(change: dict[str, object]) -> None:
    with pytest.raises(EvidenceError, match="2020_01"):
        with_race(make_gate_inputs().candidate, 0, **change)


def test_races_twice_or_out_of_order_are_an_error() -> None:
    evidence = make_gate_inputs().candidate
    with pytest.raises(EvidenceError, match="sorted"):
        replace(evidence, races=(evidence.races[1], evidence.races[0]))
    with pytest.raises(EvidenceError, match="once"):
        replace(evidence, races=(evidence.races[0], evidence.races[0]))


def test_limits_are_part_of_what_was_decided_on() -> None:
    strict = replace(make_gate_inputs(), limits=Limits(min_gain=(1, 4)))
    decision = decide_from(strict)
    assert failed(decision) == {"gain_over_baseline"}
    assert decision.inputs_sha256 != decide_from(make_gate_inputs()).inputs_sha256
