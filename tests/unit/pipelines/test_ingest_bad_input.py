"""A file that cannot be understood stops the ingest, an impossible row is quarantined, and the lake stays as it was."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from tiny_sources import CODES, LAPS, ROUNDS, SEASON, Frames, tiny_frames, write_sources

from feature_repo.errors import PitwallError
from feature_repo.settings import Settings
from pipelines.errors import SourceFormatError, SourceMissingError, TooManyQuarantinedError
from pipelines.ingest.base import IngestReport
from pipelines.ingest.files.source import FilesSource
from pipelines.ingest.run import ingest
from pipelines.lake import Lake

LAPS_FILE = f"fastf1/laps_{SEASON}.parquet"
WEATHER = f"fastf1_undercut/weather_{SEASON}.parquet"
Damage = Callable[[Frames], None]


@pytest.fixture
def good_lake(settings: Settings, tmp_path: Path) -> Lake:
    ingest(settings, FilesSource([write_sources(tmp_path / "good", tiny_frames())]), [SEASON])
    return Lake(settings.lake_dir)


def run_damaged(settings: Settings, tmp_path: Path, damage: Damage) -> IngestReport:
    frames = tiny_frames()
    damage(frames)
    report = ingest(settings, FilesSource([write_sources(tmp_path / "bad", frames)]), [SEASON])
    assert all(account.unaccounted == 0 for account in report.tables.values())
    return report


def everything_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def put(file: str, row: int, column: str, value: object) -> Damage:
    def damage(frames: Frames) -> None:
        if frames[file][column].dtype != object and isinstance(value, str):
            frames[file][column] = frames[file][column].astype(object)
        frames[file].loc[row, column] = value

    return damage


def drop(file: str, column: str) -> Damage:
    def damage(frames: Frames) -> None:
        frames[file] = frames[file].drop(columns=column)

    return damage


FILE_LEVEL: list[tuple[Damage, str, int | None, str | None, str]] = [
    (drop(LAPS_FILE, "LapTime"), "laps_2031.parquet", None, "LapTime", "no such column"),
    (drop("ergast/results.csv", "grid"), "results.csv", None, "grid", "no such column"),
    (drop("f1db/races.csv", "courseLength"), "f1db/races.csv", None, "courseLength", "no such column"),
    (drop(WEATHER, "AirTemp"), "weather_2031.parquet", None, "AirTemp", "no such column"),
    (put("ergast/results.csv", 4, "grid", "first"), "results.csv", 5, "grid", "'first'"),
    (put("ergast/races.csv", 1, "round", "2.5"), "races.csv", 2, "round", "'2.5'"),
    (put("ergast/races.csv", 1, "time", "lunch"), "races.csv", 2, "time", "lunch"),
    (put("ergast/qualifying.csv", 2, "q1", "1:2x.5"), "qualifying.csv", 3, "q1", "1:2x.5"),
    (put("ergast/drivers.csv", 2, "driverId", 1), "drivers.csv", 3, "driverId", "1"),
    (put("ergast/drivers.csv", 0, "dob", "yesterday"), "drivers.csv", 1, "dob", "yesterday"),
    (lambda frames: frames.update({LAPS_FILE: frames[LAPS_FILE].assign(LapTime="1:30.0")}), "laps_2031", 1, "LapTime", "1:30.0"),
    (lambda frames: frames.update({LAPS_FILE: frames[LAPS_FILE].assign(SpeedST="fast")}), "laps_2031", 1, "SpeedST", "fast"),
    (lambda frames: frames.update({LAPS_FILE: frames[LAPS_FILE].assign(LapNumber="one")}), "laps_2031", 1, "LapNumber", "one"),
    (lambda frames: frames.update({WEATHER: frames[WEATHER].assign(Rainfall=3)}), "weather_2031", 1, "Rainfall", "int64"),
]


@pytest.mark.parametrize(("damage", "file", "row", "column", "got"), FILE_LEVEL)
def test_a_file_that_cannot_be_understood_is_an_error_that_says_where(
    settings: Settings, tmp_path: Path, damage: Damage, file: str, row: int | None, column: str | None, got: str
) -> None:
    with pytest.raises(SourceFormatError) as caught:
        run_damaged(settings, tmp_path, damage)
    error = caught.value
    assert file in error.file
    assert (error.row, error.column) == (row, column)
    assert got in error.got
    assert error.expected
    assert all(part in str(error) for part in (error.file, "got", "expected", "ingest again"))
    assert Lake(settings.lake_dir).partitions() == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (LAPS_FILE, b"not parquet"),
        (LAPS_FILE, b""),
        (WEATHER, b"PAR1 cut short PAR1"),
        ("ergast/results.csv", b""),
        ("ergast/results.csv", b"\xff\xfe\x00binary"),
        ("ergast/races.csv", b'raceId,year\n1,2\n3,"unclosed'),
        ("ergast/races.csv", b"raceId,year\n1,2,3,4,5\n"),
    ],
)
def test_an_unreadable_file_leaves_the_lake_as_it_was(
    settings: Settings, good_lake: Lake, tmp_path: Path, name: str, content: bytes
) -> None:
    before = everything_below(settings.home)
    source = write_sources(tmp_path / "bad", tiny_frames())
    (source / name).write_bytes(content)
    with pytest.raises(SourceFormatError) as caught:
        ingest(settings, FilesSource([source]), [SEASON])
    assert name in str(caught.value)
    assert everything_below(settings.home) == before


LAP_DAMAGE: list[tuple[str, object, str]] = [
    ("LapTime", pd.Timedelta("-90s"), "impossible lap time"),
    ("LapTime", pd.Timedelta(0), "impossible lap time"),
    ("Sector2Time", pd.Timedelta("-1s"), "impossible sector time"),
    ("SpeedST", 900.0, "impossible speed"),
    ("SpeedI1", -1.0, "impossible speed"),
    ("SpeedFL", float("inf"), "impossible speed"),
    ("LapNumber", 0.0, "impossible lap number"),
    ("LapNumber", -3.0, "impossible lap number"),
    ("LapNumber", 2.5, "impossible lap number"),
    ("LapNumber", None, "no lap number"),
    ("Time", pd.NaT, "no instant of lap end"),
    ("LapStartTime", pd.NaT, "no instant of lap start"),
    ("LapStartTime", pd.Timedelta(0), "starts before lights out"),
    ("Time", pd.Timedelta("9h"), "impossible lap duration"),
    ("Time", pd.Timedelta("1s"), "lap ends before it starts"),
    ("Time", pd.Timedelta("40h"), "impossible session time"),
    ("PitInTime", pd.Timedelta("-1s"), "impossible session time"),
    ("Position", 0.0, "impossible position"),
    ("Position", 1.5, "impossible position"),
    ("Stint", 0.0, "impossible stint"),
    ("TyreLife", -1.0, "impossible tyre life"),
    ("Compound", "CHEESE", "unknown compound"),
    ("TrackStatus", "green", "malformed track status"),
    ("Driver", "ZZZ", "unknown driver: no entry of that code in the race"),
    ("Driver", "../../etc", "unknown driver: no entry of that code in the race"),
    ("Driver", None, "no driver"),
    ("RoundNumber", 9, "unknown race"),
]
OTHER_DAMAGE: dict[str, tuple[str, list[tuple[str, object, str]]]] = {
    "weather": (
        WEATHER,
        [
            ("Humidity", 170.0, "impossible humidity"),
            ("AirTemp", None, "a reading is missing"),
            ("TrackTemp", 400.0, "impossible track temperature"),
            ("Pressure", 1.0, "impossible pressure"),
            ("WindDirection", 400, "impossible wind direction"),
            ("WindSpeed", -2.0, "impossible wind speed"),
            ("Time", pd.NaT, "no instant"),
            ("Round", 8, "unknown race"),
        ],
    ),
    "stints": (
        f"fastf1_undercut/stints_{SEASON}.parquet",
        [
            ("EndLap", 0.0, "impossible lap number"),
            ("StartLap", 50.0, "stint ends before it starts"),
            ("Driver", "ZZZ", "unknown driver: no entry of that code in the race"),
            ("Compound", "CHEESE", "unknown compound"),
            ("Stint", None, "no stint number"),
        ],
    ),
    "pit_stops": (
        f"fastf1_undercut/pit_stops_{SEASON}.parquet",
        [
            ("PitOutTime", pd.Timedelta("1s"), "leaves the pit lane before entering it"),
            ("PitInTime", pd.NaT, "no instant of pit entry"),
        ],
    ),
    "qualifying": (
        "ergast/qualifying.csv",
        [
            ("position", 0, "impossible position"),
            ("driverId", 77, "unknown driver"),
            ("constructorId", 77, "unknown constructor"),
        ],
    ),
    "entries": (
        "ergast/results.csv",
        [
            ("driverId", 77, "unknown driver"),
            ("constructorId", 77, "unknown constructor"),
            ("statusId", 77, "no status"),
            ("points", -5, "impossible points"),
            ("positionOrder", 0, "impossible official order"),
            ("grid", 99, "impossible grid"),
            ("laps", -1, "impossible number of laps"),
        ],
    ),
}


@pytest.mark.parametrize(
    ("table", "file", "damages"), [("laps", LAPS_FILE, LAP_DAMAGE), *[(t, f, d) for t, (f, d) in OTHER_DAMAGE.items()]]
)
def test_an_impossible_row_is_quarantined_with_its_reason(
    tmp_path: Path, table: str, file: str, damages: list[tuple[str, object, str]]
) -> None:
    frames = tiny_frames()
    for row, (column, value, _) in enumerate(damages):
        put(file, row, column, value)(frames)
    report = IngestReport("files", is_simulated=False, seasons=[SEASON])
    (season,) = FilesSource([write_sources(tmp_path, frames)]).read([SEASON], report)
    rejected = season.quarantine[table].query("source_file == @file")
    reasons = dict(zip(rejected["row_number"], rejected["reason"], strict=True))
    assert reasons == {row + 1: reason for row, (_, _, reason) in enumerate(damages)}
    assert all(json.loads(row)["season"] == SEASON for row in rejected["row"])
    account = report.tables[table]
    assert account.rows_quarantined == len(damages) == sum(report.quarantine_reasons[table].values())
    assert account.rows_read == len(season.tables[table]) + len(damages)


def test_the_quarantine_is_written_beside_the_lake_and_counted(settings: Settings, tmp_path: Path) -> None:
    report = run_damaged(settings, tmp_path, put(LAPS_FILE, 25, "SpeedST", 900.0))
    lake = Lake(settings.lake_dir)
    rejected = lake.read_quarantine("laps").iloc[0]
    assert (rejected["reason"], rejected["source_file"], rejected["row_number"]) == ("impossible speed", LAPS_FILE, 26)
    assert report.tables["laps"].rows_quarantined == lake.counts()["quarantined"] == 1
    assert lake.counts()["laps"] == ROUNDS * 4 * LAPS - 1


def test_a_contradicting_repetition_is_quarantined_and_an_equal_one_is_a_duplicate(settings: Settings, tmp_path: Path) -> None:
    def repeat(frames: Frames) -> None:
        laps = frames[LAPS_FILE]
        frames[LAPS_FILE] = pd.concat([laps, laps.iloc[[10, 11]], laps.iloc[[12]].assign(SpeedST=299.0)], ignore_index=True)

    report = run_damaged(settings, tmp_path, repeat)
    account = report.tables["laps"]
    assert (account.rows_duplicate, account.rows_quarantined, account.rows_written) == (2, 1, ROUNDS * 4 * LAPS)
    rejected = Lake(settings.lake_dir).read_quarantine("laps").iloc[0]
    assert rejected["reason"].startswith("duplicate key")
    assert json.loads(rejected["row"])["speed_st_kph"] == 299.0


@pytest.mark.parametrize(
    ("damage", "table"),
    [
        (put("ergast/drivers.csv", 0, "driverRef", "../../etc"), "entries"),
        (put("ergast/constructors.csv", 0, "constructorRef", "a/b"), "entries"),
        (put("ergast/circuits.csv", 0, "circuitRef", "..\\..\\x"), "races"),
        (put("ergast/results.csv", 0, "driverId", 77), "entries"),
        (put("ergast/results.csv", 0, "points", -5), "entries"),
        (put("ergast/results.csv", 0, "positionOrder", 0), "entries"),
    ],
)
def test_hostile_ids_and_too_many_bad_rows_fail_the_run(
    settings: Settings, good_lake: Lake, tmp_path: Path, damage: Damage, table: str
) -> None:
    before = everything_below(settings.home)
    with pytest.raises(TooManyQuarantinedError, match="expected at most 2%") as caught:
        run_damaged(settings, tmp_path, damage)
    assert str(SEASON) in str(caught.value)
    assert "row" in str(caught.value)
    assert table in str(caught.value) or "laps" in str(caught.value)
    assert everything_below(settings.home) == before
    assert not (tmp_path.parent / "etc").exists()


def test_just_two_percent_passes_and_more_fails(settings: Settings, tmp_path: Path) -> None:
    rows = ROUNDS * 4 * LAPS  # 120: two rows are 1.7 %, three are 2.5 %

    def break_rows(count: int) -> Damage:
        def damage(frames: Frames) -> None:
            frames[LAPS_FILE].loc[: count - 1, "SpeedST"] = 900.0

        return damage

    assert run_damaged(settings, tmp_path / "two", break_rows(2)).tables["laps"].rows_quarantined == 2
    with pytest.raises(TooManyQuarantinedError, match=rf"3 of {rows} rows"):
        run_damaged(settings, tmp_path / "three", break_rows(3))


class TestEmptyAndMissing:
    def test_an_empty_season(self, settings: Settings, good_lake: Lake, tmp_path: Path) -> None:
        before = everything_below(settings.home)
        with pytest.raises(SourceMissingError, match=r"no laps of 2032.*add a path"):
            ingest(settings, FilesSource([tmp_path / "good"]), [SEASON, 2032])
        assert everything_below(settings.home) == before

    @pytest.mark.parametrize(("name", "what"), [("ergast/races.csv", "calendar"), ("ergast/results.csv", "results")])
    def test_no_rows_of_the_season(self, settings: Settings, tmp_path: Path, name: str, what: str) -> None:
        with pytest.raises(SourceMissingError, match=rf"no {what} of {SEASON}"):
            run_damaged(settings, tmp_path, lambda frames: frames.update({name: frames[name].iloc[:0]}))

    def test_laps_file_without_rows(self, settings: Settings, tmp_path: Path) -> None:
        with pytest.raises(SourceMissingError, match="no laps"):
            run_damaged(settings, tmp_path, lambda frames: frames.update({LAPS_FILE: frames[LAPS_FILE].iloc[:0]}))

    def test_a_file_that_others_refer_to_is_missing(self, settings: Settings, tmp_path: Path) -> None:
        with pytest.raises(SourceFormatError, match=r"circuits\.csv"):
            run_damaged(settings, tmp_path, lambda frames: frames.__delitem__("ergast/circuits.csv"))

    def test_no_such_folder_and_a_folder_of_something_else(self, tmp_path: Path) -> None:
        with pytest.raises(SourceMissingError, match="no such folder"):
            FilesSource([tmp_path / "nowhere"])
        (tmp_path / "photos").mkdir()
        with pytest.raises(SourceMissingError, match="fastf1/laps_"):
            FilesSource([tmp_path / "photos"])

    @pytest.mark.parametrize("content", ["{", "[]", '{"round_number": {"0": 1}}', '{"round_number": {"0": "x"}}'])
    def test_a_broken_schedule(self, settings: Settings, tmp_path: Path, content: str) -> None:
        source = write_sources(tmp_path / "bad", tiny_frames())
        (source / "f1schedule").mkdir()
        (source / "f1schedule" / f"schedule_{SEASON}.json").write_text(content)
        with pytest.raises(SourceFormatError, match="schedule_2031"):
            ingest(settings, FilesSource([source]), [SEASON])


def test_every_error_is_one_the_cli_prints_without_a_traceback() -> None:
    assert all(issubclass(kind, PitwallError) for kind in (SourceFormatError, SourceMissingError, TooManyQuarantinedError))


def test_the_made_up_codes_are_known() -> None:
    assert "ZZZ" not in CODES
