"""Assignment gives each driver of a race its own position, and the best such assignment."""

from itertools import permutations

import numpy as np
import pytest
from builders import make_probabilities

from ml.assignment import assign_positions, expected_absolute_error
from ml.errors import ProbabilityError


def test_each_race_gets_a_permutation_of_its_size() -> None:
    rng = np.random.default_rng(1)
    race = np.repeat([0, 1, 2], [20, 19, 3])
    assigned = assign_positions(make_probabilities(rng, 42), race)
    for code, size in ((0, 20), (1, 19), (2, 3)):
        assert sorted(assigned[race == code]) == list(range(1, size + 1))


@pytest.mark.parametrize("weight", [0.0, 0.02, 0.3])
def test_assignment_is_the_best_of_all_permutations(weight: float) -> None:
    rng = np.random.default_rng(2)
    probabilities = make_probabilities(rng, 6)
    gain = probabilities - weight * expected_absolute_error(probabilities)
    best = max(sum(gain[row, column] for row, column in enumerate(order)) for order in permutations(range(6)))
    assigned = assign_positions(probabilities, np.zeros(6, dtype=np.int64), absolute_error_weight=weight)
    assert sum(gain[row, position - 1] for row, position in enumerate(assigned)) == pytest.approx(best)


def test_expected_absolute_error_by_hand() -> None:
    probabilities = np.zeros((1, 20))
    probabilities[0, [0, 9]] = 0.25, 0.75  # 1st or 10th
    error = expected_absolute_error(probabilities)
    assert error[0, 0] == pytest.approx(0.75 * 9)
    assert error[0, 9] == pytest.approx(0.25 * 9)
    assert error[0, 4] == pytest.approx(0.25 * 4 + 0.75 * 5)


def test_error_term_decides_between_equal_hits() -> None:
    """Two cars equally likely at 1 and 2, the second of which may also finish last: that one gets 2."""
    probabilities = np.zeros((20, 20))
    probabilities[2:] = np.eye(20)[2:]
    probabilities[0, [0, 1]] = 0.5
    probabilities[1, [0, 1, 19]] = 0.4, 0.4, 0.2
    assigned = assign_positions(probabilities, np.zeros(20, dtype=np.int64))
    assert assigned[0] == 1
    assert assigned[1] == 2


def test_races_do_not_touch_each_other_and_rows_may_be_mixed() -> None:
    rng = np.random.default_rng(4)
    probabilities, race = make_probabilities(rng, 40), np.repeat([0, 1], 20)
    together = assign_positions(probabilities, race)
    np.testing.assert_array_equal(together[:20], assign_positions(probabilities[:20], race[:20]))
    order = rng.permutation(40)
    np.testing.assert_array_equal(assign_positions(probabilities[order], race[order]), together[order])


def test_more_than_twenty_cars_are_refused() -> None:
    with pytest.raises(ValueError, match="21 rows"):
        assign_positions(np.full((21, 20), 0.05), np.zeros(21, dtype=np.int64))


def test_nan_is_refused() -> None:
    with pytest.raises(ProbabilityError, match="NaN"):
        assign_positions(np.full((2, 20), np.nan), np.zeros(2, dtype=np.int64))
