"""What a source of results leaves open, and laps or places tell: laps completed, who was classified, points."""

import re

import pandas as pd

from pipelines.ingest.canonical.reading import FILE

_UNDERCUT = "fastf1_undercut/"
_FINISHED = re.compile(r"Finished|Lapped|\+\d+ Laps?")
# Of cars that never started; "Withdrew" also of cars that retired into the pits, so that only the timing can tell.
_NO_SHOW = ["Did not start", "Withdrew"]

FIRST_SEASON_OF_POINTS = 2010
POINTS = (25, 18, 15, 12, 10, 8, 6, 4, 2, 1)  # first to tenth place of a race, since then
MIN_DISTANCE_PCT = 90  # of the winner's laps, rounded down to whole laps: who has them is classified, running or not


def is_undercut(results: pd.DataFrame) -> "pd.Series[bool]":
    """Which results come from `read_undercut_results`."""
    return results[FILE].str.startswith(_UNDERCUT)


def completed_by_timing(results: pd.DataFrame, raw_laps: pd.DataFrame) -> pd.DataFrame:
    """Results with what their source leaves open and the laps tell: laps completed, who was classified, who never started.

    - `laps_completed`, where null: a finisher's last lap; of another car the last lap that has a time or a third sector, since
      the timing has a row of the lap on which it stopped too. 0 without any.
    - `position`, of a car that `read_undercut_results` has as retired: the official order, if the car has 90 % of the winner's
      laps (rounded down).
    - `position_text` of such a car: `W` if its status is of a car that did not start and the timing has no lap of it.

    Args:
        results: one season's rows with unique index.
        raw_laps: `round, code, lap, lap_time_s, sector3_s` of the season.
    """
    key = ["round", "code"]
    has_end = raw_laps["lap_time_s"].notna() | raw_laps["sector3_s"].notna()
    begun = results[key].merge(raw_laps.groupby(key)["lap"].max().reset_index(), how="left", on=key)["lap"]
    ended = results[key].merge(raw_laps[has_end].groupby(key)["lap"].max().reset_index(), how="left", on=key)["lap"]
    begun, ended = begun.set_axis(results.index), ended.set_axis(results.index)
    laps = results["laps_completed"].fillna(ended.mask(is_finisher(results["status"]), begun).fillna(0))

    retired = is_undercut(results) & (results["position_text"] == "R")
    needed = laps[results["position_order"] == 1].groupby(results["round"]).first() * MIN_DISTANCE_PCT // 100
    classified = retired & (laps > 0) & (laps >= results["round"].map(needed))
    order = results["position_order"]
    absent = retired & results["status"].isin(_NO_SHOW) & begun.isna()
    text = results["position_text"].mask(classified, order.astype("Int64").astype("string").astype(object)).mask(absent, "W")
    return results.assign(laps_completed=laps, position=results["position"].mask(classified, order), position_text=text)


def points_by_position(results: pd.DataFrame) -> "pd.Series[float]":
    """`points` with nulls filled by the classified position, for seasons that scored 25-18-15-12-10-8-6-4-2-1.

    Not known from a position, and so not in it: the point for the fastest lap (2019-2024) and reduced points of a race cut short.
    Points of sprints are no points of the race. Before 2010 nulls stay null.
    """
    earned = results["position"].map(dict(enumerate(POINTS, start=1))).fillna(0.0)
    return results["points"].fillna(earned.where(results["season"] >= FIRST_SEASON_OF_POINTS)).astype("float64")


def is_finisher(status: "pd.Series[str]") -> "pd.Series[bool]":
    return status.map(lambda text: isinstance(text, str) and _FINISHED.fullmatch(text) is not None).astype(bool)
