"""Names as feeds write them become the ids that Ergast has, for every driver since 2010 and every team since 2018."""

from pathlib import Path

import pandas as pd
import pytest

from pipelines.ingest.canonical.identities import constructor_id, driver_ids

SEASONS = range(2018, 2025)


@pytest.fixture(scope="module")
def ergast_results(real_data: Path) -> pd.DataFrame:
    """Every result of Ergast since 2010 with `season, round, driver_id, code, given_name, family_name, constructor_id`."""
    tables = {
        name: pd.read_csv(real_data / "ergast" / f"{name}.csv", na_values="\\N", usecols=columns)
        for name, columns in {
            "races": ["raceId", "year", "round"],
            "results": ["raceId", "driverId", "constructorId"],
            "drivers": ["driverId", "driverRef", "code", "forename", "surname"],
            "constructors": ["constructorId", "constructorRef", "name"],
        }.items()
    }
    recent = tables["races"][tables["races"]["year"] >= 2010]
    joined = tables["results"].merge(recent, on="raceId").merge(tables["drivers"], on="driverId")
    named = joined.merge(tables["constructors"], on="constructorId").drop(columns=["driverId", "constructorId"])
    return named.rename(
        columns={
            "year": "season",
            "driverRef": "driver_id",
            "forename": "given_name",
            "surname": "family_name",
            "constructorRef": "constructor_id",
        }
    )


def people(*rows: tuple[int, str, str | None, str | None]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["season", "code", "given_name", "family_name"])


def test_every_driver_of_ergast_since_2010_has_his_id(ergast_results: pd.DataFrame) -> None:
    drivers = ergast_results.drop_duplicates("driver_id").reset_index(drop=True)
    assert len(drivers) == 80
    wrong = drivers.assign(got=driver_ids(drivers)).query("got != driver_id")
    assert wrong.empty, wrong[["got", "driver_id", "given_name", "family_name"]].to_string()


def test_every_driver_of_the_timing_feed_has_his_id(real_data: Path, ergast_results: pd.DataFrame) -> None:
    feed = pd.read_parquet(real_data / "fastf1" / "driver_info_2018_2024.parquet").rename(
        columns={
            "Season": "season",
            "RoundNumber": "round",
            "Abbreviation": "code",
            "FirstName": "given_name",
            "LastName": "family_name",
        }
    )
    joined = feed.assign(got=driver_ids(feed)).merge(ergast_results, on=["season", "round", "code"])
    assert len(joined) >= 2970
    wrong = joined[joined["got"] != joined["driver_id"]]
    assert wrong.empty, wrong[["season", "round", "code", "got", "driver_id"]].to_string()


def test_every_driver_of_openf1_races_has_his_id(real_data: Path, ergast_results: pd.DataFrame) -> None:
    raced = ergast_results.drop_duplicates(["season", "code"])
    for season in (2023, 2024):
        rows = pd.read_parquet(real_data / "openf1" / f"drivers_{season}.parquet")
        rows = rows[rows["session_code"] == "R"].rename(
            columns={"name_acronym": "code", "first_name": "given_name", "last_name": "family_name"}
        )
        joined = rows.assign(got=driver_ids(rows)).merge(raced, on=["season", "code"])
        assert len(joined) == len(rows) > 400
        assert joined["got"].tolist() == joined["driver_id"].tolist()
        got = [constructor_id(team, season) for team in rows["team_name"]]
        assert set(got) == set(ergast_results.loc[ergast_results["season"] == season, "constructor_id"])


def test_every_team_of_the_timing_feed_is_its_constructor(real_data: Path, ergast_results: pd.DataFrame) -> None:
    checked = 0
    for season in SEASONS:
        laps = pd.read_parquet(real_data / "fastf1" / f"laps_{season}.parquet", columns=["RoundNumber", "Driver", "Team"])
        teams = laps.drop_duplicates().rename(columns={"RoundNumber": "round", "Driver": "code"})
        joined = teams.merge(ergast_results[ergast_results["season"] == season], on=["round", "code"])
        got = pd.Series([constructor_id(team, season) for team in joined["Team"]])
        wrong = joined[(got != joined["constructor_id"]).to_numpy()]
        assert wrong.empty, wrong[["season", "round", "code", "Team", "constructor_id"]].to_string()
        checked += len(joined)
    assert checked == 2973


def test_ergasts_own_team_names_since_2018_are_understood(ergast_results: pd.DataFrame) -> None:
    teams = ergast_results[ergast_results["season"].isin(SEASONS)].drop_duplicates(["season", "name"])
    got = [constructor_id(name, season) for name, season in zip(teams["name"], teams["season"], strict=True)]
    assert got == teams["constructor_id"].tolist()


@pytest.mark.parametrize(
    ("given", "family", "ref"),
    [
        ("Kimi", "Räikkönen", "raikkonen"),
        ("Nico", "HULKENBERG", "hulkenberg"),
        ("Nyck", "De Vries", "de_vries"),
        ("MAX", "VERSTAPPEN", "max_verstappen"),
        ("Jos", "Verstappen", "verstappen"),
        ("Andrea Kimi", "Antonelli", "antonelli"),
        ("Arvid", "Lindblad", "arvid_lindblad"),
        (None, "Norris", "norris"),
    ],
)
def test_names_become_ids(given: str | None, family: str, ref: str) -> None:
    assert driver_ids(people((2026, "XXX", given, family))).tolist() == [ref]


def test_a_row_without_a_name_takes_it_from_another_row_of_the_driver() -> None:
    rows = people(
        (2025, "VER", None, None), (2025, "VER", "Max", "Verstappen"), (2024, "VER", None, None), (2025, "FCO", None, " ")
    ).set_index(pd.Index([7, 5, 3, 1]))
    found = driver_ids(rows)
    assert found.index.tolist() == [7, 5, 3, 1]
    assert found.tolist() == ["max_verstappen", "max_verstappen", None, None]


def test_nobody_has_no_id() -> None:
    assert driver_ids(people()).tolist() == []


@pytest.mark.parametrize(
    ("team", "season", "ref"),
    [
        ("Red Bull Racing", 2024, "red_bull"),
        ("Kick Sauber", 2024, "sauber"),
        ("Aston Martin", 2023, "aston_martin"),
        ("Racing Bulls", 2025, "rb"),
        ("Ferrari", 2018, "ferrari"),
        ("Racing Point", 2018, "force_india"),
        ("Racing Point", 2019, "racing_point"),
        ("Cadillac", 2026, "cadillac"),
        ("Audi", 2026, "audi"),
    ],
)
def test_team_names_become_constructor_ids(team: str, season: int, ref: str) -> None:
    assert constructor_id(team, season) == ref
