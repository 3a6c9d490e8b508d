"""Metrics and assignment obey the laws that any input must obey."""

from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as reference

from ml import metrics
from ml.assignment import assign_positions, expected_absolute_error


@st.composite
def races(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """One race: (n, 20) probabilities and the finishing order."""
    n = draw(st.integers(2, 20))
    raw = draw(hnp.arrays(np.float64, (n, 20), elements=st.floats(0, 1, width=32)))
    probabilities = (raw + 1e-6) / (raw + 1e-6).sum(axis=1, keepdims=True)
    position = np.array(draw(st.permutations(range(1, n + 1))), dtype=np.int64)
    return probabilities, position


@settings(max_examples=100, deadline=None)
@given(races())
def test_ranges_and_scikit_learn(race: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, position = race
    assigned = assign_positions(probabilities, np.zeros(len(position), dtype=np.int64))
    scores = metrics.score(probabilities, assigned, position)
    assert 0 <= scores.accuracy <= 1
    assert 0 <= scores.rps <= 1
    assert scores.mae <= 19
    assert scores.accuracy == reference.accuracy_score(position, assigned)
    labels = np.arange(1, 21)
    assert abs(scores.top3 - reference.top_k_accuracy_score(position, probabilities, k=3, labels=labels)) < 1e-12
    assert abs(scores.log_loss - reference.log_loss(position, probabilities, labels=labels)) < 1e-9


@settings(max_examples=60, deadline=None)
@given(races(), st.randoms(use_true_random=False))
def test_row_order_changes_nothing(race: tuple[np.ndarray, np.ndarray], random: Random) -> None:
    probabilities, position = race
    order = np.array(random.sample(range(len(position)), len(position)))
    assert np.isclose(
        metrics.ranked_probability_score(probabilities, position),
        metrics.ranked_probability_score(probabilities[order], position[order]),
    )
    code = np.zeros(len(position), dtype=np.int64)
    gain = probabilities - 0.02 * expected_absolute_error(probabilities)
    total = gain[np.arange(len(code)), assign_positions(probabilities, code) - 1].sum()
    shuffled = gain[order][np.arange(len(code)), assign_positions(probabilities[order], code) - 1].sum()
    assert np.isclose(total, shuffled)


@settings(max_examples=60, deadline=None)
@given(races())
def test_a_certain_and_right_forecast_is_perfect(race: tuple[np.ndarray, np.ndarray]) -> None:
    _, position = race
    certain = np.eye(20)[position - 1]
    assigned = assign_positions(certain, np.zeros(len(position), dtype=np.int64))
    scores = metrics.score(certain, assigned, position)
    assert (scores.accuracy, scores.mae, scores.rps, scores.top3) == (1.0, 0.0, 0.0, 1.0)


@settings(max_examples=40, deadline=None)
@given(races())
def test_a_better_distribution_never_scores_worse(race: tuple[np.ndarray, np.ndarray]) -> None:
    """Mixing the truth into any forecast lowers rps and log loss: the scores are proper."""
    probabilities, position = race
    mixed = 0.5 * probabilities + 0.5 * np.eye(20)[position - 1]
    assert metrics.ranked_probability_score(mixed, position) <= metrics.ranked_probability_score(probabilities, position) + 1e-12
    assert metrics.log_loss(mixed, position) <= metrics.log_loss(probabilities, position) + 1e-12
