"""From one strength per car to place probabilities that are consistent within a race and know that cars retire."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ml.metrics import log_loss
from ml.plackett_luce import race_probabilities
from ml.rows import N_POSITIONS

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def consistent(probabilities: FloatArray, race: IntArray, *, sweeps: int = 12) -> FloatArray:
    """(N, 20) made consistent within each race: n cars share the places 1..n, each place taken once.

    Rows and columns are scaled in turn (Sinkhorn); rows sum to 1 exactly at the end, columns within about 1e-2 of 1.

    Args:
        probabilities: (N, 20), not negative.
        race: (N,).
        sweeps: of scaling.
    """
    code, place, size = _blocks_of(race)
    inside = np.arange(N_POSITIONS)[None, :] < size[:, None]
    blocks = np.zeros((len(size), N_POSITIONS, N_POSITIONS))
    blocks[code, place] = np.where(inside[code], probabilities + 1e-9, 0.0)
    for _ in range(sweeps):
        for axis in (1, 2):
            total = np.add.reduce(blocks, axis, keepdims=True)
            blocks /= np.maximum(total, 1e-300, out=total)
    return blocks[code, place]


def _blocks_of(race: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """(N,) number of each row's race, (N,) the row's place among the rows of its race, and the size of each race."""
    if len(race) and (race == race[0]).all():
        return np.zeros(len(race), dtype=np.int64), np.arange(len(race)), np.array([len(race)])
    _, code, size = np.unique(race, return_inverse=True, return_counts=True)
    place = np.zeros(len(race), dtype=np.int64)
    order = np.argsort(code, kind="stable")
    place[order] = np.arange(len(race)) - np.repeat(np.cumsum(size) - size, size)
    return code, place, size


def sharpen(probabilities: FloatArray, race: IntArray, power: float) -> FloatArray:
    """(N, 20) probabilities to the `power`, made consistent within each race again; 1 changes nothing but that."""
    raised = (probabilities + 1e-12) ** power
    return consistent(raised / raised.sum(axis=1, keepdims=True), race)


@dataclass(frozen=True)
class Placing:
    """How a strength per car becomes place probabilities: a Plackett-Luce order, mixed with where retired cars end up.

    Retirements are what a single strength cannot say: a car that stops ends at the back however strong it was.

    Attributes:
        scale: factor on the strengths; higher is surer.
        tail_share: weight of the retired cars' places, before the race is made consistent (which gives part of it back).
        tail: (20,) where cars that were not classified finished in the training part.
    """

    scale: float
    tail_share: float
    tail: FloatArray

    def __call__(self, strength: FloatArray, race: IntArray) -> FloatArray:
        """(N, 20) probabilities from (N,) strengths (higher = ahead), consistent within each race."""
        mixed = (1 - self.tail_share) * race_probabilities(self.scale * strength, race) + self.tail_share * self.tail
        return consistent(mixed, race)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"scale": self.scale, "tail_share": self.tail_share, "tail": self.tail.tolist()}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        """What `to_dict` gave."""
        return cls(float(stored["scale"]), float(stored["tail_share"]), np.array(stored["tail"], dtype=np.float64))


def fit_placing(strength: FloatArray, *, race: IntArray, position: IntArray, retired_position: IntArray) -> Placing:
    """Scale and tail share with the least log loss on the validation races, on a grid; the tail from the training part.

    Args:
        strength: (N,) of the validation rows.
        race: (N,) of the validation rows.
        position: (N,) finishing positions of the validation rows.
        retired_position: (R,) finishing positions of the training part's cars that were not classified.
    """
    tail = np.bincount(retired_position - 1, minlength=N_POSITIONS) + 0.5
    tail = tail / tail.sum()
    spread = float(strength.std()) or 1.0
    best, best_loss = Placing(1.0, 0.1, tail), np.inf
    for scale in np.geomspace(0.5, 8.0, 9) / spread:
        order = race_probabilities(scale * strength, race)
        for share in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6):
            mixed = consistent((1 - share) * order + share * tail, race)
            if (loss := log_loss(mixed, position)) < best_loss:
                best, best_loss = Placing(float(scale), share, tail), loss
    return best
