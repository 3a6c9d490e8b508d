"""One finishing position per driver: the assignment of a race's positions that its probabilities like best.

Taking each row's most probable position gives several winners. Within a race the n drivers get the positions 1..n, each once, so
that `sum(p(assigned)) - weight * sum(E|finish - assigned|)` is greatest. The first term is the expected number of exact hits;
the second, the expected absolute error in places, decides between assignments that hit about equally often. Exact optimum by
`scipy.optimize.linear_sum_assignment`.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from ml.metrics import check_probabilities
from ml.rows import N_POSITIONS

ABSOLUTE_ERROR_WEIGHT = 0.01
"""Exact hits given up for one place less of expected absolute error. Chosen on folds inside 2018-2020 (docs/gate.md)."""

_POSITIONS = np.arange(1, N_POSITIONS + 1)
_DISTANCE = np.abs(_POSITIONS[:, None] - _POSITIONS[None, :]).astype(np.float64)  # (finish, assigned) places


def expected_absolute_error(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 20) expected |finish - k| in places if position k were assigned, from (N, 20) probabilities."""
    return probabilities @ _DISTANCE


def assign_positions(
    probabilities: NDArray[np.float64],
    race_code: NDArray[np.int64],
    *,
    absolute_error_weight: float = ABSOLUTE_ERROR_WEIGHT,
) -> NDArray[np.int64]:
    """(N,) positions, a permutation of 1..n within each race of n rows.

    A race's answer depends on nothing but that race's rows. Exactly equal alternatives are resolved by row order.

    Args:
        probabilities: (N, 20), finite, rows sum to 1.
        race_code: (N,) equal for the rows of a race; the rows need not be adjacent.
        absolute_error_weight: exact hits one place of expected absolute error is worth, >= 0.
    Raises:
        ProbabilityError: wrong shape or content.
        ValueError: a race has more than 20 rows.
    """
    check_probabilities(probabilities, n_rows=len(race_code), where="assign_positions")
    gain = probabilities - absolute_error_weight * expected_absolute_error(probabilities)
    assigned = np.zeros(len(race_code), dtype=np.int64)
    for code in np.unique(race_code):
        rows = np.flatnonzero(race_code == code)
        if len(rows) > N_POSITIONS:
            raise ValueError(f"assign_positions: race {code} has {len(rows)} rows, expected at most {N_POSITIONS}")
        _, column = linear_sum_assignment(gain[rows, : len(rows)], maximize=True)
        assigned[rows] = column + 1
    return assigned
