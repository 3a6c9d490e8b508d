"""The result of a race: who completed how many laps when the winner took the flag, and in what order.

Finishers come first, by laps completed and then by clock; then retirements, in the same way; non-starters last.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.simulator import traffic
from pipelines.simulator.race import RaceLog

POINTS = (25, 18, 15, 12, 10, 8, 6, 4, 2, 1)
"""Points of the first ten classified since 2010 (no point for the fastest lap, no half points)."""

CLASSIFIED_SHARE = 0.9
"""A car that covered 90 % of the winner's laps, rounded down, is classified even if it did not reach the flag."""


@dataclass(frozen=True)
class Classification:
    """Results of R races and D cars.

    Attributes:
        has_lap: (R, L, D) bool, the car completed this lap by the time it was flagged off.
        laps_done: (R, D) int.
        retired: (R, D) bool, the car did not reach the flag (non-starters included).
        order: (R, D) int, 1..D.
        classified: (R, D) bool.
        points: (R, D) float.
        clock_ms: (R, L, D) int, session clock at the end of each lap in whole milliseconds.
        place: (R, L, D) int, running order at the end of the lap; 0 where there is no lap.
        flag_ms: (R,) int, the winner's last lap end.
    """

    has_lap: NDArray[np.bool_]
    laps_done: NDArray[np.int64]
    retired: NDArray[np.bool_]
    order: NDArray[np.int64]
    classified: NDArray[np.bool_]
    points: NDArray[np.float64]
    clock_ms: NDArray[np.int64]
    place: NDArray[np.int64]
    flag_ms: NDArray[np.int64]


def classify(log: RaceLog) -> Classification:
    """Results of the races in `log`."""
    races, longest, _drivers = log.clock_s.shape
    number = np.arange(1, longest + 1)[None, :, None]
    scheduled = log.laps[:, None]
    at_end = log.clock_s[np.arange(races), log.laps - 1]
    flag_s = at_end.min(axis=1)
    within = number <= scheduled[..., None]
    # A car is flagged off the first time it crosses the line at or after the winner's last lap.
    before_flag = ((log.clock_s < flag_s[:, None, None]) & within).sum(axis=1)
    reach = np.minimum(before_flag + 1, scheduled)
    retired = log.out_lap <= reach
    laps_done = np.where(retired, np.maximum(log.out_lap - 1, 0), reach)
    has_lap = number <= laps_done[:, None]

    clock_ms = np.rint(np.minimum(log.clock_s, traffic.OUT) * 1000.0).astype(np.int64)
    last_ms = np.take_along_axis(clock_ms, np.maximum(laps_done - 1, 0)[:, None], axis=1)[:, 0]
    starts = log.out_lap > 0
    key = np.where(laps_done > 0, last_ms, log.out_lap)
    ranked = np.lexsort((key, -laps_done, retired, ~starts), axis=1)
    order = np.argsort(ranked, axis=1) + 1
    classified = starts & (~retired | (laps_done >= np.floor(CLASSIFIED_SHARE * scheduled)))
    points = np.where(classified & (order <= len(POINTS)), np.array([*POINTS, 0.0])[np.minimum(order - 1, len(POINTS))], 0.0)
    crossing = np.where(has_lap, clock_ms, np.iinfo(np.int64).max)
    place = np.where(has_lap, np.argsort(np.argsort(crossing, axis=2, kind="stable"), axis=2, kind="stable") + 1, 0)
    return Classification(
        has_lap=has_lap,
        laps_done=laps_done,
        retired=retired,
        order=order.astype(np.int64),
        classified=classified,
        points=points,
        clock_ms=clock_ms,
        place=place.astype(np.int64),
        flag_ms=np.rint(flag_s * 1000.0).astype(np.int64),
    )
