"""The real seasons 2018-2024 in the lake: the counts are right, and what went wrong in real races is handled."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from feature_repo.settings import Settings
from pipelines.ingest import parse_seasons
from pipelines.ingest.base import IngestReport
from pipelines.ingest.files.source import FilesSource
from pipelines.ingest.run import ingest
from pipelines.lake import Lake

SEASONS = parse_seasons("2018-2024")


@pytest.fixture(scope="module")
def ingested(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, IngestReport]:
    settings = Settings(home=tmp_path_factory.mktemp("real") / "home")
    return settings, ingest(settings, FilesSource([real_data]), SEASONS)


@pytest.fixture(scope="module")
def lake(ingested: tuple[Settings, IngestReport]) -> Lake:
    return Lake(ingested[0].lake_dir)


@pytest.fixture(scope="module")
def laps(lake: Lake) -> pd.DataFrame:
    return lake.read("laps")


@pytest.fixture(scope="module")
def entries(lake: Lake) -> pd.DataFrame:
    return lake.read("entries")


@pytest.fixture(scope="module")
def races(lake: Lake) -> pd.DataFrame:
    return lake.read("races")


def test_every_race_entry_and_lap_is_there(lake: Lake) -> None:
    counts = lake.counts()
    assert (counts["races"], counts["entries"], counts["laps"]) == (149, 2979, 162_718)
    assert counts["qualifying"] == 2976
    assert (counts["stints"], counts["pit_stops"]) == (8014, 5314)
    assert (counts["sprint_results"], counts["driver_standings"], counts["constructor_standings"]) == (360, 3096, 1490)
    assert lake.read("sprint_results").groupby("season")["race_id"].nunique().to_dict() == {2021: 3, 2022: 3, 2023: 6, 2024: 6}
    assert lake.read("laps").groupby("season").size().tolist() == [22336, 23676, 18343, 23758, 23577, 24422, 26606]


def test_the_books_add_up(ingested: tuple[Settings, IngestReport], lake: Lake) -> None:
    report = ingested[1]
    counts = lake.counts()
    for table, account in report.tables.items():
        assert account.unaccounted == 0, table
        assert account.rows_written == counts[table], table
    assert sum(account.rows_quarantined for account in report.tables.values()) == counts["quarantined"]
    # one Hungarian Grand Prix's messages are in the source twice, with different laps
    assert report.quarantine_reasons == {"race_control": {"duplicate key: differs from an earlier row of the same file": 8}}
    assert report.tables["races"].rows_read == 1125
    assert report.tables["races"].rows_other_season == 976
    assert report.tables["weather"].rows_read == 21_899 + 7_347


def test_an_unchanged_re_run_is_skipped_within_three_seconds(ingested: tuple[Settings, IngestReport], real_data: Path) -> None:
    started = time.perf_counter()
    assert ingest(ingested[0], FilesSource([real_data]), SEASONS).skipped_up_to_date
    assert time.perf_counter() - started < 3


class TestAgainstAnIndependentExport:
    @pytest.fixture
    def both(self, real_data: Path, laps: pd.DataFrame, entries: pd.DataFrame) -> pd.DataFrame:
        """Timed laps of both, 2018-2022: `lap_time_s` is ours, `LapTime` theirs."""
        theirs = pd.concat(
            pd.read_csv(file, usecols=["RoundNumber", "Driver", "LapNumber", "LapTime"]).assign(season=int(file.name[-11:-7]))
            for file in sorted((real_data / "armchair").glob("transformed_grand_prix_laps_*.csv.gz"))
        ).rename(columns={"RoundNumber": "round", "Driver": "code", "LapNumber": "lap"})
        coded = laps.merge(entries[["race_id", "driver_id", "code"]], on=["race_id", "driver_id"])
        return coded.merge(theirs, on=["season", "round", "code", "lap"])

    def test_lap_1_counts_from_lights_out(self, both: pd.DataFrame) -> None:
        """Median +0.19 s; within 0.8 s everywhere but at Mugello 2020, where the feed's start is 6.9 s late."""
        first = both[both["lap"] == 1].dropna(subset=["LapTime"])
        assert len(first) > 1900
        error = first["lap_time_s"] - first["LapTime"]
        assert error.median() == pytest.approx(0.194, abs=0.02)
        off = first.loc[error.abs() > 0.8, "race_id"]
        assert set(off) == {"2020_11"}
        assert error[first["race_id"] == "2020_11"].to_numpy() == pytest.approx(-6.911, abs=0.01)

    def test_all_other_laps_are_equal(self, both: pd.DataFrame) -> None:
        later = both[both["lap"] > 1]
        timed = later.dropna(subset=["LapTime"])
        assert len(timed) > 107_000
        assert (timed["lap_time_s"] - timed["LapTime"]).abs().max() < 1e-6
        assert later["lap_time_s"].isna().equals(later["LapTime"].isna())


def test_lap_instants_are_consistent(laps: pd.DataFrame, races: pd.DataFrame) -> None:
    assert (laps["lap_start"] <= laps["event_timestamp"]).all()
    assert (laps["created_timestamp"] == laps["event_timestamp"]).all()
    elapsed = laps.groupby(["race_id", "driver_id"])["event_timestamp"].diff().dt.total_seconds()
    assert (elapsed.dropna() >= 0).all()
    first = laps[laps["lap"] == 1].merge(races[["race_id", "race_start"]], on="race_id")
    assert (first["lap_start"] == first["race_start"]).all()
    for column in ("pit_in", "pit_out"):
        known = laps[laps[column].notna()]
        assert (known[column] <= known["event_timestamp"]).all()


def test_the_flag_is_the_winners_official_time_in_almost_every_race(real_data: Path, races: pd.DataFrame) -> None:
    results = pd.read_csv(real_data / "ergast" / "results.csv", na_values="\\N").query("positionOrder == 1")
    calendar = pd.read_csv(real_data / "ergast" / "races.csv", na_values="\\N")[["raceId", "year", "round"]]
    official = results.merge(calendar, on="raceId").rename(columns={"year": "season"})[["season", "round", "milliseconds"]]
    both = races.merge(official, on=["season", "round"])
    error = (both["race_end"] - both["race_start"]).dt.total_seconds() - both["milliseconds"] / 1000
    # the others were red-flagged and timed otherwise, or a lap was counted back
    assert (error.abs() < 1).sum() == 139
    assert (error.abs() < 10).sum() == 142
    assert len(both) == 149


class TestNamedRaces:
    def test_2021_belgian_race_has_no_official_times(self, laps: pd.DataFrame, races: pd.DataFrame) -> None:
        spa = laps[laps["race_id"] == "2021_12"]
        assert len(spa) == 60
        assert spa.loc[spa["lap"] > 1, "lap_time_s"].isna().all()
        assert spa.loc[spa["lap"] == 1, "lap_time_s"].between(200, 260).all()
        assert spa["compound"].isna().all()
        race = races.set_index("race_id").loc["2021_12"]
        assert race["scheduled_laps"] == 44
        winner = spa[spa["driver_id"] == "max_verstappen"]
        assert race["race_end"] == winner["event_timestamp"].max()

    def test_six_entries_never_started(self, laps: pd.DataFrame, entries: pd.DataFrame) -> None:
        key = ["race_id", "driver_id"]
        without = entries.merge(laps[key].drop_duplicates(), how="left", on=key, indicator=True).query("_merge == 'left_only'")
        assert set(zip(without["race_id"], without["driver_id"], strict=True)) == {
            ("2021_22", "mazepin"),
            ("2022_02", "mick_schumacher"),
            ("2022_02", "tsunoda"),
            ("2023_15", "stroll"),
            ("2023_17", "sainz"),
            ("2024_21", "albon"),
        }
        assert (without["laps_completed"] == 0).all()
        assert without["position"].isna().all()

    def test_2021_abu_dhabi_has_19_first_laps(self, laps: pd.DataFrame, entries: pd.DataFrame) -> None:
        race = laps[laps["race_id"] == "2021_22"]
        assert len(race[race["lap"] == 1]) == race["driver_id"].nunique() == 19
        assert (entries["race_id"] == "2021_22").sum() == 20

    def test_2020_austria_order_is_complete(self, entries: pd.DataFrame) -> None:
        orders = entries.groupby("race_id")["position_order"].apply(sorted)
        assert all(order == list(range(1, len(order) + 1)) for order in orders)
        assert (entries["is_classified"] == entries["position"].notna()).all()

    def test_2018_monza_weather_comes_from_the_other_folder(self, lake: Lake) -> None:
        weather = lake.read("weather", [2018])
        assert (weather["race_id"] == "2018_14").sum() == 99
        assert weather["race_id"].nunique() == 21

    def test_race_control_of_2024_is_of_the_official_rounds(self, lake: Lake, races: pd.DataFrame) -> None:
        control = lake.read("race_control", [2023, 2024])
        assert control["race_id"].nunique() == 22 + 24
        flag = control[control["message"].str.contains("CHEQUERED")].merge(races[["race_id", "race_end"]], on="race_id")
        error = (flag["event_timestamp"] - flag["race_end"]).dt.total_seconds()
        assert error.abs().median() < 15
        assert error.abs().max() < 60


class TestTyres:
    def test_no_text_stands_for_a_missing_compound(self, laps: pd.DataFrame, lake: Lake) -> None:
        for frame in (laps, lake.read("stints")):
            assert not set(frame["compound"].dropna()) & {"nan", "None", "UNKNOWN", ""}
        missing = laps.groupby("season")["compound"].apply(lambda compound: int(compound.isna().sum()))
        assert missing.to_dict() == {2018: 342, 2019: 0, 2020: 0, 2021: 60, 2022: 334, 2023: 35, 2024: 0}

    def test_2018_compounds_keep_their_names(self, laps: pd.DataFrame) -> None:
        names = laps.dropna(subset=["compound"]).groupby("season")["compound"].unique().map(set)
        assert {"HYPERSOFT", "ULTRASOFT", "SUPERSOFT"} <= names[2018]
        assert names[2019] == {"SOFT", "MEDIUM", "HARD", "INTERMEDIATE", "WET"}

    def test_every_lap_has_a_stint(self, laps: pd.DataFrame) -> None:
        assert laps["stint"].min() == 1
        assert (laps.groupby(["race_id", "driver_id"])["stint"].diff().dropna() >= 0).all()


class TestGrid:
    def test_pit_lane_starters_are_behind_the_grid(self, entries: pd.DataFrame) -> None:
        assert entries["is_pit_lane_start"].sum() == 79
        withdrawn_before_the_grid = entries["status"].eq("Withdrew") & entries["laps_completed"].eq(0)
        rest = entries[~entries["is_pit_lane_start"] & ~withdrawn_before_the_grid].groupby("race_id")["grid"].max()
        started = entries[entries["is_pit_lane_start"]]
        assert (started["grid"] > started["race_id"].map(rest)).all()

    def test_grid_places_are_taken_once_but_for_one_slip_of_the_source(self, entries: pd.DataFrame) -> None:
        twice = entries[entries.duplicated(["race_id", "grid"], keep=False)]
        assert set(twice["race_id"]) == {"2024_21"}  # Ergast gives both Verstappen and Hülkenberg place 17

    def test_known_pit_lane_starts(self, entries: pd.DataFrame) -> None:
        known = entries.set_index(["race_id", "driver_id"])["is_pit_lane_start"]
        assert known["2024_19", "russell"]  # Ergast has him 20th, f1db in the pit lane
        assert known["2018_09", "alonso"]
        assert not known["2023_20", "leclerc"]  # stopped on the formation lap: grid 0 in Ergast, second on the grid
        assert entries.set_index(["race_id", "driver_id"])["grid"]["2023_20", "leclerc"] == 2


class TestNames:
    def test_reused_codes_name_the_entrant(self, entries: pd.DataFrame) -> None:
        names = entries.groupby("code")["driver_id"].unique().map(set)
        assert names["VER"] == {"max_verstappen"}
        assert names["MSC"] == {"mick_schumacher"}
        assert (entries.groupby(["season", "code"])["driver_id"].nunique() == 1).all()

    def test_renamed_teams_keep_the_ids_of_the_year(self, entries: pd.DataFrame) -> None:
        teams = entries.groupby("season")["constructor_id"].unique().map(set)
        assert {"toro_rosso", "sauber", "force_india"} <= teams[2018]
        assert {"alphatauri", "alfa", "racing_point"} <= teams[2020]
        assert {"rb", "sauber", "aston_martin"} <= teams[2024]

    def test_car_number_1_moves_with_the_champion(self, lake: Lake) -> None:
        drivers = lake.read("drivers").set_index(["season", "driver_id"])["car_number"]
        assert (drivers[2021, "max_verstappen"], drivers[2022, "max_verstappen"]) == (33, 1)


def test_every_row_was_known_when_or_after_it_was_true(lake: Lake) -> None:
    for table in lake.counts():
        if table != "quarantined":
            frame = lake.read(table, columns=["event_timestamp", "created_timestamp"])
            assert (frame["created_timestamp"] >= frame["event_timestamp"]).all(), table
            assert frame["event_timestamp"].notna().all(), table


def test_speeds_and_times_are_plausible(laps: pd.DataFrame) -> None:
    assert laps["speed_st_kph"].between(30, 380).mean() > 0.99
    assert 85 < np.nanmedian(laps["lap_time_s"]) < 95
    assert laps.loc[laps["lap"] == 1, "lap_time_s"].isna().sum() == 69  # cars that stopped on lap 1
