"""What happened in the races of a season, before it is written down as tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from feature_repo.ids import make_race_id
from pipelines.simulator.circuits import Circuit
from pipelines.simulator.classification import Classification
from pipelines.simulator.field import Field
from pipelines.simulator.qualifying import Qualifying
from pipelines.simulator.race import RaceLog
from pipelines.simulator.weather import Weather


@dataclass(frozen=True)
class SeasonEvent:
    """Everything that happened in R races of one season.

    Attributes:
        field: cars and drivers.
        circuits: R circuits.
        rounds: (R,) int, from 1.
        race_start: R instants of lights out, UTC.
        qualifying_start: R instants, UTC.
        qualified: qualifying and grids.
        weather: weather by the minute.
        log: the races lap by lap.
        result: their results.
    """

    field: Field
    circuits: Sequence[Circuit]
    rounds: NDArray[np.int64]
    race_start: Sequence[datetime]
    qualifying_start: Sequence[datetime]
    qualified: Qualifying
    weather: Weather
    log: RaceLog
    result: Classification

    @property
    def start_us(self) -> NDArray[np.int64]:
        """(R,) lights out, microseconds since 1970."""
        return microseconds(self.race_start)

    @property
    def race_ids(self) -> NDArray[np.object_]:
        """(R,) `<season>_<round>`."""
        return np.array([make_race_id(self.field.season, int(number)) for number in self.rounds], dtype=object)

    @property
    def driver_ids(self) -> NDArray[np.object_]:
        """(D,) driver references."""
        return np.array([driver.driver_id for driver in self.field.drivers], dtype=object)


def microseconds(instants: Sequence[datetime]) -> NDArray[np.int64]:
    """Instants as microseconds since 1970 UTC."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return np.array([(instant - epoch) // timedelta(microseconds=1) for instant in instants], dtype=np.int64)
