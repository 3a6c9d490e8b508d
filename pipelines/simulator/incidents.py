"""What goes wrong in a lap, and how race control answers: yellow, virtual safety car, safety car or red flag.

Hazards are per car and lap. Rates are set so that retirements, and the share of races and laps under each regime, are of the size
of 2018-2024 (57 % of races with a safety car, 44 % with a VSC, 13 % stopped; 15 % of entries do not finish).
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Control(IntEnum):
    """Track status, with the codes of the timing feed."""

    GREEN = 1
    YELLOW = 2
    SAFETY_CAR = 4
    RED = 5
    VSC = 6


ACCIDENT_PER_LAP = 0.00088
"""Hazard of an accident that ends the race of an average driver at an average circuit in a dry lap."""

FIRST_LAP_ACCIDENT = 26.0
"""Lap 1 against a later lap: a quarter of all accidents happen there."""

RESTART_ACCIDENT = 7.0
"""The lap after a safety car or a red flag against an ordinary one."""

WET_ACCIDENT = 4.0
"""Extra hazard on a fully wet track, in units of the dry hazard."""

SPIN_PER_LAP = 0.011
"""Chance that a lap of the race sees a yellow without a retirement."""

DEBRIS_PER_LAP = 0.0022
"""Chance that a lap of the race brings the safety car out for debris or a recovered car."""

ACCIDENT_ANSWER = (0.080, 0.50, 0.66)
"""Cumulative chances of red flag, safety car, VSC after an accident; yellow otherwise."""

FAILURE_ANSWER = (0.0, 0.10, 0.28)
"""The same after a mechanical retirement."""

LEAST_RUNNING = 6
"""No car retires when fewer than this run: the least that ever finished a real race of this era is well above."""

SC_LAPS_MEAN = 1.5
"""Mean laps behind the safety car beyond the first three, after the lap of the incident."""

RED_FLAG_MIN_S, RED_FLAG_MEAN_S, RED_FLAG_MAX_S = 900.0, 1200.0, 6000.0
"""Shortest stop under a red flag, the mean beyond it, and the longest, s (the longest real one of 2018-2024 is above 7,000 s)."""

FAILURES = ("Engine", "Power Unit", "Gearbox", "Brakes", "Hydraulics", "Suspension", "Overheating", "Electronics", "Oil leak")
ACCIDENTS = ("Accident", "Collision", "Collision damage", "Spun off")


@dataclass(frozen=True)
class LapIncidents:
    """Incidents of one lap in R races.

    Attributes:
        accident: (R, D) bool, the car ends its race in an accident in this lap.
        failure: (R, D) bool, the car ends its race by a failure in this lap.
        answer: (R,) int, `Control` that this lap's incidents call for; GREEN when none.
    """

    accident: NDArray[np.bool_]
    failure: NDArray[np.bool_]
    answer: NDArray[np.int64]


def lap_incidents(
    *,
    running: NDArray[np.bool_],
    accident_hazard: NDArray[np.float64],
    failure_hazard: NDArray[np.float64],
    luck_accident: NDArray[np.float64],
    luck_failure: NDArray[np.float64],
    luck_answer: NDArray[np.float64],
    luck_spin: NDArray[np.float64],
) -> LapIncidents:
    """Compare hazards with this lap's uniform numbers.

    Args:
        running: (R, D) bool, cars that started the lap.
        accident_hazard: (R, D) chance of an accident in this lap.
        failure_hazard: (R, D) chance of a failure in this lap.
        luck_accident: (R, D) uniform numbers.
        luck_failure: (R, D) uniform numbers.
        luck_answer: (R,) uniform numbers that decide how serious it is.
        luck_spin: (R,) uniform numbers for yellows and debris.
    """
    enough = (running.sum(axis=1) >= LEAST_RUNNING)[:, None]
    accident = running & enough & (luck_accident < accident_hazard)
    failure = running & enough & ~accident & (luck_failure < failure_hazard)
    answer = np.full(len(running), Control.GREEN, dtype=np.int64)
    answer[luck_spin < DEBRIS_PER_LAP + SPIN_PER_LAP] = Control.YELLOW
    answer[luck_spin < DEBRIS_PER_LAP] = Control.SAFETY_CAR
    for happened, chances in ((failure.any(axis=1), FAILURE_ANSWER), (accident.any(axis=1), ACCIDENT_ANSWER)):
        called = np.select(
            [luck_answer < chance for chance in chances], [Control.RED, Control.SAFETY_CAR, Control.VSC], default=Control.YELLOW
        )
        answer = np.where(happened, np.maximum(_rank(answer), _rank(called)), _rank(answer))
        answer = _BY_RANK[answer]
    return LapIncidents(accident=accident, failure=failure, answer=answer)


_BY_RANK = np.array([Control.GREEN, Control.YELLOW, Control.VSC, Control.SAFETY_CAR, Control.RED], dtype=np.int64)


def _rank(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """How serious a code is, 0 (green) to 4 (red)."""
    return np.array([0, 0, 1, 0, 3, 4, 2], dtype=np.int64)[codes]
