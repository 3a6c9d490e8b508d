"""Which laps tell a car's pace: accurate, under green, away from the pits, not the first."""

from typing import Any

import pandas as pd

GREEN = "1"


def is_green(laps: pd.DataFrame) -> "pd.Series[bool]":
    """The whole lap was run under a clear track: no yellow, safety car, red flag or virtual safety car at any time of it."""
    return laps["track_status"] == GREEN


def is_away_from_pits(laps: pd.DataFrame) -> "pd.Series[bool]":
    """The car neither entered nor left the pit lane on the lap."""
    return laps["pit_in"].isna() & laps["pit_out"].isna()


def is_clean(laps: pd.DataFrame) -> "pd.Series[bool]":
    """The lap tells pace: accurate timing, green, no pit lane, not the standing-start lap, with a positive official time."""
    accurate: pd.Series[Any] = laps["is_accurate"].fillna(value=False).astype(bool)
    return accurate & is_green(laps) & is_away_from_pits(laps) & (laps["lap"] > 1) & (laps["lap_time_s"] > 0)
