"""What is said when somebody asks who finishes where: one model's answer at one moment, and what a reader needs to judge it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.rows import N_POSITIONS
from serving.live_pictures import Drawing

BEHIND_CLOCK, STALE_VALUES, MISSING_VALUES, NO_PICTURES = "behind_clock", "stale_values", "missing_values", "no_pictures"
_PLACES = np.arange(1.0, N_POSITIONS + 1)


@dataclass(frozen=True)
class ModelInUse:
    """Which model answers.

    Attributes:
        name: its name in training (`fusion_best`).
        version: registry version.
        role: `champion`, or `baseline` where nothing is promoted.
        feature_service: the Feast service it is asked with.
        encoder: identity of its picture encoder; None for a tabular model.
        note: said to the user when it is not the champion.
        registered_at: UTC instant at which the version was registered; None for a model outside the registry.
    """

    name: str
    version: str
    role: str
    feature_service: str
    encoder: dict[str, Any] | None
    note: str
    registered_at: str | None = None


@dataclass(frozen=True)
class DriverPrediction:
    """What is said about one driver.

    Attributes:
        position: the place assigned: each place of the race goes to one driver.
        expected_position: mean of the distribution, places.
        p_win, p_podium, p_points: probability of 1st, of the first three, of the first ten.
        probabilities: (20,) of each finishing position.
    """

    driver_id: str
    position: int
    expected_position: float
    p_win: float
    p_podium: float
    p_points: float
    probabilities: list[float]


@dataclass(frozen=True, eq=False)
class Seen:
    """What the model looked at, for the log of predictions.

    Attributes:
        driver_ids: the cars, in the order of the rows.
        tabular: (cars, F) float32 model input.
        drawings: (cars) what each car's picture shows; None for a car without one, or a tabular model.
    """

    driver_ids: tuple[str, ...]
    tabular: NDArray[np.float32]
    drawings: tuple[Drawing | None, ...]


@dataclass(frozen=True)
class Prediction:
    """A finishing order at one moment of a race.

    Attributes:
        race_id: the race.
        simulated: it never happened.
        moment: `asked` (as the user put it), `lap` (the leader's), `as_of` (UTC; nothing later was read), `truncated` (the race
            ended before the lap asked for).
        source: `offline` (point in time) or `online` (newest state).
        model: which model answered.
        saw_this_race: `training` or `validation` if the model learnt from this race, so that its answer is no test of it, else
            `no`.
        notes: what a reader must know to judge the answer.
        missing: `features` (feature -> drivers without a value), `pictures` (drivers without a trace).
        drivers: in the order of the assigned places.
        stale: feature -> drivers whose value was older than its view allows (but not expired), and used all the same.
        fallbacks: what was done instead of what was wanted: `behind_clock` (live, of a race that goes on: what was known minutes
            ago was used), `stale_values`, `missing_values` (the model's rule for missing ones), `no_pictures` (they could not be
            made).
        stages: seconds spent on `features`, `pictures` and `model`.
        seen: what the model looked at.
    """

    race_id: str
    simulated: bool
    moment: dict[str, Any]
    source: str
    model: ModelInUse
    saw_this_race: str
    notes: list[str]
    missing: dict[str, Any]
    drivers: list[DriverPrediction]
    stale: dict[str, list[str]] = field(default_factory=dict)
    fallbacks: list[str] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict, compare=False)
    seen: Seen | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """The prediction as JSON."""
        return {
            "race_id": self.race_id,
            "simulated": self.simulated,
            "moment": self.moment,
            "source": self.source,
            "model": {**vars(self.model), "saw_this_race": self.saw_this_race},
            "notes": self.notes,
            "missing": self.missing,
            "drivers": [vars(driver) for driver in self.drivers],
        }


def said_about(driver_id: str, place: int, probabilities: NDArray[np.float64]) -> DriverPrediction:
    """A driver's line of an answer from the place assigned and the (20,) probabilities of each place."""
    return DriverPrediction(
        driver_id=driver_id,
        position=place,
        expected_position=float(probabilities @ _PLACES),
        p_win=float(probabilities[0]),
        p_podium=float(probabilities[:3].sum()),
        p_points=float(probabilities[:10].sum()),
        probabilities=probabilities.tolist(),
    )
