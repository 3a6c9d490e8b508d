"""How sure a difference between two models is when both were scored on the same races.

Cars of a race share its chaos, so races, not rows, are resampled: a paired bootstrap over races. Percentiles of a bootstrap are
too narrow for few races; they are widened to what a t interval of the same number of races would ask for (the "expanded
percentile" of Hesterberg, What Teachers Should Know About the Bootstrap, 2015, section 5.4).
"""

from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

N_RESAMPLES = 10_000
SEED = 20240526

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Gain:
    """A paired gain of a candidate over a reference.

    Attributes:
        estimate: the gain on all races; a relative gain of 0.05 is 5 % more.
        low: lower end of the two-sided interval.
        high: upper end of the two-sided interval.
        confidence: of the two-sided interval.
        bound: one-sided lower bound at `bound_confidence`.
        bound_confidence: of the one-sided bound.
        n_races: races resampled.
    """

    estimate: float
    low: float
    high: float
    confidence: float
    bound: float
    bound_confidence: float
    n_races: int

    def to_dict(self) -> dict[str, float | int | None]:
        """JSON form; a number that is not finite becomes null."""
        return {name: value if np.isfinite(value) else None for name, value in asdict(self).items()}


@lru_cache(maxsize=8)
def resample_weights(n_races: int, n_resamples: int = N_RESAMPLES, seed: int = SEED) -> FloatArray:
    """(n_resamples, n_races) how often each race is drawn; the same for the same arguments. Read-only."""
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n_races, np.full(n_races, 1.0 / n_races), size=n_resamples).astype(np.float64)
    weights.flags.writeable = False
    return weights


def expanded_level(level: float, n_races: int) -> float:
    """The percentile (0..1) to read off a bootstrap of `n_races` so that it covers as a t interval does.

    0.05 becomes 0.039 for 22 races and 0.048 for 107.
    """
    quantile = stats.t.ppf(level, n_races - 1) * np.sqrt(n_races / (n_races - 1))
    return float(stats.norm.cdf(quantile))


def relative_gain(
    candidate: FloatArray,
    reference: FloatArray,
    *,
    lower_is_better: bool = False,
    confidence: float = 0.95,
    bound_confidence: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = SEED,
) -> Gain:
    """Relative gain `sum(candidate) / sum(reference) - 1` of per-race sums, with a paired bootstrap over races.

    Both arrays hold the same quantity of the same races in the same order (exact hits, absolute errors summed over the cars of
    a race); because the same rows are summed, the ratio of sums is the ratio of means.

    Args:
        candidate: (R,) per-race sums of the candidate, R >= 2.
        reference: (R,) per-race sums of the reference.
        lower_is_better: the sums are losses: the gain is `1 - sum(candidate) / sum(reference)`.
        confidence: of the two-sided interval.
        bound_confidence: of the one-sided lower bound.
        n_resamples: bootstrap draws.
        seed: of the draws; equal input gives equal output.
    Returns:
        The gain; all its numbers are NaN when the reference sums to 0. A draw in which the reference sums to 0 counts as
        no gain (0) if the candidate does too, otherwise as infinite in the candidate's direction.
    Raises:
        ValueError: different lengths, fewer than 2 races, or a sum that is negative or not finite.
    """
    candidate, reference = np.asarray(candidate, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    n_races = len(candidate)
    if candidate.shape != reference.shape or candidate.ndim != 1 or n_races < 2:
        raise ValueError(f"relative_gain: got shapes {candidate.shape} and {reference.shape}, expected equal (R,) with R >= 2")
    both = np.stack([candidate, reference], axis=1)
    if not np.isfinite(both).all() or (both < 0).any():
        raise ValueError("relative_gain: per-race sums must be finite and not negative")
    sign = -1.0 if lower_is_better else 1.0
    if reference.sum() == 0:
        nan = float("nan")
        return Gain(nan, nan, nan, confidence, nan, bound_confidence, n_races)
    estimate = sign * (candidate.sum() / reference.sum() - 1.0)
    drawn = resample_weights(n_races, n_resamples, seed) @ both
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = sign * (drawn[:, 0] / drawn[:, 1] - 1.0)
    draws[np.isnan(draws)] = 0.0
    tail = (1.0 - confidence) / 2.0
    levels = [expanded_level(level, n_races) for level in (tail, 1.0 - tail, 1.0 - bound_confidence)]
    # Order statistics, not interpolation: an infinite draw next to a finite one would interpolate to NaN.
    low, high, bound = np.quantile(draws, levels, method="inverted_cdf")
    return Gain(float(estimate), float(low), float(high), confidence, float(bound), bound_confidence, n_races)


def difference(
    candidate: FloatArray,
    reference: FloatArray,
    n_rows: NDArray[np.int64],
    *,
    confidence: float = 0.95,
    bound_confidence: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = SEED,
) -> Gain:
    """Difference of means per row, `(sum(candidate) - sum(reference)) / sum(n_rows)`, with the same paired bootstrap.

    Args:
        candidate: (R,) per-race sums of the candidate.
        reference: (R,) per-race sums of the reference.
        n_rows: (R,) rows of each race.
        confidence: of the two-sided interval.
        bound_confidence: of the one-sided lower bound.
        n_resamples: bootstrap draws.
        seed: of the draws.
    Raises:
        ValueError: different lengths, fewer than 2 races, a race without rows, or a sum that is not finite.
    """
    gap = np.asarray(candidate, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    rows = np.asarray(n_rows, dtype=np.float64)
    n_races = len(gap)
    if gap.shape != rows.shape or gap.ndim != 1 or n_races < 2 or not np.isfinite(gap).all() or (rows <= 0).any():
        raise ValueError(
            f"difference: got shapes {gap.shape} and {rows.shape}, expected equal (R,) with R >= 2, finite, rows > 0"
        )
    drawn = resample_weights(n_races, n_resamples, seed) @ np.stack([gap, rows], axis=1)
    draws = drawn[:, 0] / drawn[:, 1]
    tail = (1.0 - confidence) / 2.0
    levels = [expanded_level(level, n_races) for level in (tail, 1.0 - tail, 1.0 - bound_confidence)]
    low, high, bound = np.quantile(draws, levels, method="inverted_cdf")
    return Gain(float(gap.sum() / rows.sum()), float(low), float(high), confidence, float(bound), bound_confidence, n_races)
