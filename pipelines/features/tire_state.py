"""Tire state: the set a car is on, its age, its stops and how fast it fades, one row per car and lap end."""

from typing import Any

import numpy as np
import pandas as pd

from feature_repo.visibility import CREATED, EVENT
from pipelines.features.clean_laps import is_clean
from pipelines.features.knowledge import FloatArray, IntArray, replayed, table
from pipelines.features.results import LAP_KEY

ENTITY = ["race_id", "driver_id"]
DTYPES = {
    "tire_compound": "object",
    "tire_life_laps": "float32",
    "tire_stint": "float32",
    "tire_stops": "float32",
    "tire_is_fresh_set": "float32",
    "tire_laps_since_stop": "float32",
    "tire_degradation_slope_s_per_lap": "float32",
    "tire_wet_share": "float32",
}
WET_COMPOUNDS = ("INTERMEDIATE", "WET")
MIN_SLOPE_LAPS = 3


def compute_tire_state(laps: pd.DataFrame) -> pd.DataFrame:
    """Feature table `tire_state`.

    Args:
        laps: canonical laps.
    Returns:
        Keyed by `race_id, driver_id`, stamped with the lap's end; uses the car's laps up to and including it.
    """
    return table(replayed(laps, LAP_KEY, ENTITY, _in_order), ENTITY, DTYPES)


def _in_order(laps: pd.DataFrame) -> pd.DataFrame:
    laps = laps.sort_values([*ENTITY, EVENT, "lap"], kind="stable", ignore_index=True)
    car = laps.groupby(ENTITY, sort=True).ngroup()
    lap = laps["lap"].astype("float64")
    # a lap that left the pit lane ended a stop, except lap 1: that is a start from the pit lane
    is_out_lap = laps["pit_out"].notna() & (laps["lap"] > 1)
    last_out = lap.where(is_out_lap).groupby(car).ffill()
    known_compound = laps["compound"].notna()
    is_wet = laps["compound"].isin(WET_COMPOUNDS)
    n_known = known_compound.astype("int64").groupby(car).cumsum()
    n_wet = is_wet.astype("int64").groupby(car).cumsum()
    return laps[[*ENTITY, EVENT]].assign(
        tire_compound=laps["compound"],
        tire_life_laps=laps["tyre_life_laps"],
        tire_stint=laps["stint"],
        tire_stops=is_out_lap.astype("int64").groupby(car).cumsum(),
        tire_is_fresh_set=laps["is_fresh_tyre"].astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan),
        tire_laps_since_stop=(lap - last_out + 1).fillna(lap),
        tire_degradation_slope_s_per_lap=degradation_slopes(laps),
        tire_wet_share=(n_wet / n_known.where(n_known > 0)).to_numpy(),
        **{CREATED: laps[EVENT]},
    )


def degradation_slopes(laps: pd.DataFrame) -> "pd.Series[Any]":
    """Per lap, the Theil-Sen slope of the clean laps of its stint up to and including it, seconds per lap.

    The median of the slopes between all pairs of clean laps, so that one lap in traffic does not move it. Fuel burn (about 0.03
    to 0.06 s per lap) is included: it is the same for all cars of a race. NaN before three clean laps.

    Args:
        laps: canonical laps sorted by car and lap end, with index 0..n-1.
    """
    stint = laps.groupby([*ENTITY, "stint"], sort=True).ngroup()
    clean = laps[is_clean(laps)]
    of_stint = stint[clean.index].to_numpy()
    order = np.argsort(of_stint, kind="stable")
    slopes = np.full(len(laps), np.nan)
    slopes[clean.index.to_numpy()[order]] = prefix_slopes(
        of_stint[order], clean["lap"].to_numpy(dtype=np.float64)[order], clean["lap_time_s"].to_numpy(dtype=np.float64)[order]
    )
    return pd.Series(slopes, index=laps.index).groupby(stint).ffill()


def prefix_slopes(group: IntArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """(n,) Theil-Sen slope of y over x of each row's group up to and including the row; NaN before `MIN_SLOPE_LAPS` rows.

    All groups advance together, one row at a time: the k-th step is one matrix of (groups with k rows, k (k - 1) / 2 pairs).

    Args:
        group: (n,) group number, rows of a group adjacent and in order.
        x: (n,) distinct within a group.
        y: (n,) values.
    """
    slopes = np.full(len(group), np.nan)
    starts = np.flatnonzero(np.diff(group, prepend=-1) != 0)
    lengths = np.diff(starts, append=len(group))
    for k in range(MIN_SLOPE_LAPS, int(lengths.max(initial=0)) + 1):
        begins = starts[lengths >= k]
        rows = begins[:, None] + np.arange(k)
        i, j = np.triu_indices(k, 1)
        pairs = (y[rows[:, j]] - y[rows[:, i]]) / (x[rows[:, j]] - x[rows[:, i]])
        slopes[begins + k - 1] = np.median(pairs, axis=1)
    return slopes
