"""Weather of a race by the minute: temperatures, wind, showers, and the water that lies on the track.

Vectorised over the races of a season; each race has its own stream, so its weather does not depend on the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from pipelines.simulator.circuits import Circuit

MINUTES_BEFORE = 60
"""First sample, minutes before lights out (timing feeds start about an hour before)."""

MINUTES = 60 + 360
"""Samples kept for a race: enough for two hours of racing and three of red flags."""

LONGER_WINDOW = 1.2
"""Showers are drawn over a window that reaches beyond the samples kept; some of them are never seen."""

SHOWERS_EXTRA = 0.8
"""Mean number of showers beyond the first on a rainy day."""

SHOWER_MIN = 28.0
"""Mean length of a shower, minutes (exponential)."""

SHOWER_MM_H, INTENSITY_SIGMA = 0.34, 0.9
"""Median rain of a shower, mm/h, and its log-normal spread: most showers wet a track only in part."""

SOAK_PER_MIN = 0.055
"""Share of the remaining dryness lost a minute at 1 mm/h: intermediates are due after about 5 minutes of moderate rain."""

DRY_PER_MIN = 0.020
"""Water lost a minute on a mild day with cars running, of 1: a soaked track is ready for slicks after 35-45 minutes."""


@dataclass(frozen=True)
class Weather:
    """Weather of R races, one sample a minute from `MINUTES_BEFORE` minutes before lights out.

    Attributes:
        air_c: (R, M) air temperature, deg C.
        track_c: (R, M) track temperature, deg C.
        humidity_pct: (R, M) relative humidity, %.
        pressure_mbar: (R, M) air pressure at the circuit, mbar.
        wind_deg: (R, M) int, direction the wind comes from, degrees 0-359.
        wind_mps: (R, M) wind speed, m/s.
        raining: (R, M) bool, rain is falling.
        wetness: (R, M) water on the track, 0 (dry) to 1.
    """

    air_c: NDArray[np.float64]
    track_c: NDArray[np.float64]
    humidity_pct: NDArray[np.float64]
    pressure_mbar: NDArray[np.float64]
    wind_deg: NDArray[np.int64]
    wind_mps: NDArray[np.float64]
    raining: NDArray[np.bool_]
    wetness: NDArray[np.float64]

    def wetness_at(self, clock_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """(R, D) wetness at session clocks `clock_s` (R, D), seconds after lights out; clamped to the samples kept."""
        minute = np.clip(clock_s // 60.0 + MINUTES_BEFORE, 0, MINUTES - 1).astype(np.int64)
        return np.take_along_axis(self.wetness, minute, axis=1)


def simulate_weather(circuits: Sequence[Circuit], generators: Sequence[np.random.Generator]) -> Weather:
    """Weather of one race at each of `circuits`.

    Args:
        circuits: R circuits.
        generators: R generators, one a race.
    """
    rain = np.stack([_rain_mm_h(circuit, rng) for circuit, rng in zip(circuits, generators, strict=True)])
    noise = np.stack([rng.standard_normal((5, MINUTES)) for rng in generators])
    base = np.stack([rng.standard_normal(5) for rng in generators])
    cloud = np.stack([rng.uniform(0.0, 1.0) for rng in generators])[:, None]
    minute = np.arange(MINUTES) - MINUTES_BEFORE
    raining = rain > 0.0

    usual = np.array([c.air_c for c in circuits], dtype=np.float64)[:, None]
    damp = _smooth(raining.astype(np.float64), 20)
    air = usual + 3.0 * base[:, :1] - 0.008 * minute - 3.0 * damp + _smooth(noise[:, 0], 15) * 0.8
    # Sun heats asphalt 8-22 deg C above the air; clouds and rain take most of that away.
    track = air + (22.0 - 14.0 * cloud) * (1.0 - 0.75 * damp) * (1.0 - 0.0015 * minute) + _smooth(noise[:, 1], 10) * 1.5
    humid = (
        np.array([circuit.humidity_pct for circuit in circuits], dtype=np.float64)[:, None]
        + 8.0 * base[:, 1:2]
        + 18.0 * damp
        - 1.2 * (air - usual)
    )
    # Barometric formula, scale height 8.4 km.
    altitude = np.array([c.altitude_m for c in circuits])[:, None]
    pressure = 1013.0 * np.exp(-altitude / 8400.0) + 6.0 * base[:, 2:3] + _smooth(noise[:, 2], 60)
    wind = np.abs(1.6 + 0.8 * base[:, 3:4] + _smooth(noise[:, 3], 5) * 1.6)
    heading = (180.0 + 100.0 * base[:, 4:5] + 60.0 * _smooth(noise[:, 4], 8)) % 360.0
    return Weather(
        air_c=np.round(air, 1),
        track_c=np.round(track, 1),
        humidity_pct=np.asarray(np.round(np.clip(humid, 8.0, 98.0)), dtype=np.float64),
        pressure_mbar=np.round(pressure, 1),
        wind_deg=heading.astype(np.int64),
        wind_mps=np.round(np.clip(wind, 0.0, 15.0), 1),
        raining=raining,
        wetness=_wetness(rain, track),
    )


def _rain_mm_h(circuit: Circuit, rng: np.random.Generator) -> NDArray[np.float64]:
    """(M,) rain by the minute, mm/h; drawn in a fixed order so that dry days use as many numbers as wet ones."""
    is_rainy = rng.uniform() < circuit.rain_chance * LONGER_WINDOW
    showers = 1 + rng.poisson(SHOWERS_EXTRA)
    starts = rng.uniform(-MINUTES_BEFORE - 20.0, 115.0, showers)
    lengths = rng.exponential(SHOWER_MIN, showers) + 3.0
    strength = SHOWER_MM_H * np.exp(INTENSITY_SIGMA * rng.standard_normal(showers))
    minute = (np.arange(MINUTES) - MINUTES_BEFORE)[:, None]
    falling = (minute >= starts) & (minute < starts + lengths)
    return (falling * strength).sum(axis=1) * float(is_rainy)


def _wetness(rain: NDArray[np.float64], track_c: NDArray[np.float64]) -> NDArray[np.float64]:
    """(R, M) water on the track: rain soaks what is still dry, warmth and cars dry it."""
    drying = DRY_PER_MIN * np.clip(track_c / 28.0, 0.5, 1.6)
    level = np.zeros(len(rain))
    levels = np.empty_like(rain)
    for minute in range(rain.shape[1]):
        soak = SOAK_PER_MIN * rain[:, minute] * (1.0 - level)
        level = np.clip(level + soak - drying[:, minute] * np.where(rain[:, minute] > 0, 0.35, 1.0), 0.0, 1.0)
        levels[:, minute] = level
    return levels


def _smooth(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Exponential moving average along the minutes, about `window` minutes long."""
    alpha = 2.0 / (window + 1.0)
    averaged = lfilter([alpha], [1.0, alpha - 1.0], values, axis=-1)
    return np.asarray(averaged, dtype=np.float64)
