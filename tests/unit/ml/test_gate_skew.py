"""The gate and skew: counts decide, a missing report refuses nothing, and older decisions stay what they were."""

import json
from dataclasses import replace

import pytest
from builders import make_gate_inputs
from hypothesis import given
from hypothesis import strategies as st

from ml.evidence import GateInputs, SkewEvidence
from ml.gate import decide, decide_from, replay


def skew(**changes: object) -> SkewEvidence:
    fine = SkewEvidence("finish_position_v1", 100, 6300, 0, 0, 0, 0.001, (), "a" * 64)
    return replace(fine, **changes)  # type: ignore[arg-type]


def promotes(*found: SkewEvidence) -> bool:
    return decide_from(replace(make_gate_inputs(), skew=found)).promote


def test_the_limit_is_included_and_compared_by_counts() -> None:
    assert promotes(skew())
    assert promotes(skew(mismatches=6))
    assert promotes(skew(cells=6000, mismatches=6)), "6 of 6000 is the limit"
    assert not promotes(skew(mismatches=7))


@pytest.mark.parametrize("what", ["wrong_keys", "future_rows"])
def test_one_vector_of_another_car_or_of_the_future_is_too_many(what: str) -> None:
    assert not promotes(skew(limit=1.0, **{what: 1}))


def test_every_service_must_be_within_the_limit() -> None:
    trace = skew(service="speed_trace_v1", mismatches=6300, features=("lap_speeds_kph",))
    found = decide_from(replace(make_gate_inputs(), skew=(skew(), trace)))
    assert [reason.split(":")[0] for reason in found.reasons] == ["skew_of_speed_trace_v1"]
    assert "6300 of 6300 served values differ from history (lap_speeds_kph)" in found.reasons[0]


def test_without_a_report_nothing_is_refused_and_it_is_said() -> None:
    found = decide_from(replace(make_gate_inputs(), skew=(skew(vectors=0, cells=0),)))
    assert found.promote
    assert "no served vector was compared" in found.checks[-1].message


def test_decisions_from_before_skew_was_asked_keep_hash_and_checks() -> None:
    old = make_gate_inputs()
    assert "skew" not in old.to_dict()
    assert GateInputs.from_dict(old.to_dict()) == old
    assert not any(check.name.startswith("skew") for check in decide_from(old).checks)


@given(
    mismatches=st.integers(0, 100), wrong=st.integers(0, 2), future=st.integers(0, 2), vectors=st.sampled_from([0, 100]),
    limit=st.floats(0, 1),
)  # fmt: skip
def test_a_stored_decision_is_derived_again(mismatches: int, wrong: int, future: int, vectors: int, limit: float) -> None:
    found = skew(vectors=vectors, mismatches=mismatches, wrong_keys=wrong, future_rows=future, limit=limit, features=("a", "b"))
    inputs = make_gate_inputs()
    asked = replace(inputs, skew=(found,), limits=replace(inputs.limits, n_resamples=200))
    stored = json.loads(json.dumps(asked.to_dict(), allow_nan=False))
    assert replay(stored) == decide_from(asked)
    refused = [check for check in decide_from(asked).checks if not check.passed and check.name.startswith("skew")]
    assert bool(refused) == (vectors > 0 and not found.within_limit)


def test_decide_takes_skew_as_an_argument() -> None:
    inputs = make_gate_inputs()
    found = decide(
        inputs.candidate,
        inputs.baseline,
        inputs.champion,
        (),
        trivial=inputs.trivial,
        known_answer=inputs.known_answer,
        current_champion=inputs.current_champion,
        skew=[skew(mismatches=6300)],
    )
    assert not found.promote
