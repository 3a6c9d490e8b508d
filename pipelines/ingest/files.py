"""The `files` source: folders of FastF1, Ergast and f1db files, united into canonical seasons.

Needed for a season: laps (`fastf1/laps_*.parquet`), a calendar and results (`ergast/*.csv`, or `fastf1_undercut/schedule_*` and
`results_*`), and the course of each circuit from any year (`f1db/races.csv`). Everything else may be missing: its columns or
tables are then empty and the report says so. A later path wins over an earlier one where they differ.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from feature_repo.files import sha256_file, sha256_json
from feature_repo.ids import make_race_id
from pipelines.errors import SourceMissingError
from pipelines.ingest import conditions, courses, entries, fallbacks, timing
from pipelines.ingest.base import IngestReport, SeasonTables
from pipelines.ingest.ergast import FILES as ERGAST_FILES
from pipelines.ingest.ergast import ErgastDump
from pipelines.ingest.reading import Kind, no_rows, read_parquet, season_counts
from pipelines.ingest.sieve import Sieve
from pipelines.schemas import TABLES, empty_frame

logger = logging.getLogger(__name__)

_PATTERNS = (
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
class _Inputs:
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


class FilesSource:
    """Reads one or more folders laid out like `fastf1/ fastf1_undercut/ ergast/ f1db/ ...`."""

    name = "files"
    is_simulated = False

    def __init__(self, paths: Sequence[Path]) -> None:
        """Take the folders, earlier ones first.

        Raises:
            SourceMissingError: a folder does not exist or holds no file of that layout.
        """
        self.paths = [Path(path) for path in paths]
        if not self.paths:
            raise SourceMissingError("files source: got no path, expected at least one folder (--path DIR)")
        for path in self.paths:
            if not path.is_dir():
                raise SourceMissingError(
                    f"files source: {path}: got no such folder, expected a folder with fastf1/, ergast/, ..."
                )
            if not any(True for pattern in _PATTERNS for _ in path.glob(pattern)):
                raise SourceMissingError(
                    f"files source: {path}: got none of the files of a source, expected some of {', '.join(_PATTERNS)}"
                )

    def fingerprint(self) -> str:
        """Hash of every file that is read, by its place below its path."""
        return sha256_json(
            [
                [number, file.relative_to(path).as_posix(), sha256_file(file)]
                for number, path in enumerate(self.paths)
                for pattern in _PATTERNS
                for file in sorted(path.glob(pattern))
            ]
        )

    def read(self, seasons: Sequence[int], report: IngestReport) -> Iterator[SeasonTables]:
        """Yield the seasons asked for, ascending; see `Source.read`."""
        asked = sorted(set(seasons))
        sieve = Sieve(report, asked)
        laps_of = self._index_laps(asked, report)
        inputs = self._read_inputs(asked, sieve)
        for season in asked:
            yield self._season(season, laps_of[season], inputs, sieve)

    # -- reading -------------------------------------------------------------------------------------------------------------

    def _files(self, pattern: str) -> list[tuple[Path, Path]]:
        return [(path, file) for path in self.paths for file in sorted(path.glob(pattern))]

    def _index_laps(self, asked: list[int], report: IngestReport) -> dict[int, list[tuple[Path, Path]]]:
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

    def _table(
        self, sieve: Sieve, table: str, patterns: dict[str, _Columns], key: list[str], content: list[str], rules: list[Any]
    ) -> pd.DataFrame:
        """Rows of one table from all its files, checked and united; later patterns and paths win."""
        frames = []
        for path in self.paths:
            for pattern, columns in patterns.items():
                for file in sorted(path.glob(pattern)):
                    raw = read_parquet(path, file, {name: kind for name, (_, kind) in columns.items()})
                    renamed = raw.rename(columns={name: ours for name, (ours, _) in columns.items()})
                    if table == "race_control":
                        renamed["car_number"] = pd.to_numeric(renamed["car_number"], errors="coerce")
                    frames.append(sieve.check(table, sieve.asked(table, renamed), rules))
        if not frames:
            sieve.report.note(f"{table}: no file {' or '.join(patterns)} in any path")
            return pd.DataFrame()
        return sieve.union(table, frames, key, content)

    def _read_inputs(self, asked: list[int], sieve: Sieve) -> _Inputs:
        dumps = [ErgastDump(path) for path in self.paths if (path / "ergast" / "races.csv").is_file()]
        races = self._read_calendar(asked, dumps, sieve)
        results = self._read_results(asked, dumps, sieve)
        qualifying = [
            sieve.check("qualifying", sieve.asked("qualifying", dump.qualifying), entries.QUALIFYING_RULES)
            for dump in dumps
            if dump.qualifying is not None
        ]
        undercut, round_ = "fastf1_undercut", {"Round": ("round", "int")}
        fastf1: _Columns = {"RoundNumber": ("round", "int")}
        weather = {"fastf1/weather_*.parquet": {**conditions.WEATHER_COLUMNS, **fastf1}}
        weather[f"{undercut}/weather_*.parquet"] = {**conditions.WEATHER_COLUMNS, **round_}  # type: ignore[dict-item]
        status = {"fastf1/track_status_*.parquet": {**conditions.STATUS_COLUMNS, **fastf1}}
        status[f"{undercut}/track_status_*.parquet"] = {**conditions.STATUS_COLUMNS, **round_}  # type: ignore[dict-item]

        def ours(columns: _Columns) -> list[str]:
            return ["season", "round", *[name for name, _ in columns.values() if name not in ("season", "round")]]

        return _Inputs(
            races=races,
            results=results,
            qualifying=sieve.union("qualifying", qualifying, entries.ENTRY_KEY, entries.QUALIFYING_CONTENT),
            circuits=_latest([dump.circuits for dump in dumps], "circuit_id"),
            drivers=_latest([dump.drivers for dump in dumps if len(dump.drivers)], "driver_id"),
            constructors=_latest([dump.constructors for dump in dumps if len(dump.constructors)], "constructor_id"),
            pit_lane=_stacked([courses.read_pit_lane_starts(path) for path in self.paths]).drop_duplicates(
                ["season", "round", "code"], keep="last"
            ),
            stints=self._table(
                sieve,
                "stints",
                {f"{undercut}/stints_*.parquet": timing.STINT_COLUMNS},
                timing.STINT_KEY,
                ours(timing.STINT_COLUMNS),
                timing.STINT_RULES,
            ),
            pit_stops=self._table(
                sieve,
                "pit_stops",
                {f"{undercut}/pit_stops_*.parquet": timing.PIT_COLUMNS},
                timing.PIT_KEY,
                ours(timing.PIT_COLUMNS),
                timing.PIT_RULES,
            ),
            weather=self._table(
                sieve,
                "weather",
                weather,
                conditions.WEATHER_KEY,
                ours(conditions.WEATHER_COLUMNS),
                conditions.WEATHER_RULES,
            ),
            track_status=self._table(
                sieve, "track_status", status, conditions.STATUS_KEY, ours(conditions.STATUS_COLUMNS), conditions.STATUS_RULES
            ),
            race_control=self._read_race_control(races, sieve),
        )

    def _read_race_control(self, races: pd.DataFrame, sieve: Sieve) -> pd.DataFrame:
        control = {"fastf1/race_control_messages_*.parquet": conditions.CONTROL_COLUMNS}
        content = conditions.CONTROL_CONTENT
        fastf1 = self._table(sieve, "race_control", control, conditions.CONTROL_KEY, content, conditions.CONTROL_RULES)
        openf1 = [
            sieve.check(
                "race_control",
                conditions.read_openf1_control(path, file, races[["season", "round", "race_start"]], sieve),
                conditions.CONTROL_RULES,
            )
            for path, file in self._files("openf1/race_control_*.parquet")
        ]
        frames = [frame for frame in (fastf1, *openf1) if not frame.empty]
        return sieve.union("race_control", frames, conditions.CONTROL_KEY, content) if frames else pd.DataFrame()

    def _read_calendar(self, asked: list[int], dumps: list[ErgastDump], sieve: Sieve) -> pd.DataFrame:
        """Races of the seasons asked for, with their courses; season by season from Ergast, or else from the schedule files."""
        times = [fallbacks.read_f1db_times(path) for path in self.paths]
        times += [fallbacks.read_session_times(file) for _, file in self._files("f1schedule/schedule_*.json")]
        calendars = [dump.calendar for dump in dumps]
        for path, file in self._files("fastf1_undercut/schedule_*.parquet"):
            calendars += _uncovered(
                fallbacks.read_undercut_schedule(path, file), calendars[: len(dumps)], asked, "calendar", sieve
            )
        every = _stacked(calendars) if calendars else no_rows(["season", "round"], entries.RACE_CONTENT[2:])
        empty = [season for season in asked if not (every["season"] == season).any()]
        if empty:
            raise SourceMissingError(
                f"files source: got no calendar of {', '.join(map(str, empty))}, expected rows in ergast/races.csv or "
                "fastf1_undercut/schedule_*.parquet; ask for other seasons or add a path"
            )
        timed = [entries.with_times(sieve.asked("races", calendar), times) for calendar in calendars]
        checked = [sieve.check("races", calendar, entries.RACE_RULES) for calendar in timed]
        races = sieve.union("races", checked, entries.RACE_KEY, entries.RACE_CONTENT)
        known = _stacked([courses.read_courses(path) for path in self.paths])
        return courses.attach_courses(races, known, every, sieve.report)

    def _read_results(self, asked: list[int], dumps: list[ErgastDump], sieve: Sieve) -> pd.DataFrame:
        offered = [dump.results for dump in dumps if dump.results is not None]
        from_dumps = list(offered)
        for path, file in self._files("fastf1_undercut/results_*.parquet"):
            offered += _uncovered(fallbacks.read_undercut_results(path, file), from_dumps, asked, "results", sieve)
        empty = [season for season in asked if not any((results["season"] == season).any() for results in offered)]
        if empty:
            raise SourceMissingError(
                f"files source: got no results of {', '.join(map(str, empty))}, expected rows in ergast/results.csv or "
                "fastf1_undercut/results_*.parquet; ask for other seasons or add a path"
            )
        checked = [sieve.check("entries", sieve.asked("entries", results), entries.RESULT_RULES) for results in offered]
        return sieve.union("entries", checked, entries.ENTRY_KEY, entries.RESULT_CONTENT)

    def _read_laps(self, season: int, files: list[tuple[Path, Path]], sieve: Sieve) -> pd.DataFrame:
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
            frames.append(sieve.check("laps", sieve.asked("laps", mine), timing.LAP_RULES))
        content = [ours for ours, _ in {**columns, **optional}.values()]
        return sieve.union("laps", frames, timing.LAP_KEY, content)

    # -- one season ----------------------------------------------------------------------------------------------------------

    def _season(self, season: int, files: list[tuple[Path, Path]], inputs: _Inputs, sieve: Sieve) -> SeasonTables:
        raw_laps = self._read_laps(season, files, sieve)
        of = {
            name: frame[frame["season"] == season] if len(frame) else frame
            for name, frame in vars(inputs).items()
            if "season" in frame
        }
        teams = raw_laps[["round", "code", "Team"]].dropna().drop_duplicates(["round", "code"]) if "Team" in raw_laps else None
        results = entries.known_results(of["results"], of["races"], teams, raw_laps, sieve)
        races = entries.held_races(of["races"], results, sieve)
        starts = {int(round_): start for round_, start in zip(races["round"], races["race_start"], strict=True)}
        clock = timing.make_clock(raw_laps, starts)
        people = results[["round", "code", "driver_id"]]

        identified = timing.identify("laps", raw_laps, people, sieve, clock)
        laps = timing.make_laps(identified, clock)
        flags = timing.flags_of(laps, results, clock)
        races = entries.flagged_races(races, flags, sieve)

        if "stints" in of and len(of["stints"]):
            stints = timing.identify("stints", of["stints"], people, sieve, clock)
        else:
            stints = timing.stints_from_laps(laps)
            sieve.derived("stints", len(stints))
            sieve.report.note(f"stints of {season} are derived from laps: no stint file has the season")
        if "pit_stops" in of and len(of["pit_stops"]):
            stops = timing.identify("pit_stops", of["pit_stops"], people, sieve, clock)
        else:
            stops = timing.pit_stops_from_laps(identified)
            sieve.derived("pit_stops", len(stops))
            sieve.report.note(f"pit stops of {season} are derived from laps: no pit stop file has the season")

        tables = {
            "races": entries.make_races(races, flags),
            "entries": entries.make_entries(results, races, flags, of["qualifying"], inputs.pit_lane, sieve),
            "qualifying": entries.make_qualifying(of["qualifying"], races, sieve),
            "laps": laps,
            "stints": timing.make_stints(stints, laps, flags),
            "pit_stops": timing.make_pit_stops(stops, clock, flags),
            "weather": conditions.make_timed("weather", of["weather"], clock, sieve) if "weather" in of else pd.DataFrame(),
            "track_status": conditions.make_timed("track_status", of["track_status"], clock, sieve)
            if "track_status" in of
            else pd.DataFrame(),
            "race_control": conditions.make_race_control(of["race_control"], laps, starts, sieve)
            if "race_control" in of
            else pd.DataFrame(),
        }
        tables |= entries.make_dimensions(
            tables["entries"], tables["races"], inputs.circuits, inputs.drivers, inputs.constructors
        )
        for name in ("circuits", "drivers", "constructors"):
            sieve.derived(name, len(tables[name]))
        for name in ("qualifying", "weather", "track_status", "race_control"):
            if tables[name].empty:
                sieve.report.note(f"{name}: no rows of {season}")
        return SeasonTables(season, {name: _finish(name, frame) for name, frame in tables.items()}, sieve.rejected(season))


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


def _finish(table: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The table's columns only, with race_id and source."""
    if frame.empty:
        return empty_frame(table)
    named = frame.assign(source=FilesSource.name)
    if TABLES[table].is_race_table:
        ids = {key: make_race_id(int(key[0]), int(key[1])) for key in zip(named["season"], named["round"], strict=True)}
        named["race_id"] = [ids[key] for key in zip(named["season"], named["round"], strict=True)]
    return named[TABLES[table].columns]
