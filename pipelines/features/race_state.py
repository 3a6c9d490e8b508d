"""Race state: place and gaps of a car when it ends a lap, one row per car and lap end."""

import numpy as np
import pandas as pd

from feature_repo.visibility import CREATED, EVENT
from pipelines.features.knowledge import FloatArray, IntArray, micros, replayed, table, with_race
from pipelines.features.results import LAP_KEY

ENTITY = ["race_id", "driver_id"]
DTYPES = dict.fromkeys(
    [
        "running_position",
        "running_laps_completed",
        "running_gap_to_leader_s",
        "running_gap_to_ahead_s",
        "running_laps_down",
        "running_elapsed_s",
    ],
    "float32",
)
SECOND_US = 1e6


def compute_race_state(laps: pd.DataFrame, races: pd.DataFrame) -> pd.DataFrame:
    """Feature table `race_state`.

    Args:
        laps: canonical laps.
        races: canonical races, for the scheduled start.
    Returns:
        Keyed by `race_id, driver_id`, stamped with the lap's end; uses laps of all cars that ended by then.
    """
    return table(replayed(laps, LAP_KEY, ENTITY, lambda rows: _in_order(rows, races)), ENTITY, DTYPES)


def _in_order(laps: pd.DataFrame, races: pd.DataFrame) -> pd.DataFrame:
    laps = laps.sort_values([*ENTITY, EVENT, "lap"], kind="stable", ignore_index=True)
    timed = with_race(laps, races, ["race_start"])
    end = micros(laps[EVENT])
    lap = laps["lap"].to_numpy(dtype=np.int64)
    start = np.where(timed["race_start"].isna(), np.nan, micros(timed["race_start"]).astype(np.float64))
    columns = {name: np.full(len(laps), np.nan) for name in DTYPES}
    columns["running_laps_completed"] = lap.astype(np.float64)
    columns["running_elapsed_s"] = (end - start) / SECOND_US
    for rows in laps.groupby("race_id", sort=True).indices.values():
        car, _ = pd.factorize(laps["driver_id"].to_numpy()[rows], sort=True)
        place, to_leader, to_ahead, laps_down = running_order(lap[rows], car.astype(np.int64), end[rows])
        columns["running_position"][rows] = place
        columns["running_gap_to_leader_s"][rows] = to_leader
        columns["running_gap_to_ahead_s"][rows] = to_ahead
        columns["running_laps_down"][rows] = laps_down
    return laps[[*ENTITY, EVENT]].assign(**columns, **{CREATED: laps[EVENT]})


def running_order(lap: IntArray, car: IntArray, end: IntArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Place, gap to the leader, gap to the car ahead (seconds) and laps down at each lap end of one race.

    A car is ahead when it ended this lap number, or a later one, before: with the same lap number by time, with more laps anyway.

    Args:
        lap: (n,) lap number, 1 or more.
        car: (n,) car number 0..m-1; cars that end a lap at the same instant are ordered by it.
        end: (n,) instant of the lap's end, microseconds.
    """
    never = np.iinfo(np.int64).max
    ends = np.full((int(lap.max()) + 1, int(car.max()) + 1), never)
    np.minimum.at(ends, (lap, car), end)
    # the first instant at which a car had completed at least this many laps: a lap the feed lost does not lose the car a place
    reached = np.minimum.accumulate(ends[::-1], axis=0)[::-1][lap]
    other = np.arange(ends.shape[1])[None, :]
    own_end, own_car = end[:, None], car[:, None]
    ahead = (reached < own_end) | ((reached == own_end) & (other < own_car))
    ahead &= other != own_car
    first = np.where(ahead, reached, never).min(axis=1)
    previous = np.where(ahead, reached, -1).max(axis=1)
    n_ahead = ahead.sum(axis=1)
    is_led = n_ahead > 0
    by_end = np.argsort(end, kind="stable")
    most_laps = np.maximum.accumulate(lap[by_end])
    leader_laps = most_laps[np.searchsorted(end[by_end], end, side="right") - 1]
    return (
        n_ahead + 1.0,
        np.where(is_led, (end - np.where(is_led, first, end)) / SECOND_US, 0.0),
        np.where(is_led, (end - previous) / SECOND_US, np.nan),
        (leader_laps - lap).astype(np.float64),
    )
