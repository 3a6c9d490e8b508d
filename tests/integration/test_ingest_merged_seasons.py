"""2023 and 2024 from files, OpenF1 and Jolpica: one lake, every difference counted and explained, a corrected classification.

docs/merged-seasons.md has the same counts; a test keeps the two in step.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from merged_seasons import EXPLAINED, SEASONS, as_page, home_of_three
from typer.testing import CliRunner

from feature_repo.settings import Settings
from feature_repo.visibility import latest_visible
from pipelines.cli import app
from pipelines.ingest.merging import differences
from pipelines.ingest.merging.differences import DifferenceReport
from pipelines.ingest.merging.kept import KeptSources
from pipelines.lake import Lake
from pipelines.schemas import TABLES

pytestmark = pytest.mark.slow

SOURCES = ["files", "jolpica", "openf1"]
BELGIUM = "2024_14"
RECORDED = "2023_01"  # the race of which Jolpica's laps 1 to 5 were recorded
KEY = ["race_id", "driver_id"]


@pytest.fixture(scope="module")
def home(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with home_of_three(tmp_path_factory.mktemp("three") / "home", real_data) as settings:
        yield settings


@pytest.fixture(scope="module")
def found(home: Settings) -> DifferenceReport:
    return differences.read(home)


def test_the_lake_has_each_row_once_and_says_who_gave_it(home: Settings) -> None:
    lake = Lake(home.lake_dir)
    assert [KeptSources(home).names(season) for season in SEASONS] == [SOURCES, SOURCES]
    races = lake.read("races")
    assert races.groupby("season").size().to_dict() == {2023: 22, 2024: 24}
    assert set(races["source"]) == {"jolpica+files"}  # times by the files' clock, the rest by the official record
    laps = lake.read("laps")
    assert not laps.duplicated(["race_id", "driver_id", "lap"]).any()
    assert {name for names in set(laps["source"]) for name in names.split("+")} == set(SOURCES)


def test_the_page_is_made_from_these_differences(found: DifferenceReport) -> None:
    page = Path(__file__).parents[2] / "docs" / "merged-seasons.md"
    assert page.read_text(encoding="utf-8") == as_page(found)


def test_every_difference_is_explained_and_every_explanation_needed(found: DifferenceReport) -> None:
    assert found.seasons == dict.fromkeys(SEASONS, SOURCES)
    differ = {(entry["table"], entry["column"], entry["believed"], entry["other"]) for entry in found.columns if entry["differ"]}
    assert differ == set(EXPLAINED)
    assert len(found.rows) == sum(entry["differ"] for entry in found.columns)


def test_recorded_lap_times_agree_to_the_millisecond_after_lap_1(home: Settings, found: DifferenceReport) -> None:
    """Lap 1 counts from lights out, which each source places by itself."""
    said = {name: KeptSources(home).of(name).read("laps").query(f"race_id == {RECORDED!r} and lap <= 5") for name in SOURCES}
    for other in ("files", "openf1"):
        both = said["jolpica"].merge(said[other], on=["driver_id", "lap"]).dropna(subset=["lap_time_s_x", "lap_time_s_y"])
        apart = both["lap_time_s_x"].sub(both["lap_time_s_y"]).abs()
        assert (both["lap"] > 1).sum() == 80
        assert apart[both["lap"] > 1].max() < 1e-6
        assert apart[both["lap"] == 1].max() > 0.001
    rows = found.rows[(found.rows["table"] == "laps") & (found.rows["column"] == "lap_time_s")]
    of_race = rows[(rows["race_id"] == RECORDED) & (rows["source"] == "jolpica")]
    assert set(of_race["key"].str.split().str[1]) == {"1"}
    assert of_race.groupby("other_source").size().to_dict() == {"files": 20, "openf1": 18}


def test_the_command_lists_where_sources_disagree(home: Settings) -> None:
    said = CliRunner().invoke(app, ["ingest", "--report", "--seasons", "2024", "--home", str(home.home)], env={"COLUMNS": "200"})
    assert said.exit_code == 0
    assert "where sources disagree: 2024 from files, jolpica, openf1" in said.stdout
    assert "lap_time_s" in said.stdout
    missing = CliRunner().invoke(app, ["ingest", "--report", "--seasons", "2019", "--home", str(home.home)])
    assert missing.exit_code != 0


def test_before_the_disqualification_russell_had_won_in_belgium(home: Settings) -> None:
    """Real: first on the road on 28 July 2024, thrown out for a light car hours later."""
    entries = Lake(home.lake_dir).read("entries")
    race = entries[entries["race_id"] == BELGIUM]
    assert len(race) == 40  # each car as it crossed the line, and as it was classified

    def order(as_of: str) -> list[str]:
        known = latest_visible(race, list(TABLES["entries"].key), as_of)
        return known.sort_values("position_order")["driver_id"].tolist()[:3]

    assert order("2024-07-28T14:19:00Z") == []
    assert order("2024-07-28T15:00:00Z") == ["russell", "hamilton", "piastri"]
    assert order("2024-07-29T00:00:00Z") == ["hamilton", "piastri", "leclerc"]
    russell = race[race["driver_id"] == "russell"].sort_values("created_timestamp")
    assert russell["status"].tolist() == ["Finished", "Disqualified"]
    assert russell["position"].tolist()[0] == 1
    assert pd.isna(russell["position"].tolist()[1])
    # the two other versions are those of the sources, as they gave them
    assert KeptSources(home).of("openf1").read("entries").groupby(KEY).size().loc[BELGIUM].eq(2).all()
    assert KeptSources(home).of("files").read("entries").groupby(KEY).size().loc[BELGIUM].eq(1).all()
