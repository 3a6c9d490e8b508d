"""Files, OpenF1 and Jolpica on the same real races: one lake, every difference counted, a classification that was corrected."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from merged_seasons import EXPLAINED, home_of_three
from typer.testing import CliRunner

from feature_repo.settings import Settings
from feature_repo.visibility import latest_visible
from pipelines.cli import app
from pipelines.ingest.merging import differences
from pipelines.ingest.merging.kept import KeptSources
from pipelines.lake import Lake
from pipelines.schemas import TABLES

BELGIUM = "2024_14"
KEY = ["race_id", "driver_id"]


@pytest.fixture(scope="module")
def home(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with home_of_three(tmp_path_factory.mktemp("three") / "home", real_data, {2024: [14, 21]}) as settings:
        yield settings


def test_the_lake_has_each_row_once_and_says_who_gave_it(home: Settings) -> None:
    lake = Lake(home.lake_dir)
    assert KeptSources(home).names(2024) == ["files", "jolpica", "openf1"]
    races = lake.read("races")
    assert len(races) == 24
    told = races.set_index("race_id")["source"]
    assert told[BELGIUM] == "jolpica+files"  # times by the files' clock, the rest by the official record
    assert set(told.drop([BELGIUM, "2024_21"])) == {"files"}
    laps = lake.read("laps")
    assert not laps.duplicated(["race_id", "driver_id", "lap"]).any()
    assert set(laps["source"]) <= {"files", "files+openf1"}


def test_differences_beyond_tolerance_are_counted_and_each_has_a_reason(home: Settings) -> None:
    found = differences.read(home)
    assert found.seasons == {2024: ["files", "jolpica", "openf1"]}
    counted = {
        (entry["table"], entry["column"], entry["believed"], entry["other"]): (entry["compared"], entry["differ"])
        for entry in found.columns
    }
    compared, differ = counted[("laps", "lap_time_s", "files", "openf1")]
    lap_times = found.rows[(found.rows["table"] == "laps") & (found.rows["column"] == "lap_time_s")]
    assert compared > 1_500
    assert differ == len(lap_times) <= 40
    assert set(lap_times["key"].str.split().str[1]) == {"1"}  # only lap 1, which is counted from lights out
    for official in ("position", "position_order", "constructor_id"):
        for believed, other in (("jolpica", "files"), ("jolpica", "openf1"), ("files", "openf1")):
            assert counted[("entries", official, believed, other)][1] == 0
    # a driver's number is that of his first race, which differs where only two rounds were read
    assert {name for name, (_, differ) in counted.items() if differ and name[0] != "drivers"} <= set(EXPLAINED)


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
