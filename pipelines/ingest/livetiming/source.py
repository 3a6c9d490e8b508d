"""The `livetiming` source: recorded F1 live timing, parsed by FastF1, for races that the home already knows.

A recording tells what happened on track: laps (where `TimingData` was recorded), stints, pit stops, track status, weather and
race control. Which race that was, when it was to start and who drove comes from the lake; the calendar found there is kept with
the rows, so that they follow when another start is believed later.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from feature_repo.settings import Settings
from pipelines.errors import SourceFormatError, SourceMissingError
from pipelines.ingest.base import IngestReport, SeasonTables
from pipelines.ingest.canonical.assemble import RawSeason, assemble
from pipelines.ingest.canonical.courses import COURSE
from pipelines.ingest.canonical.entries import RESULT_CONTENT
from pipelines.ingest.canonical.reading import FILE, ROW
from pipelines.ingest.canonical.sieve import Sieve
from pipelines.ingest.canonical.timing import make_clock
from pipelines.ingest.fastf1.library import fastf1_log
from pipelines.ingest.fastf1.session import MIN_LAPS_SHARE
from pipelines.ingest.fastf1.tables import LIVE_TABLES, RawFrames, no_laps
from pipelines.ingest.livetiming.frames import SessionInfo, driver_list, raw_frames, session_info
from pipelines.ingest.livetiming.streams import Recording, find_recordings, fingerprint, read_recording
from pipelines.lake import Lake

logger = logging.getLogger(__name__)

_TABLE_OF = {
    "TimingData": "laps",
    "TimingAppData": "stints",
    "WeatherData": "weather",
    "TrackStatus": "track_status",
    "RaceControlMessages": "race_control",
}
# said by FastF1 because it is kept from asking Jolpica
_EXPECTED = ("No result data for this session available on Ergast", "Cannot load lap times for first lap from Ergast")
_AWAY = pd.Timedelta(hours=36)  # a race may be put off to the next day


@dataclass(frozen=True)
class _Race:
    """A recording of a race that the lake knows: `codes` is car number -> code, `origin` the session clock at lights out."""

    recording: Recording
    season: int
    round: int
    codes: Mapping[str, str]
    origin: float | None


class LiveTimingSource:
    """Reads recorded live timing below `paths`; see `livetiming_streams` for the layouts."""

    name = "livetiming"
    is_simulated = False

    def __init__(self, settings: Settings, paths: Sequence[Path]) -> None:
        """Take the files or folders, and the home whose lake says which races there were.

        Raises:
            SourceMissingError: a path does not exist or holds no recording.
        """
        self.paths = [Path(path) for path in paths]
        self.files = find_recordings(self.paths)
        self._lake = Lake(settings.lake_dir)
        self._found: list[tuple[Recording, SessionInfo]] | None = None
        self._left_out: list[str] = []

    @property
    def seasons(self) -> list[int]:
        """Seasons of the recorded races, ascending.

        Raises:
            SourceFormatError: as `read`.
        """
        return sorted({info.start.year for _, info in self._recordings()})

    def fingerprint(self) -> str:
        """Hash of the recordings, and of what the lake says about races and drivers."""
        digest = hashlib.sha256(fingerprint(self.files).encode())
        for table, columns in (("races", ["race_id", "race_start", "race_end"]), ("entries", ["race_id", "driver_id", "code"])):
            known = self._lake.read(table, columns=columns)
            digest.update(pd.util.hash_pandas_object(known, index=False).to_numpy().tobytes())
        return digest.hexdigest()

    def read(self, seasons: Sequence[int], report: IngestReport) -> Iterator[SeasonTables]:
        """Yield the seasons asked for, ascending, each with the rounds that were recorded; see `Source.read`.

        Raises:
            SourceFormatError: too many lines of a file cannot be understood.
            SourceMissingError: no race of a season was recorded, or the lake does not know it.
        """
        asked = sorted(set(seasons))
        sieve = Sieve(report, asked)
        with fastf1_log(_EXPECTED):
            races = self._recorded_races(asked, report)
            for season in asked:
                mine = [race for _, race in sorted(races.items()) if race.season == season]
                if not mine:
                    raise SourceMissingError(
                        f"livetiming: got no recording of a race of {season} in {', '.join(map(str, self.paths))}, expected one; "
                        "ask for the seasons that were recorded"
                    )
                yield self._season(season, mine, sieve)

    def _recordings(self) -> list[tuple[Recording, SessionInfo]]:
        """Every recorded race, read once."""
        if self._found is None:
            self._found = []
            for root, files in self.files:
                try:
                    recording = read_recording(root, files)
                except SourceFormatError as error:
                    if files[0].suffix != ".txt" or files[0] in self.paths:
                        raise
                    where = "" if error.row is None else f"line {error.row}: "
                    what = f"{where}got {error.got}, expected {error.expected}"
                    self._left_out.append(f"livetiming: {files[0]} is left out: {what}")
                    continue
                info = session_info(recording)
                if info is None:
                    self._left_out.append(f"livetiming: {recording.name} is left out: no SessionInfo says which session it is")
                elif info.name != "Race":
                    self._left_out.append(f"livetiming: {recording.name} is left out: {info.name!r} is not a race")
                else:
                    self._found.append((recording, info))
        return self._found

    def _recorded_races(self, asked: list[int], report: IngestReport) -> dict[tuple[int, int], _Race]:
        """(season, round) -> recording, for the seasons asked for."""
        races: dict[tuple[int, int], _Race] = {}
        for recording, info in self._recordings():
            if info.start.year not in asked:
                continue
            race = self._identify(recording, info)
            key = (race.season, race.round)
            if key in races:
                first = races[key].recording.name
                self._left_out.append(f"livetiming: {recording.name} is left out: {first} is of the same race")
                continue
            races[key] = race
        for text in self._left_out:
            report.note(text)
        return races

    def _identify(self, recording: Recording, info: SessionInfo) -> _Race:
        """The race of the lake that starts nearest to the recorded session, and who drives which car in it."""
        season = info.start.year
        first = f"run `pitwall ingest --source jolpica --seasons {season}"
        known = self._lake.read("races", [season], ["round", "name", "race_start"])
        away = (known["race_start"] - info.start).abs()
        if known.empty or away.min() > _AWAY:
            raise SourceMissingError(
                f"livetiming: {recording.name}: got {info.meeting!r} of {info.start:%Y-%m-%d}, expected a race of that day in "
                f"the lake, which has {len(known)} races of {season}; {first}` first"
            )
        round_ = int(known.loc[away.idxmin(), "round"])
        entries = self._lake.read("entries", [season], ["round", "code", "car_number"])
        entries = entries[entries["round"] == round_]
        if entries.empty:
            raise SourceMissingError(
                f"livetiming: {recording.name}: got no entries of {season} round {round_} in the lake, expected who drove; "
                f"{first} --rounds {round_}` first"
            )
        return _Race(recording, season, round_, _codes(recording, entries), self._origin(recording, season, round_))

    def _origin(self, recording: Recording, season: int, round_: int) -> float | None:
        """Session clock at lights out: when the session started, or else when lap 2 began less the leader's first lap."""
        started = [at for at, content in recording.topics.get("SessionStatus", []) if content.get("Status") == "Started"]
        if started:
            return float(started[0].total_seconds())
        counts = recording.topics.get("LapCount", [])
        second = next((at for at, content in counts if content.get("CurrentLap") == 2), None)
        starts = self._lake.read("races", [season], ["round", "race_start"]).set_index("round")["race_start"]
        laps = self._lake.read("laps", [season], ["round", "lap", "event_timestamp"])
        ends = laps.loc[(laps["round"] == round_) & (laps["lap"] == 1), "event_timestamp"]
        if second is None or ends.empty:
            return None
        return float(second.total_seconds() - (ends.min() - starts[round_]).total_seconds())

    def _season(self, season: int, races: Sequence[_Race], sieve: Sieve) -> SeasonTables:
        rounds = frozenset(race.round for race in races)
        known = self._lake.read("races", [season])
        known = known[known["round"].isin(rounds)].reset_index(drop=True)
        calendar, results = _known(self._lake, known, season)
        frames, origins = RawFrames(), dict[int, float]()
        for race in races:
            _quarantine_bad_lines(race, sieve)
            recorded = raw_frames(race.recording, race.codes, season, race.round, sieve.report)
            said = {race.round: race.origin} if race.origin is not None else {}
            origins |= make_clock(recorded.get("laps", no_laps()), {}, said).origins
            winner_laps = results.loc[results["round"] == race.round, "laps_completed"].max()
            for table, frame in _if_whole(race, recorded, winner_laps, sieve.report).items():
                frames.add(table, frame, sieve)
            logger.info("race_read source=livetiming season=%s round=%s from=%s", season, race.round, race.recording.name)
        raw = RawSeason(
            season=season,
            races=calendar,
            results=results,
            **{table: frames.get(table, sieve) for table in LIVE_TABLES},
            origins=origins,
        )
        tables = assemble(raw, self.name, sieve)
        return replace(tables, rounds=rounds, calendar=known)


def _if_whole(
    race: _Race, recorded: dict[str, pd.DataFrame], winner_laps: float, report: IngestReport
) -> dict[str, pd.DataFrame]:
    """What was recorded, without laps and stints if too few laps are in it: they would hide who has them all.

    Args:
        race: which recording of which race.
        recorded: raw frames.
        winner_laps: laps of the winner, as the lake has them.
        report: gets a note of what is left out.
    """
    if "laps" in recorded:
        laps = float(recorded["laps"]["lap"].nunique())
    elif "stints" in recorded and len(recorded["stints"]):
        laps = float(recorded["stints"].groupby("code")["length_laps"].sum().max())
    else:
        return recorded
    if not laps < MIN_LAPS_SHARE * winner_laps:
        return recorded
    report.note(
        f"livetiming: {race.recording.name}: laps, stints and pit stops of {race.season} round {race.round} are left out: "
        f"got {laps:.0f} of {winner_laps:.0f} laps, expected at least {MIN_LAPS_SHARE:.0%}"
    )
    return {table: rows for table, rows in recorded.items() if table not in ("laps", "stints")}


def _codes(recording: Recording, entries: pd.DataFrame) -> dict[str, str]:
    """Car number -> code of the lake: the three letters of the driver list where the race has them, or else the car number's."""
    known = set(entries["code"])
    codes = {
        str(int(number)): code for number, code in zip(entries["car_number"], entries["code"], strict=True) if pd.notna(number)
    }
    for number, driver in driver_list(recording).items():
        if driver.get("Tla") in known:
            codes[str(driver.get("RacingNumber") or number)] = driver["Tla"]
    return codes


def _quarantine_bad_lines(race: _Race, sieve: Sieve) -> None:
    """Account for the lines that could not be understood: in quarantine under their topic's table, or named in a note."""
    for table in LIVE_TABLES:
        bad = [line for line in race.recording.bad if _TABLE_OF.get(line.topic) == table]
        if bad:
            frame = pd.DataFrame(
                {"season": race.season, "round": race.round, "line": [line.text[:500] for line in bad]}
                | {FILE: [line.file for line in bad], ROW: [line.row for line in bad]}
            )
            sieve.reject(table, sieve.asked(table, frame), pd.Series([f"unreadable line: {line.reason}" for line in bad]))
    for line in (line for line in race.recording.bad if line.topic not in _TABLE_OF):
        sieve.report.note(f"livetiming: {line.file}, line {line.row}: left out, {line.reason}")


def _known(lake: Lake, races: pd.DataFrame, season: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Calendar and results of the recorded races (rows of the lake) as `RawSeason` wants them."""
    races = races.assign(**{FILE: "lake/races", ROW: 1})
    entries = lake.read("entries", [season]).sort_values("created_timestamp", kind="stable")
    entries = entries[entries["round"].isin(races["round"])].drop_duplicates(
        ["round", "driver_id"], keep="last", ignore_index=True
    )
    lasted = (races.set_index("round")["race_end"] - races.set_index("round")["race_start"]).dt.total_seconds() * 1000
    results = entries.assign(
        position_text=entries["position"].astype("string").astype(object),
        milliseconds=entries["round"].map(lasted).where(entries["position_order"] == 1),
    )
    numbers = dict.fromkeys(("season", "round"), "float64")
    calendar = races[["season", "round", "name", "circuit_id", "race_start", "qualifying_start", *COURSE, FILE, ROW]]
    return calendar.astype(numbers), results[[*RESULT_CONTENT, "milliseconds"]].assign(**{FILE: "lake/entries", ROW: 1}).astype(
        numbers
    )
