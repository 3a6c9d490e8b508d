"""Simulated races of lap-speed curves, to teach an encoder what speed traces look like without showing it a real race.

These curves are for drawing only: they have the shapes of real traces (fuel burn-off, stints, pit laps, safety cars, rain, red
flags, retirements, lapped cars, any moment of a race), spread widely enough that real races lie inside. They are not the season
simulator, which models who wins.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_LAPS = (44, 78)
_SPEED_KPH = (160.0, 250.0)


@dataclass(frozen=True)
class CurveRace:
    """One simulated race as known at one moment: what the pictures of that race are drawn from.

    Attributes:
        scheduled_laps: length of the race, laps.
        lap: the leader's lap of the moment, 1..scheduled_laps.
        lap_numbers: per car, (n,) laps that ended by the moment, ascending; n >= 1.
        speeds_kph: per car, (n,) average speed of those laps.
    """

    scheduled_laps: int
    lap: int
    lap_numbers: tuple[IntArray, ...]
    speeds_kph: tuple[FloatArray, ...]


def simulate_race(rng: np.random.Generator, *, n_cars: int = 20) -> CurveRace:
    """A race of `n_cars` at a random moment; cars that have not ended a lap by then are left out.

    The moment is the instant the leading car ends a lap drawn from 1..scheduled laps (half of the races: the middle third of
    the distance, where the default moment lies), so lapped cars have fewer laps drawn, as in reality.
    """
    laps = int(rng.integers(_LAPS[0], _LAPS[1] + 1))
    base_kph = float(rng.uniform(*_SPEED_KPH))
    seconds = _lap_seconds(rng, n_cars=n_cars, laps=laps, base_s=_lap_length_km(rng, laps) / base_kph * 3600.0)
    length_km = float(np.median(seconds[np.isfinite(seconds)])) * base_kph / 3600.0
    ends = np.cumsum(seconds, axis=1)  # NaN after a retirement
    first, last = (laps // 3, 2 * laps // 3) if rng.random() < 0.5 else (1, laps)
    lap = int(rng.integers(first, last + 1))
    as_of = np.nanmin(ends[:, lap - 1])
    numbers, speeds = [], []
    for car in range(n_cars):
        n = int(np.count_nonzero(ends[car] <= as_of + 1e-9))
        if n:
            numbers.append(np.arange(1, n + 1, dtype=np.int64))
            speeds.append(length_km / seconds[car, :n] * 3600.0)
    return CurveRace(scheduled_laps=laps, lap=lap, lap_numbers=tuple(numbers), speeds_kph=tuple(speeds))


def _lap_length_km(rng: np.random.Generator, laps: int) -> float:
    """Races run about 305 km, so the lap length follows from the number of laps."""
    return float(305.0 / laps * rng.uniform(0.95, 1.05))


def _lap_seconds(rng: np.random.Generator, *, n_cars: int, laps: int, base_s: float) -> FloatArray:
    """(n_cars, laps) lap times in seconds; NaN from a car's retirement on."""
    lap = np.arange(laps)
    progress = lap / laps
    # Pace in per cent of a lap: two cars a team, field spreads from a close one (0.3 %) to a stretched one (4 % first to last).
    spread = rng.uniform(0.08, 1.1)
    team = np.repeat(rng.normal(0.0, spread, (n_cars + 1) // 2), 2)[:n_cars]
    pace = team + rng.normal(0.0, 0.4 * spread, n_cars)
    fuel = rng.uniform(0.5, 4.0) * (1.0 - progress)
    evolution = rng.uniform(0.0, 1.2) * np.exp(-progress * rng.uniform(1.0, 4.0))
    percent = pace[:, None] + fuel + evolution

    stops = _pit_laps(rng, n_cars=n_cars, laps=laps)
    wear_rate = rng.uniform(0.0, 0.12)
    pit_s = rng.uniform(16.0, 30.0)
    extra_s = np.zeros((n_cars, laps))
    for car in range(n_cars):
        age, compound, wear = int(rng.integers(0, 4)), rng.uniform(0.0, 1.2), wear_rate * rng.uniform(0.5, 1.6)
        for index in range(laps):
            percent[car, index] += compound + wear * age + max(0.0, age - 22) ** 2 * wear * 0.02
            age += 1
            if stops[car, index]:
                stationary = rng.exponential(1.0) + (rng.random() < 0.04) * rng.uniform(4.0, 25.0)
                split = rng.uniform(0.15, 0.6)
                extra_s[car, index] += pit_s * split
                if index + 1 < laps:
                    extra_s[car, index + 1] += pit_s * (1.0 - split) + stationary
                age, compound = 0, rng.uniform(0.0, 1.2)

    noise = rng.uniform(0.08, 0.5)
    percent += rng.normal(0.0, noise, percent.shape) + rng.normal(0.0, noise * 0.5, laps)
    percent += _traffic(rng, percent.shape, size=rng.uniform(0.0, 1.2))
    mistakes = rng.random(percent.shape) < 0.008
    percent += mistakes * rng.exponential(3.0, percent.shape)
    percent += _rain(rng, laps)[None, :] * rng.uniform(0.85, 1.2, (n_cars, 1))
    neutral = _neutralised(rng, laps)
    seconds: FloatArray = base_s * (1.0 + percent / 100.0)
    held_s = base_s * (1.0 + neutral * rng.normal(1.0, 0.04, seconds.shape))
    seconds = np.where(neutral > 0.0, np.maximum(seconds, held_s), seconds)
    seconds = seconds + extra_s
    # Standing start: the back of the grid loses more.
    seconds[:, 0] += rng.uniform(3.0, 9.0) + np.argsort(np.argsort(pace + rng.normal(0.0, 0.5, n_cars))) * rng.uniform(0.1, 0.7)
    if rng.random() < 0.06:  # red flag: one lap as long as the stop
        seconds[:, int(rng.integers(0, laps))] += rng.uniform(600.0, 3600.0)
    retire_share = rng.uniform(0.0, 0.3)
    for car in np.flatnonzero(rng.random(n_cars) < retire_share).tolist():
        if car == int(np.argmin(pace)):
            continue  # someone leads every lap, so every moment of the race exists
        last = int(rng.integers(1, laps))
        seconds[car, last - 1] *= 1.0 + (rng.random() < 0.5) * rng.uniform(0.02, 0.6)
        seconds[car, last:] = np.nan
    return seconds


def _pit_laps(rng: np.random.Generator, *, n_cars: int, laps: int) -> NDArray[np.bool_]:
    """(n_cars, laps) the car stops at the end of that lap; the field shares a strategy, cars scatter around it."""
    stops = np.zeros((n_cars, laps), dtype=bool)
    usual = int(rng.integers(0, 4))
    windows = np.sort(rng.uniform(0.12, 0.85, usual))
    for car in range(n_cars):
        for window in windows:
            at = round((window + rng.normal(0.0, 0.06)) * laps)
            if rng.random() < 0.92 and 0 < at < laps - 1:
                stops[car, at] = True
        if rng.random() < 0.15:
            stops[car, int(rng.integers(0, laps))] = True
    return stops


def _traffic(rng: np.random.Generator, shape: tuple[int, int], *, size: float) -> FloatArray:
    """Per cent lost behind other cars: an AR(1) process a car, cut at zero."""
    keep = rng.uniform(0.7, 0.95)
    steps = rng.normal(0.0, size * np.sqrt(1.0 - keep**2), shape)
    held = np.zeros(shape)
    held[:, 0] = rng.normal(0.0, size, shape[0])
    for index in range(1, shape[1]):
        held[:, index] = keep * held[:, index - 1] + steps[:, index]
    return np.maximum(held, 0.0)


def _rain(rng: np.random.Generator, laps: int) -> FloatArray:
    """(laps,) per cent lost to a wet track: none in most races, else a phase that comes and dries."""
    lost = np.zeros(laps)
    if rng.random() < 0.15:
        start = int(rng.integers(-laps // 2, laps))
        length = int(rng.integers(5, laps))
        rise = np.clip((np.arange(laps) - start) / rng.uniform(1.0, 5.0), 0.0, 1.0)
        fall = np.clip((start + length - np.arange(laps)) / rng.uniform(3.0, 15.0), 0.0, 1.0)
        lost = np.minimum(rise, fall) * rng.uniform(5.0, 25.0)
    return lost


def _neutralised(rng: np.random.Generator, laps: int) -> FloatArray:
    """(laps,) share by which a lap behind the safety car (or virtual one) is slower; 0 on racing laps."""
    share = np.zeros(laps)
    for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.42, 0.33, 0.18, 0.07]))):
        start = 0 if rng.random() < 0.15 else int(rng.integers(0, laps))
        is_virtual = rng.random() < 0.35
        length = int(rng.integers(1, 4)) if is_virtual else int(rng.integers(2, 8))
        share[start : start + length] = rng.uniform(0.15, 0.4) if is_virtual else rng.uniform(0.3, 0.7)
    return share
