"""Race control: what is in force in a lap, for how long, and how fast cars go meanwhile."""

import numpy as np
from numpy.typing import NDArray

from pipelines.simulator.incidents import RED_FLAG_MAX_S, RED_FLAG_MEAN_S, RED_FLAG_MIN_S, SC_LAPS_MEAN, Control

SC_LAP, CATCH_LAP, VSC_LAP, RED_LAP = 1.50, 1.22, 1.38, 1.55
"""Lap behind the safety car, of cars still catching the queue, under VSC, and into a red flag; in reference laps."""

LAST_RED_LAPS = 5
"""With fewer laps to go the safety car comes out instead of a red flag: there would be nothing left to restart."""


class RaceControl:
    """Race control of R races: what is in force and for how many more laps."""

    def __init__(self, races: int) -> None:
        self.code = np.full(races, Control.GREEN, dtype=np.int64)
        self.laps_left = np.zeros(races, dtype=np.int64)
        self.was_neutral = np.zeros(races, dtype=bool)

    def in_force(self, code: Control) -> NDArray[np.bool_]:
        """(R,) bool, `code` holds from the line on in this lap (called in an earlier lap)."""
        return (self.laps_left > 0) & (self.code == code)

    def call(self, answer: NDArray[np.int64], luck: NDArray[np.float64]) -> None:
        """Take up new answers where nothing is in force. `luck` is (R, 5)."""
        new = (self.laps_left == 0) & (answer != Control.GREEN)
        sc = 2 + np.minimum(np.floor(-SC_LAPS_MEAN * np.log(luck[:, 2])), 7).astype(np.int64)
        length = np.select(
            [answer == Control.SAFETY_CAR, answer == Control.VSC, answer == Control.RED],
            [sc, 1 + (luck[:, 2] < 0.25), 1],
            default=0,
        )
        self.code = np.where(new, answer, self.code)
        # One more, because the lap of the incident itself is counted down at its end.
        self.laps_left = np.where(new & (length > 0), length + 1, self.laps_left)

    def end_of_lap(self) -> None:
        """Count down; back to green where the time is up."""
        self.was_neutral = (self.laps_left == 1) & ((self.code == Control.SAFETY_CAR) | (self.code == Control.RED))
        self.laps_left = np.maximum(self.laps_left - 1, 0)
        self.code = np.where(self.laps_left == 0, Control.GREEN, self.code)


def neutralise(
    free: NDArray[np.float64],
    lap_s: NDArray[np.float64],
    *,
    now: NDArray[np.int64],
    since: NDArray[np.float64],
    fresh_call: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """(R, D) lap times under race control, s: part of the lap in the lap of the call, all of it afterwards."""
    factor = np.select(
        [now == Control.SAFETY_CAR, now == Control.VSC, now == Control.RED, now == Control.YELLOW],
        [CATCH_LAP, VSC_LAP, RED_LAP, 1.004],
        default=1.0,
    )
    affected = np.where(fresh_call, 1.0 - since, 1.0)
    slowed = free * (1.0 + (factor - 1.0) * affected)[:, None]
    steady = np.maximum(factor * lap_s, 0.0)[:, None] * np.maximum(free / lap_s[:, None], 1.0) ** 0.25
    whole_lap = (~fresh_call & (now != Control.GREEN))[:, None]
    return np.where(whole_lap, steady, slowed)


def line_clock(
    *,
    leader_s: NDArray[np.float64],
    lap_s: NDArray[np.float64],
    sc: NDArray[np.bool_],
    red: NDArray[np.bool_],
    luck: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(R,) earliest session clock at which the first car may cross the line, s; -inf where the track is free.

    Args:
        leader_s: (R,) the leader's clock at the start of the lap.
        lap_s: (R,) reference lap.
        sc: (R,) bool, behind the safety car for the whole lap.
        red: (R,) bool, the race is stopped in the pit lane at the start of the lap.
        luck: (R,) uniform numbers: the pace of the safety car and the length of the stop.
    """
    behind_car = leader_s + SC_LAP * lap_s * (0.96 + 0.08 * luck)
    stop_s = np.round(np.minimum(RED_FLAG_MIN_S - RED_FLAG_MEAN_S * np.log(luck), RED_FLAG_MAX_S))
    return np.where(red, leader_s + stop_s + RED_LAP * lap_s, np.where(sc, behind_car, -np.inf))
