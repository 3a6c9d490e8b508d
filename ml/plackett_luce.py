"""Position probabilities of a race whose finishing order follows Plackett-Luce scores, computed exactly.

Plackett-Luce draws the winner with probability softmax(score), then the second among the rest, and so on. The same order comes
from independent times T_i ~ Exponential(rate exp(score_i)), first come first placed. Given car i's time t, its place is one plus
the number of others that were faster, a sum of independent coins with probabilities 1 - exp(-exp(score_j) t) (a Poisson
binomial). So

    P(car i is placed k) = integral over t of f_i(t) * P(k - 1 of the others before t) dt.

With x = log t the integrand is analytic in the strip |Im x| < pi/2 and dies off on both sides, where the trapezoidal rule
converges like exp(-pi^2 / step): at step 0.25 the error is below 1e-12. There is no sampling noise, and nothing depends on row
order or on other races.
"""

import numpy as np
from numpy.typing import NDArray

from ml.errors import ModelContractError
from ml.rows import N_POSITIONS

_STEP = 0.25  # in log time; exp(-pi^2/0.25) = 7e-18
_LEFT = 32.0  # how far below the fastest car's typical log time: exp(-32) = 1e-14 of its mass is before
_WIDEST_GAP = 40.0  # exp(-40) is below double precision: a wider gap decides nothing more, but would need a longer grid
_RIGHT = 4.0  # above the slowest car's: exp(-exp(4)) = 2e-24 of its mass is after


def position_probabilities(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability of every place for every car of one race.

    Args:
        scores: (n,) log strengths, n <= 20, higher is better; only differences matter.
    Returns:
        (n, n) doubly stochastic matrix: rows are cars in the order given, column k - 1 is place k.
    Raises:
        ModelContractError: no car, more than 20, or a score that is not finite.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or not 1 <= len(scores) <= N_POSITIONS or not np.isfinite(scores).all():
        raise ModelContractError(f"scores: got shape {scores.shape}, expected 1 to {N_POSITIONS} finite scores, one a car")
    order = np.argsort(-scores, kind="stable")  # a fixed order of summation: the result does not depend on the order of rows
    gaps = np.minimum(-np.diff(scores[order]), _WIDEST_GAP)
    s = -np.concatenate(([0.0], np.cumsum(gaps)))
    n = len(s)
    x = np.arange(-_LEFT, _RIGHT - s[-1] + _STEP, _STEP)
    hazard = np.exp(s[:, None] + x)  # (n, T): exp(score_i) * t
    after = np.exp(-hazard)  # (n, T): P(T_j > t)
    density = hazard * after  # of log T_i
    before = -np.expm1(-hazard)
    # The number of others before t has the generating function prod over j != i of (after_j + before_j z). It is evaluated at
    # the n-th roots of unity (half of them: it is real), as what comes before i times what comes after; the inverse Fourier
    # transform of its integral over t gives the coefficients, which are the places. Times lie next to each other in memory:
    # that makes it three times as fast.
    roots = np.exp(-2j * np.pi * np.arange(n // 2 + 1) / n)
    factors = np.empty((n, len(roots), len(x)), dtype=np.complex128)
    factors.real = after[:, None, :] + before[:, None, :] * roots.real[:, None]
    factors.imag = before[:, None, :] * roots.imag[:, None]
    others = np.ones_like(factors)
    for i in range(1, n):
        np.multiply(others[i - 1], factors[i - 1], out=others[i])
    behind = factors[-1].copy()
    for i in range(n - 2, -1, -1):
        others[i] *= behind
        behind *= factors[i]
    placed = np.fft.irfft(np.einsum("it,ikt->ik", density, others), n, axis=1)
    placed = np.maximum(placed, 0.0)  # rounding leaves -1e-17 where there is nothing
    placed /= placed.sum(axis=1, keepdims=True)
    result = np.empty_like(placed)
    result[order] = placed
    return result


def race_probabilities(scores: NDArray[np.float64], race: NDArray[np.int64]) -> NDArray[np.float64]:
    """`position_probabilities` for many races at once, padded to 20 columns.

    Args:
        scores: (N,) log strengths.
        race: (N,) which race a row belongs to; all rows of a race must be given.
    Returns:
        (N, 20) float64; rows sum to 1; a race of n cars has no mass beyond place n.
    """
    probabilities = np.zeros((len(scores), N_POSITIONS))
    for code in np.unique(race):
        rows = np.flatnonzero(race == code)
        probabilities[rows, : len(rows)] = position_probabilities(scores[rows])
    return probabilities


def sample_orders(scores: NDArray[np.float64], n_samples: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw whole finishing orders of one race (for what marginals cannot tell, such as who beats whom).

    Args:
        scores: (n,) log strengths.
        n_samples: how many orders.
        rng: source of randomness.
    Returns:
        (n_samples, n) positions 1..n of every car.
    """
    noisy = np.asarray(scores, dtype=np.float64) + rng.gumbel(size=(n_samples, len(scores)))
    positions = np.empty(noisy.shape, dtype=np.int64)
    np.put_along_axis(positions, np.argsort(-noisy, axis=1), np.arange(1, noisy.shape[1] + 1), axis=1)
    return positions
