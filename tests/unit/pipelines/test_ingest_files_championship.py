"""The `files` source on sprints and standings of an Ergast dump: what it writes, counts and leaves out."""

from pathlib import Path

import pandas as pd
import pytest
from tiny_sources import REFS, ROUNDS, SEASON, Frames, tiny_frames, write_sources

from pipelines.errors import SourceFormatError
from pipelines.ingest.base import IngestReport
from pipelines.ingest.files.source import FilesSource
from pipelines.schemas import conform

POINTS = [8, 7, 6, 5]
TABLES = ("sprint_results", "driver_standings", "constructor_standings")


def championship_frames(season: int = SEASON, *, id_offset: int = 0) -> Frames:
    """`tiny_frames` with a sprint in round 2, in which the last car gave up, and standings after every race."""
    frames = tiny_frames(season, id_offset=id_offset)
    races = frames["ergast/races.csv"]
    second = races["round"] == 2
    frames["ergast/races.csv"] = races.assign(
        sprint_date=races["quali_date"].where(second), sprint_time=pd.Series("10:00:00", index=races.index).where(second)
    )
    race_ids = races["raceId"].tolist()
    frames["ergast/sprint_results.csv"] = pd.DataFrame(
        {
            "resultId": range(1, 5),
            "raceId": race_ids[1],
            "driverId": [id_offset + n for n in range(1, 5)],
            "constructorId": [id_offset + 1 + (n > 2) for n in range(1, 5)],
            "number": range(1, 5),
            "grid": [2, 1, 3, 0],
            "position": [1, 2, 3, None],
            "positionText": ["1", "2", "3", "R"],
            "positionOrder": range(1, 5),
            "points": POINTS,
            "laps": [5, 5, 5, 2],
            "milliseconds": [1_500_000, 1_501_000, 1_502_000, None],
            "statusId": [1, 1, 1, 2],
        }
    )
    after = [(race, n) for race in range(ROUNDS) for n in range(1, 5)]
    frames["ergast/driver_standings.csv"] = pd.DataFrame(
        {
            "driverStandingsId": range(1, len(after) + 1),
            "raceId": [race_ids[race] for race, _ in after],
            "driverId": [id_offset + n for _, n in after],
            "points": [[25, 18, 15, 12][n - 1] * (race + 1) for race, n in after],
            "position": [n for _, n in after],
            "positionText": [str(n) for _, n in after],
            "wins": [(race + 1) * (n == 1) for race, n in after],
        }
    )
    teams = [(race, n) for race in range(ROUNDS) for n in (1, 2)]
    frames["ergast/constructor_standings.csv"] = pd.DataFrame(
        {
            "constructorStandingsId": range(1, len(teams) + 1),
            "raceId": [race_ids[race] for race, _ in teams],
            "constructorId": [id_offset + n for _, n in teams],
            "points": [[43, 27][n - 1] * (race + 1) for race, n in teams],
            "position": [n for _, n in teams],
            "positionText": [str(n) for _, n in teams],
            "wins": [(race + 1) * (n == 1) for race, n in teams],
        }
    )
    return frames


def run(tmp_path: Path, *folders: Frames, season: int = SEASON) -> tuple[dict[str, pd.DataFrame], IngestReport]:
    """Canonical tables of one season, and the report; the books are balanced once the rows are written."""
    paths = [write_sources(tmp_path / f"source_{number}", frames) for number, frames in enumerate(folders)]
    report = IngestReport("files", is_simulated=False, seasons=[season])
    (offered,) = FilesSource(paths).read([season], report)
    tables = {name: conform(name, frame) for name, frame in offered.tables.items()}
    for name, account in report.tables.items():
        assert account.unaccounted == len(tables[name]), name
    return tables, report


def test_a_sprint_and_the_standings_become_tables(tmp_path: Path) -> None:
    tables, report = run(tmp_path, championship_frames())
    sprint = tables["sprint_results"]
    assert sprint["driver_id"].tolist() == REFS
    assert set(sprint["race_id"]) == {f"{SEASON}_02"}
    assert sprint["points"].tolist() == POINTS
    assert sprint["status"].tolist() == ["Finished"] * 3 + ["Engine"]
    assert sprint["grid"].fillna(-1).tolist() == [2, 1, 3, -1]  # 0: from the pit lane
    assert sprint["position"].isna().tolist() == [False, False, False, True]
    assert set(sprint["event_timestamp"]) == {pd.Timestamp(f"{SEASON}-04-09T10:25:00Z")}  # the winner took 25 minutes
    assert (sprint["source"] == "files").all()

    drivers = tables["driver_standings"]
    assert len(drivers) == ROUNDS * 4
    leader = drivers[drivers["driver_id"] == REFS[0]].sort_values("round")
    assert leader[["position", "points", "wins"]].to_numpy().tolist() == [[1, 25, 1], [1, 50, 2], [1, 75, 3]]
    ends = tables["races"].set_index("race_id")["race_end"]
    assert (drivers["event_timestamp"] == drivers["race_id"].map(ends)).all()
    teams = tables["constructor_standings"]
    assert teams.query("constructor_id == 'team_y'")["points"].tolist() == [27, 54, 81]
    assert not [note for note in report.notes if note.startswith(TABLES)]


def test_a_sprint_without_a_start_time_ends_before_the_race(tmp_path: Path) -> None:
    frames = championship_frames()
    frames["ergast/races.csv"] = frames["ergast/races.csv"].assign(sprint_time=None)
    tables, _ = run(tmp_path, frames)
    start = tables["races"].set_index("race_id")["race_start"][f"{SEASON}_02"]
    assert tables["sprint_results"]["event_timestamp"].tolist() == [start - pd.Timedelta(hours=20)] * 4


@pytest.mark.parametrize("table", TABLES)
def test_a_missing_file_is_said_and_not_fatal(tmp_path: Path, table: str) -> None:
    frames = championship_frames()
    del frames[f"ergast/{table}.csv"]
    tables, report = run(tmp_path, frames)
    assert {name: len(tables[name]) > 0 for name in TABLES} == {name: name != table for name in TABLES}
    assert f"{table}: no rows of {SEASON}" in report.notes


def test_seasons_without_sprints_are_not_said_to_lack_them(tmp_path: Path) -> None:
    tables, report = run(tmp_path, tiny_frames(2020), season=2020)
    assert tables["sprint_results"].empty
    said = [note for note in report.notes if note.startswith(TABLES)]
    assert said == ["driver_standings: no rows of 2020", "constructor_standings: no rows of 2020"]


def test_rows_of_other_seasons_and_of_both_dumps_are_counted(tmp_path: Path) -> None:
    """A dump holds every season and every race's standings; a second one has its own numbers for the same rows."""
    earlier, later = championship_frames(SEASON - 1), championship_frames(id_offset=500)
    later["ergast/driver_standings.csv"].loc[0, "points"] = 26
    folders = [earlier, championship_frames(id_offset=40), later]
    tables, report = run(tmp_path, *folders)
    account = report.tables["driver_standings"]
    rows = ROUNDS * 4
    assert (account.rows_read, account.rows_other_season) == (3 * rows, rows)
    assert (account.rows_duplicate, account.rows_replaced) == (rows - 1, 1)
    assert tables["driver_standings"]["points"].iloc[0] == 26
    assert report.tables["sprint_results"].rows_duplicate == 4
    assert report.quarantine_reasons == {}


def test_impossible_rows_are_quarantined_with_their_place(tmp_path: Path) -> None:
    frames = championship_frames()
    frames["ergast/sprint_results.csv"].loc[1, "points"] = 61
    frames["ergast/driver_standings.csv"].loc[2, "driverId"] = 99
    frames["ergast/constructor_standings.csv"].loc[3, "wins"] = -1
    paths = [write_sources(tmp_path / "source", frames)]
    report = IngestReport("files", is_simulated=False, seasons=[SEASON])
    (offered,) = FilesSource(paths).read([SEASON], report)
    assert report.quarantine_reasons == {
        "sprint_results": {"impossible points": 1},
        "driver_standings": {"unknown driver": 1},
        "constructor_standings": {"impossible number of wins": 1},
    }
    found = {name: (rows["source_file"].iloc[0], rows["row_number"].iloc[0]) for name, rows in offered.quarantine.items()}
    assert found == {
        "sprint_results": ("ergast/sprint_results.csv", 2),
        "driver_standings": ("ergast/driver_standings.csv", 3),
        "constructor_standings": ("ergast/constructor_standings.csv", 4),
    }


def test_a_value_of_another_kind_is_an_error_that_says_where(tmp_path: Path) -> None:
    frames = championship_frames()
    wins = frames["ergast/driver_standings.csv"]
    frames["ergast/driver_standings.csv"] = wins.assign(wins=[*wins["wins"].tolist()[:-1], "many"])
    with pytest.raises(SourceFormatError, match=r"driver_standings\.csv, row 12, column 'wins': got 'many'"):
        run(tmp_path, frames)


@pytest.mark.parametrize("table", TABLES)
def test_a_changed_file_changes_the_fingerprint(tmp_path: Path, table: str) -> None:
    frames = championship_frames()
    before = FilesSource([write_sources(tmp_path / "before", frames)]).fingerprint()
    frames[f"ergast/{table}.csv"].loc[0, "points"] = 0
    assert FilesSource([write_sources(tmp_path / "after", frames)]).fingerprint() != before
