"""Predictors that every model has to beat: the grid order, the running order at the moment, and the tabular ensemble.

`GridOrder` and `OrderAtMoment` assign the order they read as it stands; their probabilities are how often each place was reached
from each rank in the training races. `EnsemblePredictor` is in `ml.ensemble`.
"""

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ml.ensemble import EnsemblePredictor
from ml.errors import ModelContractError, NotFittedError
from ml.rows import N_POSITIONS, Rows

__all__ = ["AssignsPositions", "EnsemblePredictor", "GridOrder", "OrderAtMoment"]

GRID_COLUMN = "grid_position"
_SPREAD_PLACES = 2.0  # of the prior that fills what few races have not shown
_PRIOR_RACES = 2.0


@runtime_checkable
class AssignsPositions(Protocol):
    """A model that says itself which position each driver gets, instead of leaving it to the assignment of probabilities."""

    def assign(self, rows: Rows) -> NDArray[np.int64]:
        """(N,) positions, a permutation of 1..n within each race of n rows."""
        ...


class _RankTable(ABC):
    """P(finishing position | rank in some order), counted on the training races."""

    name: str

    def __init__(self) -> None:
        self._table: NDArray[np.float64] | None = None

    def fit(self, train: Rows, validation: Rows) -> None:
        """Count how often each place was reached from each rank; validation races are not needed and not used.

        A prior worth two races, places near the rank being likelier, keeps unseen moves possible.
        """
        del validation
        places = np.arange(1, N_POSITIONS + 1)
        prior = np.exp(-0.5 * ((places[None, :] - places[:, None]) / _SPREAD_PLACES) ** 2) + 0.01
        counts = _PRIOR_RACES * prior / prior.sum(axis=1, keepdims=True)
        np.add.at(counts, (self.assign(train) - 1, train.position - 1), 1.0)
        self._table = counts / counts.sum(axis=1, keepdims=True)

    def predict_proba(self, rows: Rows) -> NDArray[np.float64]:
        """(N, 20) training frequencies of the finishing position given the rank.

        Raises:
            NotFittedError: `fit` was not called.
        """
        if self._table is None:
            raise NotFittedError(f"{self.name}: predict_proba before fit")
        return self._table[self.assign(rows) - 1]

    @abstractmethod
    def assign(self, rows: Rows) -> NDArray[np.int64]:
        """(N,) rank within the race, 1 = first."""


class GridOrder(_RankTable):
    """Everybody finishes where they started."""

    name = "grid_order"

    def __init__(self, column: str = GRID_COLUMN) -> None:
        super().__init__()
        self.column = column

    def assign(self, rows: Rows) -> NDArray[np.int64]:
        """(N,) rank by starting place; cars without one come last, in row order.

        Raises:
            ModelContractError: there is no such column.
        """
        if self.column not in rows.features.columns:
            raise ModelContractError(f"{self.name}: no feature {self.column!r} among {list(rows.features.columns)}")
        return rank_within_race(rows.features[self.column].to_numpy(dtype=np.float64, na_value=np.nan), rows)


class OrderAtMoment(_RankTable):
    """Everybody finishes where they run at the moment asked about."""

    name = "order_at_moment"

    def assign(self, rows: Rows) -> NDArray[np.int64]:
        """(N,) rank by running order; cars that no longer run come last, in row order."""
        return rank_within_race(rows.order, rows)


def rank_within_race(value: NDArray[np.float64], rows: Rows) -> NDArray[np.int64]:
    """(N,) rank 1..n of ascending `value` within each race; NaN last; ties in row order."""
    rank = np.zeros(len(rows), dtype=np.int64)
    for _, index in rows.races():
        order = np.argsort(value[index], kind="stable")  # NaN sorts last
        rank[index[order]] = np.arange(1, len(index) + 1)
    return rank
