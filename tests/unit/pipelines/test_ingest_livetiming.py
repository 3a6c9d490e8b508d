"""The `livetiming` source on small written recordings: layouts, unreadable lines, and which race and drivers they are of."""

import base64
import gzip
import json
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from source_views import Told

from feature_repo.settings import Settings
from pipelines.errors import SourceFormatError, SourceMissingError
from pipelines.ingest.base import IngestReport, SeasonTables
from pipelines.ingest.canonical import timing
from pipelines.ingest.canonical.reading import FILE, ROW
from pipelines.ingest.livetiming import source as source_module
from pipelines.ingest.livetiming.source import LiveTimingSource
from pipelines.ingest.livetiming.streams import find_recordings, read_recording
from pipelines.ingest.run import ingest
from pipelines.lake import Lake
from pipelines.schemas import empty_frame

START = pd.Timestamp("2030-05-05 13:00", tz="UTC")
LIGHTS_OUT_S = 600.0
Lines = Sequence[tuple[str, Any]]

INFO = {
    "Meeting": {"Name": "Testland Grand Prix"},
    "Type": "Race",
    "Name": "Race",
    "StartDate": "2030-05-05T15:00:00",
    "GmtOffset": "02:00:00",
}
DRIVERS = {"1": {"RacingNumber": "1", "Tla": "AAA"}, "22": {"RacingNumber": "22", "Tla": "XYZ"}}
READING = {
    "AirTemp": "20.5",
    "Humidity": "50.0",
    "Pressure": "1010.0",
    "Rainfall": "1",
    "TrackTemp": "30.0",
    "WindDirection": "90",
    "WindSpeed": "1.5",
}
TOPICS: dict[str, Lines] = {
    "SessionInfo": [("00:00:00.000", INFO)],
    "DriverList": [("00:00:01.000", DRIVERS)],
    "SessionStatus": [("00:00:01.000", {"Status": "Inactive"}), ("00:10:00.000", {"Status": "Started"})],
    "TrackStatus": [
        ("00:00:30.000", {"Status": "1", "Message": "AllClear"}),
        ("00:00:30.000", {"Status": "1", "Message": "AllClear"}),
        ("00:11:40.500", {"Status": "2", "Message": "Yellow"}),
    ],
    "WeatherData": [(f"00:{minute:02d}:15.000", READING) for minute in range(5, 35)],
    "RaceControlMessages": [
        ("00:10:00.400", {"Messages": [{"Utc": "2030-05-05T13:07:00", "Category": "Flag", "Flag": "GREEN", "Message": "GO"}]}),
        ("00:12:00.600", {"Messages": {"1": {"Utc": "2030-05-05T13:09:00", "Category": "Other", "Message": "IT'S", "Lap": 2}}}),
    ],
    "TimingAppData": [
        ("00:05:00.000", {"Lines": {"1": {"Stints": [{"Compound": "SOFT", "New": "true", "TotalLaps": 2, "StartLaps": 2}]}}}),
        ("00:20:00.000", {"Lines": {"1": {"Stints": {"0": {"TotalLaps": 12}}}}}),
        ("00:20:10.000", {"Lines": {"1": {"Stints": {"1": {"Compound": "HARD", "TotalLaps": 0, "StartLaps": 0}}}}}),
        ("00:50:00.000", {"Lines": {"1": {"Stints": {"1": {"TotalLaps": 20}}}}}),
    ],
}  # fmt: skip


def stream(lines: Lines) -> bytes:
    """Lines as the archive has them: a byte-order mark, then CRLF after each."""
    return ("\ufeff" + "".join(f"{at}{json.dumps(content)}\r\n" for at, content in lines)).encode()


def write_session(folder: Path, topics: Mapping[str, Lines] = TOPICS, **files: bytes) -> Path:
    """A session's folder; `files` are further ones, `__` for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for topic, lines in topics.items():
        (folder / f"{topic}.jsonStream").write_bytes(stream(lines))
    for name, body in files.items():
        (folder / name.replace("__", ".")).write_bytes(body)
    return folder


def without(*names: str) -> dict[str, Lines]:
    return {topic: lines for topic, lines in TOPICS.items() if topic not in names}


def fill(table: str, **values: Any) -> pd.DataFrame:
    """One row of a canonical table; what is not given is null or 1."""
    row = {column: values.get(column, 1) for column in empty_frame(table).columns}
    frame = pd.DataFrame([row])
    for column in frame:
        if column.endswith(("_start", "_end", "timestamp")) and column not in values:
            frame[column] = START
    return frame


@pytest.fixture
def home(settings: Settings) -> Settings:
    """A home whose lake knows one race, AAA in car 1 and BBB in car 22."""
    lake = Lake(settings.lake_dir)
    common = {"race_id": "2030_03", "season": 2030, "round": 3, "source": "jolpica"}
    race = fill(
        "races", **common, name="Testland Grand Prix", circuit_id="testland", circuit_type="race", direction="clockwise",
        race_start=START, race_end=START + pd.Timedelta(minutes=90), course_length_km=5.0, turns=12, scheduled_laps=30,
    )  # fmt: skip
    entries = [
        fill(
            "entries", **common, driver_id=ref, constructor_id="team", code=code, car_number=number, grid=place, position=place,
            position_order=place, is_pit_lane_start=False, is_classified=True, status="Finished", points=1.0, laps_completed=30,
        )
        for place, (ref, code, number) in enumerate([("alpha", "AAA", 1), ("beta", "BBB", 22)], start=1)
    ]  # fmt: skip
    lake.write("races", 2030, race)
    lake.write("entries", 2030, pd.concat(entries, ignore_index=True))
    return settings


def read(settings: Settings, *paths: Path) -> tuple[SeasonTables, IngestReport]:
    report = IngestReport("livetiming", is_simulated=False, seasons=[2030])
    (season,) = LiveTimingSource(settings, paths).read([2030], report)
    for table, account in report.tables.items():
        assert account.unaccounted == len(season.tables[table]), table
    return season, report


def test_a_session_becomes_rows_on_the_clock_of_the_race(home: Settings, tmp_path: Path) -> None:
    season, report = read(home, write_session(tmp_path / "2030-05-05_Race"))
    assert season.rounds == {3}
    assert set(season.tables) == {"laps", "stints", "pit_stops", "weather", "track_status", "race_control"}
    status = season.tables["track_status"]
    assert status["event_timestamp"].tolist() == [START - pd.Timedelta(seconds=570), START + pd.Timedelta(seconds=100.5)]
    assert report.table("track_status").rows_duplicate == 1
    weather = season.tables["weather"]
    assert len(weather) == 30
    assert weather["event_timestamp"].iloc[5] == START + pd.Timedelta(seconds=15)
    assert weather["is_raining"].all()
    assert set(weather["source"]) == {"livetiming"}


def test_rows_follow_the_start_that_is_believed_later(home: Settings, tmp_path: Path) -> None:
    """The lake had the race an hour early when the recording was read; files, which are believed about times, have it right."""
    ingest(home, LiveTimingSource(home, [write_session(tmp_path / "s")]), [2030])
    lake, hour = Lake(home.lake_dir), pd.Timedelta(hours=1)
    tables = ("weather", "track_status", "race_control", "stints")
    before = {table: lake.read(table) for table in tables}
    assert all(len(rows) for rows in before.values())
    races = lake.read("races")
    stamps = races.select_dtypes("datetimetz").columns
    moved = races.assign(source="files", **{column: races[column] + hour for column in stamps})
    ingest(home, Told("files", {"races": moved}), [2030])
    assert lake.read("races")["race_start"].tolist() == [START + hour]
    for table, rows in before.items():
        after = lake.read(table)
        for column in ("event_timestamp", "created_timestamp"):
            assert (after[column] - rows[column]).eq(hour).all(), (table, column)


def test_the_calendar_that_a_recording_was_read_by_is_not_in_the_lake(home: Settings, tmp_path: Path) -> None:
    ingest(home, LiveTimingSource(home, [write_session(tmp_path / "s")]), [2030])
    assert set(Lake(home.lake_dir).read("races")["source"]) == {"jolpica"}
    shutil.rmtree(home.sources_dir / "jolpica")
    weather = Lake(home.lake_dir).read("weather")
    ingest(home, LiveTimingSource(home, [tmp_path / "s"]), [2030])
    assert Lake(home.lake_dir).read("races").empty
    pd.testing.assert_frame_equal(Lake(home.lake_dir).read("weather"), weather)


def test_race_control_is_put_on_the_session_clock_not_on_the_time_of_day(home: Settings, tmp_path: Path) -> None:
    season, _ = read(home, write_session(tmp_path / "s"))
    control = season.tables["race_control"].sort_values("event_timestamp")
    # sent 13:07:00, when the race scheduled for 13:00 began; the two lines came 0.4 and 0.6 s after what they carry
    assert control["event_timestamp"].tolist() == [START + pd.Timedelta(seconds=seconds) for seconds in (0.5, 120.5)]
    assert control["created_timestamp"].tolist() == [START + pd.Timedelta(seconds=seconds) for seconds in (0.5, 120.6)]
    assert control["message"].tolist() == ["GO", "IT'S"]
    assert control["lap"].astype("Int64").tolist() == [pd.NA, 2]


def test_a_message_that_came_late_is_not_known_before_it_came(home: Settings, tmp_path: Path) -> None:
    """It carries 13:08:00, a minute after the start, and came five minutes after that, when the connection was back."""
    late = {"Utc": "2030-05-05T13:08:00", "Category": "Flag", "Flag": "RED", "Message": "RED FLAG"}
    topics = {
        **TOPICS,
        "RaceControlMessages": [*TOPICS["RaceControlMessages"], ("00:16:00.000", {"Messages": {"2": late}})],
    }
    season, _ = read(home, write_session(tmp_path / "s", topics))
    row = season.tables["race_control"].set_index("message").loc["RED FLAG"]
    assert row["event_timestamp"] == START + pd.Timedelta(seconds=60.6)
    assert row["created_timestamp"] == START + pd.Timedelta(minutes=6)


def test_stints_follow_from_the_laps_on_each_set(home: Settings, tmp_path: Path) -> None:
    season, report = read(home, write_session(tmp_path / "s"))
    stints = season.tables["stints"]
    assert stints[["driver_id", "stint", "compound", "start_lap", "end_lap", "length_laps"]].to_numpy().tolist() == [
        ["alpha", 1, "SOFT", 1, 10, 10],
        ["alpha", 2, "HARD", 11, 30, 20],
    ]
    # known when the feed counted the last lap, 20 and 50 minutes into a recording that began 10 before the start
    assert stints["event_timestamp"].tolist() == [START + pd.Timedelta(minutes=10), START + pd.Timedelta(minutes=40)]
    assert "laps: no rows of 2030" in report.notes


@pytest.mark.parametrize(("counted", "kept"), [(26, False), (27, True)])
def test_a_recording_that_was_cut_off_does_not_hide_who_has_the_whole_race(
    home: Settings, tmp_path: Path, counted: int, *, kept: bool
) -> None:
    """Of 30 laps; a source with fewer than nine tenths of them would be believed before one that has them all."""
    lake = Lake(home.lake_dir)
    lake.write("races", 2030, lake.read("races").assign(scheduled_laps=50))  # it was stopped early
    tyres = [*TOPICS["TimingAppData"][:-1], ("00:40:00.000", {"Lines": {"1": {"Stints": {"1": {"TotalLaps": counted - 10}}}}})]
    season, report = read(home, write_session(tmp_path / "s", {**TOPICS, "TimingAppData": tyres}))
    assert len(season.tables["stints"]) == (2 if kept else 0)
    said = "laps, stints and pit stops of 2030 round 3 are left out: got 26 of 30 laps, expected at least 90%"
    notes = [note for note in report.notes if "are left out" in note]
    assert notes == ([] if kept else [f"livetiming: {tmp_path / 's'}: {said}"])
    assert len(season.tables["weather"]) == 30


def test_the_laps_of_a_recording_that_was_cut_off_still_tell_when_the_race_began(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = source_module.raw_frames

    def with_laps(*args: Any) -> dict[str, pd.DataFrame]:
        lap = {name: None for name, _ in {**timing.LAP_COLUMNS, **timing.LAP_OPTIONAL}.values()}
        two = [
            {**lap, "season": 2030.0, "round": 3.0, "code": "AAA", "lap": number, "start": start, "end": start + 90.0}
            for number, start in ((1.0, LIGHTS_OUT_S), (2.0, LIGHTS_OUT_S + 90.0))
        ]
        laps = pd.DataFrame(two).assign(**{FILE: "s", ROW: 1})
        return {**{table: rows for table, rows in frames(*args).items() if table != "stints"}, "laps": laps}

    monkeypatch.setattr(source_module, "raw_frames", with_laps)
    season, report = read(home, write_session(tmp_path / "s", without("SessionStatus")))
    assert [note for note in report.notes if "got 2 of 30 laps" in note]
    assert all(season.tables[table].empty for table in ("laps", "stints", "pit_stops"))
    assert season.tables["weather"]["event_timestamp"].iloc[5] == START + pd.Timedelta(seconds=15)


def test_packed_and_compressed_streams_say_the_same(home: Settings, tmp_path: Path) -> None:
    plain, _ = read(home, write_session(tmp_path / "plain"))
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    lines = []
    for at, content in TOPICS["WeatherData"]:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        packed = deflate.compress(json.dumps(content).encode()) + deflate.flush()
        lines.append((at, base64.b64encode(packed).decode()))
    folder = write_session(
        tmp_path / "packed",
        without("WeatherData", "TrackStatus"),
        WeatherData__z__jsonStream=stream(lines),
        TrackStatus__jsonStream__gz=gzip.compress(stream(TOPICS["TrackStatus"])),
    )
    packed_season, _ = read(home, folder)
    for table in ("weather", "track_status"):
        pd.testing.assert_frame_equal(plain.tables[table], packed_season.tables[table])
    both = write_session(tmp_path / "both", TrackStatus__jsonStream__gz=gzip.compress(stream(TOPICS["TrackStatus"])))
    _, report = read(home, both)
    assert report.table("track_status").rows_read == 3  # the packed file is the same stream


def test_lines_that_cannot_be_understood_are_quarantined_with_their_number(home: Settings, tmp_path: Path) -> None:
    body = stream(TOPICS["WeatherData"])
    whole = body.split(b"\r\n")
    whole[3] = b"00:08:15.000{'AirTemp': garbage"
    cut = b"\r\n".join(whole)[:-40]  # the recorder was killed while it wrote the last line
    season, report = read(home, write_session(tmp_path / "s", without("WeatherData"), WeatherData__jsonStream=cut))
    assert len(season.tables["weather"]) == 28
    bad = season.quarantine["weather"]
    assert bad["row_number"].tolist() == [4, 30]
    assert set(bad["source_file"]) == {"s/WeatherData.jsonStream"}
    assert bad["reason"].str.startswith("unreadable line: JSONDecodeError").all()
    assert json.loads(bad["row"].iloc[0])["line"] == whole[3].decode()
    assert report.table("weather").rows_read == 30
    assert report.table("weather").rows_quarantined == 2


def test_an_unreadable_line_of_a_topic_without_table_is_named(home: Settings, tmp_path: Path) -> None:
    lines = stream([(f"00:00:{second:02d}.000", DRIVERS) for second in range(20)]) + b"half a li"
    _, report = read(home, write_session(tmp_path / "s", without("DriverList"), DriverList__jsonStream=lines))
    assert [note for note in report.notes if "DriverList.jsonStream, line 21" in note]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("TrackStatus.jsonStream", b"<html><body>Access denied</body></html>\r\n" * 3),
        ("TrackStatus.jsonStream.gz", gzip.compress(stream(TOPICS["TrackStatus"]))[:40]),
    ],
    ids=["a page", "cut off"],  # gzip writes the time into its bytes, and an id must not depend on it
)
def test_a_file_that_is_no_stream_is_refused(home: Settings, tmp_path: Path, name: str, body: bytes) -> None:
    folder = write_session(tmp_path / "s", without("TrackStatus"), **{name.replace(".", "__"): body})
    with pytest.raises(SourceFormatError, match=r"TrackStatus.*expected"):
        read(home, folder)


def test_a_folder_of_sessions_gives_its_races(home: Settings, tmp_path: Path) -> None:
    meeting = tmp_path / "2030-05-05_Testland_Grand_Prix"
    write_session(meeting / "2030-05-05_Race")
    qualifying = {**TOPICS, "SessionInfo": [("00:00:00.000", {**INFO, "Type": "Qualifying", "Name": "Qualifying"})]}
    write_session(meeting / "2030-05-04_Qualifying", qualifying)
    write_session(meeting / "2030-05-05_Race_again")
    write_session(meeting / "unknown", without("SessionInfo"))
    (meeting / "notes.txt").write_text("what we saw\nand what we did not\n")
    source = LiveTimingSource(home, [tmp_path])
    assert source.seasons == [2030]
    season, report = read(home, tmp_path)
    assert season.rounds == {3}
    assert report.table("weather").rows_read == 30
    left_out = "\n".join(note for note in report.notes if "is left out" in note)
    for why in ("'Qualifying' is not a race", "is of the same race", "no SessionInfo says", "notes.txt"):
        assert why in left_out
    (unreadable,) = (note for note in report.notes if "notes.txt is left out" in note)
    assert "left out: line 1: got 2 of 2 lines that cannot be understood, first 'what we saw'" in unreadable
    assert unreadable.endswith("expected at most 20% of them")  # advice of an error that ends a run is none in a note


def test_one_stream_is_read_with_what_says_which_session_it_is(home: Settings, tmp_path: Path) -> None:
    folder = write_session(tmp_path / "s")
    season, _ = read(home, folder / "TrackStatus.jsonStream")
    assert {table for table, frame in season.tables.items() if len(frame)} == {"track_status"}


def test_a_recording_of_the_live_connection_says_the_same_as_the_archive(home: Settings, tmp_path: Path) -> None:
    archive, _ = read(home, write_session(tmp_path / "s"))
    base = pd.Timestamp("2030-05-05T12:57:00")
    lines = [str([topic, json.dumps(TOPICS[topic][0][1]), ""]) for topic in ("SessionInfo", "DriverList")]
    events = [
        (base + pd.Timedelta(at), topic, content)
        for topic, entries in TOPICS.items()
        if topic not in ("SessionInfo", "DriverList")
        for at, content in entries
    ]
    lines += [str([topic, content, f"{at.isoformat()}Z"]) for at, topic, content in sorted(events, key=lambda event: event[0])]
    file = tmp_path / "recording.txt"
    file.write_text("\n".join([*lines, "['TrackStatus', {'Status': '5', 'Mess"]), encoding="utf-8")
    season, report = read(home, file)
    for table in ("weather", "track_status", "stints", "race_control"):
        pd.testing.assert_frame_equal(season.tables[table], archive.tables[table])
    assert [note for note in report.notes if f"recording.txt, line {len(lines) + 1}: left out" in note]


def test_a_driver_unknown_by_letters_is_known_by_number(home: Settings, tmp_path: Path) -> None:
    tyres = [("00:05:00.000", {"Lines": {"22": {"Stints": {"0": {"Compound": "SOFT", "TotalLaps": 30, "StartLaps": 0}}}}})]
    season, _ = read(home, write_session(tmp_path / "s", {**TOPICS, "TimingAppData": tyres}))
    assert season.tables["stints"]["driver_id"].tolist() == ["beta"]


@pytest.mark.parametrize(
    ("topic", "content"),
    [
        ("TimingAppData", {"Lines": "nothing"}),
        ("RaceControlMessages", {"Messages": 7}),
        ("TimingAppData", {"Lines": {"1": {"Stints": {"first": {"Compound": "SOFT"}}}}}),
    ],
)
def test_json_that_the_feed_never_sends_is_refused(home: Settings, tmp_path: Path, topic: str, content: Any) -> None:
    folder = write_session(tmp_path / "s", {**TOPICS, topic: [("00:01:00.000", content)]})
    with pytest.raises(SourceFormatError, match=rf"{topic}.jsonStream: got .*, expected {topic} as the live timing sends it"):
        read(home, folder)


@pytest.mark.parametrize("value", [None, "", "n/a"])
def test_a_reading_that_is_no_number_is_quarantined(home: Settings, tmp_path: Path, value: str | None) -> None:
    lines = [*TOPICS["WeatherData"], ("00:40:00.000", {**READING, "AirTemp": value})]
    season, _ = read(home, write_session(tmp_path / "s", {**TOPICS, "WeatherData": lines}))
    assert season.quarantine["weather"]["reason"].tolist() == ["a reading is missing"]


def test_a_missing_reading_is_quarantined_under_its_line_not_taken_for_zero(home: Settings, tmp_path: Path) -> None:
    broken = {name: value for name, value in READING.items() if name != "AirTemp"}
    first, rest = stream(TOPICS["WeatherData"][:1]), stream(TOPICS["WeatherData"][1:])[3:]
    body = first + b"garbage\r\n" + rest + stream([("00:40:00.000", broken)])[3:]
    season, _ = read(home, write_session(tmp_path / "s", without("WeatherData"), WeatherData__jsonStream=body))
    assert season.quarantine["weather"]["row_number"].tolist() == [2, 32]
    assert season.quarantine["weather"]["reason"].iloc[1] == "a reading is missing"


def test_without_a_session_status_lap_two_and_the_lake_say_when_lights_went_out(home: Settings, tmp_path: Path) -> None:
    common = {"race_id": "2030_03", "season": 2030, "round": 3, "source": "files", "driver_id": "alpha", "lap": 1}
    end = START + pd.Timedelta(seconds=90)
    lap = fill(
        "laps", **common, compound="SOFT", track_status="1", is_accurate=True, is_deleted=False, is_fresh_tyre=True,
        event_timestamp=end, created_timestamp=end, lap_start=START, pit_in=pd.NaT, pit_out=pd.NaT,
    )  # fmt: skip
    Lake(home.lake_dir).write("laps", 2030, lap)
    counts = [("00:00:01.000", {"CurrentLap": 1, "TotalLaps": 30}), ("00:11:30.100", {"CurrentLap": 2})]
    season, _ = read(home, write_session(tmp_path / "s", {**without("SessionStatus"), "LapCount": counts}))
    assert season.tables["track_status"]["event_timestamp"].max() == START + pd.Timedelta(seconds=100.4)


def test_without_any_origin_nothing_is_guessed(home: Settings, tmp_path: Path) -> None:
    season, _ = read(home, write_session(tmp_path / "s", without("SessionStatus")))
    assert season.tables["weather"].empty
    assert set(season.quarantine["weather"]["reason"]) == {"race without a lap 1: its session clock has no origin"}


def test_a_home_that_does_not_know_the_race_is_told_what_to_run(settings: Settings, home: Settings, tmp_path: Path) -> None:
    folder = write_session(tmp_path / "s")
    later = {**INFO, "StartDate": "2030-05-12T15:00:00"}
    with pytest.raises(SourceMissingError, match=r"lake, which has 1 races of 2030; run `pitwall ingest --source jolpica"):
        read(home, write_session(tmp_path / "later", {**TOPICS, "SessionInfo": [("00:00:00.000", later)]}))
    Lake(home.lake_dir).write("entries", 2030, empty_frame("entries"))
    with pytest.raises(SourceMissingError, match=r"run `pitwall ingest --source jolpica --seasons 2030 --rounds 3` first"):
        read(home, folder)


def test_a_season_that_was_not_recorded_is_missing(home: Settings, tmp_path: Path) -> None:
    source = LiveTimingSource(home, [write_session(tmp_path / "s")])
    with pytest.raises(SourceMissingError, match="no recording of a race of 2031"):
        list(source.read([2031], IngestReport("livetiming", is_simulated=False, seasons=[2031])))


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_a_path_without_recordings_is_missing(home: Settings, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceMissingError, match=name):
        LiveTimingSource(home, [tmp_path / name])


def test_the_fingerprint_follows_recordings_and_lake(home: Settings, tmp_path: Path) -> None:
    folder = write_session(tmp_path / "s")
    first = LiveTimingSource(home, [folder]).fingerprint()
    assert LiveTimingSource(home, [folder]).fingerprint() == first
    (folder / "TrackStatus.jsonStream").write_bytes(stream(TOPICS["TrackStatus"][:1]))
    second = LiveTimingSource(home, [folder]).fingerprint()
    lake = Lake(home.lake_dir)
    lake.write("races", 2030, lake.read("races").assign(race_start=START + pd.Timedelta(minutes=1)))
    assert len({first, second, LiveTimingSource(home, [folder]).fingerprint()}) == 3


def test_a_line_keeps_the_separators_that_are_no_line_ends(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "RaceControlMessages.jsonStream").write_bytes(
        '\ufeff00:00:01.000{"Messages":[{"Message":"A\u2028B\x85C"}]}\r\n'.encode()
    )
    ((root, files),) = find_recordings([folder])
    recording = read_recording(root, files)
    assert recording.bad == []
    assert recording.topics["RaceControlMessages"][0][1] == {"Messages": [{"Message": "A\u2028B\x85C"}]}
