"""The tabular ensemble's members: boosted trees, a random forest and a logistic regression, each giving (N, 20) probabilities.

All are fitted on the same prepared matrix (values, values relative to the race, missing-value flags, categories) and store
themselves as text and plain arrays. Trees are LightGBM's.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from ml.metrics import log_loss
from ml.plackett_luce import race_probabilities
from ml.rows import N_POSITIONS

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Prepared:
    """Rows ready for the members.

    Attributes:
        matrix: (N, width) float32, finite.
        race: (N,) race of each row.
        position: (N,) finishing positions 1..20.
    """

    matrix: NDArray[np.float32]
    race: IntArray
    position: IntArray


class Member(Protocol):
    """One model inside the ensemble."""

    name: ClassVar[str]

    def fit(self, train: Prepared, validation: Prepared) -> None:
        """Learn; `validation` only stops early, scales, or chooses a strength of regularisation."""
        ...

    def predict_proba(self, rows: Prepared) -> FloatArray:
        """(N, 20) probabilities; `rows.position` is not read."""
        ...

    def save(self, folder: Path) -> None:
        """Write text and arrays into `folder`."""
        ...

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        ...


def consistent(probabilities: FloatArray, race: IntArray, *, sweeps: int = 12) -> FloatArray:
    """(N, 20) made consistent within each race: n cars share the places 1..n, each place taken once.

    Rows and columns are scaled in turn (Sinkhorn); rows sum to 1 exactly at the end, columns within about 1e-2 of 1.

    Args:
        probabilities: (N, 20), not negative.
        race: (N,).
        sweeps: of scaling.
    """
    result = np.zeros_like(probabilities)
    for code in np.unique(race):
        rows = np.flatnonzero(race == code)
        block = probabilities[rows, : len(rows)] + 1e-9
        for _ in range(sweeps):
            block = block / block.sum(axis=0, keepdims=True)
            block = block / block.sum(axis=1, keepdims=True)
        result[rows, : len(rows)] = block
    return result


def fit_scale(strength: FloatArray, race: IntArray, position: IntArray, scales: FloatArray) -> float:
    """The factor on `strength` whose Plackett-Luce probabilities have the least log loss, of those offered."""
    losses = [log_loss(race_probabilities(scale * strength, race), position) for scale in scales]
    return float(scales[int(np.argmin(losses))])


def plackett_luce_objective(race: IntArray, position: IntArray) -> Callable[[FloatArray, Any], tuple[FloatArray, FloatArray]]:
    """LightGBM objective: gradient and diagonal second derivative of the finishing orders' negative log likelihood.

    Args:
        race: (N,) race of each row.
        position: (N,) finishing positions.
    Returns:
        A function of (N,) scores (and the data set, not read) to (N,) gradients and (N,) curvatures.
    """
    order = np.lexsort((position, race))
    _, sizes = np.unique(race, return_counts=True)
    widest = int(sizes.max())
    present = np.arange(widest)[None, :] < sizes[:, None]

    def objective(scores: FloatArray, _: Any) -> tuple[FloatArray, FloatArray]:
        arranged = np.full(present.shape, -np.inf)
        arranged[present] = scores[order]
        strength = np.exp(arranged - arranged.max(axis=1, keepdims=True))
        field = np.cumsum(strength[:, ::-1], axis=1)[:, ::-1]  # of the cars not yet placed
        inverse = np.where(present, 1.0 / np.maximum(field, 1e-300), 0.0)
        first = np.cumsum(inverse, axis=1)
        second = np.cumsum(inverse**2, axis=1)
        gradient, curvature = np.empty_like(scores), np.empty_like(scores)
        gradient[order] = (strength * first - 1.0)[present]
        curvature[order] = (strength * first - strength**2 * second)[present]
        return gradient, np.maximum(curvature, 1e-3)

    return objective


class BoostedTrees:
    """Gradient boosting of Plackett-Luce strengths: the likelihood of whole finishing orders, several seeds averaged."""

    name: ClassVar[str] = "boosting"

    def __init__(
        self,
        *,
        seeds: int = 3,
        seed: int = 0,
        threads: int = 2,
        learning_rate: float = 0.05,
        leaves: int = 8,
        min_leaf: int = 20,
        feature_share: float = 0.4,
        l2: float = 5.0,
        rounds: int = 300,
        patience: int = 30,
    ) -> None:
        self.seeds = range(seed, seed + seeds)
        self.rounds, self.patience = rounds, patience
        self.params: dict[str, Any] = {
            "boosting_type": "gbdt",
            "learning_rate": learning_rate,
            "num_leaves": leaves,
            "min_data_in_leaf": min_leaf,
            "feature_fraction": feature_share,
            "bagging_fraction": 0.7,
            "bagging_freq": 1,
            "lambda_l2": l2,
            "num_threads": threads,
            "deterministic": True,
            "force_row_wise": True,
            "max_bin": 63,
            "verbosity": -1,
        }
        self.boosters: list[lgb.Booster] = []
        self.scale = 1.0

    def fit(self, train: Prepared, validation: Prepared) -> None:
        """Boost until the validation log likelihood of orders stops rising, then scale the strengths to the best log loss."""
        objective = plackett_luce_objective(train.race, train.position)

        def order_loss(scores: FloatArray, _: lgb.Dataset) -> tuple[str, float, bool]:
            return "order_loss", _order_loss(scores, validation.race, validation.position), False

        self.boosters = []
        for seed in self.seeds:
            data = lgb.Dataset(train.matrix, label=train.position, free_raw_data=False)
            self.boosters.append(
                lgb.train(
                    {**self.params, "objective": objective, "metric": "none", "seed": seed},
                    data,
                    num_boost_round=self.rounds,
                    valid_sets=[lgb.Dataset(validation.matrix, label=validation.position, reference=data)],
                    feval=order_loss,
                    callbacks=[lgb.early_stopping(self.patience, verbose=False)],
                )
            )
        strength = self._strength(validation.matrix)
        self.scale = fit_scale(strength, validation.race, validation.position, np.geomspace(0.5, 2.0, 9))

    def predict_proba(self, rows: Prepared) -> FloatArray:
        """(N, 20) exact Plackett-Luce place probabilities of the mean strength."""
        return race_probabilities(self.scale * self._strength(rows.matrix), rows.race)

    def _strength(self, matrix: NDArray[np.float32]) -> FloatArray:
        return np.mean([np.asarray(booster.predict(matrix, raw_score=True)) for booster in self.boosters], axis=0)

    def save(self, folder: Path) -> None:
        """One text file a seed, and the scale."""
        for seed, booster in enumerate(self.boosters):
            booster.save_model(folder / f"{self.name}_{seed}.txt")
        np.savez(folder / f"{self.name}.npz", scale=self.scale, seeds=len(self.boosters))

    def load(self, folder: Path) -> None:
        """Read the text files."""
        with np.load(folder / f"{self.name}.npz", allow_pickle=False) as arrays:
            self.scale, seeds = float(arrays["scale"]), int(arrays["seeds"])
        self.boosters = [lgb.Booster(model_file=folder / f"{self.name}_{seed}.txt") for seed in range(seeds)]


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
        self.trees = trees
        self.params: dict[str, Any] = {
            "boosting_type": "rf",
            "objective": "regression",
            "num_leaves": leaves,
            "min_data_in_leaf": min_leaf,
            "feature_fraction_bynode": feature_share,
            "bagging_fraction": 0.63,
            "bagging_freq": 1,
            "num_threads": threads,
            "deterministic": True,
            "force_row_wise": True,
            "max_bin": 63,
            "seed": seed,
            "verbosity": -1,
        }
        self.booster: lgb.Booster | None = None
        self.places: FloatArray = np.zeros((0, 0, N_POSITIONS))

    def fit(self, train: Prepared, validation: Prepared) -> None:
        """Grow the trees and count the places in their leaves; a forest needs no stopping, so `validation` is not used."""
        del validation
        self.booster = lgb.train(self.params, lgb.Dataset(train.matrix, label=train.position), num_boost_round=self.trees)
        leaf = self._leaves(train.matrix)
        counts = np.zeros((leaf.shape[1], int(leaf.max()) + 1, N_POSITIONS))
        tree = np.broadcast_to(np.arange(leaf.shape[1])[None, :], leaf.shape)
        np.add.at(counts, (tree, leaf, (train.position - 1)[:, None]), 1.0)
        self.places = (counts + 0.25 / N_POSITIONS) / (counts.sum(axis=2, keepdims=True) + 0.25)

    def predict_proba(self, rows: Prepared) -> FloatArray:
        """(N, 20) mean of the leaves' distributions, made consistent within the race."""
        leaf = self._leaves(rows.matrix)
        probabilities = np.zeros((len(leaf), N_POSITIONS))
        for tree in range(leaf.shape[1]):
            probabilities += self.places[tree, leaf[:, tree]]
        return consistent(probabilities / leaf.shape[1], rows.race)

    def _leaves(self, matrix: NDArray[np.float32]) -> IntArray:
        assert self.booster is not None  # the ensemble fits or loads before it asks
        return np.asarray(self.booster.predict(matrix, pred_leaf=True), dtype=np.int64).reshape(len(matrix), -1)

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
    """Multinomial logistic regression over the 20 places, its strength of regularisation chosen on validation races."""

    name: ClassVar[str] = "logistic"

    def __init__(self, *, inverse_strengths: tuple[float, ...] = (0.0003, 0.001, 0.003, 0.01)) -> None:
        self.inverse_strengths = inverse_strengths
        self.weights: FloatArray = np.zeros((0, N_POSITIONS))
        self.bias: FloatArray = np.zeros(N_POSITIONS)

    def fit(self, train: Prepared, validation: Prepared) -> None:
        """Fit once per strength and keep the one with the least validation log loss."""
        best = np.inf
        for inverse_strength in self.inverse_strengths:
            model = LogisticRegression(C=inverse_strength, max_iter=100, tol=1e-3)
            model.fit(train.matrix, train.position)
            weights = np.zeros((train.matrix.shape[1], N_POSITIONS))
            bias = np.full(N_POSITIONS, -20.0)  # places nobody took in the training part
            weights[:, model.classes_ - 1], bias[model.classes_ - 1] = model.coef_.T, model.intercept_
            loss = log_loss(_softmax_places(validation, weights, bias), validation.position)
            if loss < best:
                best, self.weights, self.bias = loss, weights, bias

    def predict_proba(self, rows: Prepared) -> FloatArray:
        """(N, 20) softmax, made consistent within the race."""
        return _softmax_places(rows, self.weights, self.bias)

    def save(self, folder: Path) -> None:
        """Weights and bias as arrays."""
        np.savez(folder / f"{self.name}.npz", weights=self.weights, bias=self.bias)

    def load(self, folder: Path) -> None:
        """Read them."""
        with np.load(folder / f"{self.name}.npz", allow_pickle=False) as arrays:
            self.weights, self.bias = arrays["weights"], arrays["bias"]


def _softmax_places(rows: Prepared, weights: FloatArray, bias: FloatArray) -> FloatArray:
    logits = rows.matrix.astype(np.float64) @ weights + bias
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return consistent(exponent / exponent.sum(axis=1, keepdims=True), rows.race)


def _order_loss(scores: FloatArray, race: IntArray, position: IntArray) -> float:
    """Mean negative log likelihood of the finishing orders under Plackett-Luce strengths, per car."""
    total = 0.0
    for code in np.unique(race):
        rows = np.flatnonzero(race == code)
        placed = scores[rows[np.argsort(position[rows])]]
        total += float(np.sum(np.logaddexp.accumulate(placed[::-1])[::-1] - placed))
    return total / len(scores)
