"""When to stop and what to fit: plans before the start, and what teams do when rain, a safety car or worn tyres upset them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.simulator import tyres

NEVER = 999
"""Lap of a stop that is not planned."""

START_SHARES = (0.38, 0.50, 0.12)
"""Chances of starting a dry race on SOFT, MEDIUM, HARD (2018-2024: between 0.3 and 0.5 for the two softer ones)."""

FIRST_STOP_SHARE = np.array([[0.34, 0.43, 0.57], [0.25, 0.31, 0.40], [0.20, 0.25, 0.30]])
"""First stop as a share of the distance, by stops planned (1, 2, 3) and starting compound."""

LAST_STOP_LAPS = 4
"""No planned stop is made in the last laps."""

SC_PLANNED, SC_EXTRA = 0.70, 0.22
"""Chance, in each lap that allows it, that a car with a stop still planned (or with none) uses a safety car or VSC to stop."""

EARLY_GAMBLE, EARLY_LAPS = 0.08, 6
"""Chance that a car uses a safety car in the first laps to rid itself of a set that it does not want."""

WET_GAMBLE = 0.07
"""Chance, in each lap of a drying or dampening track, that a car fits the kind of tyre that is not yet (or no longer) right."""

MIXED = (0.10, 0.30)
"""Wetness at which slicks and intermediates are both defensible; their lines cross at 0.22."""

LATE_STOP = 0.22
"""Chance that a car with a free stop in hand takes new softs near the end (the point for the fastest lap)."""

FRESH = 0.82
"""Share of sets fitted in races that are new."""


@dataclass
class Plans:
    """State of the strategy of R races and D cars; changed in place lap by lap.

    Attributes:
        stops_left: (R, D) int, stops still planned.
        next_stop: (R, D) int, lap of the next planned stop, `NEVER` when none.
        compound: (R, D) int, index into `tyres.COMPOUNDS`.
        age: (R, D) int, laps on the set at the start of the lap.
        fresh: (R, D) bool, the set was new when fitted.
        stint: (R, D) int, from 1.
        used: (R, D, 5) bool, compounds used so far.
    """

    stops_left: NDArray[np.int64]
    next_stop: NDArray[np.int64]
    compound: NDArray[np.int64]
    age: NDArray[np.int64]
    fresh: NDArray[np.bool_]
    stint: NDArray[np.int64]
    used: NDArray[np.bool_]


def plan_races(
    *, laps: NDArray[np.int64], severity: NDArray[np.float64], wetness: NDArray[np.float64], luck: NDArray[np.float64]
) -> Plans:
    """Plans made before the start.

    Args:
        laps: (R,) scheduled laps.
        severity: (R, D) tyre wear relative to the average.
        wetness: (R, D) water on the track at lights out.
        luck: (R, 4, D) uniform numbers: stops, compound, lap, age of the set.
    """
    two = 1.0 / (1.0 + np.exp(-9.0 * (severity - 1.07)))
    three = np.clip((severity - 1.1) * 0.9, 0.0, 0.4) * two
    stops = 1 + (luck[:, 0] < two).astype(np.int64) + (luck[:, 0] < three)
    slick = np.searchsorted(np.cumsum(START_SHARES)[:2], luck[:, 1], side="right").astype(np.int64)
    water = tyres.best_for_water(wetness)
    compound = np.where(water > 0, tyres.HARD + water, slick)
    share = FIRST_STOP_SHARE[stops - 1, slick] * (0.82 + 0.36 * luck[:, 2])
    first = np.clip(np.rint(share * laps[:, None]).astype(np.int64), 5, np.maximum(laps[:, None] - LAST_STOP_LAPS, 5))
    fresh = luck[:, 3] < np.where(slick == tyres.SOFT, 0.5, 0.95)
    used = np.zeros((*stops.shape, len(tyres.COMPOUNDS)), dtype=bool)
    np.put_along_axis(used, compound[..., None], True, axis=2)
    return Plans(
        stops_left=stops,
        next_stop=np.where(water > 0, NEVER, first),
        compound=compound,
        age=np.where(fresh | (water > 0), 0, 3),
        fresh=fresh | (water > 0),
        stint=np.ones_like(stops),
        used=used,
    )


def stop_chance(
    plans: Plans,
    *,
    lap: int,
    laps: NDArray[np.int64],
    km: NDArray[np.float64],
    severity: NDArray[np.float64],
    wetness: NDArray[np.float64],
    is_slow: NDArray[np.bool_],
    gap_behind_s: NDArray[np.float64],
    pit_loss_s: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Chance that each car comes in at the end of this lap, 0 to 1.

    Args:
        plans: state at the start of the lap.
        lap: lap number.
        laps: (R,) scheduled laps.
        km: (R,) length of a lap, km.
        severity: (R, D) tyre wear relative to the average.
        wetness: (R, D) water on the track now.
        is_slow: (R,) bool, safety car or VSC: a stop costs about half.
        gap_behind_s: (R, D) lead over the next car on the road, s.
        pit_loss_s: (R,) what a stop costs under green, s.
    """
    remaining = (laps - lap)[:, None]
    age_km = plans.age * km[:, None]
    worn = age_km * severity / tyres.LIFE_KM[plans.compound]
    is_slick = plans.compound <= tyres.HARD

    lines = tyres.WATER_BASE_PCT[[1, 3, 4]] + tyres.WATER_SLOPE_PCT[[1, 3, 4]] * wetness[..., None]
    mine = np.take_along_axis(lines, tyres.kind(plans.compound)[..., None], axis=2)[..., 0]
    wrong_pct = mine - lines.min(axis=2)
    chance = np.where((wrong_pct > 0.8) & (remaining > 2), np.clip(wrong_pct / 5.0, 0.0, 0.85), 0.0)

    planned = is_slick & (lap >= plans.next_stop) & (remaining >= LAST_STOP_LAPS)
    chance = np.maximum(chance, np.where(planned, 0.9, 0.0))
    chance = np.maximum(chance, np.where((worn > 1.25) & (remaining > 8), 0.5, 0.0))

    due_soon = (plans.stops_left > 0) & (plans.next_stop - lap < 0.45 * laps[:, None]) & (plans.age >= 6)
    extra = (plans.stops_left == 0) & (worn > 0.4) & (remaining > 5)
    cheap = is_slow[:, None] & is_slick & (remaining > 2)
    chance = np.maximum(chance, np.where(cheap & due_soon, SC_PLANNED, 0.0))
    chance = np.maximum(chance, np.where(cheap & extra, SC_EXTRA, 0.0))
    chance = np.maximum(chance, np.where(cheap & (lap <= EARLY_LAPS) & (plans.stint == 1), EARLY_GAMBLE, 0.0))
    chance = np.maximum(chance, np.where(_is_mixed(wetness) & (remaining > 3), WET_GAMBLE, 0.0))

    free_stop = is_slick & (remaining >= 1) & (remaining <= 3) & (gap_behind_s > pit_loss_s[:, None] + 4.0)
    return np.maximum(chance, np.where(free_stop & (plans.age > 8), LATE_STOP, 0.0))


def _is_mixed(wetness: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Water near the crossover of slicks and intermediates, where teams disagree."""
    return (wetness > MIXED[0]) & (wetness < MIXED[1])


def fit_tyres(
    plans: Plans,
    stopping: NDArray[np.bool_],
    *,
    lap: int,
    laps: NDArray[np.int64],
    km: NDArray[np.float64],
    severity: NDArray[np.float64],
    wetness: NDArray[np.float64],
    luck: NDArray[np.float64],
) -> None:
    """Change tyres of the cars that stop at the end of `lap`, and plan the rest of their race (in place).

    Args:
        plans: state, changed for `stopping` cars.
        stopping: (R, D) bool.
        lap: lap number of the in-lap.
        laps: (R,) scheduled laps.
        km: (R,) length of a lap, km.
        severity: (R, D) tyre wear relative to the average.
        wetness: (R, D) water on the track now.
        luck: (R, D) uniform numbers.
    """
    remaining = (laps - lap)[:, None]
    remaining_km = remaining * km[:, None]
    water = tyres.best_for_water(wetness)
    # On a mixed track half of those who stop bet on the other kind.
    bet = _is_mixed(wetness) & ((luck * 13.0) % 1.0 < 0.5)
    water = np.where(bet, np.where(water == 0, 1, 0), water)
    # A plan never asks for fewer stops than the hardest tyre needs.
    needed = np.floor(remaining_km * severity / (tyres.LIFE_KM[tyres.HARD] * 1.15)).astype(np.int64)
    left = np.where(plans.compound <= tyres.HARD, np.maximum(plans.stops_left - 1, needed), needed)
    left = np.where(remaining <= 12, 0, left)
    stint_km = remaining_km / (left + 1)
    slick = tyres.slick_for_distance(stint_km, severity, 0.25 * luck)
    slick_only = ~plans.used[..., tyres.INTERMEDIATE :].any(axis=2)
    one_slick = plans.used[..., : tyres.INTERMEDIATE].sum(axis=2) == 1
    same = np.take_along_axis(plans.used, slick[..., None], axis=2)[..., 0]
    must_differ = slick_only & one_slick & same & (left == 0)
    slick = np.where(must_differ, np.where(slick == tyres.MEDIUM, tyres.HARD, tyres.MEDIUM), slick)

    compound = np.where(water > 0, tyres.HARD + water, slick)
    gap = np.rint(remaining / (left + 1) * (0.88 + 0.24 * luck)).astype(np.int64)
    upcoming = np.where((left > 0) & (water == 0), np.minimum(lap + gap, laps[:, None] - LAST_STOP_LAPS), NEVER)
    fresh = (luck * 7.0) % 1.0 < FRESH
    plans.compound = np.where(stopping, compound, plans.compound)
    plans.stops_left = np.where(stopping, left, plans.stops_left)
    plans.next_stop = np.where(stopping, upcoming, plans.next_stop)
    plans.age = np.where(stopping, np.where(fresh, 0, 2), plans.age)
    plans.fresh = np.where(stopping, fresh, plans.fresh)
    plans.stint = plans.stint + stopping
    fitted = np.zeros_like(plans.used)
    np.put_along_axis(fitted, compound[..., None], True, axis=2)
    plans.used = plans.used | (fitted & stopping[..., None])
