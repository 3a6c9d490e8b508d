"""Position probabilities agree with enumeration, with sampling and with softmax for the win."""

from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.errors import ModelContractError
from ml.plackett_luce import position_probabilities, race_probabilities, sample_orders


def enumerate_orders(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The definition: every order with its probability."""
    weights = np.exp(scores)
    result = np.zeros((len(scores), len(scores)))
    for order in permutations(range(len(scores))):
        probability = 1.0
        for place, car in enumerate(order):
            probability *= weights[car] / weights[list(order[place:])].sum()
        for place, car in enumerate(order):
            result[car, place] += probability
    return result


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0, 6.0])
def test_equals_enumeration(spread: float) -> None:
    scores = spread * np.random.default_rng(3).normal(size=6)
    np.testing.assert_allclose(position_probabilities(scores), enumerate_orders(scores), atol=1e-11)


def test_win_is_softmax_and_every_place_is_taken_once() -> None:
    scores = 3 * np.random.default_rng(0).normal(size=20)
    probabilities = position_probabilities(scores)
    np.testing.assert_allclose(probabilities[:, 0], np.exp(scores) / np.exp(scores).sum(), atol=1e-12)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-11)


def test_agrees_with_sampled_orders() -> None:
    scores = np.random.default_rng(1).normal(size=20)
    orders = sample_orders(scores, 40_000, np.random.default_rng(2))
    sampled = np.stack([(orders == place).mean(axis=0) for place in range(1, 21)], axis=1)
    # five standard errors of a share of 0.25 in 40,000 draws
    assert np.abs(sampled - position_probabilities(scores)).max() < 5 * np.sqrt(0.25 * 0.75 / 40_000)


def test_hopeless_gaps_stay_finite() -> None:
    probabilities = position_probabilities(np.array([0.0, -1e6, 1e6, 5.0]))
    assert probabilities[2, 0] == pytest.approx(1)
    assert probabilities[1, 3] == pytest.approx(1)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_equal_cars_are_equal() -> None:
    np.testing.assert_allclose(position_probabilities(np.zeros(19)), np.full((19, 19), 1 / 19), atol=1e-12)


def test_races_are_independent_of_each_other_and_of_row_order() -> None:
    rng = np.random.default_rng(5)
    race, scores = np.repeat([0, 1, 2], [20, 18, 19]), rng.normal(size=57)
    both = race_probabilities(scores, race)
    shuffled = rng.permutation(57)
    np.testing.assert_array_equal(race_probabilities(scores[shuffled], race[shuffled]), both[shuffled])
    np.testing.assert_array_equal(race_probabilities(scores[race == 1], race[race == 1]), both[race == 1])
    assert not both[race == 1, 18:].any()


@pytest.mark.parametrize("scores", [[], [0.0, np.nan], [np.inf], [0.0] * 21, [[0.0]]])
def test_bad_scores_are_refused(scores: list[float]) -> None:
    with pytest.raises(ModelContractError, match="scores"):
        position_probabilities(np.array(scores))
