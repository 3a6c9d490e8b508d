"""Sprint results and championship standings: what a source says beside the race itself, as canonical tables."""

from collections.abc import Mapping

import pandas as pd

from pipelines.ingest.canonical.entries import ENTRY_KEY, QUALIFYING_BEFORE_RACE, RESULT_KNOWN_AFTER
from pipelines.ingest.canonical.sieve import Rule, Sieve, is_bad_ref, is_null, outside

SPRINT_CONTENT = [
    *ENTRY_KEY,
    "constructor_id",
    "grid",
    "position",
    "position_order",
    "status",
    "points",
    "laps_completed",
]
STANDING_CONTENT = ["position", "points", "wins"]
DRIVER_STANDING_KEY = ENTRY_KEY
CONSTRUCTOR_STANDING_KEY = ["season", "round", "constructor_id"]
LONGEST_SPRINT = pd.Timedelta(hours=1)  # the sporting regulations end a sprint that is not stopped after one hour


def _ids(key: str) -> list[Rule]:
    return [
        ("impossible round", outside("round", 1, 99, whole=True)),
        (f"unknown {key.removesuffix('_id')}", is_null(key)),
        (f"malformed {key}", lambda rows: is_bad_ref(rows[key])),
    ]


SPRINT_RULES: list[Rule] = [
    *_ids("driver_id"),
    *_ids("constructor_id")[1:],
    ("no status", is_null("status")),
    ("no official order", is_null("position_order")),
    ("impossible official order", outside("position_order", 1, 60, whole=True)),
    ("impossible position", outside("position", 1, 60)),
    ("impossible grid", outside("grid", 0, 60, whole=True)),
    ("no points", is_null("points")),
    ("impossible points", outside("points", 0, 60)),
    ("no number of laps", is_null("laps_completed")),
    ("impossible number of laps", outside("laps_completed", 0, 500, whole=True)),
]
_STANDING_RULES: list[Rule] = [
    ("impossible position", outside("position", 1, 200, whole=True)),
    ("no points", is_null("points")),
    ("impossible points", outside("points", 0, 2000)),
    ("no number of wins", is_null("wins")),
    ("impossible number of wins", outside("wins", 0, 99, whole=True)),
]
DRIVER_STANDING_RULES: list[Rule] = [*_ids("driver_id"), *_STANDING_RULES]
CONSTRUCTOR_STANDING_RULES: list[Rule] = [*_ids("constructor_id"), *_STANDING_RULES]


def make_sprint(raw: pd.DataFrame, races: pd.DataFrame, sieve: Sieve) -> pd.DataFrame:
    """Canonical sprint results (without race_id and source).

    The sprint ends when its winner does; without his time it is taken to last an hour, and without its start it is taken to have
    ended when the qualifying of a usual weekend does. Grid 0 in the source is a start from the pit lane.

    Args:
        raw: `SPRINT_CONTENT`, `milliseconds` (the winner's time, NaN if unknown) and `sprint_start` (UTC, NaT if unknown).
        races: races in the lake (`round, race_start`).
        sieve: where rows of other races go.
    """
    rows = _of_known_races("sprint_results", raw, races, sieve)
    winners = rows[rows["position_order"] == 1].drop_duplicates("round")
    took = pd.to_timedelta(rows["round"].map(dict(zip(winners["round"], winners["milliseconds"], strict=True))), unit="ms")
    starts = rows["round"].map(dict(zip(races["round"], races["race_start"], strict=True)))
    by_habit = pd.to_datetime(starts, utc=True).dt.as_unit("us") - QUALIFYING_BEFORE_RACE
    began = pd.to_datetime(rows["sprint_start"], utc=True).dt.as_unit("us")
    end = (began + took.fillna(LONGEST_SPRINT).astype("timedelta64[us]")).fillna(by_habit)
    return rows.assign(grid=rows["grid"].where(rows["grid"] > 0), event_timestamp=end, created_timestamp=end + RESULT_KNOWN_AFTER)


def make_standings(
    table: str, raw: pd.DataFrame, races: pd.DataFrame, flags: Mapping[int, pd.Timestamp], sieve: Sieve
) -> pd.DataFrame:
    """Canonical standings after each race (without race_id and source); known when the race's result is.

    Args:
        table: `driver_standings` or `constructor_standings`.
        raw: its key and `STANDING_CONTENT`.
        races: races in the lake (`round`).
        flags: round -> instant of the flag.
        sieve: where rows of other races go.
    """
    rows = _of_known_races(table, raw, races, sieve)
    end = pd.to_datetime(rows["round"].map(flags), utc=True).dt.as_unit("us")
    return rows.assign(event_timestamp=end, created_timestamp=end + RESULT_KNOWN_AFTER)


def _of_known_races(table: str, raw: pd.DataFrame, races: pd.DataFrame, sieve: Sieve) -> pd.DataFrame:
    unknown: Rule = ("unknown race, or one without a flag", lambda rows: ~rows["round"].isin(races["round"]))
    return sieve.check(table, raw, [unknown]).reset_index(drop=True)
