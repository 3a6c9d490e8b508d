"""Trace: every lap speed of a car so far, one row per car and lap end."""

import numpy as np
import pandas as pd

from feature_repo.visibility import CREATED, EVENT
from pipelines.features.knowledge import FloatArray, micros, replayed, table, with_race
from pipelines.features.results import LAP_KEY

ENTITY = ["race_id", "driver_id"]
# arrays of int64 and of float32; the frame holds them as objects
DTYPES = {"lap_numbers": "object", "lap_speeds_kph": "object", "scheduled_laps": "Int64"}
KM_PER_S_TO_KPH = 3600.0
# No lap was ever averaged above 265 km/h (Monza qualifying); beyond this the feed closed a lap at the wrong line.
IMPOSSIBLE_KPH = 350.0


def compute_trace(laps: pd.DataFrame, races: pd.DataFrame) -> pd.DataFrame:
    """Feature table `trace`.

    Args:
        laps: canonical laps.
        races: canonical races, for the length of a lap and the scheduled laps.
    Returns:
        Keyed by `race_id, driver_id`, stamped with the lap's end. `lap_numbers` (int64) and `lap_speeds_kph` (float32) hold the
        car's laps that ended by then and have a possible time (positive, at most 350 km/h on average); rows of a car share
        memory, so treat the arrays as read-only.
    """
    return table(replayed(laps, LAP_KEY, ENTITY, lambda rows: _in_order(rows, races)), ENTITY, DTYPES)


def lap_seconds(laps: pd.DataFrame) -> FloatArray:
    """(n,) lap time in seconds: the official one, else lap end minus lap start; NaN where neither is positive."""
    official = laps["lap_time_s"].to_numpy(dtype=np.float64)
    clocked = np.where(laps["lap_start"].isna(), np.nan, (micros(laps[EVENT]) - micros(laps["lap_start"])) / 1e6)
    seconds = np.where(np.isnan(official), clocked, official)
    return np.where(seconds > 0, seconds, np.nan)


def _in_order(laps: pd.DataFrame, races: pd.DataFrame) -> pd.DataFrame:
    laps = laps.sort_values([*ENTITY, EVENT, "lap"], kind="stable", ignore_index=True)
    timed = with_race(laps, races, ["course_length_km", "scheduled_laps"])
    speeds = (timed["course_length_km"].to_numpy(dtype=np.float64) * KM_PER_S_TO_KPH / lap_seconds(laps)).astype(np.float32)
    is_drawn = np.isfinite(speeds) & (speeds <= IMPOSSIBLE_KPH)
    numbers, drawn_speeds = laps["lap"].to_numpy(dtype=np.int64)[is_drawn], speeds[is_drawn]
    ends = np.cumsum(is_drawn)
    first_row = np.flatnonzero(np.diff(laps.groupby(ENTITY, sort=True).ngroup().to_numpy(), prepend=-1) != 0)
    begins = np.repeat((ends - is_drawn)[first_row], np.diff(first_row, append=len(laps)))
    return laps[[*ENTITY, EVENT]].assign(
        lap_numbers=_slices(numbers, begins, ends),
        lap_speeds_kph=_slices(drawn_speeds, begins, ends),
        scheduled_laps=timed["scheduled_laps"].astype("Int64"),
        **{CREATED: laps[EVENT]},
    )


def _slices(values: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    slices = np.empty(len(begins), dtype=object)
    for i, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        slices[i] = values[begin:end]
    return slices
