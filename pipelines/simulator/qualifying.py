"""Qualifying in three parts, and the grid it makes.

Q1 drops the five slowest of twenty, Q2 five more, Q3 decides the first ten places. A part counts the best lap of two runs.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TRIM = 0.945
"""A qualifying lap against the race reference lap: new softs, no fuel, engine turned up (real pole laps are 4-6 % faster)."""

RUN_SIGMA_PCT = 0.17
"""Run-to-run noise of a qualifying lap, % of a lap; the best of two runs counts."""

EVOLUTION_PCT = np.array([0.0, 0.35, 0.65])
"""Track gained since Q1, % of a lap."""

NO_TIME = 0.012
"""Chance that a driver sets no time in Q1 (crash or failure): last on the sheet."""

PENALTY_BACK, PENALTY_PLACES, PENALTY_PIT_LANE = 0.03, 0.03, 0.015
"""Chances of a start from the back (new power unit), of losing five places (gearbox, impeding) and of a pit-lane start.
Real 2018-2024: 1.5 % of entries start from the pit lane and about 8 % elsewhere than they qualified."""


@dataclass(frozen=True)
class Qualifying:
    """Qualifying of R races and D drivers.

    Attributes:
        position: (R, D) int, 1..D.
        times_s: (R, 3, D) best lap of Q1, Q2, Q3 in seconds, NaN where none was driven.
        grid: (R, D) int, starting place 1..D; pit-lane starters take the places behind everybody, by qualifying position.
        pit_lane: (R, D) bool.
    """

    position: NDArray[np.int64]
    times_s: NDArray[np.float64]
    grid: NDArray[np.int64]
    pit_lane: NDArray[np.bool_]


def simulate_qualifying(
    lap_s: NDArray[np.float64], pace_pct: NDArray[np.float64], noise: NDArray[np.float64], generators: list[np.random.Generator]
) -> Qualifying:
    """Run qualifying for R races at once.

    Args:
        lap_s: (R,) race reference lap, s.
        pace_pct: (R, D) qualifying pace above the ideal, % of a lap.
        noise: (R, D) lap noise relative to the average driver.
        generators: R generators, one a race.
    """
    races, drivers = pace_pct.shape
    runs = np.stack([rng.standard_normal((3, 2, drivers)) for rng in generators])
    luck = np.stack([rng.uniform(size=(4, drivers)) for rng in generators])
    best = RUN_SIGMA_PCT * noise[:, None] * runs.min(axis=2)
    times = lap_s[:, None, None] * TRIM * (1.0 + (pace_pct[:, None] + best - EVOLUTION_PCT[:, None]) / 100.0)
    times = np.round(times, 3)
    times[:, 0][luck[:, 0] < NO_TIME] = np.nan

    key = np.where(np.isnan(times[:, 0]), np.inf, times[:, 0])
    order = np.argsort(key, axis=1, kind="stable")
    for part, kept in ((1, 15), (2, 10)):
        keep = order[:, :kept]
        sessions = np.take_along_axis(times[:, part], keep, axis=1)
        order[:, :kept] = np.take_along_axis(keep, np.argsort(sessions, axis=1, kind="stable"), axis=1)
        outside = np.ones((races, drivers), dtype=bool)
        np.put_along_axis(outside, keep, False, axis=1)
        times[:, part][outside] = np.nan
    position = np.empty((races, drivers), dtype=np.int64)
    np.put_along_axis(position, order, np.arange(1, drivers + 1)[None].repeat(races, axis=0), axis=1)

    # A penalty is a shift of the sort key; ties and pit-lane starts are broken by qualifying position.
    pit_lane = luck[:, 1] < PENALTY_PIT_LANE
    shift = np.where(luck[:, 2] < PENALTY_BACK, 100.0, 0.0) + np.where(luck[:, 3] < PENALTY_PLACES, 5.5, 0.0) + 1000.0 * pit_lane
    grid = np.argsort(np.argsort(position + shift, axis=1, kind="stable"), axis=1, kind="stable") + 1
    return Qualifying(position=position, times_s=times, grid=grid.astype(np.int64), pit_lane=pit_lane)
