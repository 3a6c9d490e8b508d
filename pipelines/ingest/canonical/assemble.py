"""One raw season of any source becomes canonical tables: identities, the clock, the flag, knowledge times, books.

Every source that has a calendar and results ends here, so an instant, a grid place or a knowledge time is derived in one way,
whoever reported it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from feature_repo.ids import make_race_id
from pipelines.ingest.base import SeasonTables
from pipelines.ingest.canonical import conditions, entries, standings, timing
from pipelines.ingest.canonical.reading import no_rows
from pipelines.ingest.canonical.sieve import Sieve
from pipelines.ingest.canonical.told import told_of_races
from pipelines.ingest.catalogue import source_info
from pipelines.schemas import TABLES, empty_frame


def _none() -> pd.DataFrame:
    return pd.DataFrame()


@dataclass(frozen=True)
class RawSeason:
    """What a source says about one season (or some rounds of it), in our column names, before anything is derived.

    Every frame has passed `Sieve.asked` and `Sieve.check` with the rules named here, and carries `FILE` and `ROW`; a frame
    without rows may be an empty `DataFrame()`. Session clock means seconds since an arbitrary moment before the race, the same
    for all frames of a race. Codes are the three-letter codes of `results`.

    Attributes:
        season: championship year.
        races: `season, round, name, circuit_id, race_start, qualifying_start` and `courses.COURSE` (`entries.RACE_RULES`).
        results: `entries.RESULT_CONTENT` and `milliseconds` (the winner's race time, NaN if unknown) (`entries.RESULT_RULES`).
        qualifying: `entries.QUALIFYING_CONTENT` (`entries.QUALIFYING_RULES`).
        laps: the right-hand names of `timing.LAP_COLUMNS` and `LAP_OPTIONAL`, session clock; optionally `Team`, as the timing
            feed names teams (`timing.LAP_RULES`).
        stints: the right-hand names of `timing.STINT_COLUMNS` (`timing.STINT_RULES`); optionally `known`, session clock at which
            the source counted the last lap, null where not known; none: derived from laps.
        pit_stops: the right-hand names of `timing.PIT_COLUMNS`, session clock (`timing.PIT_RULES`); none: derived from laps.
        weather: the right-hand names of `conditions.WEATHER_COLUMNS` and `round`, session clock (`conditions.WEATHER_RULES`).
        track_status: as weather, of `conditions.STATUS_COLUMNS` (`conditions.STATUS_RULES`).
        race_control: `conditions.CONTROL_CONTENT`, `time` in UTC; optionally `session_time`, session clock, null where not known,
            and `known`, session clock at which the message came (`conditions.CONTROL_RULES`).
        circuits: `circuit_id, name, locality, country, lat_deg, lng_deg, altitude_m`.
        drivers: `driver_id, given_name, family_name, date_of_birth, nationality`.
        constructors: `constructor_id, name, nationality`.
        pit_lane: `season, round, code, f1db_grid` (a number as text, `PL` or null): pit-lane starts that results do not tell.
        sprint: `standings.SPRINT_CONTENT`, `milliseconds` (the winner's time, NaN if unknown) and `sprint_start` (UTC, NaT if
            unknown) (`standings.SPRINT_RULES`).
        driver_standings: `standings.DRIVER_STANDING_KEY` and `STANDING_CONTENT`, after each race
            (`standings.DRIVER_STANDING_RULES`).
        constructor_standings: as driver_standings, of constructors.
        origins: round -> session clock at lights out, seconds; used for a race that has no lap 1.
    """

    season: int
    races: pd.DataFrame
    results: pd.DataFrame
    laps: pd.DataFrame
    qualifying: pd.DataFrame = field(default_factory=_none)
    stints: pd.DataFrame = field(default_factory=_none)
    pit_stops: pd.DataFrame = field(default_factory=_none)
    weather: pd.DataFrame = field(default_factory=_none)
    track_status: pd.DataFrame = field(default_factory=_none)
    race_control: pd.DataFrame = field(default_factory=_none)
    circuits: pd.DataFrame = field(default_factory=_none)
    drivers: pd.DataFrame = field(default_factory=_none)
    constructors: pd.DataFrame = field(default_factory=_none)
    pit_lane: pd.DataFrame = field(default_factory=_none)
    sprint: pd.DataFrame = field(default_factory=_none)
    driver_standings: pd.DataFrame = field(default_factory=_none)
    constructor_standings: pd.DataFrame = field(default_factory=_none)
    origins: Mapping[int, float] = field(default_factory=dict)


def assemble(raw: RawSeason, source: str, sieve: Sieve) -> SeasonTables:
    """The canonical tables of one raw season: those that the catalogue says the source gives.

    Args:
        raw: what the source says.
        source: its name, the value of the column `source` in every row.
        sieve: where rows that belong to no race, driver or clock go; keeps the books and the notes.

    Raises:
        BadUsageError: the catalogue has no such source.
    """
    season, given = raw.season, source_info(source).tables
    qualifying = _or_none(raw.qualifying, ["round", "position"], ["driver_id"])
    teams = raw.laps[["round", "code", "Team"]].dropna().drop_duplicates(["round", "code"]) if "Team" in raw.laps else None
    results = entries.known_results(raw.results, raw.races, teams, raw.laps, sieve)
    races = entries.held_races(raw.races, results, sieve)
    starts = {int(round_): start for round_, start in zip(races["round"], races["race_start"], strict=True)}
    clock = timing.make_clock(raw.laps, starts, raw.origins)
    people = results[["round", "code", "driver_id"]]

    identified = timing.identify("laps", raw.laps, people, sieve, clock)
    laps = timing.make_laps(identified, clock)
    flags = timing.flags_of(laps, results, clock)
    races = entries.flagged_races(races, flags, sieve)

    if len(raw.stints):
        stints = timing.identify("stints", raw.stints, people, sieve, clock)
    else:
        stints = timing.stints_from_laps(laps)
        sieve.derived("stints", len(stints))
        sieve.report.note(f"stints of {season} are derived from laps: {source} has none of the season")
    if len(raw.pit_stops):
        stops = timing.identify("pit_stops", raw.pit_stops, people, sieve, clock)
    else:
        stops = timing.pit_stops_from_laps(identified)
        sieve.derived("pit_stops", len(stops))
        sieve.report.note(f"pit stops of {season} are derived from laps: {source} has none of the season")

    tables = {
        "races": entries.make_races(races, flags),
        "entries": entries.make_entries(
            results, races, flags, qualifying, _or_none(raw.pit_lane, ["season", "round"], ["code", "f1db_grid"]), sieve
        ),
        "laps": laps,
        "stints": timing.make_stints(stints, laps, flags, clock),
        "pit_stops": timing.make_pit_stops(stops, clock, flags),
    }
    if len(raw.qualifying):
        tables["qualifying"] = entries.make_qualifying(raw.qualifying, races, sieve)
    if len(raw.sprint):
        tables["sprint_results"] = standings.make_sprint(raw.sprint, races, sieve)
    for name, frame in (("driver_standings", raw.driver_standings), ("constructor_standings", raw.constructor_standings)):
        if len(frame):
            tables[name] = standings.make_standings(name, frame, races, flags, sieve)
    for name, frame in (("weather", raw.weather), ("track_status", raw.track_status)):
        if len(frame):
            tables[name] = conditions.make_timed(name, frame, clock, sieve)
    if len(raw.race_control):
        tables["race_control"] = conditions.make_race_control(raw.race_control, laps, clock, sieve)
    dimensions = entries.make_dimensions(
        tables["entries"],
        tables["races"],
        _or_none(raw.circuits, [], ["circuit_id"]),
        _or_none(raw.drivers, [], ["driver_id"]),
        _or_none(raw.constructors, [], ["constructor_id"]),
    )
    wanted = [name for name in TABLES if name in given]
    for name in (name for name in dimensions if name in wanted):
        sieve.derived(name, len(dimensions[name]))
    tables |= dimensions
    empty = [name for name in wanted if name not in tables or tables[name].empty]
    for name in (name for name in empty if (given[name] or season) <= season):
        sieve.report.note(f"{name}: no rows of {season}")
    finished = {name: _finish(name, tables.get(name), source) for name in wanted}
    return SeasonTables(season, finished, sieve.rejected(season), told=_told(raw))


def _told(raw: RawSeason) -> dict[str, dict[int, str]]:
    """What the source said of each race's classifications; who starts from the pit lane follows from three raw frames."""
    standing = standings.STANDING_CONTENT
    return told_of_races(
        {
            "entries": [
                (raw.results, entries.RESULT_CONTENT),
                (raw.qualifying, ["driver_id", "position"]),
                (raw.pit_lane, ["code", "f1db_grid"]),
            ],
            "qualifying": [(raw.qualifying, entries.QUALIFYING_CONTENT)],
            "sprint_results": [(raw.sprint, standings.SPRINT_CONTENT)],
            "driver_standings": [(raw.driver_standings, [*standings.DRIVER_STANDING_KEY, *standing])],
            "constructor_standings": [(raw.constructor_standings, [*standings.CONSTRUCTOR_STANDING_KEY, *standing])],
        }
    )


def _or_none(frame: pd.DataFrame, numbers: list[str], others: list[str]) -> pd.DataFrame:
    """`frame`, or an empty one that joins on these columns."""
    return frame if len(frame) else no_rows(numbers, others)


def _finish(table: str, frame: pd.DataFrame | None, source: str) -> pd.DataFrame:
    """The table's columns only, with race_id and source."""
    if frame is None or frame.empty:
        return empty_frame(table)
    named = frame.assign(source=source)
    if TABLES[table].is_race_table:
        ids = {key: make_race_id(int(key[0]), int(key[1])) for key in zip(named["season"], named["round"], strict=True)}
        named["race_id"] = [ids[key] for key in zip(named["season"], named["round"], strict=True)]
    return named[TABLES[table].columns]
