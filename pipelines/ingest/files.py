"""The `files` source: folders of FastF1, Ergast and f1db files, united into canonical seasons.

Needed for a season: laps (`fastf1/laps_*.parquet`), a calendar and results (`ergast/*.csv`, or `fastf1_undercut/schedule_*` and
`results_*`), and the course of each circuit from any year (`f1db/races.csv`). Everything else may be missing: its columns or
tables are then empty and the report says so. A later path wins over an earlier one where they differ.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from feature_repo.files import sha256_file, sha256_json
from feature_repo.ids import make_race_id
from pipelines.errors import SourceMissingError
from pipelines.ingest import conditions, entries, timing
from pipelines.ingest.base import IngestReport, SeasonTables
from pipelines.ingest.folders import PATTERNS, Folders, Inputs
from pipelines.ingest.sieve import Sieve
from pipelines.schemas import TABLES, empty_frame


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
            if not any(True for pattern in PATTERNS for _ in path.glob(pattern)):
                raise SourceMissingError(
                    f"files source: {path}: got none of the files of a source, expected some of {', '.join(PATTERNS)}"
                )

        self.folders = Folders(self.paths)

    def fingerprint(self) -> str:
        """Hash of every file that is read, by its place below its path."""
        return sha256_json(
            [
                [number, file.relative_to(path).as_posix(), sha256_file(file)]
                for number, path in enumerate(self.paths)
                for pattern in PATTERNS
                for file in sorted(path.glob(pattern))
            ]
        )

    def read(self, seasons: Sequence[int], report: IngestReport) -> Iterator[SeasonTables]:
        """Yield the seasons asked for, ascending; see `Source.read`."""
        asked = sorted(set(seasons))
        sieve = Sieve(report, asked)
        laps_of = self.folders.index_laps(asked, report)
        inputs = self.folders.read_inputs(asked, sieve)
        for season in asked:
            yield self._season(season, laps_of[season], inputs, sieve)

    def _season(self, season: int, files: list[tuple[Path, Path]], inputs: Inputs, sieve: Sieve) -> SeasonTables:
        raw_laps = self.folders.read_laps(season, files, sieve)
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


def _finish(table: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The table's columns only, with race_id and source."""
    if frame.empty:
        return empty_frame(table)
    named = frame.assign(source=FilesSource.name)
    if TABLES[table].is_race_table:
        ids = {key: make_race_id(int(key[0]), int(key[1])) for key in zip(named["season"], named["round"], strict=True)}
        named["race_id"] = [ids[key] for key in zip(named["season"], named["round"], strict=True)]
    return named[TABLES[table].columns]
