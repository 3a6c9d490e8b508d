"""Jolpica's documents as typed frames, lap charts on a clock, and pages that do not fit together."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from jolpica_pages import page as cut

from pipelines.errors import SourceFormatError
from pipelines.ingest.base import IngestReport
from pipelines.ingest.canonical import entries, standings
from pipelines.ingest.canonical.reading import FILE, ROW
from pipelines.ingest.canonical.sieve import Sieve
from pipelines.ingest.jolpica import lap_chart
from pipelines.ingest.jolpica import tables as jolpica_tables
from pipelines.ingest.jolpica.pages import Page, PagesDifferError, envelope, read_pages, rows_of

FOLDER = Path(__file__).resolve().parents[2] / "data" / "http" / "jolpica"
URL = "https://jolpica.test/2030"


def document(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def pages(name: str) -> list[Page]:
    return [Page(f"{URL}/{name}.json", f"{name}.json", document(name))]


def utc(text: str) -> pd.Timestamp:
    return pd.Timestamp(text, tz="UTC")


def a_sieve() -> Sieve:
    return Sieve(IngestReport(source="jolpica", is_simulated=False, seasons=[2030]), [2030])


def test_a_schedule_has_the_instants_of_each_weekend() -> None:
    calendar = jolpica_tables.schedule(pages("2030"))
    assert calendar[["season", "round"]].to_numpy().tolist() == [[2030, 1], [2030, 2], [2030, 3]]
    assert calendar["race_start"].tolist()[0] == utc("2030-03-03 15:00")
    assert calendar["qualifying_start"].tolist()[0] == utc("2030-03-02 16:00")
    assert calendar["sprint_start"].isna().tolist() == [True, True, False]
    assert calendar["sprint_date"].isna().tolist() == [True, True, False]
    assert calendar["circuit_id"].tolist() == ["bahrain", "imola", "interlagos"]
    assert calendar[ROW].tolist() == [1, 2, 3]
    assert set(calendar[FILE]) == {"2030.json"}


def test_the_place_of_a_circuit_comes_in_degrees() -> None:
    places = jolpica_tables.circuits(pages("2030")).set_index("circuit_id")
    assert places.loc["interlagos", ["lat_deg", "lng_deg"]].tolist() == [-23.7036, -46.6997]
    assert places.loc["interlagos", "locality"] == "São Paulo"


def test_results_tell_who_is_classified() -> None:
    results = jolpica_tables.results(pages("2030_1_results")).set_index("driver_id")
    assert set(entries.RESULT_CONTENT) <= {*results.columns, "driver_id"}
    assert results["position_text"].tolist()[:2] == ["1", "2"]
    retired = results[results["position_text"] == "R"]
    assert len(retired) == 1
    assert retired["position"].isna().all()
    assert retired["position_order"].notna().all()
    assert results.loc["quick", ["points", "laps_completed", "milliseconds", "car_number"]].tolist() == [
        25.0,
        5.0,
        476930.0,
        91.0,
    ]
    assert (results["grid"] == 0).sum() == 1  # the start from the pit lane


def test_a_driver_without_a_code_gets_the_first_letters_of_the_name() -> None:
    raw = document("2030_1_results")
    driver = raw["MRData"]["RaceTable"]["Races"][0]["Results"][1]["Driver"]
    del driver["code"]
    driver["familyName"] = "Rapido"
    assert jolpica_tables.results([Page(URL, "x", raw)])["code"].tolist()[1] == "RAP"


def test_qualifying_times_are_seconds_and_an_empty_one_is_null() -> None:
    qualified = jolpica_tables.qualifying(pages("2030_3_qualifying"))
    assert qualified.loc[0, ["q1_s", "q2_s", "q3_s"]].tolist() == pytest.approx([71.4, 70.9, 70.3])
    assert qualified["q1_s"].isna().sum() == 1
    assert set(entries.QUALIFYING_CONTENT) <= set(qualified.columns)


def test_a_sprint_has_its_own_points() -> None:
    sprint = jolpica_tables.sprint(pages("2030_3_sprint"))
    assert sprint[["driver_id", "points"]].to_numpy().tolist()[:2] == [["quick", 8.0], ["rapido", 7.0]]
    assert set(standings.SPRINT_CONTENT) <= set(sprint.columns)
    empty = jolpica_tables.sprint(pages("2030_1_sprint"))
    assert empty.empty
    assert list(empty.columns) == list(sprint.columns)


def test_laps_and_pit_stops_are_seconds() -> None:
    laps = jolpica_tables.laps(pages("2030_1_laps"))
    assert len(laps) == 17
    assert laps.loc[0, ["driver_id", "lap", "lap_time_s", "position"]].tolist() == ["quick", 1.0, 97.25, 1.0]
    stops = jolpica_tables.pit_stops(pages("2030_1_pitstops"))
    assert stops.loc[0, ["driver_id", "lap", "time_of_day_s", "duration_s"]].tolist() == ["lento", 2.0, 65238.0, 24.101]


def test_a_long_stop_is_told_in_minutes() -> None:
    raw = document("2030_1_pitstops")
    raw["MRData"]["RaceTable"]["Races"][0]["PitStops"][0]["duration"] = "21:03.456"
    assert jolpica_tables.pit_stops([Page(URL, "x", raw)])["duration_s"].tolist()[0] == pytest.approx(1263.456)


def test_standings_without_a_place_have_none() -> None:
    raw = document("2030_1_driverstandings")
    last = raw["MRData"]["StandingsTable"]["StandingsLists"][0]["DriverStandings"][-1]
    del last["position"]
    last["positionText"] = "-"
    table = jolpica_tables.driver_standings([Page(URL, "x", raw)])
    assert table["position"].isna().tolist() == [False, False, False, True]
    assert table[["driver_id", "points", "wins"]].to_numpy().tolist()[0] == ["quick", 25.0, 1.0]
    teams = jolpica_tables.constructor_standings(pages("2030_1_constructorstandings"))
    assert teams[["constructor_id", "points"]].to_numpy().tolist() == [["north", 43.0], ["south", 15.0]]


def result(raw: dict[str, Any], row: int) -> dict[str, Any]:
    found: dict[str, Any] = raw["MRData"]["RaceTable"]["Races"][0]["Results"][row]
    return found


@pytest.mark.parametrize(
    ("harm", "where", "said"),
    [
        (lambda raw: result(raw, 1).update(points="many"), "row 2, column 'points'", "'many'"),
        (lambda raw: result(raw, 2).update(laps="4.5"), "row 3, column 'laps'", "'4.5'"),
        (lambda raw: result(raw, 0).update(grid=None), "row 1, column 'grid'", "no such field"),
        (lambda raw: result(raw, 0).update(status=""), "row 1, column 'status'", "an empty text"),
        (lambda raw: result(raw, 0).update(Driver="quick"), "row 1, column 'Driver.driverId'", "'quick'"),
        (lambda raw: result(raw, 0).update(Time={"millis": "nan"}), "row 1, column 'Time.millis'", "'nan'"),
        (lambda raw: result(raw, 3).update(position=[4]), "row 4, column 'position'", r"\[4\]"),
        (lambda raw: raw["MRData"]["RaceTable"].update(Races={}), "column 'Races'", "{}"),
        (lambda raw: raw["MRData"]["RaceTable"].update(Races=["race"]), "row 1, column 'Races'", "'race'"),
        (lambda raw: raw["MRData"].pop("RaceTable"), "column 'RaceTable'", "None"),
    ],
)
def test_a_malformed_value_names_url_row_and_field(harm: Callable[[dict[str, Any]], object], where: str, said: str) -> None:
    raw = document("2030_1_results")
    harm(raw)
    with pytest.raises(SourceFormatError, match=f"{URL}/1/results.json(, )?{where}: got {said}.*delete cache/x.response and"):
        jolpica_tables.results([Page(f"{URL}/1/results.json", "x", raw, Path("cache/x.response"))])


@pytest.mark.parametrize("time", ["1:2x.100", "-1:20.000", "nan"])
def test_a_malformed_time_names_url_row_and_field(time: str) -> None:
    raw = document("2030_1_laps")
    raw["MRData"]["RaceTable"]["Races"][0]["Laps"][1]["Timings"][0]["time"] = time
    with pytest.raises(SourceFormatError, match=f"{URL}, row 5, column 'time': got '{time}'"):
        jolpica_tables.laps([Page(URL, "x", raw)])
    schedule = document("2030")
    schedule["MRData"]["RaceTable"]["Races"][1]["date"] = "soon"
    with pytest.raises(SourceFormatError, match="row 2, column 'race': got 'soonT13:00:00Z', expected a date"):
        jolpica_tables.schedule([Page(URL, "x", schedule)])


@pytest.mark.parametrize("limit", [1, 3, 4, 5, 17, 100])
def test_a_race_split_over_pages_is_whole_again(limit: int) -> None:
    whole = document("2030_1_laps")
    read = read_pages(lambda offset, _: Page(URL, f"{offset}", cut(whole, limit, offset)), "laps")
    assert len(read) == -(-17 // limit)
    plain = [FILE, ROW]
    pd.testing.assert_frame_equal(
        jolpica_tables.laps(read).drop(columns=plain), jolpica_tables.laps(pages("2030_1_laps")).drop(columns=plain)
    )


def test_the_limit_of_the_answer_counts_not_the_one_asked_for() -> None:
    whole, asked = document("2030_1_laps"), []

    def ask(offset: int, _: object) -> Page:
        asked.append(offset)
        return Page(URL, "x", cut(whole, 10 if offset == 0 else 3, offset))

    read_pages(ask, "laps")
    assert asked == [0, 10, 13, 16]


def repeating(offset: int, _: object) -> Page:
    return Page(f"{URL}?offset={offset}", "x", cut(document("2030_1_laps"), 4, 0))


def same_rows(offset: int, _: object) -> Page:
    again = cut(document("2030_1_laps"), 4, 0)
    again["MRData"]["offset"] = str(offset)
    return Page(f"{URL}?offset={offset}", "x", again)


def overlapping(offset: int, _: object) -> Page:
    later = cut(document("2030_1_laps"), 4, max(offset - 1, 0))
    later["MRData"]["offset"] = str(offset)
    return Page(f"{URL}?offset={offset}", "x", later)


def too_few(offset: int, _: object) -> Page:
    short = cut(document("2030_1_laps"), 3, offset)
    short["MRData"]["limit"] = "4"
    return Page(f"{URL}?offset={offset}", "x", short)


def without_limit(offset: int, _: object) -> Page:
    page = cut(document("2030_1_laps"), 4, offset)
    page["MRData"]["limit"] = "0"
    return Page(f"{URL}?offset={offset}", "x", page)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (repeating, r"\?offset=4, column 'MRData.offset': got 0, expected 4"),
        (same_rows, r"\?offset=4, row 1, column 'Laps': got a row of an earlier page again: .*quick"),
        (overlapping, r"\?offset=4, row 1, column 'Laps': got a row of an earlier page again"),
        (too_few, r"\?offset=0, column 'Laps': got 3 rows, expected 4 \(limit 4, offset 0, total 17\)"),
        (without_limit, r"\?offset=0, column 'MRData.limit': got '0', expected a whole number of at least 1"),
    ],
)
def test_pages_that_do_not_follow_one_another_are_refused(ask: Callable[[int, object], Page], said: str) -> None:
    with pytest.raises(SourceFormatError, match=said):
        read_pages(ask, "laps")


def test_a_total_that_changes_on_the_way_is_told() -> None:
    def growing(offset: int, _: object) -> Page:
        page = cut(document("2030_1_laps"), 4, offset)
        page["MRData"]["total"] = str(17 + offset)
        return Page(f"{URL}?offset={offset}", "x", page)

    with pytest.raises(PagesDifferError, match=r"\?offset=4, column 'MRData.total': got 21, expected 17"):
        read_pages(growing, "laps")


def test_two_cars_with_one_time_are_two_rows() -> None:
    raw = document("2030_1_pitstops")
    stops = raw["MRData"]["RaceTable"]["Races"][0]["PitStops"]
    stops[1] |= {"lap": "2", "time": "18:07:18", "duration": "24.101"}
    assert len(read_pages(lambda offset, _: Page(URL, "x", cut(raw, 1, offset)), "pitstops")) == 2


@pytest.mark.parametrize("body", [None, [], "text", {}, {"MRData": []}, {"MRData": {"limit": True, "offset": "0", "total": "1"}}])
def test_what_is_no_such_document_is_refused(body: Any) -> None:
    with pytest.raises(SourceFormatError, match=URL):
        envelope(Page(URL, "x", body))
    with pytest.raises(SourceFormatError, match=URL):
        rows_of(Page(URL, "x", body), "results")


def raw_rows(rows: list[Any], columns: list[str]) -> pd.DataFrame:
    """Rows of round 1 with where they came from, typed as `jolpica_tables` types them, rows or none."""
    frame = pd.DataFrame([(2030.0, 1.0, *row) for row in rows], columns=columns)
    typed = frame.astype({column: object if column == "driver_id" else "float64" for column in columns})
    return typed.assign(**{FILE: "x", ROW: range(1, len(rows) + 1)})


def charted(laps: list[tuple[str, int, float]], stops: list[tuple[str, int, float, float]] | None = None) -> Any:
    """`read_chart` of one race of cars `a` and `b`: raw laps, raw stops and the sieve."""
    chart = raw_rows([(*lap, 1.0) for lap in laps], lap_chart.LAP_CONTENT)
    people = pd.DataFrame({"round": [1.0, 1.0], "driver_id": ["a", "b"], "code": ["AAA", "BBB"]})
    sieve = a_sieve()
    return *lap_chart.read_chart(chart, raw_rows(stops or [], lap_chart.STOP_CONTENT), people, sieve), sieve


def test_a_lap_begins_where_the_last_one_ended() -> None:
    laps, stops, _ = charted([("a", 2, 90.001), ("a", 1, 95.5), ("b", 1, 96.25)])
    assert laps[["code", "lap", "start", "end"]].to_numpy().tolist() == [
        ["AAA", 1.0, 0.0, 95.5],
        ["AAA", 2.0, 95.5, 185.501],
        ["BBB", 1.0, 0.0, 96.25],
    ]
    assert stops.empty
    assert laps["stint"].tolist() == [1.0, 1.0, 1.0]
    assert laps[["compound", "track_status", "sector1_s", "tyre_life_laps"]].isna().all(axis=None)
    assert not laps["is_accurate"].any()


def test_laps_after_a_missing_one_have_no_known_instant() -> None:
    laps, _, sieve = charted([("a", 1, 95.0), ("a", 3, 90.0), ("a", 4, 90.0), ("b", 1, 96.0), ("b", 2, 91.0)])
    assert laps[["code", "lap"]].to_numpy().tolist() == [["AAA", 1.0], ["BBB", 1.0], ["BBB", 2.0]]
    assert sieve.report.quarantine_reasons == {"laps": {"an earlier lap is missing: its instant is not known": 2}}


def test_pit_stops_come_onto_the_clock_by_the_laps_they_end() -> None:
    # lights out is at 14:03:20 local time; both cars enter the pit lane some 3 s before the line
    start = 14 * 3600 + 200
    laps, stops, _ = charted(
        [("a", 1, 100.0), ("a", 2, 120.0), ("a", 3, 95.0), ("b", 1, 101.0), ("b", 2, 96.0), ("b", 3, 121.0)],
        [("a", 1, start + 97.0, 22.5), ("b", 2, start + 194.0, 23.0)],
    )
    assert stops[["code", "lap", "stint"]].to_numpy().tolist() == [["AAA", 1.0, 1.0], ["BBB", 2.0, 1.0]]
    assert stops["pit_in"].tolist() == [100.0, 197.0]  # on the line: late by the 3 s, never early
    assert (stops["pit_out"] - stops["pit_in"]).tolist() == [22.5, 23.0]
    by_lap = laps.set_index(["code", "lap"])
    assert by_lap["stint"].tolist() == [1, 2, 2, 1, 1, 2]
    assert by_lap.loc[("AAA", 1), "pit_in"] == 100.0
    assert by_lap.loc[("AAA", 2), "pit_out"] == 122.5
    assert by_lap["pit_in"].notna().sum() == by_lap["pit_out"].notna().sum() == 2


def test_a_stop_that_waits_for_a_red_flag_to_end_does_not_set_the_clock() -> None:
    # all cars stop on lap 2 and wait 15 min before they cross the line; one usual stop tells the time of day at lights out
    start = 50_000.0
    laps, stops, _ = charted(
        [(car, lap, 1000.0 if lap == 2 else 100.0) for car in "ab" for lap in (1, 2, 3, 4)],
        [("a", 2, start + 190, 905.0), ("b", 2, start + 192, 903.0), ("a", 3, start + 1198, 22.0)],
    )
    assert stops["pit_in"].tolist() == [192.0, 1200.0, 194.0]
    assert laps.loc[laps["lap"] == 2, "pit_in"].tolist() == [192.0, 194.0]


def test_a_race_may_go_on_after_midnight() -> None:
    start = 86_400.0 - 150
    _, stops, _ = charted(
        [(car, lap, 100.0) for car in "ab" for lap in (1, 2, 3)],
        [("a", 1, start + 98, 20.0), ("b", 2, start + 198 - 86_400, 20.0)],
    )
    assert stops["pit_in"].tolist() == [100.0, 200.0]


def test_a_stop_of_a_car_without_that_lap_keeps_its_time_of_day() -> None:
    _, stops, _ = charted(
        [("a", 1, 100.0), ("a", 2, 100.0), ("b", 1, 101.0)], [("a", 1, 50_098.0, 21.0), ("b", 2, 50_160.0, 300.0)]
    )
    assert stops["pit_in"].tolist() == [100.0, 162.0]


def test_stops_of_a_race_without_laps_have_no_instant() -> None:
    _, stops, sieve = charted([], [("a", 1, 50_098.0, 21.0)])
    assert stops.empty
    assert sieve.report.quarantine_reasons == {"pit_stops": {"no instant of pit entry": 1}}
