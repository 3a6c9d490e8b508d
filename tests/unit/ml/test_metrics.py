"""Metrics agree with scikit-learn and with values computed by hand."""

import numpy as np
import pytest
from builders import make_probabilities
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from ml import metrics
from ml.errors import ProbabilityError

LABELS = np.arange(1, 21)


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return make_probabilities(rng, 400), rng.integers(1, 21, size=400)


def test_exact_accuracy_is_sklearns(scored: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, position = scored
    assigned = probabilities.argmax(axis=1) + 1
    assert metrics.exact_accuracy(assigned, position) == pytest.approx(reference.accuracy_score(position, assigned), abs=1e-15)


def test_mean_absolute_error_is_sklearns(scored: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, position = scored
    assigned = probabilities.argmax(axis=1) + 1
    assert metrics.mean_absolute_error(assigned, position) == pytest.approx(reference.mean_absolute_error(position, assigned))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_is_sklearns(scored: tuple[np.ndarray, np.ndarray], k: int) -> None:
    probabilities, position = scored
    expected = reference.top_k_accuracy_score(position, probabilities, k=k, labels=LABELS)
    assert metrics.top_k_accuracy(probabilities, position, k) == pytest.approx(expected)


def test_top_k_with_ties_is_sklearns() -> None:
    uniform, position = np.full((20, 20), 0.05), LABELS.copy()
    expected = reference.top_k_accuracy_score(position, uniform, k=3, labels=LABELS)
    assert metrics.top_k_accuracy(uniform, position, 3) == pytest.approx(expected)


def test_log_loss_is_sklearns_also_where_the_probability_is_zero(scored: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, position = scored
    probabilities = probabilities.copy()
    probabilities[0] = np.eye(20)[(position[0]) % 20]  # certain, and wrong
    assert metrics.log_loss(probabilities, position) == pytest.approx(
        reference.log_loss(position, probabilities, labels=LABELS), rel=1e-9
    )


def test_calibration_is_sklearns(scored: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, position = scored
    curve = metrics.calibration(probabilities, position, n_bins=10)
    outcome = (LABELS[None, :] == position[:, None]).ravel()
    observed, predicted = calibration_curve(outcome, probabilities.ravel(), n_bins=10)
    filled = curve.count > 0
    np.testing.assert_allclose(curve.observed[filled], observed)
    np.testing.assert_allclose(curve.predicted[filled], predicted)
    assert curve.count.sum() == probabilities.size


def test_calibration_error_is_zero_for_frequencies_that_come_true() -> None:
    probabilities = np.tile(np.concatenate([[0.5, 0.5], np.zeros(18)]), (2, 1))
    curve = metrics.calibration(probabilities, np.array([1, 2]))
    assert curve.error == pytest.approx(0.0)
    assert curve.to_dict()["observed"][1] is None  # nothing was predicted with 10-20 %


def test_ranked_probability_score_by_hand() -> None:
    certain = np.eye(20)[[0]]
    assert metrics.ranked_probability_score(certain, np.array([1])) == 0.0
    assert metrics.ranked_probability_score(certain, np.array([20])) == pytest.approx(1.0)
    assert metrics.ranked_probability_score(certain, np.array([2])) == pytest.approx(1 / 19)
    uniform = np.full((1, 20), 0.05)
    by_hand = sum((k / 20 - (k >= 7)) ** 2 for k in range(1, 20)) / 19
    assert metrics.ranked_probability_score(uniform, np.array([7])) == pytest.approx(by_hand)


def test_podium_rate_by_hand() -> None:
    assert metrics.podium_rate(np.array([1, 4, 3, 2]), np.array([1, 2, 3, 4])) == pytest.approx(2 / 3)
    assert np.isnan(metrics.podium_rate(np.array([9]), np.array([9])))


def test_score_holds_every_number(scored: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, position = scored
    assigned = probabilities.argmax(axis=1) + 1
    scores = metrics.score(probabilities, assigned, position)
    assert scores.n_rows == 400
    assert scores.rps == metrics.ranked_probability_score(probabilities, position)
    assert all(np.isfinite(value) for value in scores.to_dict().values())


def test_one_nan_makes_every_metric_nan_and_null_in_json(scored: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, position = scored
    probabilities = probabilities.copy()
    probabilities[17, 4] = np.nan
    scores = metrics.score(probabilities, np.ones(400, dtype=np.int64), position)
    assert np.isnan([scores.accuracy, scores.top3, scores.mae, scores.rps, scores.log_loss]).all()
    assert scores.to_dict()["accuracy"] is None


@pytest.mark.parametrize(
    ("probabilities", "part"),
    [
        (np.full((2, 19), 1 / 19), r"shape \(2, 19\)"),
        (np.full((2, 20), np.nan), "NaN"),
        (np.full((2, 20), 0.06), "sum"),
        (np.concatenate([np.full((1, 20), 0.05), np.eye(20)[[0]] * 2 - np.eye(20)[[1]]]), "first is row 1"),
    ],
)
def test_bad_probabilities_are_named(probabilities: np.ndarray, part: str) -> None:
    with pytest.raises(ProbabilityError, match=part):
        metrics.check_probabilities(probabilities)


def test_score_refuses_nothing() -> None:
    with pytest.raises(ProbabilityError, match="N >= 1"):
        metrics.score(np.zeros((0, 20)), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
