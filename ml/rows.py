"""The training set in memory: one row per race and driver at one moment of that race.

`Rows` is the only shape in which examples travel between the dataset, the models, the evaluation and the gate, so that every
model is fitted and scored on exactly the same rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

N_POSITIONS = 20
EMBEDDING_DIM = 512


@dataclass(frozen=True)
class Rows:
    """N examples, grouped by race (rows of a race are adjacent and in a fixed order).

    Attributes:
        keys: (N) frame with `race_id`, `driver_id` (str), `season`, `round` (int), `lap` (int, the leader's lap of the moment;
            0 = before the start) and `event_timestamp` (UTC, the moment asked about).
        features: (N, F) frame of tabular features as Feast returned them: float columns with NaN for missing, string columns
            (object, None for missing) for categories. Nothing is imputed or scaled here.
        position: (N,) int64 finishing order 1..20 within the race, retirements ranked as classified officially.
        finished: (N,) bool, the driver was classified.
        embedding: (N, 512) float32 picture embedding; the row is 0 where there is no picture.
        has_picture: (N,) bool.
        picture_sha256: (N,) object, hash of the PNG or "".
        order: (N,) float64 running order at the moment (1 = leader, NaN = not known). For the trivial predictor only; never an
            input of `finish_position_v1`.
    """

    keys: pd.DataFrame
    features: pd.DataFrame
    position: NDArray[np.int64]
    finished: NDArray[np.bool_]
    embedding: NDArray[np.float32]
    has_picture: NDArray[np.bool_]
    picture_sha256: NDArray[np.object_]
    order: NDArray[np.float64]

    def __post_init__(self) -> None:
        n = len(self.keys)
        lengths = {
            "features": len(self.features),
            "position": len(self.position),
            "finished": len(self.finished),
            "embedding": len(self.embedding),
            "has_picture": len(self.has_picture),
            "picture_sha256": len(self.picture_sha256),
            "order": len(self.order),
        }
        wrong = {name: length for name, length in lengths.items() if length != n}
        if wrong:
            raise ValueError(f"Rows: every part needs {n} rows as keys has, got {wrong}")
        twice = self.keys[self.keys.duplicated(["race_id", "driver_id"])]
        if len(twice):
            first = twice.iloc[0]
            raise ValueError(
                f"Rows: {first['race_id']}/{first['driver_id']} appears twice, expected each car of a race once "
                f"({len(twice)} rows too many)"
            )

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> "Rows":
        """The rows selected by a boolean mask or by integer positions, in that order."""
        index = np.flatnonzero(which) if np.asarray(which).dtype == bool else np.asarray(which)
        return Rows(
            keys=self.keys.iloc[index].reset_index(drop=True),
            features=self.features.iloc[index].reset_index(drop=True),
            position=self.position[index],
            finished=self.finished[index],
            embedding=self.embedding[index],
            has_picture=self.has_picture[index],
            picture_sha256=self.picture_sha256[index],
            order=self.order[index],
        )

    @property
    def race_code(self) -> NDArray[np.int64]:
        """(N,) races numbered 0, 1, ... by `race_id`, which is chronological."""
        codes, _ = pd.factorize(self.keys["race_id"], sort=True)
        return np.asarray(codes, dtype=np.int64)

    @property
    def seasons(self) -> NDArray[np.int64]:
        """(N,) season of each row."""
        return self.keys["season"].to_numpy(dtype=np.int64)

    def races(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Each race id, in chronological order, with the positions of its rows."""
        for race_id, index in sorted(self.keys.groupby("race_id", sort=True).indices.items()):
            yield str(race_id), np.asarray(index, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class OneRace:
    """The N cars of one race as a service asks about them: inputs, no labels, and no frames, which took as long as the models.

    Attributes:
        features: feature -> (N,) float64 with NaN for missing, or object with None, as the columns of `Rows.features`.
        embedding: as in `Rows`.
        has_picture: as in `Rows`.
    """

    features: Mapping[str, NDArray[Any]]
    embedding: NDArray[np.float32]
    has_picture: NDArray[np.bool_]

    @property
    def race_code(self) -> NDArray[np.int64]:
        """(N,) zeros."""
        return np.zeros(len(self.has_picture), dtype=np.int64)


class PositionModel(Protocol):
    """What the evaluation and the gate need of a model, whatever is inside."""

    name: str

    def fit(self, train: Rows, validation: Rows) -> None:
        """Learn from `train`; use `validation` (later races, disjoint) only to stop early or to weight members."""
        ...

    def predict_proba(self, rows: Rows) -> NDArray[np.float64]:
        """(N, 20) probability of each finishing position; rows sum to 1. A race's rows must be given together."""
        ...
