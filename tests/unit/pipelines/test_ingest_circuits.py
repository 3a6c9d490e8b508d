"""The table of circuits says what f1db and Ergast say of all races 2018-2024, and knows every name that services use."""

import json
from pathlib import Path

import pandas as pd
import pytest

from pipelines.errors import SourceMissingError
from pipelines.ingest.base import IngestReport
from pipelines.ingest.canonical.circuits import (
    attach_courses,
    circuit_facts,
    circuit_id_of_location,
    circuit_id_of_openf1,
    circuits,
)
from pipelines.ingest.canonical.courses import COURSE, read_courses
from pipelines.schemas import CIRCUIT_TYPES, DIRECTIONS, TABLES

SEASONS = range(2018, 2025)


@pytest.fixture
def report() -> IngestReport:
    return IngestReport("jolpica", is_simulated=False, seasons=[2024])


@pytest.fixture(scope="module")
def ergast_races(real_data: Path) -> pd.DataFrame:
    """`season, round, circuit_id` and Ergast's facts about the circuit, of all races 2018-2024."""
    races = pd.read_csv(real_data / "ergast" / "races.csv", usecols=["year", "round", "circuitId"])
    places = pd.read_csv(real_data / "ergast" / "circuits.csv")
    joined = races[races["year"].isin(SEASONS)].merge(places, on="circuitId")
    return joined.rename(columns={"year": "season", "circuitRef": "circuit_id"}).sort_values(
        ["season", "round"], ignore_index=True
    )


def calendar_of(*races: tuple[int, int, str]) -> pd.DataFrame:
    return pd.DataFrame(races, columns=["season", "round", "circuit_id"]).astype({"season": "int64", "round": "int64"})


def f1db_path(folder: Path, *races: str) -> Path:
    header = "season,round,circuitType,direction,courseLength,turns,laps,scheduledLaps"
    (folder / "f1db").mkdir(parents=True)
    (folder / "f1db" / "races.csv").write_text("\n".join([header, *races]) + "\n", encoding="utf-8")
    return folder


def test_every_course_of_2018_to_2024_is_the_one_in_f1db(
    real_data: Path, ergast_races: pd.DataFrame, report: IngestReport
) -> None:
    calendar = ergast_races[["season", "round", "circuit_id"]]
    ours = attach_courses(calendar, [], report)
    assert ours[["season", "round", "circuit_id"]].equals(calendar)
    both = ours.merge(read_courses(real_data), on=["season", "round"], suffixes=("", "_f1db"))
    assert len(both) == 149
    # to 10 m; the scheduled laps are those of the full distance, also where a race was cut short (2021 Belgian Grand Prix)
    assert ((both["course_length_km"] - both["course_length_km_f1db"]).abs() < 0.010).all()
    for column in COURSE[1:]:
        differing = both.loc[both[column] != both[f"{column}_f1db"], ["season", "round", "circuit_id", column, f"{column}_f1db"]]
        assert differing.empty, differing.to_string()
    assert report.notes == []


def test_places_are_where_ergast_has_them(ergast_races: pd.DataFrame) -> None:
    ergast = ergast_races.drop_duplicates("circuit_id").set_index("circuit_id")
    ours = circuit_facts().set_index("circuit_id").loc[ergast.index]
    assert ((ours["lat_deg"] - ergast["lat"]).abs() < 0.01).all()
    assert ((ours["lng_deg"] - ergast["lng"]).abs() < 0.01).all()
    assert ((ours["altitude_m"] - ergast["alt"].astype(float)).abs() <= 5).all()
    assert [circuit_id_of_location(place) for place in ergast["location"]] == list(ergast.index)


def test_the_table_fits_the_schemas() -> None:
    facts = circuit_facts()
    assert facts["circuit_id"].is_unique
    assert facts.notna().all(axis=None)
    assert set(facts.columns) < set(TABLES["circuits"].columns)
    for circuit in circuits().values():
        assert circuit.circuit_type in CIRCUIT_TYPES
        assert circuit.direction in DIRECTIONS
        assert all(1 < layout.length_km < 30 and 250 < layout.length_km * layout.laps < 320 for layout in circuit.layouts), (
            circuit.id
        )
        assert [layout.since for layout in circuit.layouts] == sorted(layout.since for layout in circuit.layouts)


def test_no_name_means_two_circuits() -> None:
    for circuit in circuits().values():
        assert {circuit_id_of_openf1(name) for name in circuit.openf1} == {circuit.id}
        assert {circuit_id_of_location(place) for place in circuit.locations} == {circuit.id}


def test_every_openf1_meeting_is_at_a_known_circuit(real_data: Path, ergast_races: pd.DataFrame) -> None:
    meetings = pd.concat([pd.read_parquet(real_data / "openf1" / f"meetings_{season}.parquet") for season in (2023, 2024)])
    held = meetings[meetings["meeting_name"] != "Pre-Season Testing"].sort_values("date_start")
    held = held.assign(round=held.groupby("season").cumcount() + 1, circuit=held["circuit_short_name"].map(circuit_id_of_openf1))
    joined = held.merge(ergast_races[["season", "round", "circuit_id"]], on=["season", "round"])
    assert len(joined) == 46
    assert joined["circuit"].tolist() == joined["circuit_id"].tolist()


def test_every_place_in_the_event_schedules_is_known(real_data: Path, ergast_races: pd.DataFrame) -> None:
    expected = {
        (season, round_): ref for season, round_, ref in ergast_races[["season", "round", "circuit_id"]].itertuples(index=False)
    }
    got = {}
    for season in SEASONS:
        schedule = json.loads((real_data / "f1schedule" / f"schedule_{season}.json").read_text(encoding="utf-8"))
        for index, round_ in schedule["round_number"].items():
            got[season, round_] = circuit_id_of_location(schedule["location"][index])
    tests = {key: got.pop(key) for key in list(got) if key[1] == 0}
    assert got == expected
    assert None not in tests.values()


@pytest.mark.parametrize(
    ("place", "circuit_id"),
    [("Miami Gardens", "miami"), ("Madrid", "madring"), ("Barcelona", "catalunya"), ("Yas Marina", "yas_marina")],
)
def test_places_of_the_schedules_of_2025_and_2026_are_known(place: str, circuit_id: str) -> None:
    assert circuit_id_of_location(place) == circuit_id


@pytest.mark.parametrize("written", ["Montréal", "Montreal", "montréal", " Montréal "])
def test_names_are_read_with_and_without_accents(written: str) -> None:
    assert circuit_id_of_location(written) == circuit_id_of_openf1(written) == "villeneuve"


def test_an_unknown_name_is_no_circuit() -> None:
    assert circuit_id_of_openf1("Atlantis") is None
    assert circuit_id_of_location("") is None


def test_the_outer_circuit_counts_for_one_race_only(report: IngestReport) -> None:
    found = attach_courses(calendar_of((2020, 15, "bahrain"), (2020, 16, "bahrain"), (2021, 16, "bahrain")), [], report)
    assert found["course_length_km"].tolist() == [5.412, 3.543, 5.412]
    assert found["scheduled_laps"].tolist() == [57, 87, 57]


def test_a_race_in_f1db_of_a_path_wins_and_the_last_path_wins(tmp_path: Path, report: IngestReport) -> None:
    first = f1db_path(tmp_path / "a", "2024,1,RACE,CLOCKWISE,5.0,10,50,", "2024,2,STREET,CLOCKWISE,6.0,12,40,45")
    second = f1db_path(tmp_path / "b", "2024,1,ROAD,ANTI_CLOCKWISE,5.5,11,51,", "2024,9,RACE,CLOCKWISE,,10,50,")
    calendar = calendar_of((2024, 1, "bahrain"), (2024, 2, "atlantis"), (2024, 9, "villeneuve")).assign(name=["A", "B", "C"])
    found = attach_courses(calendar, [first, second, tmp_path / "absent"], report)
    assert found["name"].tolist() == ["A", "B", "C"]
    assert found[COURSE].to_numpy().tolist() == [
        [5.5, 11, "road", "anti_clockwise", 51],
        [6.0, 12, "street", "clockwise", 45],
        [4.361, 14, "street", "clockwise", 70],  # a row of f1db without a length says nothing
    ]


@pytest.mark.parametrize(("race", "has"), [((2024, 3, "atlantis"), "other circuits"), ((2019, 3, "vegas"), "vegas from 2023 on")])
def test_an_unknown_course_says_where_to_get_it(race: tuple[int, int, str], has: str, report: IngestReport) -> None:
    with pytest.raises(
        SourceMissingError, match=f"'{race[2]}' .season {race[0]}, round 3.*{has}; add --path DIR with an f1db/races.csv"
    ):
        attach_courses(calendar_of(race), [], report)


def test_a_season_later_than_the_table_is_noted(report: IngestReport) -> None:
    found = attach_courses(calendar_of((2026, 1, "albert_park"), (2031, 2, "monza")), [], report)
    assert found["turns"].tolist() == [14, 11]
    assert report.notes == ["course of monza in 2031 is not known yet: taken from 2026"]


def test_no_races_have_no_courses(report: IngestReport, tmp_path: Path) -> None:
    path = f1db_path(tmp_path / "a", "2024,1,RACE,CLOCKWISE,5.0,10,50,")
    for paths in ([], [path]):
        found = attach_courses(calendar_of(), paths, report)
        assert found.empty
        assert list(found.columns) == ["season", "round", "circuit_id", *COURSE]
