"""The tabular ensemble's members: boosted trees, a random forest and a logistic regression, each giving (N, 20) probabilities.

All are fitted on the same prepared matrix (values, values relative to the race, missing-value flags, categories) and store
themselves as text and plain arrays. Trees are LightGBM's.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from ml.metrics import log_loss
from ml.placing import Placing, consistent, fit_placing
from ml.rows import N_POSITIONS

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_ROWS_WORTH_THREADS = 20_000
_ROWS_AT_ONCE = 256  # of a forest of 120 trees: 5 MB


@dataclass(frozen=True)
class Prepared:
    """Rows ready for the members.

    Attributes:
        matrix: (N, width) float32, finite.
        race: (N,) race of each row.
    """

    matrix: NDArray[np.float32]
    race: IntArray


@dataclass(frozen=True)
class Labelled(Prepared):
    """Rows to learn from.

    Attributes:
        position: (N,) finishing positions 1..20.
        finished: (N,) bool, classified.
    """

    position: IntArray
    finished: NDArray[np.bool_]


class Member(Protocol):
    """One model inside the ensemble."""

    name: ClassVar[str]

    def fit(self, train: Labelled, validation: Labelled) -> None:
        """Learn; `validation` only stops early, scales, or chooses a strength of regularisation."""
        ...

    def predict_proba(self, rows: Prepared) -> FloatArray:
        """(N, 20) probabilities."""
        ...

    def save(self, folder: Path) -> None:
        """Write text and arrays into `folder`."""
        ...

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        ...


def _useful_threads(rows: Prepared, threads: int) -> int:
    """One thread for small data: a tree of a few thousand rows takes less time than threads take to meet, and on busy cores
    LightGBM's waiting threads made a fit of 12 s last 118 s."""
    return threads if len(rows.matrix) >= _ROWS_WORTH_THREADS else 1


class BoostedTrees:
    """Gradient boosting of the finishing position, several seeds averaged; the mean prediction orders the cars of a race."""

    name: ClassVar[str] = "boosting"

    def __init__(
        self,
        *,
        seeds: int = 3,
        seed: int = 0,
        threads: int = 2,
        learning_rate: float = 0.05,
        leaves: int = 4,
        min_leaf: int = 20,
        feature_share: float = 0.3,
        l2: float = 5.0,
        rounds: int = 600,
        patience: int = 40,
    ) -> None:
        self.seeds = range(seed, seed + seeds)
        self.rounds, self.patience, self.threads = rounds, patience, threads
        self.params: dict[str, Any] = {
            "boosting_type": "gbdt",
            "objective": "regression",
            "learning_rate": learning_rate,
            "num_leaves": leaves,
            "min_data_in_leaf": min_leaf,
            "feature_fraction": feature_share,
            "bagging_fraction": 0.7,
            "bagging_freq": 1,
            "lambda_l2": l2,
            "max_bin": 63,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }
        self.boosters: list[lgb.Booster] = []
        self.placing: Placing | None = None

    def fit(self, train: Labelled, validation: Labelled) -> None:
        """Boost until the validation error stops falling; then fit how sure the order is, on validation too."""
        self.boosters = []
        for seed in self.seeds:
            data = lgb.Dataset(train.matrix, label=train.position)
            self.boosters.append(
                lgb.train(
                    {**self.params, "seed": seed, "num_threads": _useful_threads(train, self.threads)},
                    data,
                    num_boost_round=self.rounds,
                    valid_sets=[lgb.Dataset(validation.matrix, label=validation.position, reference=data)],
                    callbacks=[lgb.early_stopping(self.patience, verbose=False)],
                )
            )
        self.placing = fit_placing(
            self._strength(validation.matrix),
            race=validation.race,
            position=validation.position,
            retired_position=train.position[~train.finished],
        )

    def predict_proba(self, rows: Prepared) -> FloatArray:
        """(N, 20) probabilities of the order of the mean predictions."""
        assert self.placing is not None  # the ensemble fits or loads before it asks
        return self.placing(self._strength(rows.matrix), rows.race)

    def _strength(self, matrix: NDArray[np.float32]) -> FloatArray:
        return -np.mean([np.asarray(booster.predict(matrix, num_threads=1)) for booster in self.boosters], axis=0)

    def save(self, folder: Path) -> None:
        """One text file a seed, and the placing."""
        assert self.placing is not None
        for number, booster in enumerate(self.boosters):
            booster.save_model(folder / f"{self.name}_{number}.txt")
        np.savez(folder / f"{self.name}.npz", n_boosters=len(self.boosters), **vars(self.placing))

    def load(self, folder: Path) -> None:
        """Read both."""
        with np.load(folder / f"{self.name}.npz", allow_pickle=False) as arrays:
            self.placing = Placing(float(arrays["scale"]), float(arrays["tail_share"]), arrays["tail"])
            n_boosters = int(arrays["n_boosters"])
        self.boosters = [lgb.Booster(model_file=folder / f"{self.name}_{number}.txt") for number in range(n_boosters)]


class RandomForest:
    """A forest whose leaves remember which places their training rows finished in: a distribution, not a mean."""

    name: ClassVar[str] = "forest"

    def __init__(
        self,
        *,
        seed: int = 0,
        threads: int = 2,
        trees: int = 120,
        leaves: int = 32,
        min_leaf: int = 10,
        feature_share: float = 0.3,
    ) -> None:
        self.trees, self.threads = trees, threads
        self.params: dict[str, Any] = {
            "boosting_type": "rf",
            "objective": "regression",
            "num_leaves": leaves,
            "min_data_in_leaf": min_leaf,
            "feature_fraction_bynode": feature_share,
            "bagging_fraction": 0.63,
            "bagging_freq": 1,
            "deterministic": True,
            "force_row_wise": True,
            "max_bin": 63,
            "seed": seed,
            "verbosity": -1,
        }
        self.booster: lgb.Booster | None = None
        self.places: FloatArray = np.zeros((0, 0, N_POSITIONS))

    def fit(self, train: Labelled, validation: Labelled) -> None:
        """Grow the trees and count the places in their leaves; a forest needs no stopping, so `validation` is not used."""
        del validation
        params = {**self.params, "num_threads": _useful_threads(train, self.threads)}
        self.booster = lgb.train(params, lgb.Dataset(train.matrix, label=train.position), num_boost_round=self.trees)
        leaf = self._leaves(train.matrix)
        counts = np.zeros((leaf.shape[1], int(leaf.max()) + 1, N_POSITIONS))
        tree = np.broadcast_to(np.arange(leaf.shape[1])[None, :], leaf.shape)
        np.add.at(counts, (tree, leaf, (train.position - 1)[:, None]), 1.0)
        self.places = (counts + 0.25 / N_POSITIONS) / (counts.sum(axis=2, keepdims=True) + 0.25)

    def predict_proba(self, rows: Prepared) -> FloatArray:
        """(N, 20) mean of the leaves' distributions, made consistent within the race."""
        leaf = self._leaves(rows.matrix)
        probabilities = np.zeros((len(leaf), N_POSITIONS))
        trees = np.arange(leaf.shape[1])
        for start in range(0, len(leaf), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            np.add.reduce(self.places[trees[:, None], leaf[part].T], axis=0, out=probabilities[part])
        return consistent(probabilities / leaf.shape[1], rows.race)

    def _leaves(self, matrix: NDArray[np.float32]) -> IntArray:
        assert self.booster is not None
        return np.asarray(self.booster.predict(matrix, pred_leaf=True, num_threads=1), dtype=np.int64).reshape(len(matrix), -1)

    def save(self, folder: Path) -> None:
        """The trees as text, the leaves' distributions as an array."""
        assert self.booster is not None
        self.booster.save_model(folder / f"{self.name}.txt")
        np.savez_compressed(folder / f"{self.name}.npz", places=self.places.astype(np.float32))

    def load(self, folder: Path) -> None:
        """Read both."""
        self.booster = lgb.Booster(model_file=folder / f"{self.name}.txt")
        with np.load(folder / f"{self.name}.npz", allow_pickle=False) as arrays:
            self.places = arrays["places"].astype(np.float64)


class Logistic:
    """Logistic regressions of "finishes k-th or better", k = 1..19; their differences are the place probabilities.

    The places are ordered, which a multinomial regression would not know. The strength of regularisation is chosen on
    validation races.
    """

    name: ClassVar[str] = "logistic"

    def __init__(self, *, inverse_strengths: tuple[float, ...] = (0.0005, 0.002)) -> None:
        self.inverse_strengths = inverse_strengths
        self.weights: FloatArray = np.zeros((0, N_POSITIONS - 1))
        self.bias: FloatArray = np.zeros(N_POSITIONS - 1)

    def fit(self, train: Labelled, validation: Labelled) -> None:
        """Fit once per strength and keep the one with the least validation log loss."""
        best = np.inf
        matrix = train.matrix.astype(np.float64)
        for inverse_strength in self.inverse_strengths:
            weights, bias = np.zeros((matrix.shape[1], N_POSITIONS - 1)), np.zeros(N_POSITIONS - 1)
            for place in range(1, N_POSITIONS):
                at_most = train.position <= place
                if at_most.all() or not at_most.any():  # small fields: nobody is behind (or ahead of) this place
                    bias[place - 1] = _SURE if at_most.all() else -_SURE
                    continue
                model = LogisticRegression(C=inverse_strength, max_iter=200, tol=1e-3).fit(matrix, at_most)
                weights[:, place - 1], bias[place - 1] = model.coef_[0], model.intercept_[0]
            loss = log_loss(_from_thresholds(validation, weights, bias), validation.position)
            if loss < best:
                best, self.weights, self.bias = loss, weights, bias

    def predict_proba(self, rows: Prepared) -> FloatArray:
        """(N, 20) differences of the threshold probabilities, made consistent within the race."""
        return _from_thresholds(rows, self.weights, self.bias)

    def save(self, folder: Path) -> None:
        """Weights and bias as arrays."""
        np.savez(folder / f"{self.name}.npz", weights=self.weights, bias=self.bias)

    def load(self, folder: Path) -> None:
        """Read them."""
        with np.load(folder / f"{self.name}.npz", allow_pickle=False) as arrays:
            self.weights, self.bias = arrays["weights"], arrays["bias"]


_SURE = 20.0  # logit of a threshold that every training row is on the same side of
_UNIFORM_SHARE = 0.02  # thresholds fitted apart may cross, which would make a place impossible


def _from_thresholds(rows: Prepared, weights: FloatArray, bias: FloatArray) -> FloatArray:
    at_most = 1.0 / (1.0 + np.exp(-(rows.matrix.astype(np.float64) @ weights + bias)))
    at_most = np.maximum.accumulate(np.concatenate([at_most, np.ones((len(at_most), 1))], axis=1), axis=1)
    places = np.diff(at_most, axis=1, prepend=0.0)
    return consistent((1 - _UNIFORM_SHARE) * places + _UNIFORM_SHARE / N_POSITIONS, rows.race)
