"""Races and who entered them: calendar, grid, result, qualifying, and the drivers, teams and circuits of a season."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pipelines.ingest.canonical.courses import COURSE
from pipelines.ingest.canonical.gaps import completed_by_timing, is_undercut, points_by_position
from pipelines.ingest.canonical.identities import constructor_id
from pipelines.ingest.canonical.sieve import Rule, Sieve, is_bad_ref, is_null, outside

RACE_KEY = ["season", "round"]
RACE_CONTENT = ["season", "round", "name", "circuit_id", "race_start", "qualifying_start"]
ENTRY_KEY = ["season", "round", "driver_id"]
RESULT_CONTENT = [
    *ENTRY_KEY,
    "constructor_id",
    "code",
    "car_number",
    "grid",
    "position",
    "position_text",
    "position_order",
    "points",
    "laps_completed",
    "status",
]
QUALIFYING_CONTENT = [*ENTRY_KEY, "constructor_id", "position", "q1_s", "q2_s", "q3_s"]

KNOWN_BEFORE = pd.Timedelta(days=7)  # calendar and course are public long before
GRID_KNOWN_BEFORE = pd.Timedelta(hours=1)  # the pit lane closes 30 minutes before the start, the grid is published before that
RESULT_KNOWN_AFTER = pd.Timedelta(hours=3)  # post-race scrutineering and stewards' decisions
QUALIFYING_LASTS = pd.Timedelta(minutes=75)
QUALIFYING_BEFORE_RACE = pd.Timedelta(hours=20)  # used where the start of qualifying is not known

RACE_RULES: list[Rule] = [
    ("no round", is_null("round")),
    ("impossible round", outside("round", 1, 99, whole=True)),
    ("unknown circuit", is_null("circuit_id")),
    ("malformed circuit_id", lambda rows: is_bad_ref(rows["circuit_id"])),
    ("no name", is_null("name")),
    ("no start time", is_null("race_start")),
    ("starts in another year than its season", lambda rows: rows["race_start"].dt.year != rows["season"]),
]
_IDS: list[Rule] = [
    ("impossible round", outside("round", 1, 99, whole=True)),
    ("unknown driver", is_null("driver_id")),
    ("malformed driver_id", lambda rows: is_bad_ref(rows["driver_id"])),
]
RESULT_RULES: list[Rule] = [
    *_IDS,
    ("malformed constructor_id", lambda rows: rows["constructor_id"].notna() & is_bad_ref(rows["constructor_id"])),
    ("malformed code", lambda rows: ~rows["code"].astype("string").str.fullmatch(r"[A-Z0-9]{2,4}").fillna(False).astype(bool)),
    ("no status", is_null("status")),
    ("no official order", is_null("position_order")),
    ("impossible official order", outside("position_order", 1, 60)),
    ("impossible position", outside("position", 1, 60)),
    ("impossible grid", outside("grid", 0, 60)),
    ("impossible car number", outside("car_number", 0, 999)),
    ("impossible points", outside("points", 0, 60)),
    ("impossible number of laps", outside("laps_completed", 0, 500)),
]
QUALIFYING_RULES: list[Rule] = [
    *_IDS,
    ("unknown constructor", is_null("constructor_id")),
    ("malformed constructor_id", lambda rows: is_bad_ref(rows["constructor_id"])),
    ("no position", is_null("position")),
    ("impossible position", outside("position", 1, 60)),
    *[("impossible qualifying time", outside(part, 0.001, 14_400)) for part in ("q1_s", "q2_s", "q3_s")],
]


def with_times(calendar: pd.DataFrame, times: list[pd.DataFrame]) -> pd.DataFrame:
    """`calendar` with null `race_start` and `qualifying_start` filled from other schedules, later ones last resort.

    A start of qualifying that is not within four days before the race is not believed.
    """
    filled = calendar.reset_index(drop=True)
    for schedule in times:
        known = schedule.drop_duplicates(["season", "round"]).rename(
            columns={"race_start": "other_race", "qualifying_start": "other_qualifying"}
        )
        joined = filled[["season", "round"]].merge(known, how="left", on=["season", "round"])
        for column, other in (("race_start", "other_race"), ("qualifying_start", "other_qualifying")):
            filled[column] = filled[column].fillna(pd.to_datetime(joined[other], utc=True).dt.as_unit("us"))
    ahead = filled["race_start"] - filled["qualifying_start"]
    believed = ahead.between(pd.Timedelta(hours=1), pd.Timedelta(days=4))
    filled["qualifying_start"] = filled["qualifying_start"].where(believed)
    return filled


def known_results(
    results: pd.DataFrame, races: pd.DataFrame, teams: pd.DataFrame | None, raw_laps: pd.DataFrame, sieve: Sieve
) -> pd.DataFrame:
    """Results of races in the calendar, with teams, laps, classification and points filled where the source has none.

    Args:
        results: one season's rows with `RESULT_CONTENT`.
        races: the season's calendar.
        teams: `round, code, Team` as the timing feed names teams.
        raw_laps: `round, code, lap, lap_time_s, sector3_s`, for the laps completed.
        sieve: where rows of unknown races go, and the note of derived points.
    """
    filled = results.reset_index(drop=True)
    teamless = filled["constructor_id"].isna() & is_undercut(filled)
    if teamless.any() and teams is not None:
        named = filled[["round", "code"]].merge(teams, how="left", on=["round", "code"])["Team"]
        # a driver without laps has the team of his other races
        usual = filled["code"].map(teams.groupby("code")["Team"].last())
        season = int(filled["season"].iloc[0])
        refs = named.fillna(usual).map(lambda team: constructor_id(team, season), na_action="ignore")
        filled["constructor_id"] = filled["constructor_id"].mask(teamless, refs)
    if filled["laps_completed"].isna().any():
        filled = completed_by_timing(filled, raw_laps)
    if filled["points"].isna().any():
        points = points_by_position(filled)
        derived = int((filled["points"].isna() & points.notna()).sum())
        if derived:
            sieve.report.note(
                f"points of {derived} entries of {filled['season'].iloc[0]:.0f} are derived from the finishing position "
                "(25-18-15-12-10-8-6-4-2-1): none for the fastest lap or sprints, full points for a race cut short"
            )
        filled["points"] = points
    return sieve.check(
        "entries",
        filled,
        [
            ("unknown race", lambda rows: ~rows["round"].isin(races["round"])),
            ("unknown constructor", is_null("constructor_id")),
            ("malformed constructor_id", lambda rows: is_bad_ref(rows["constructor_id"])),
        ],
    )


def held_races(races: pd.DataFrame, results: pd.DataFrame, sieve: Sieve) -> pd.DataFrame:
    """Races that have results; the others were not held (yet) and are counted and noted."""
    held = races["round"].isin(results["round"])
    if not held.all():
        sieve.other_session("races", int((~held).sum()))
        rounds = ", ".join(f"{round_:.0f}" for round_ in races.loc[~held, "round"])
        sieve.report.note(
            f"season {races['season'].iloc[0]:.0f}: rounds {rounds} are in the calendar but have no results; not ingested"
        )
    return races[held].reset_index(drop=True)


def flagged_races(races: pd.DataFrame, flags: Mapping[int, pd.Timestamp], sieve: Sieve) -> pd.DataFrame:
    """Races whose flag is known; the others are quarantined."""
    no_flag: Rule = (
        "no laps and no race time of the winner: the flag is not known",
        lambda rows: ~rows["round"].isin(list(flags)),
    )
    return sieve.check("races", races, [no_flag])


def make_races(races: pd.DataFrame, flags: Mapping[int, pd.Timestamp]) -> pd.DataFrame:
    """Canonical races (without race_id and source)."""
    known = races["race_start"] - KNOWN_BEFORE
    return races[[*RACE_CONTENT, *COURSE]].assign(
        race_end=pd.to_datetime(races["round"].map(flags), utc=True).dt.as_unit("us"),
        event_timestamp=known,
        created_timestamp=known,
    )


def make_entries(
    results: pd.DataFrame,
    races: pd.DataFrame,
    flags: Mapping[int, pd.Timestamp],
    qualifying: pd.DataFrame,
    pit_lane: pd.DataFrame,
    sieve: Sieve,
) -> pd.DataFrame:
    """Canonical entries (without race_id and source).

    Args:
        results: `known_results` of the season.
        races: races whose flag is known.
        flags: round -> instant of the flag.
        qualifying: `round, driver_id, position`, for the order of pit-lane starters.
        pit_lane: f1db's grid (`season, round, code, f1db_grid`), which knows pit-lane starts that Ergast gives a grid place.
        sieve: where rows of races without a flag go.
    """
    kept = sieve.check(
        "entries", results, [("race without a flag in quarantine", lambda rows: ~rows["round"].isin(races["round"]))]
    ).reset_index(drop=True)
    start = pd.to_datetime(kept["round"].map(dict(zip(races["round"], races["race_start"], strict=True))), utc=True).dt.as_unit(
        "us"
    )
    end = pd.to_datetime(kept["round"].map(flags), utc=True).dt.as_unit("us")
    grid, from_pit_lane = grid_places(kept, qualifying, pit_lane)
    return pd.DataFrame(
        {
            **{column: kept[column] for column in (*ENTRY_KEY, "constructor_id", "code", "car_number")},
            "grid": grid,
            "is_pit_lane_start": from_pit_lane,
            "grid_timestamp": start - GRID_KNOWN_BEFORE,
            "position": kept["position"],
            "position_order": kept["position_order"],
            "is_classified": kept["position"].notna(),
            **{column: kept[column] for column in ("status", "points", "laps_completed")},
            "event_timestamp": end,
            "created_timestamp": end + RESULT_KNOWN_AFTER,
        }
    )


def grid_places(
    results: pd.DataFrame, qualifying: pd.DataFrame, pit_lane: pd.DataFrame
) -> "tuple[pd.Series[Any], pd.Series[bool]]":
    """Starting place of each entry, and whether it started from the pit lane.

    Grid 0 in the source is a pit-lane start, except for cars that were withdrawn: those keep the place f1db gives them. Pit-lane
    starters follow the last place in use, ordered by qualifying position; withdrawn cars without any place come after them.

    Returns:
        Places (float, whole) and flags on the index of `results`.
    """
    joined = results[["season", "round", "driver_id", "code", "grid", "position_text", "car_number"]].merge(
        pit_lane, how="left", on=["season", "round", "code"]
    )
    order = qualifying[["round", "driver_id", "position"]].rename(columns={"position": "qualified"})
    joined = joined.merge(order, how="left", on=["round", "driver_id"])
    withdrawn = joined["position_text"] == "W"
    from_pit_lane = ~withdrawn & ((joined["grid"] == 0) | (joined["f1db_grid"] == "PL"))
    elsewhere = pd.to_numeric(joined["f1db_grid"], errors="coerce")
    place = joined["grid"].where(joined["grid"] > 0, elsewhere.where(withdrawn)).mask(from_pit_lane)
    last = place.groupby(joined["round"]).transform("max").fillna(0)
    order_behind = ["round", "is_absent", "qualified", "car_number", "driver_id"]
    behind = joined.assign(is_absent=~from_pit_lane)[place.isna()].sort_values(order_behind, kind="stable")
    place = place.fillna(last + behind.groupby("round").cumcount() + 1)
    return place.set_axis(results.index), from_pit_lane.set_axis(results.index).astype(bool)


def make_qualifying(raw: pd.DataFrame, races: pd.DataFrame, sieve: Sieve) -> pd.DataFrame:
    """Canonical qualifying (without race_id and source)."""
    rows = sieve.check("qualifying", raw, [("unknown race", lambda rows: ~rows["round"].isin(races["round"]))])
    times = races[["round", "race_start", "qualifying_start"]]
    joined = rows[[*QUALIFYING_CONTENT]].merge(times, how="left", on="round")
    known = (joined["qualifying_start"] + QUALIFYING_LASTS).fillna(joined["race_start"] - QUALIFYING_BEFORE_RACE)
    return joined.assign(event_timestamp=known, created_timestamp=known)


def make_dimensions(
    entries: pd.DataFrame, races: pd.DataFrame, circuits: pd.DataFrame, drivers: pd.DataFrame, constructors: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Circuits, drivers and constructors of a season (without source), each stamped by its first race in it."""
    ordered = entries.sort_values(["round", "driver_id"], kind="stable")
    first = ordered.drop_duplicates("driver_id")[["season", "driver_id", "code", "car_number", "grid_timestamp"]]
    people = first.merge(
        _facts(drivers, "driver_id", ["given_name", "family_name", "date_of_birth", "nationality"]), how="left", on="driver_id"
    )
    people["family_name"] = people["family_name"].fillna(people["driver_id"].str.replace("_", " ").str.title())
    teams = ordered.drop_duplicates("constructor_id")[["season", "constructor_id", "grid_timestamp"]]
    teams = teams.merge(_facts(constructors, "constructor_id", ["name", "nationality"]), how="left", on="constructor_id")
    teams["name"] = teams["name"].fillna(teams["constructor_id"].str.replace("_", " ").str.title())
    places = races.sort_values("round").drop_duplicates("circuit_id")[["season", "circuit_id", "event_timestamp"]]
    facts = ["name", "locality", "country", "lat_deg", "lng_deg", "altitude_m"]
    places = places.merge(_facts(circuits, "circuit_id", facts), how="left", on="circuit_id")
    places["name"] = places["name"].fillna(places["circuit_id"].str.replace("_", " ").str.title())
    return {
        "drivers": people.assign(event_timestamp=people["grid_timestamp"], created_timestamp=people["grid_timestamp"]),
        "constructors": teams.assign(event_timestamp=teams["grid_timestamp"], created_timestamp=teams["grid_timestamp"]),
        "circuits": places.assign(created_timestamp=places["event_timestamp"]),
    }


def _facts(frame: pd.DataFrame, key: str, columns: list[str]) -> pd.DataFrame:
    return frame.reindex(columns=[key, *columns])
