"""The `files` source on a made-up season: what it writes, how it unites folders, what it does without."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from tiny_sources import CODES, LAPS, REFS, ROUNDS, SEASON, Frames, tiny_frames, tiny_laps, write_sources

from feature_repo.settings import Settings
from pipelines.errors import SeasonsError, SourceMissingError
from pipelines.ingest.base import IngestReport
from pipelines.ingest.canonical.gaps import completed_by_timing, points_by_position
from pipelines.ingest.canonical.reading import FILE
from pipelines.ingest.files.source import FilesSource
from pipelines.ingest.run import ingest
from pipelines.lake import Lake
from pipelines.schemas import TABLES, conform

ROWS = ROUNDS * 4 * LAPS


@dataclass(frozen=True)
class Offered:
    """What a source offers, in memory: quicker than a lake for tests that ask what the source makes of its files."""

    tables: dict[str, pd.DataFrame]

    def read(self, table: str, seasons: Sequence[int] = (2030, 2031)) -> pd.DataFrame:
        frame = self.tables[table]
        return frame[frame["season"].isin(seasons)].reset_index(drop=True)


def _paths(tmp_path: Path, folders: Sequence[Frames]) -> list[Path]:
    return [write_sources(tmp_path / f"source_{number}", frames) for number, frames in enumerate(folders)]


def run(tmp_path: Path, *folders: Frames, seasons: Sequence[int] = (SEASON,)) -> tuple[Offered, IngestReport]:
    """Read the folders without writing a lake."""
    report = IngestReport("files", is_simulated=False, seasons=list(seasons))
    offered = list(FilesSource(_paths(tmp_path, folders)).read(seasons, report))
    tables = {name: pd.concat([conform(name, season.tables[name]) for season in offered], ignore_index=True) for name in TABLES}
    for name, account in report.tables.items():
        assert account.unaccounted == len(tables[name]), name  # all that is not accounted for yet is about to be written
    return Offered(tables), report


def store(settings: Settings, tmp_path: Path, *folders: Frames, seasons: Sequence[int] = (SEASON,)) -> tuple[Lake, IngestReport]:
    """Ingest the folders into the lake of `settings`."""
    report = ingest(settings, FilesSource(_paths(tmp_path, folders)), seasons)
    assert all(account.unaccounted == 0 for account in report.tables.values())
    return Lake(settings.lake_dir), report


def without_ergast(season: int, *, status_of_last: str = "Retired") -> Frames:
    """A season as `tiny_frames`, with calendar and results of `fastf1_undercut` only."""
    frames = {name: frame for name, frame in tiny_frames(season).items() if not name.startswith("ergast/")}
    frames[f"fastf1_undercut/schedule_{season}.parquet"] = pd.DataFrame(
        {
            "Season": season,
            "Round": [1, 2, 3],
            "RaceName": "Race",
            "CircuitId": ["ring_1", "ring_2", "ring_3"],
            "Date": f"{season}-03-10",
        }
    )
    entries = [(r, n) for r in range(1, ROUNDS + 1) for n in range(1, 5)]
    frames[f"fastf1_undercut/results_{season}.parquet"] = pd.DataFrame(
        {
            "Season": season,
            "Round": [r for r, _ in entries],
            "Driver": [REFS[n - 1] for _, n in entries],
            "Code": [CODES[n - 1] for _, n in entries],
            "Position": [n for _, n in entries],
            "Status": ["Finished", "+1 Lap", "Lapped", status_of_last] * ROUNDS,
            "GridPosition": [n for _, n in entries],
        }
    )
    frames[f"fastf1/laps_{season}.parquet"]["Team"] = "Red Bull Racing"
    frames["f1db/races.csv"] = frames["f1db/races.csv"].assign(date=[f"{season}-0{r + 2}-10" for r in (1, 2, 3)], time="13:00")
    return frames


def _stops(frames: Frames, code: str, *, after_lap: int) -> None:
    """Let a car stop on the lap after `after_lap` in every race; the timing closes that lap with a generated row."""
    name = next(name for name in frames if name.startswith("fastf1/laps_"))
    laps = frames[name]
    laps = laps[(laps["Driver"] != code) | (laps["LapNumber"] <= after_lap + 1)].reset_index(drop=True)
    last = (laps["Driver"] == code) & (laps["LapNumber"] == after_lap + 1)
    laps.loc[last, ["LapTime", "Sector2Time", "Sector3Time"]] = pd.NaT
    laps.loc[last, "FastF1Generated"] = True
    frames[name] = laps


def undercut_rows(codes: list[str], statuses: list[str]) -> pd.DataFrame:
    """Results of one race as `read_undercut_results` leaves them, in official order."""
    finished = [status == "Finished" for status in statuses]
    return pd.DataFrame(
        {
            "season": 2031.0,
            "round": 1.0,
            "code": codes,
            "position": [order if done else float("nan") for order, done in enumerate(finished, start=1)],
            "position_text": [str(order) if done else "R" for order, done in enumerate(finished, start=1)],
            "position_order": [float(order) for order in range(1, len(codes) + 1)],
            "laps_completed": float("nan"),
            "status": statuses,
            FILE: "fastf1_undercut/results_2031.parquet",
        }
    )


def test_a_season_becomes_canonical_tables(settings: Settings, tmp_path: Path) -> None:
    lake, report = store(settings, tmp_path, tiny_frames())
    counts = lake.counts()
    assert {name: counts[name] for name in ("races", "entries", "qualifying", "laps", "quarantined")} == {
        "races": ROUNDS,
        "entries": ROUNDS * 4,
        "qualifying": ROUNDS * 4,
        "laps": ROWS,
        "quarantined": 0,
    }
    assert {name: account.rows_written for name, account in report.tables.items()} == {
        k: v for k, v in counts.items() if k != "quarantined"
    }

    race = lake.read("races").iloc[1]
    assert race["race_id"] == f"{SEASON}_02"
    assert race["scheduled_laps"] == 12  # given by scheduledLaps: the race was cut short
    assert (race["circuit_type"], race["direction"], race["circuit_id"]) == ("street", "anti_clockwise", "ring_2")
    assert race["race_start"] == pd.Timestamp(f"{SEASON}-04-10T13:00:00Z")
    assert race["race_end"] == race["race_start"] + pd.Timedelta(seconds=LAPS * 90.1)

    lap = lake.read("laps").query("race_id == @race.race_id and driver_id == 'bert_b'").set_index("lap")
    assert lap.loc[1, "lap_time_s"] == pytest.approx(90.2)  # from lights out; the feed has none
    assert lap.loc[3, "event_timestamp"] == race["race_start"] + pd.Timedelta(seconds=3 * 90.2)
    assert lap.loc[3, "lap_start"] == lap.loc[2, "event_timestamp"]
    assert (lap["created_timestamp"] == lap["event_timestamp"]).all()

    entry = lake.read("entries").iloc[0]
    assert entry["event_timestamp"] == lake.read("races").iloc[0]["race_end"]
    assert entry["created_timestamp"] - entry["event_timestamp"] == pd.Timedelta(hours=3)
    assert entry["grid_timestamp"] == lake.read("races").iloc[0]["race_start"] - pd.Timedelta(hours=1)

    qualifying = lake.read("qualifying").iloc[0]
    assert (qualifying["q1_s"], qualifying["q2_s"]) == (81.5, 71.5)
    assert pd.isna(qualifying["q3_s"])
    assert qualifying["event_timestamp"] == pd.Timestamp(f"{SEASON}-03-09T15:15:00Z")

    stop = lake.read("pit_stops").iloc[0]
    assert stop["pit_lane_time_s"] == 22.0
    assert stop["event_timestamp"] == stop["pit_out"]
    stint = lake.read("stints").query("driver_id == 'anna_a'").iloc[0]
    assert stint["event_timestamp"] == lake.read("races").iloc[0]["race_end"]
    assert lake.read("weather")["event_timestamp"].min() == lake.read("races")["race_start"].min() - pd.Timedelta(minutes=5)
    assert lake.read("drivers").iloc[0][["driver_id", "code", "given_name", "family_name"]].tolist() == [
        "anna_a",
        "AAA",
        "Anna",
        "A",
    ]
    assert lake.read("circuits").iloc[0]["altitude_m"] == 100
    assert lake.read("constructors")["constructor_id"].tolist() == ["team_x", "team_y"]
    assert (lake.read("laps")["source"] == "files").all()


def test_an_unchanged_re_run_writes_nothing_and_a_changed_file_does(settings: Settings, tmp_path: Path) -> None:
    lake, _ = store(settings, tmp_path, tiny_frames())
    stamps = {path: path.stat().st_mtime_ns for path in lake.root.rglob("part.parquet")}
    _, again = store(settings, tmp_path, tiny_frames())
    assert again.skipped_up_to_date
    assert {path: path.stat().st_mtime_ns for path in lake.root.rglob("part.parquet")} == stamps
    frames = tiny_frames()
    frames["ergast/results.csv"].loc[0, "points"] = 26
    _, changed = store(settings, tmp_path, frames)
    assert not changed.skipped_up_to_date
    # a corrected result is a second row, known later; the first one stays
    assert changed.corrected == {"entries": 1}
    first, second = lake.read("entries").iloc[:2].to_dict("records")
    assert (first["driver_id"], first["points"], second["points"]) == (second["driver_id"], 25, 26)
    assert second["created_timestamp"] > first["created_timestamp"]


def test_a_damaged_or_missing_partition_is_written_again(settings: Settings, tmp_path: Path) -> None:
    lake, _ = store(settings, tmp_path, tiny_frames())
    before = lake.hashes()
    lake.path("laps", SEASON).unlink()
    lake.path("races", SEASON).write_bytes(b"damaged")
    _, report = store(settings, tmp_path, tiny_frames())
    assert not report.skipped_up_to_date
    assert lake.hashes() == before


def test_other_seasons_in_the_lake_stay(settings: Settings, tmp_path: Path) -> None:
    store(settings, tmp_path / "one", tiny_frames(2030), seasons=[2030])
    lake, _ = store(settings, tmp_path / "two", tiny_frames(2031), seasons=[2031])
    assert lake.seasons("laps") == [2030, 2031]


def test_rows_of_seasons_not_asked_for_are_counted_as_such(tmp_path: Path) -> None:
    _, report = run(tmp_path, tiny_frames(2030), tiny_frames(2031), seasons=[2031])
    assert report.tables["laps"].rows_read == 2 * ROWS
    assert report.tables["laps"].rows_other_season == ROWS
    assert report.tables["entries"].rows_other_season == ROUNDS * 4


class TestUnion:
    def test_a_second_path_adds_a_season_whatever_its_numeric_ids(self, settings: Settings, tmp_path: Path) -> None:
        both, _ = store(settings, tmp_path, tiny_frames(2030), tiny_frames(2031, id_offset=500), seasons=[2030, 2031])
        alone = Settings(home=tmp_path / "alone")
        store(alone, tmp_path / "a", tiny_frames(2031))
        assert both.hashes(2031) == Lake(alone.lake_dir).hashes(2031)

    def test_equal_rows_of_two_paths_are_duplicates(self, tmp_path: Path) -> None:
        lake, report = run(tmp_path, tiny_frames(), tiny_frames(id_offset=70))
        assert len(lake.read("laps")) == ROWS
        for table in ("laps", "entries", "qualifying", "stints", "pit_stops", "weather", "track_status", "races"):
            account = report.tables[table]
            assert account.rows_duplicate == len(lake.read(table)), table
            assert account.rows_replaced == 0, table

    def test_the_later_path_wins_a_conflict(self, tmp_path: Path) -> None:
        later = tiny_frames()
        later["ergast/results.csv"].loc[0, "points"] = 1
        later[f"fastf1/laps_{SEASON}.parquet"].loc[5, "SpeedST"] = 311.0
        lake, report = run(tmp_path, tiny_frames(), later)
        assert lake.read("entries").iloc[0]["points"] == 1
        assert lake.read("laps").iloc[5]["speed_st_kph"] == 311
        assert report.tables["entries"].rows_replaced == 1
        assert report.tables["laps"].rows_replaced == 1
        assert report.quarantine_reasons == {}

    def test_a_complete_later_dump_does_not_disturb_the_earlier_seasons(self, tmp_path: Path) -> None:
        dump = {name: frame for name, frame in tiny_frames(2030, id_offset=40).items() if name.startswith("ergast/")}
        later = tiny_frames(2031, id_offset=40)
        for name in ("races", "results", "qualifying"):
            later[f"ergast/{name}.csv"] = pd.concat([dump[f"ergast/{name}.csv"], later[f"ergast/{name}.csv"]])
        lake, report = run(tmp_path, tiny_frames(2030), later, seasons=[2030, 2031])
        assert report.tables["entries"].rows_duplicate == ROUNDS * 4
        assert len(lake.read("entries")) == 2 * ROUNDS * 4


class TestDegrading:
    @pytest.mark.parametrize("optional", ["weather", "track_status", "stints", "pit_stops"])
    def test_a_missing_optional_file_is_said_and_not_fatal(self, tmp_path: Path, optional: str) -> None:
        frames = tiny_frames()
        del frames[f"fastf1_undercut/{optional}_{SEASON}.parquet"]
        lake, report = run(tmp_path, frames)
        assert len(lake.read("laps")) == ROWS
        assert any(optional.replace("_", " ") in note.replace("_", " ") for note in report.notes)

    def test_stints_and_pit_stops_are_derived_from_laps(self, tmp_path: Path) -> None:
        frames = tiny_frames()
        del frames[f"fastf1_undercut/stints_{SEASON}.parquet"], frames[f"fastf1_undercut/pit_stops_{SEASON}.parquet"]
        laps = frames[f"fastf1/laps_{SEASON}.parquet"]
        anna = laps["Driver"].eq("AAA") & laps["RoundNumber"].eq(1)
        laps.loc[anna & (laps["LapNumber"] > 6), ["Stint", "Compound"]] = [2.0, "HARD"]
        laps.loc[anna & (laps["LapNumber"] == 6), "PitInTime"] = laps.loc[anna & (laps["LapNumber"] == 6), "Time"] - pd.Timedelta(
            "1s"
        )
        laps.loc[anna & (laps["LapNumber"] == 7), "PitOutTime"] = laps.loc[
            anna & (laps["LapNumber"] == 7), "LapStartTime"
        ] + pd.Timedelta("20s")
        lake, _ = run(tmp_path, frames)
        stints = lake.read("stints").query("round == 1 and driver_id == 'anna_a'")
        assert stints[["compound", "start_lap", "end_lap", "length_laps"]].to_numpy().tolist() == [
            ["SOFT", 1, 6, 6],
            ["HARD", 7, 10, 4],
        ]
        stop = lake.read("pit_stops").iloc[0]
        assert (stop["lap"], stop["stint"], stop["pit_lane_time_s"]) == (6, 1, 21.0)

    def test_results_and_calendar_without_ergast(self, tmp_path: Path) -> None:
        later = without_ergast(2031)
        _stops(later, "DDD", after_lap=5)
        lake, report = run(tmp_path, tiny_frames(2030), later, seasons=[2030, 2031])
        entries_2031 = lake.read("entries", [2031])
        assert len(entries_2031) == ROUNDS * 4
        assert set(entries_2031["constructor_id"]) == {"red_bull"}
        assert entries_2031["is_classified"].tolist()[:4] == [True, True, True, False]
        assert entries_2031["laps_completed"].tolist()[:4] == [LAPS, LAPS, LAPS, 5]
        assert lake.read("drivers", [2031])["given_name"].tolist()[0] == "Anna"  # known from the other path
        assert lake.read("races", [2031]).iloc[0]["race_start"] == pd.Timestamp("2031-03-10T13:00Z")
        assert any("results of races of 2031" in note for note in report.notes)

    def test_the_course_may_come_from_another_year(self, tmp_path: Path) -> None:
        later = tiny_frames(2031)
        del later["f1db/races.csv"]
        lake, report = run(tmp_path, tiny_frames(2030), later, seasons=[2031])
        assert lake.read("races")["scheduled_laps"].tolist() == [10, 12, 10]
        assert "course of ring_2 in 2031 is not in f1db: taken from 2030" in report.notes

    def test_an_unknown_course_is_an_error(self, tmp_path: Path) -> None:
        frames = tiny_frames()
        del frames["f1db/races.csv"]
        with pytest.raises(SourceMissingError, match=r"course of 'ring_1' \(season 2031, round 1\).*add a path"):
            run(tmp_path, frames)

    def test_a_race_not_held_yet_is_left_out_and_said(self, tmp_path: Path) -> None:
        frames = tiny_frames()
        for name, key in (("ergast/results.csv", "raceId"), ("ergast/qualifying.csv", "raceId")):
            frames[name] = frames[name][frames[name][key] != SEASON * 10 + 3]
        for name in (name for name in frames if name.startswith("fastf1")):
            column = "RoundNumber" if "RoundNumber" in frames[name] else "Round"
            frames[name] = frames[name][frames[name][column] != 3]
        lake, report = run(tmp_path, frames)
        assert lake.read("races")["round"].tolist() == [1, 2]
        assert report.tables["races"].rows_other_session == 1
        assert any("rounds 3 are in the calendar but have no results" in note for note in report.notes)

    def test_a_race_without_laps_ends_by_the_winners_time(self, tmp_path: Path) -> None:
        frames = tiny_frames()
        for name in (name for name in frames if name.startswith("fastf1")):
            column = "RoundNumber" if "RoundNumber" in frames[name] else "Round"
            frames[name] = frames[name][frames[name][column] != 3]
        lake, _ = run(tmp_path, frames)
        race = lake.read("races").iloc[2]
        assert race["race_end"] - race["race_start"] == pd.Timedelta(milliseconds=int((LAPS * 90 + 1) * 1000))

    def test_start_of_qualifying_from_the_event_schedule(self, tmp_path: Path) -> None:
        frames = tiny_frames()
        frames["ergast/races.csv"] = frames["ergast/races.csv"].drop(columns=["quali_date", "quali_time"])
        folder = tmp_path / "source_0" / "f1schedule"
        folder.mkdir(parents=True)
        sessions = ["Practice 1", "Practice 2", "Practice 3", "Qualifying", "Race"]
        columns = {"round_number": {"0": 1}, "gmt_offset": {"0": "+02:00"}}
        for number, name in enumerate(sessions, start=1):
            columns[f"session{number}"] = {"0": name}
            columns[f"session{number}_date"] = {"0": "2031-03-10T15:00:00" if name == "Race" else "2031-03-09T16:30:00"}
        (folder / "schedule_2031.json").write_text(json.dumps(columns))
        lake, _ = run(tmp_path, frames)
        races = lake.read("races")
        assert races.loc[0, "qualifying_start"] == pd.Timestamp("2031-03-09T14:30Z")
        assert races["qualifying_start"].isna().tolist() == [False, True, True]
        unknown = lake.read("qualifying").query("round == 2").iloc[0]
        assert unknown["event_timestamp"] == races.loc[1, "race_start"] - pd.Timedelta(hours=20)


class TestWithoutErgast:
    def test_points_follow_from_the_finishing_position_and_that_is_said(self, tmp_path: Path) -> None:
        later = without_ergast(2031)
        _stops(later, "DDD", after_lap=5)
        lake, report = run(tmp_path, tiny_frames(2030), later, seasons=[2030, 2031])
        assert lake.read("entries", [2031])["points"].tolist() == [25.0, 18.0, 15.0, 0.0] * ROUNDS
        said = [note for note in report.notes if "points of" in note and "derived" in note]
        assert len(said) == 1
        assert said[0].startswith(f"points of {ROUNDS * 4} entries of 2031 are derived from the finishing position")

    def test_points_of_other_times_stay_unknown(self) -> None:
        places = pd.DataFrame({"season": [2009.0, 2010.0, 2010.0, 2010.0, 2010.0], "position": [1, 1, 10, 11, float("nan")]})
        assert points_by_position(places.assign(points=float("nan"))).fillna(-1).tolist() == [-1, 25, 1, 0, 0]
        assert points_by_position(places.assign(points=7.5)).tolist() == [7.5] * 5

    @pytest.mark.parametrize(
        ("status", "laps_done", "is_classified"),
        [("Retired", 9, True), ("Withdrew", 9, True), ("Retired", 8, False), ("Disqualified", 10, False)],
    )
    def test_who_has_90_percent_of_the_winners_laps_is_classified(
        self, tmp_path: Path, status: str, laps_done: int, is_classified: bool
    ) -> None:
        later = without_ergast(2031, status_of_last=status)
        if laps_done < LAPS:
            _stops(later, "DDD", after_lap=laps_done)
        lake, _ = run(tmp_path, tiny_frames(2030), later, seasons=[2031])
        last = lake.read("entries").iloc[3]
        assert last["laps_completed"] == laps_done
        assert bool(last["is_classified"]) is is_classified
        assert bool(last["position"] == 4) is is_classified
        assert last["points"] == (12.0 if is_classified else 0.0)

    def test_90_percent_are_rounded_down_to_whole_laps(self) -> None:
        laps = pd.DataFrame({"round": 1.0, "code": ["A"] * 58 + ["B"] * 52 + ["C"] * 51, "sector3_s": 30.0, "lap_time_s": 90.0})
        laps["lap"] = laps.groupby("code").cumcount() + 1.0
        rows = completed_by_timing(undercut_rows(["A", "B", "C"], ["Finished", "Retired", "Retired"]), laps)
        assert rows["position"].notna().tolist() == [True, True, False]  # 90 % of 58 laps are 52.2
        assert rows["position_text"].tolist() == ["1", "2", "R"]

    def test_a_lap_without_an_end_is_not_completed_but_of_a_finisher(self) -> None:
        laps = pd.DataFrame(
            {"round": 1.0, "code": ["A", "A", "B", "B"], "lap": [1.0, 2.0] * 2, "sector3_s": [30.0, None] * 2, "lap_time_s": None}
        )
        rows = completed_by_timing(undercut_rows(["A", "B", "C"], ["Finished", "Retired", "Engine"]), laps)
        assert rows["laps_completed"].tolist() == [2.0, 1.0, 0.0]

    def test_how_the_race_ended_does_not_tell_where_it_began(self, tmp_path: Path) -> None:
        """Retiring into the pits is called "Withdrew" too: the car from the pit lane is one, whatever becomes of it."""
        grids = []
        for number, status in enumerate(["Finished", "Retired", "Withdrew"]):
            later = without_ergast(2031, status_of_last=status)
            later["fastf1_undercut/results_2031.parquet"].loc[lambda rows: rows["Code"] == "DDD", "GridPosition"] = 0
            _stops(later, "DDD", after_lap=5)
            lake, _ = run(tmp_path / str(number), tiny_frames(2030), later, seasons=[2031])
            grids.append(lake.read("entries")[["driver_id", "grid", "is_pit_lane_start"]])
        assert grids[0]["is_pit_lane_start"].tolist() == [False, False, False, True] * ROUNDS
        for other in grids[1:]:
            pd.testing.assert_frame_equal(grids[0], other)

    def test_a_car_without_a_lap_in_the_timing_that_withdrew_never_started(self, tmp_path: Path) -> None:
        later = without_ergast(2031, status_of_last="Withdrew")
        results = later["fastf1_undercut/results_2031.parquet"]
        results.loc[results["Code"] == "DDD", "GridPosition"] = 0
        laps = later["fastf1/laps_2031.parquet"]
        later["fastf1/laps_2031.parquet"] = laps[(laps["Driver"] != "DDD") | (laps["RoundNumber"] == 2)]
        for name in ("stints", "pit_stops"):
            del later[f"fastf1_undercut/{name}_2031.parquet"]
        lake, _ = run(tmp_path, tiny_frames(2030), later, seasons=[2031])
        last = lake.read("entries").query("driver_id == 'dora_d'")
        assert last["is_pit_lane_start"].tolist() == [False, True, False]
        assert last["laps_completed"].tolist() == [0, LAPS, 0]


class TestGrid:
    def test_pit_lane_starters_follow_the_grid_by_qualifying_position(self, tmp_path: Path) -> None:
        frames = tiny_frames()
        frames["ergast/results.csv"].loc[[0, 1], "grid"] = 0
        frames["ergast/qualifying.csv"].loc[[0, 1], "position"] = [2, 1]
        lake, _ = run(tmp_path, frames)
        race = lake.read("entries").query("round == 1").set_index("driver_id")
        assert race["is_pit_lane_start"].to_dict() == {"anna_a": True, "bert_b": True, "cleo_c": False, "dora_d": False}
        assert race["grid"].to_dict() == {"anna_a": 6, "bert_b": 5, "cleo_c": 3, "dora_d": 4}

    def test_f1db_knows_pit_lane_starts_and_places_of_withdrawn_cars(self, tmp_path: Path) -> None:
        frames = tiny_frames()
        results = frames["ergast/results.csv"]
        results["positionText"] = results["positionText"].astype(object)
        results.loc[1, ["grid", "positionText"]] = [0, "W"]
        results["position"] = results["position"].astype(object)
        results.loc[1, "position"] = None
        frames["f1db/drivers.csv"] = pd.DataFrame({"id": ["anna-a", "bert-b"], "abbreviation": ["AAA", "BBB"]})
        frames["f1db/race_results.csv"] = pd.DataFrame(
            {"season": SEASON, "round": 1, "driverId": ["anna-a", "bert-b"], "gridPosition": ["PL", "2"]}
        )
        lake, _ = run(tmp_path, frames)
        race = lake.read("entries").query("round == 1").set_index("driver_id")
        assert race["is_pit_lane_start"].to_dict() == {"anna_a": True, "bert_b": False, "cleo_c": False, "dora_d": False}
        assert race["grid"].to_dict() == {"anna_a": 5, "bert_b": 2, "cleo_c": 3, "dora_d": 4}


class TestTime:
    def test_a_pit_entry_after_the_lap_end_is_not_known_at_the_lap_end(self, tmp_path: Path) -> None:
        frames = tiny_frames()
        laps = frames[f"fastf1/laps_{SEASON}.parquet"]
        laps.loc[2, "PitInTime"] = laps.loc[2, "Time"] + pd.Timedelta("2s")
        laps.loc[4, "PitInTime"] = laps.loc[4, "Time"] - pd.Timedelta("2s")
        lake, _ = run(tmp_path, frames)
        assert lake.read("laps")["pit_in"].notna().to_numpy().nonzero()[0].tolist() == [4]

    def test_a_car_that_stays_in_the_pit_lane_is_known_at_the_flag(self, tmp_path: Path) -> None:
        frames = tiny_frames()
        frames[f"fastf1_undercut/pit_stops_{SEASON}.parquet"].loc[0, "PitOutTime"] = pd.NaT
        lake, _ = run(tmp_path, frames)
        stop, race = lake.read("pit_stops").iloc[0], lake.read("races").iloc[0]
        assert pd.isna(stop["pit_out"])
        assert stop["event_timestamp"] == stop["pit_in"] < race["race_end"] == stop["created_timestamp"]

    def test_generated_laps_have_no_lap_time(self, tmp_path: Path) -> None:
        frames = tiny_frames()
        frames[f"fastf1/laps_{SEASON}.parquet"].loc[0, "FastF1Generated"] = True
        lake, _ = run(tmp_path, frames)
        assert pd.isna(lake.read("laps").iloc[0]["lap_time_s"])

    def test_race_control_is_put_on_the_clock_of_the_laps(self, tmp_path: Path) -> None:
        frames = tiny_frames()
        late = pd.Timedelta(minutes=47)  # the race started late; messages carry the true time
        start = pd.Timestamp(f"{SEASON}-03-10T13:00:00") + late
        laps = [lap for lap in range(1, 10) for _ in range(4)]
        offsets = [2, 25, 45, 80] * 9
        frames["fastf1/race_control_messages_2031.parquet"] = pd.DataFrame(
            {
                "Season": SEASON,
                "RoundNumber": 1,
                "Time": [
                    start + pd.Timedelta(seconds=(lap - 1) * 90.1 + offset) for lap, offset in zip(laps, offsets, strict=True)
                ],
                "Category": "Flag",
                "Message": [f"MESSAGE {n}" for n in range(36)],
                "Flag": "BLUE",
                "Scope": "Driver",
                "Sector": None,
                "RacingNumber": "4",
                "Lap": [float(lap) for lap in laps],
            }
        )
        lake, _ = run(tmp_path, frames)
        control = lake.read("race_control")
        wanted = lake.read("races").iloc[0]["race_start"] + pd.to_timedelta(
            [(lap - 1) * 90.1 + o for lap, o in zip(laps, offsets, strict=True)], unit="s"
        )
        error = (control["event_timestamp"].reset_index(drop=True) - pd.Series(wanted)).dt.total_seconds()
        assert error.between(0, 25).all()
        assert control["car_number"].eq(4).all()


def test_openf1_messages_are_matched_by_date_not_by_round(tmp_path: Path) -> None:
    frames = tiny_frames()
    base = {
        "session_key": 1,
        "driver_number": None,
        "category": "Flag",
        "flag": "RED",
        "scope": "Track",
        "sector": None,
        "season": SEASON,
    }
    frames["openf1/race_control_2031.parquet"] = pd.DataFrame(
        [
            {
                **base,
                "session_code": "R",
                "round": 3,
                "lap_number": "3",
                "date": f"{SEASON}-04-10T13:05:00+00:00",
                "message": "RED FLAG",
            },
            {
                **base,
                "session_code": "Q",
                "round": 3,
                "lap_number": "3",
                "date": f"{SEASON}-04-09T13:05:00+00:00",
                "message": "RED FLAG",
            },
        ]
    )
    lake, report = run(tmp_path, frames)
    assert lake.read("race_control")["round"].tolist() == [2]
    assert report.tables["race_control"].rows_other_session == 1


def test_named_texts_are_nulls_and_2018_compounds_are_known(tmp_path: Path) -> None:
    frames = tiny_frames()
    laps = frames[f"fastf1/laps_{SEASON}.parquet"]
    laps.loc[0:6, "Compound"] = ["nan", "None", "UNKNOWN", "HYPERSOFT", "ULTRASOFT", "SUPERSOFT", None]
    laps.loc[0, "Stint"] = None
    laps.loc[0, "TrackStatus"] = ""
    lake, _ = run(tmp_path, frames)
    first = lake.read("laps").iloc[:7]
    assert first["compound"].tolist() == [None, None, None, "HYPERSOFT", "ULTRASOFT", "SUPERSOFT", None]
    assert first["stint"].tolist()[0] == 1
    assert first["track_status"].tolist()[0] == "1"


def test_a_driver_without_laps_is_an_entry(tmp_path: Path) -> None:
    frames = tiny_frames()
    name = f"fastf1/laps_{SEASON}.parquet"
    frames[name] = frames[name].query("not (Driver == 'DDD' and RoundNumber == 1)").reset_index(drop=True)
    frames["ergast/results.csv"].loc[3, "laps"] = 0
    lake, _ = run(tmp_path, frames)
    assert lake.read("entries").query("driver_id == 'dora_d'")["laps_completed"].tolist() == [0, 10, 10]
    assert lake.read("laps").query("driver_id == 'dora_d'")["round"].unique().tolist() == [2, 3]


def test_codes_are_resolved_within_the_race(tmp_path: Path) -> None:
    """A code that another driver had in another season, or has in another race, names the entrant of the race."""
    earlier, later = tiny_frames(2030), tiny_frames(2031)
    for frames in (earlier, later):
        extra = frames["ergast/drivers.csv"].iloc[[0]].assign(driverId=99, driverRef="old_a")
        frames["ergast/drivers.csv"] = pd.concat([frames["ergast/drivers.csv"], extra])
    earlier["ergast/results.csv"]["driverId"] = earlier["ergast/results.csv"]["driverId"].replace({1: 99})
    earlier["ergast/qualifying.csv"]["driverId"] = earlier["ergast/qualifying.csv"]["driverId"].replace({1: 99})
    lake, _ = run(tmp_path, earlier, later, seasons=[2030, 2031])
    assert "anna_a" not in set(lake.read("laps", [2030])["driver_id"])
    assert "old_a" not in set(lake.read("laps", [2031])["driver_id"])
    assert len(lake.read("laps")) == 2 * ROWS


def test_what_is_read_of_a_season_does_not_depend_on_the_others_asked_for(settings: Settings, tmp_path: Path) -> None:
    both, _ = store(settings, tmp_path, tiny_frames(2030), tiny_frames(2031), seasons=[2030, 2031])
    one = Settings(home=tmp_path / "one")
    ingest(one, FilesSource([tmp_path / "source_0", tmp_path / "source_1"]), [2031])
    assert both.hashes(2031) == Lake(one.lake_dir).hashes(2031)


def test_row_order_of_the_source_does_not_matter(settings: Settings, tmp_path: Path) -> None:
    lake, _ = store(settings, tmp_path, tiny_frames())
    shuffled = {name: frame.sample(frac=1, random_state=3) for name, frame in tiny_frames().items()}
    other = Settings(home=tmp_path / "other")
    store(other, tmp_path / "shuffled", shuffled)
    assert lake.hashes() == Lake(other.lake_dir).hashes()


def test_progress_counts_up_to_the_end(settings: Settings, tmp_path: Path) -> None:
    source = FilesSource([write_sources(tmp_path / "source", tiny_frames())])
    told: list[tuple[str, int, int]] = []
    ingest(settings, source, [SEASON], progress=lambda *step: told.append(step))
    assert told[0][1] == 0
    assert told[-1] == ("done", 2, 2)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_asking_for_no_season_or_no_path_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(SeasonsError):
        ingest(settings, FilesSource([write_sources(tmp_path / "source", tiny_frames())]), [])
    with pytest.raises(SourceMissingError, match="--path"):
        FilesSource([])


def test_the_report_is_json(settings: Settings, tmp_path: Path) -> None:
    _, report = store(settings, tmp_path, tiny_frames())
    text = report.to_json()
    assert json.loads(json.dumps(text)) == text
    assert text["tables"]["laps"]["rows_written"] == ROWS


def test_the_tiny_laps_are_what_the_tests_think() -> None:
    assert len(tiny_laps()) == ROWS
