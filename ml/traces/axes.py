"""The axes that all pictures of one race share, so that pace compares between cars.

The speed axis is zoomed on racing laps: a circuit's cars differ by one or two per cent in mean speed, an axis from 0 would show
that as two pixels. Slow laps (pit stops, safety cars, red flags) fall below the axis and are drawn on its bottom edge.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.errors import InvalidLapDataError
from ml.traces.laps import LapTrace

# A lap within this factor of the race's fast laps is a racing lap; a pit lap or a safety-car lap loses more.
RACING_LAP_SHARE = 0.93
# A lap this much faster than the 99th percentile is a lap cut short under a red flag or a timing error, not pace: at Jeddah in
# 2021 two of 800 laps read 280 and 292 km/h where the others end at 244. Wet-to-dry swings stay below it (2018-2024).
IMPLAUSIBLE_SHARE = 1.10
_ENOUGH_LAPS = 20  # with fewer there is no telling which is the odd one
MARGIN_SHARE = 0.06
LEAST_SPAN_SHARE = 0.02
LEAST_SPAN_KPH = 2.0


@dataclass(frozen=True)
class RaceAxes:
    """What every picture of a race has in common.

    Attributes:
        max_lap: the lap axis runs from 0 to this (the scheduled distance, or the last lap drawn if that is later).
        speed_low_kph: bottom of the speed axis, whole km/h, >= 0; slower laps are drawn on this edge.
        speed_high_kph: top of the speed axis, whole km/h.
    """

    max_lap: int
    speed_low_kph: float
    speed_high_kph: float

    def __post_init__(self) -> None:
        if not (self.max_lap >= 1 and 0 <= self.speed_low_kph < self.speed_high_kph < math.inf):
            raise InvalidLapDataError(
                f"RaceAxes: got max_lap={self.max_lap}, speed {self.speed_low_kph}..{self.speed_high_kph} km/h, "
                "expected max_lap >= 1 and 0 <= low < high; use race_axes()"
            )


def race_axes(traces: Mapping[str, LapTrace], scheduled_laps: int) -> RaceAxes:
    """Axes from the laps that will be drawn and nothing else, so that nothing later than the moment can move them.

    The top is the fastest plausible lap. The bottom is the lower of the 10th percentile of racing laps and the lowest mean of a
    car that is not an outlier (a car that crept round for two laps must not set the scale for twenty), both with a margin.

    Args:
        traces: driver_id -> laps of every car of the race up to the moment; at least one car. Order does not matter.
        scheduled_laps: race distance in laps.
    Raises:
        InvalidLapDataError: there is no car.
    """
    if not traces:
        raise InvalidLapDataError("race_axes: got no cars, expected at least one with a lap; there is nothing to draw")
    speeds = np.sort(np.concatenate([trace.speeds_kph for trace in traces.values()]))
    if len(speeds) >= _ENOUGH_LAPS:
        speeds = speeds[speeds <= float(np.percentile(speeds, 99, method="lower")) * IMPLAUSIBLE_SHARE]
    high, fast = float(speeds[-1]), float(np.percentile(speeds, 95))
    racing = speeds[speeds >= fast * RACING_LAP_SHARE]
    low = min(float(np.percentile(racing, 10)), _lowest_usual_mean(traces))
    least = max(LEAST_SPAN_KPH, high * LEAST_SPAN_SHARE)
    low = min(low, high - least)
    margin = (high - low) * MARGIN_SHARE
    last = max(int(trace.lap_numbers[-1]) for trace in traces.values())
    return RaceAxes(
        max_lap=max(int(scheduled_laps), last, 1),
        speed_low_kph=float(max(0, math.floor(low - margin))),
        speed_high_kph=float(math.ceil(high + margin)),
    )


def _lowest_usual_mean(traces: Mapping[str, LapTrace]) -> float:
    """Lowest mean speed among cars with at least half the laps of the longest-running one, robust outliers left out, km/h."""
    counts = np.array([len(trace.lap_numbers) for trace in traces.values()])
    means = np.array([trace.mean_kph for trace in traces.values()])
    usual = means[counts * 2 >= counts.max()]
    middle = float(np.median(usual))
    spread = 1.4826 * float(np.median(np.abs(usual - middle)))
    floor = middle - max(4.0 * spread, 0.01 * middle)
    return float(usual[usual >= floor].min())


def ticks(low: float, high: float, at_most: int) -> NDArray[np.float64]:
    """Whole values (1, 2 or 5 times a power of ten apart) inside low..high, at most `at_most` of them."""
    step = max(1.0, 10.0 ** math.floor(math.log10((high - low) / at_most)))
    for factor in (1.0, 2.0, 5.0, 10.0, 20.0):
        first, last = math.ceil(low / (step * factor)), math.floor(high / (step * factor))
        if last - first + 1 <= at_most:
            break
    return np.arange(first, last + 1, dtype=np.float64) * (step * factor)
