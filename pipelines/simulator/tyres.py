"""Tyre compounds: pace when new, wear by the lap, the cliff, and what water does to each.

Compounds are numbered as indices into `COMPOUNDS`; the three slicks come first, softest first. All effects are in % of the lap
time, so that they scale with the length of the lap.
"""

import numpy as np
from numpy.typing import NDArray

COMPOUNDS: tuple[str, ...] = ("SOFT", "MEDIUM", "HARD", "INTERMEDIATE", "WET")
SOFT, MEDIUM, HARD, INTERMEDIATE, WET = range(5)

PACE_PCT = np.array([-0.45, 0.0, 0.45, 0.0, 0.0])
"""New-tyre pace against the medium, % of a lap. Pirelli quotes 0.4-0.7 s between neighbouring compounds at a lap of 90 s."""

WEAR_PCT_PER_KM = np.array([0.0150, 0.0090, 0.0062, 0.0075, 0.0060])
"""Linear wear, % of a lap for each km on the set at severity 1: 0.07, 0.045 and 0.03 s a lap at 5.3 km and 90 s, inside the
0.02-0.10 s a lap that fuel-corrected stints of 2018-2024 show."""

LIFE_KM = np.array([105.0, 155.0, 220.0, 170.0, 140.0])
"""Distance before the cliff at severity 1, km: 20, 29 and 41 laps of 5.3 km, the stint lengths Pirelli forecasts for races."""

CLIFF_PCT_PER_KM2 = 0.00075
"""Beyond its life a set loses quadratically: 10 laps of 5.3 km too many cost 2 % (1.9 s) a lap."""

WARM_UP_PCT = np.array([0.30, 0.55, 0.85, 0.60, 0.60])
"""Extra time of the first lap on a cold set, % of a lap."""

# Water: lap time in % above the dry lap as a line in the wetness of the track (0 dry, 1 standing water). Where the lines cross,
# teams change tyres: slick to intermediate at 0.22, intermediate to wet at 0.78. Real crossovers lie at laps 7-8 % and 13-15 %
# above the dry lap.
WATER_BASE_PCT = np.array([0.0, 0.0, 0.0, 5.5, 10.5])
WATER_SLOPE_PCT = np.array([35.0, 35.0, 35.0, 10.5, 4.0])

DRY_OVERHEAT = 2.5
"""Wear of rain tyres on a dry track, relative to a wet one."""


def lap_effect_pct(
    compound: NDArray[np.int64], age_km: NDArray[np.float64], severity: NDArray[np.float64], wetness: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What a car loses on this set in this lap against a new medium on a dry track, % of the lap (negative = faster).

    Args:
        compound: (...) index into `COMPOUNDS`.
        age_km: (...) distance on the set at the start of the lap, km, >= 0.
        severity: (...) wear relative to the average circuit and driver, > 0.
        wetness: (...) water on the track, 0 to 1.
    """
    wear_scale = severity * np.where((compound >= INTERMEDIATE) & (wetness < 0.15), DRY_OVERHEAT, 1.0)
    beyond = np.maximum(age_km * wear_scale - LIFE_KM[compound], 0.0)
    wear = WEAR_PCT_PER_KM[compound] * age_km * wear_scale + np.minimum(CLIFF_PCT_PER_KM2 * beyond**2, 6.0)
    water = WATER_BASE_PCT[compound] + WATER_SLOPE_PCT[compound] * wetness
    return PACE_PCT[compound] + wear + water


def best_for_water(wetness: NDArray[np.float64]) -> NDArray[np.int64]:
    """0 = slicks, 1 = intermediates, 2 = wets: the kind of tyre whose line is lowest at this wetness.

    Args:
        wetness: (...) water on the track, 0 to 1.
    """
    lines = WATER_BASE_PCT[[MEDIUM, INTERMEDIATE, WET]] + WATER_SLOPE_PCT[[MEDIUM, INTERMEDIATE, WET]] * wetness[..., None]
    return np.argmin(lines, axis=-1).astype(np.int64)


def kind(compound: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 = slick, 1 = intermediate, 2 = wet."""
    return np.maximum(compound - HARD, 0)


def slick_for_distance(
    distance_km: NDArray[np.float64], severity: NDArray[np.float64], boldness: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The softest slick that lasts `distance_km`.

    Args:
        distance_km: (...) length of the stint, km.
        severity: (...) wear relative to the average.
        boldness: (...) share of its life that the team will exceed, 0.1 = 10 % beyond the cliff.
    """
    reach = LIFE_KM[: MEDIUM + 1] * (1.0 + boldness[..., None]) / severity[..., None]
    return (distance_km[..., None] > reach).sum(axis=-1).astype(np.int64)
