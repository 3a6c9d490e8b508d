"""Lap times on a free track: fuel, grip, tyres, water, noise, wake, and a driver who has nobody to race.

All effects are in % of the reference lap of the circuit. Arrays are (R, D): R races and D cars.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FUEL_START_KG = 103.0
"""Fuel at lights out, kg; the rules allow 110 (105 before 2019), nearly all is burnt."""

FUEL_PCT_PER_KG = 0.034
"""Lap time for each kg on board, % of a lap: 0.03 s at a lap of 90 s, the figure teams quote."""

RUBBER_PCT = 1.15
"""What the track gains in grip over a dry race, % of a lap."""

NOISE_PCT = 0.235
"""Lap-to-lap noise of an average driver, % of a lap (real consecutive green laps differ by 0.31 % in the median)."""

PACE_PHASE_PCT = 0.36
"""Slow part of the noise: how a set of tyres or a part of the race suits a car, % of a lap, constant through a stint."""

MISTAKE, MISTAKE_PCT = 0.018, 1.3
"""Chance of a mistake in a lap, and what it costs on average, % of a lap (lock-up, run wide; exponential)."""

DIRTY_AIR_GAP_S, DIRTY_AIR_PCT = 1.4, 0.16
"""Closer than this the wake costs time, % of a lap at a circuit of passing_pct 1."""

EASE_PCT, EASE_GAP_S, EASE_RANGE_S = 1.00, 1.5, 7.0
"""A driver with nobody close ahead spares the car once the car behind is further away than this; in full 7 s beyond it.
Without it the winner's margin grows to twice the real median of 6 s."""

STANDING_START_S, ROW_S, START_SIGMA_S = 4.5, 0.35, 0.32
"""Lap 1: time lost from standstill, by place on the grid, and the scatter of starts and first corners, s."""

PIT_LANE_START_S = 12.0
"""Further loss of a start from the pit lane, s."""


def base_pct(
    *, lap: int, laps: NDArray[np.int64], noise: Floats, wetness: Floats, normal: Floats, luck: Floats, size: Floats
) -> Floats:
    """What fuel, grip, noise and mistakes add to a lap, % of the lap.

    Args:
        lap: lap number.
        laps: (R,) scheduled laps.
        noise: (R, D) lap noise relative to the average driver.
        wetness: (R, D) water on the track, 0 to 1; a wet lap scatters more and invites mistakes.
        normal: (R, D) normal numbers.
        luck: (R, D) uniform numbers that decide on mistakes.
        size: (R, D) uniform numbers that decide what they cost.
    """
    share = (lap - 0.5) / laps[:, None]
    fuel = FUEL_PCT_PER_KG * FUEL_START_KG * np.clip(1.0 - share, 0.0, 1.0)
    rubber = RUBBER_PCT * (1.0 - np.exp(-3.0 * share))
    mistake = np.where(luck < MISTAKE * (1.0 + 2.0 * wetness), -MISTAKE_PCT * np.log(size), 0.0)
    scatter = NOISE_PCT * noise * normal * (1.0 + 1.5 * wetness)
    return np.asarray(fuel - rubber + mistake + scatter, dtype=np.float64)


def company_pct(*, ahead_s: Floats, behind_s: Floats, passing_pct: Floats) -> Floats:
    """What the cars around add to a lap, % of the lap: the wake of the car ahead, or the leisure of a gap on both sides.

    Args:
        ahead_s: (R, D) distance to the car ahead at the start of the lap, s.
        behind_s: (R, D) lead over the next car, s.
        passing_pct: (R,) how hard it is to pass at the circuit.
    """
    wake = np.where(ahead_s < DIRTY_AIR_GAP_S, DIRTY_AIR_PCT * passing_pct[:, None], 0.0)
    is_alone = ahead_s > 2.0 * DIRTY_AIR_GAP_S
    return np.asarray(wake + EASE_PCT * np.clip((behind_s - EASE_GAP_S) / EASE_RANGE_S, 0.0, 1.0) * is_alone, dtype=np.float64)


def start_s(*, grid: NDArray[np.int64], pit_lane: NDArray[np.bool_], usual_s: Floats, normal: Floats) -> Floats:
    """Seconds that the start adds to lap 1, by place on the grid, habit and chance.

    Args:
        grid: (R, D) starting place.
        pit_lane: (R, D) bool.
        usual_s: (R, D) usual loss of the driver, s.
        normal: (R, D) normal numbers.
    """
    return STANDING_START_S + ROW_S * grid + usual_s + START_SIGMA_S * normal + PIT_LANE_START_S * pit_lane
