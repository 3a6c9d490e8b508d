"""The folders behind the `files` source: which files there are, and all but laps read, checked and united."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipelines.errors import SourceMissingError
from pipelines.ingest.base import IngestReport
from pipelines.ingest.canonical import conditions, courses, entries, timing
from pipelines.ingest.canonical.checks import CHECKS, sifted
from pipelines.ingest.canonical.reading import Kind, read_parquet, season_counts
from pipelines.ingest.canonical.sieve import Sieve
from pipelines.ingest.files import fallbacks
from pipelines.ingest.files.ergast import FILES as ERGAST_FILES
from pipelines.ingest.files.ergast import ErgastDump

PATTERNS = (
    "fastf1/laps_*.parquet",
    "fastf1/weather_*.parquet",
    "fastf1/track_status_*.parquet",
    "fastf1/race_control_messages_*.parquet",
    "fastf1_undercut/*.parquet",
    "openf1/race_control_*.parquet",
    "f1schedule/schedule_*.json",
    "f1db/races.csv",
    "f1db/race_results.csv",
    "f1db/drivers.csv",
    *(f"ergast/{name}.csv" for name in ERGAST_FILES),
)
_Columns = dict[str, tuple[str, Kind]]


@dataclass(frozen=True)
class _Fallback:
    """Files of `fastf1_undercut` that stand in for a file of the Ergast dump: both names without ending, and how to read them."""

    what: str
    ergast: str
    undercut: str
    read: Callable[[Path, Path], pd.DataFrame]


@dataclass(frozen=True)
class Inputs:
    """Everything but laps, read and united, for the seasons asked for."""

    races: pd.DataFrame
    results: pd.DataFrame
    qualifying: pd.DataFrame
    circuits: pd.DataFrame
    drivers: pd.DataFrame
    constructors: pd.DataFrame
    pit_lane: pd.DataFrame
    stints: pd.DataFrame
    pit_stops: pd.DataFrame
    weather: pd.DataFrame
    track_status: pd.DataFrame
    race_control: pd.DataFrame
    sprint: pd.DataFrame
    driver_standings: pd.DataFrame
    constructor_standings: pd.DataFrame


class Folders:
    """The paths of a `files` source, earlier ones first; a later one wins where they differ."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def _files(self, pattern: str) -> list[tuple[Path, Path]]:
        return [(path, file) for path in self.paths for file in sorted(path.glob(pattern))]

    def index_laps(self, asked: list[int], report: IngestReport) -> dict[int, list[tuple[Path, Path]]]:
        """Season -> lap files (path, file) that have it; rows of other seasons are counted.

        Raises:
            SourceMissingError: a season asked for has no laps.
        """
        found: dict[int, list[tuple[Path, Path]]] = {season: [] for season in asked}
        account = report.table("laps")
        for path, file in self._files("fastf1/laps_*.parquet"):
            for season, rows in season_counts(file, "Season").items():
                if season in found:
                    found[season].append((path, file))
                else:  # rows asked for are counted when their season is read
                    account.rows_read += rows
                    account.rows_other_season += rows
        empty = [season for season, files in found.items() if not files]
        if empty:
            raise SourceMissingError(
                f"files source: got no laps of {', '.join(map(str, empty))} in {', '.join(map(str, self.paths))}, expected "
                "fastf1/laps_*.parquet with rows of every season asked for; ask for other seasons or add a path"
            )
        return found

    def _table(self, sieve: Sieve, table: str, patterns: dict[str, _Columns]) -> pd.DataFrame:
        """Rows of one table from all its files, checked and united; later patterns and paths win."""
        frames = []
        for path in self.paths:
            for pattern, columns in patterns.items():
                for file in sorted(path.glob(pattern)):
                    raw = read_parquet(path, file, {name: kind for name, (_, kind) in columns.items()})
                    renamed = raw.rename(columns={name: ours for name, (ours, _) in columns.items()})
                    if table == "race_control":
                        renamed["car_number"] = pd.to_numeric(renamed["car_number"], errors="coerce")
                    frames.append(renamed)
        if not frames:
            sieve.report.note(f"{table}: no file {' or '.join(patterns)} in any path")
            return pd.DataFrame()
        return sifted(table, frames, sieve)

    def read_inputs(self, asked: list[int], sieve: Sieve) -> Inputs:
        """Everything but laps, of the seasons asked for.

        Raises:
            SourceFormatError: a file cannot be understood.
            SourceMissingError: a season has no calendar or results, or a circuit no known course.
        """
        dumps = [ErgastDump(path) for path in self.paths if (path / "ergast" / "races.csv").is_file()]
        races = self._read_calendar(asked, dumps, sieve)
        results = self._read_results(asked, dumps, sieve)
        undercut, round_ = "fastf1_undercut", {"Round": ("round", "int")}
        fastf1: _Columns = {"RoundNumber": ("round", "int")}
        weather = {"fastf1/weather_*.parquet": {**conditions.WEATHER_COLUMNS, **fastf1}}
        weather[f"{undercut}/weather_*.parquet"] = {**conditions.WEATHER_COLUMNS, **round_}  # type: ignore[dict-item]
        status = {"fastf1/track_status_*.parquet": {**conditions.STATUS_COLUMNS, **fastf1}}
        status[f"{undercut}/track_status_*.parquet"] = {**conditions.STATUS_COLUMNS, **round_}  # type: ignore[dict-item]

        def of_dumps(table: str, frames: list[pd.DataFrame | None]) -> pd.DataFrame:
            return sifted(table, [frame for frame in frames if frame is not None], sieve)

        return Inputs(
            races=races,
            results=results,
            qualifying=of_dumps("qualifying", [dump.qualifying for dump in dumps]),
            circuits=_latest([dump.circuits for dump in dumps], "circuit_id"),
            drivers=_latest([dump.drivers for dump in dumps if len(dump.drivers)], "driver_id"),
            constructors=_latest([dump.constructors for dump in dumps if len(dump.constructors)], "constructor_id"),
            pit_lane=_stacked([courses.read_pit_lane_starts(path) for path in self.paths]).drop_duplicates(
                ["season", "round", "code"], keep="last"
            ),
            stints=self._table(sieve, "stints", {f"{undercut}/stints_*.parquet": timing.STINT_COLUMNS}),
            pit_stops=self._table(sieve, "pit_stops", {f"{undercut}/pit_stops_*.parquet": timing.PIT_COLUMNS}),
            weather=self._table(sieve, "weather", weather),
            track_status=self._table(sieve, "track_status", status),
            race_control=self._read_race_control(races, sieve),
            sprint=of_dumps("sprint_results", [dump.sprint for dump in dumps]),
            driver_standings=of_dumps("driver_standings", [dump.driver_standings for dump in dumps]),
            constructor_standings=of_dumps("constructor_standings", [dump.constructor_standings for dump in dumps]),
        )

    def _read_race_control(self, races: pd.DataFrame, sieve: Sieve) -> pd.DataFrame:
        control = CHECKS["race_control"]
        fastf1 = self._table(sieve, "race_control", {"fastf1/race_control_messages_*.parquet": conditions.CONTROL_COLUMNS})
        openf1 = [
            sieve.check(
                "race_control",
                conditions.read_openf1_control(path, file, races[["season", "round", "race_start"]], sieve),
                control.rules,
            )
            for path, file in self._files("openf1/race_control_*.parquet")
        ]
        frames = [frame for frame in (fastf1, *openf1) if not frame.empty]
        return sieve.union("race_control", frames, control.key, control.content) if frames else pd.DataFrame()

    def _read_calendar(self, asked: list[int], dumps: list[ErgastDump], sieve: Sieve) -> pd.DataFrame:
        """Races of the seasons asked for, with their courses; season by season from Ergast, or else from the schedule files."""
        times = [fallbacks.read_f1db_times(path) for path in self.paths]
        times += [fallbacks.read_session_times(file) for _, file in self._files("f1schedule/schedule_*.json")]
        undercut = _Fallback("calendar", "races", "schedule", fallbacks.read_undercut_schedule)
        calendars = self._offered(undercut, [dump.calendar for dump in dumps], asked, sieve)
        races = sifted("races", [entries.with_times(calendar, times) for calendar in calendars], sieve)
        known = _stacked([courses.read_courses(path) for path in self.paths])
        return courses.attach_courses(races, known, _stacked(calendars), sieve.report)

    def _read_results(self, asked: list[int], dumps: list[ErgastDump], sieve: Sieve) -> pd.DataFrame:
        undercut = _Fallback("results", "results", "results", fallbacks.read_undercut_results)
        from_dumps = [dump.results for dump in dumps if dump.results is not None]
        return sifted("entries", self._offered(undercut, from_dumps, asked, sieve), sieve)

    def _offered(self, fallback: _Fallback, dumps: list[pd.DataFrame], asked: list[int], sieve: Sieve) -> list[pd.DataFrame]:
        """What the Ergast dumps have, and of races that none of them has what the fallback has.

        Raises:
            SourceMissingError: a season asked for has no rows.
        """
        offered = list(dumps)
        pattern = f"fastf1_undercut/{fallback.undercut}_*.parquet"
        for path, file in self._files(pattern):
            offered += _uncovered(fallback.read(path, file), dumps, asked, fallback.what, sieve)
        empty = [season for season in asked if not any((rows["season"] == season).any() for rows in offered)]
        if empty:
            raise SourceMissingError(
                f"files source: got no {fallback.what} of {', '.join(map(str, empty))}, expected rows in "
                f"ergast/{fallback.ergast}.csv or {pattern}; ask for other seasons or add a path"
            )
        return offered

    def read_laps(self, season: int, files: list[tuple[Path, Path]], sieve: Sieve) -> pd.DataFrame:
        """Raw laps of one season: our column names, session clock in seconds, not yet identified."""
        columns, optional = timing.LAP_COLUMNS, timing.LAP_OPTIONAL
        frames = []
        for path, file in files:
            raw = read_parquet(
                path,
                file,
                {name: kind for name, (_, kind) in columns.items()},
                {**{name: kind for name, (_, kind) in optional.items()}, "Team": "str"},
            ).rename(columns={name: ours for name, (ours, _) in {**columns, **optional}.items()})
            mine = raw[raw["season"] == season].reset_index(drop=True)
            frames.append(mine)
        return sifted("laps", frames, sieve)


def _uncovered(
    fallback: pd.DataFrame, dumps: list[pd.DataFrame], asked: list[int], what: str, sieve: Sieve
) -> list[pd.DataFrame]:
    """The rows of `fallback` of asked seasons whose race no Ergast dump has, as a list of at most one frame."""
    covered = {race for dump in dumps for race in zip(dump["season"], dump["round"], strict=True)}
    races = pd.Series(list(zip(fallback["season"], fallback["round"], strict=True)), index=fallback.index, dtype=object)
    needed = fallback[fallback["season"].isin(asked) & ~races.isin(covered)]
    for season in sorted(needed["season"].unique()):
        sieve.report.note(
            f"{what} of races of {season:.0f} from fastf1_undercut, which has no points, teams or times: not in ergast/"
        )
    return [needed] if len(needed) else []


def _stacked(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """The frames below one another; empty ones, whose columns have no real types, do not take part."""
    full = [frame for frame in frames if len(frame)]
    return pd.concat(full, ignore_index=True) if full else frames[0]


def _latest(frames: list[pd.DataFrame], key: str) -> pd.DataFrame:
    """One row a key, of the last frame that has it."""
    return _stacked(frames).drop_duplicates(key, keep="last") if frames else pd.DataFrame(columns=[key])
