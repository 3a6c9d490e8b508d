"""How good (N, 20) finishing-position probabilities and the positions assigned from them are.

Two kinds of numbers. *Assigned* metrics (`exact_accuracy`, `mean_absolute_error`, `podium_rate`) judge one position per driver;
*probability* metrics (`top_k_accuracy`, `ranked_probability_score`, `log_loss`, `calibration`) judge the whole distribution.
Positions are 1..20; column k of a probability array is position k + 1.
"""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ml.errors import ProbabilityError
from ml.rows import N_POSITIONS

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SUM_TOLERANCE = 1e-5  # float32 softmax rows sum to 1 within about 1e-6


@dataclass(frozen=True)
class Scores:
    """The numbers every model is reported with.

    Attributes:
        accuracy: share of rows whose assigned position is the finishing position.
        top3: share of rows whose finishing position is among the three most probable ones of that row.
        podium: share of drivers who finished 1st to 3rd that were assigned 1st to 3rd.
        mae: mean absolute difference between assigned and finishing position, places.
        rps: mean ranked probability score, 0 (certain and right) to 1.
        log_loss: mean -ln p(finishing position), nats; ln 20 = 3.00 for a uniform guess.
        n_rows: rows scored.
    """

    accuracy: float
    top3: float
    podium: float
    mae: float
    rps: float
    log_loss: float
    n_rows: int

    def to_dict(self) -> dict[str, float | int | None]:
        """JSON form; a number that is not finite becomes null."""
        return {name: value if np.isfinite(value) else None for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Calibration:
    """A reliability curve over all (row, position) pairs.

    Attributes:
        edges: (B + 1) bin edges of the predicted probability.
        count: (B) pairs in each bin.
        predicted: (B) mean predicted probability, NaN in an empty bin.
        observed: (B) share of pairs that came true, NaN in an empty bin.
        error: expected calibration error, |predicted - observed| weighted by the pairs of a bin.
    """

    edges: FloatArray
    count: IntArray
    predicted: FloatArray
    observed: FloatArray
    error: float

    def to_dict(self) -> dict[str, object]:
        """JSON form; empty bins are null."""

        def numbers(values: FloatArray) -> list[float | None]:
            return [float(value) if np.isfinite(value) else None for value in values]

        return {
            "edges": numbers(self.edges),
            "count": [int(count) for count in self.count],
            "predicted": numbers(self.predicted),
            "observed": numbers(self.observed),
            "error": self.error,
        }


def check_probabilities(probabilities: FloatArray, *, n_rows: int | None = None, where: str = "probabilities") -> None:
    """Accept (N, 20) finite, non-negative rows that sum to 1 within 1e-5.

    Raises:
        ProbabilityError: any other shape or content; the message names the first bad row.
    """
    expected = f"({'N' if n_rows is None else n_rows}, {N_POSITIONS})"
    if probabilities.ndim != 2 or probabilities.shape[1] != N_POSITIONS or (n_rows is not None and len(probabilities) != n_rows):
        raise ProbabilityError(f"{where}: got shape {probabilities.shape}, expected {expected}")
    bad = ~np.isfinite(probabilities).all(axis=1)
    if bad.any():
        raise ProbabilityError(
            f"{where}: {int(bad.sum())} rows hold NaN or infinity, the first is row {int(np.flatnonzero(bad)[0])}"
        )
    bad = (probabilities < 0).any(axis=1) | (np.abs(probabilities.sum(axis=1) - 1.0) > SUM_TOLERANCE)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ProbabilityError(
            f"{where}: {int(bad.sum())} rows are negative or do not sum to 1, the first is row {row} "
            f"(sum {probabilities[row].sum():.6f}, smallest {probabilities[row].min():.2g})"
        )


def exact_accuracy(assigned: IntArray, position: IntArray) -> float:
    """Share of rows whose assigned position is the finishing position."""
    return float(np.mean(assigned == position))


def mean_absolute_error(assigned: IntArray, position: IntArray) -> float:
    """Mean |assigned - finishing| position, places."""
    return float(np.mean(np.abs(assigned - position)))


def podium_rate(assigned: IntArray, position: IntArray) -> float:
    """Share of drivers who finished 1st to 3rd that were assigned one of these places; NaN when there are none."""
    podium = position <= 3
    return float(np.mean(assigned[podium] <= 3)) if podium.any() else float("nan")


def top_k_accuracy(probabilities: FloatArray, position: IntArray, k: int = 3) -> float:
    """Share of rows whose finishing position is among the k most probable; of equal ones the later position counts first.

    The order of ties is scikit-learn's (`top_k_accuracy_score`).
    """
    best = np.argsort(probabilities, axis=1, kind="stable")[:, ::-1][:, :k]
    return float(np.mean((best == (position - 1)[:, None]).any(axis=1)))


def ranked_probability_score(probabilities: FloatArray, position: IntArray) -> float:
    """Mean squared distance of the cumulative distribution from the outcome's, over the 19 thresholds between positions.

    Source: Epstein (1969), normalised to 0..1 by the number of thresholds. Being a place off costs less than being ten off.
    """
    cumulative = np.cumsum(probabilities, axis=1)[:, :-1]
    outcome = np.arange(1, N_POSITIONS)[None, :] >= position[:, None]
    return float(np.mean((cumulative - outcome) ** 2))


def log_loss(probabilities: FloatArray, position: IntArray) -> float:
    """Mean -ln p(finishing position), nats; probabilities are clipped at the float64 epsilon as scikit-learn does."""
    chosen = probabilities[np.arange(len(position)), position - 1]
    return float(np.mean(-np.log(np.clip(chosen, np.finfo(np.float64).eps, 1.0))))


def calibration(probabilities: FloatArray, position: IntArray, *, n_bins: int = 10, upper: float = 1.0) -> Calibration:
    """Reliability of the probabilities of all positions together, in `n_bins` equal bins of 0..`upper`.

    Args:
        probabilities: (N, 20).
        position: (N,) finishing positions.
        n_bins: bins; a pair on an edge belongs to the bin above it, probabilities of `upper` and more to the last bin.
        upper: end of the last bin; below 1 for models that are never sure.
    """
    predicted = probabilities.ravel()
    came_true = (np.arange(1, N_POSITIONS + 1)[None, :] == position[:, None]).ravel()
    edges = np.linspace(0.0, upper, n_bins + 1)
    which = np.clip(np.searchsorted(edges, predicted, side="right") - 1, 0, n_bins - 1)
    count = np.bincount(which, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        mean_predicted = np.bincount(which, weights=predicted, minlength=n_bins) / count
        observed = np.bincount(which, weights=came_true, minlength=n_bins) / count
    filled = count > 0
    error = float(np.sum(np.abs(mean_predicted - observed)[filled] * count[filled]) / max(int(count.sum()), 1))
    return Calibration(edges=edges, count=count.astype(np.int64), predicted=mean_predicted, observed=observed, error=error)


def score(probabilities: FloatArray, assigned: IntArray, position: IntArray) -> Scores:
    """All metrics of one model on N >= 1 rows; every metric is NaN if any probability is not finite.

    A model that breaks on one row has not been measured, so no average over its other rows is shown as if it had.

    Args:
        probabilities: (N, 20).
        assigned: (N,) positions 1..20 from `ml.assignment.assign_positions`.
        position: (N,) finishing positions 1..20.
    Raises:
        ProbabilityError: no rows, or shapes that do not fit together.
    """
    n_rows = len(position)
    if n_rows == 0 or probabilities.shape != (n_rows, N_POSITIONS) or assigned.shape != (n_rows,):
        raise ProbabilityError(
            f"score: got probabilities {probabilities.shape}, assigned {assigned.shape}, position {position.shape}; "
            f"expected (N, {N_POSITIONS}), (N,), (N,) with N >= 1"
        )
    if not np.isfinite(probabilities).all():
        nan = float("nan")
        return Scores(accuracy=nan, top3=nan, podium=nan, mae=nan, rps=nan, log_loss=nan, n_rows=n_rows)
    return Scores(
        accuracy=exact_accuracy(assigned, position),
        top3=top_k_accuracy(probabilities, position),
        podium=podium_rate(assigned, position),
        mae=mean_absolute_error(assigned, position),
        rps=ranked_probability_score(probabilities, position),
        log_loss=log_loss(probabilities, position),
        n_rows=n_rows,
    )
