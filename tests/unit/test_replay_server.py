"""The stand-in for the web answers as the web does: pages add up, filters filter, and what is made equals what was recorded."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from http_recorded import recorded_jolpica, recorded_livetiming, recorded_openf1, recorded_schedule
from hypothesis import given
from hypothesis import strategies as st
from jolpica_pages import jolpica_from_ergast, jolpica_from_folder, page, window
from replay_server import ReplayServer, Request, Response

AUTHORED = Path(__file__).resolve().parents[1] / "data" / "http" / "jolpica"


def asked(path: str, query: str = "") -> Request:
    params = dict(part.split("=", 1) for part in query.split("&") if "=" in part)
    return Request("GET", path, params, {}, query)


def decoded(response: Response | None) -> Any:
    assert response is not None
    return json.loads(response.content)


def rows(document: Any) -> list[str]:
    """Every row that counts, with its race's round or its lap's number, in order."""
    found = []
    for race in document["MRData"]["RaceTable"]["Races"]:
        for lap in race["Laps"]:
            assert lap["Timings"]
            found += [f"{race['round']} {lap['number']} {timing['driverId']}" for timing in lap["Timings"]]
    return found


@given(st.integers(1, 100))
def test_pages_of_any_size_add_up_to_the_whole(limit: int) -> None:
    whole = json.loads((AUTHORED / "2030_1_laps.json").read_text(encoding="utf-8"))
    total = int(whole["MRData"]["total"])
    pages = [page(whole, limit, offset) for offset in range(0, total + limit, limit)]
    assert [row for part in pages for row in rows(part)] == rows(whole)
    assert all(len(rows(part)) <= limit for part in pages)
    assert {part["MRData"]["total"] for part in pages} == {str(total)}


def test_the_service_gives_30_rows_unless_asked_and_never_more_than_100() -> None:
    assert window({}) == (30, 0)
    assert window({"limit": "1200", "offset": "7"}) == (100, 7)


def test_what_nobody_answers_is_a_404_and_a_failing_handler_fails_the_test() -> None:
    with ReplayServer() as server, pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{server.url}/ergast/f1/1950.json")

    def broken(request: Request) -> Response:
        raise ZeroDivisionError

    with pytest.raises(AssertionError, match="ZeroDivisionError"), ReplayServer() as server:
        server.serve(broken)
        with pytest.raises(urllib.error.HTTPError, match="500"):
            urllib.request.urlopen(server.url)


def test_every_authored_list_is_served_by_its_path() -> None:
    serve = jolpica_from_folder(AUTHORED)
    for file in AUTHORED.glob("*.json"):
        path = f"/ergast/f1/{file.stem.replace('_', '/')}.json"
        assert decoded(serve(asked(path, "limit=100")))["MRData"]["url"].endswith(path)
    assert serve(asked("/ergast/f1/2030/9/results.json")) is None


class TestRecorded:
    def test_pages_are_the_recorded_bytes_or_cut_from_them(self, real_data: Path) -> None:
        serve = recorded_jolpica(real_data)
        recorded = (real_data / "raw_api" / "jolpica" / "2023_1_results.json").read_bytes()
        same = serve(asked("/ergast/f1/2023/1/results.json"))
        assert same is not None
        assert same.content == recorded
        cut = decoded(serve(asked("/ergast/f1/2023/1/results/", "limit=3&offset=18")))["MRData"]
        (race,) = cut["RaceTable"]["Races"]
        assert [row["position"] for row in race["Results"]] == ["19", "20"]
        assert (cut["limit"], cut["offset"], cut["total"]) == ("3", "18", "20")
        assert decoded(serve(asked("/2023/1/laps.json", "limit=1200")))["MRData"]["total"] == "1055"
        assert serve(asked("/ergast/f1/2023/1/laps.json", "limit=100&offset=100")) is None  # nobody recorded that page

    def test_made_pages_say_what_recorded_ones_say(self, real_data: Path) -> None:
        recorded, made = recorded_jolpica(real_data), jolpica_from_ergast(real_data)
        for round_ in (1, 5, 9):
            path = f"/ergast/f1/2023/{round_}/results.json"
            real, ours = (decoded(serve(asked(path))) for serve in (recorded, made))
            assert ours["MRData"]["total"] == real["MRData"]["total"]
            for left, right in zip(*(every["MRData"]["RaceTable"]["Races"] for every in (real, ours)), strict=True):
                assert {**left, "Results": 0, "url": 0, "Circuit": 0} == {**right, "Results": 0, "url": 0, "Circuit": 0}
                for theirs, mine in zip(left["Results"], right["Results"], strict=True):
                    for name in ("number", "position", "points", "laps", "FastestLap"):
                        assert mine[name] == theirs[name], (round_, mine, theirs)
                    assert mine["Driver"]["driverId"] == theirs["Driver"]["driverId"]
                    assert mine.get("Time", theirs.get("Time")) == theirs.get("Time")  # the dump lacks those of lapped drivers
        sessions = [
            [set(race) - {"url", "Circuit"} for race in decoded(serve(asked("/2023.json")))["MRData"]["RaceTable"]["Races"]]
            for serve in (recorded, made)
        ]
        assert sessions[0] == sessions[1]
        for path in ("/2023/5/driverstandings.json", "/2023/13/constructorstandings.json"):
            ((real,), (ours,)) = (
                decoded(serve(asked(path)))["MRData"]["StandingsTable"]["StandingsLists"] for serve in (recorded, made)
            )
            (name,) = set(real) - {"season", "round"}
            assert [(row["position"], row["points"], row["wins"]) for row in ours[name]] == [
                (row["position"], row["points"], row["wins"]) for row in real[name]
            ]

    def test_a_season_of_made_results_is_whole(self, real_data: Path) -> None:
        serve = jolpica_from_ergast(real_data)
        found = []
        for offset in range(0, 500, 100):
            document = decoded(serve(asked("/2023/results.json", f"limit=100&offset={offset}")))["MRData"]
            assert document["total"] == "440"
            found += [(race["round"], row["number"]) for race in document["RaceTable"]["Races"] for row in race["Results"]]
        assert len(found) == len(set(found)) == 440

    def test_openf1_rows_are_filtered_and_typed(self, real_data: Path) -> None:
        serve = recorded_openf1(real_data)
        laps = decoded(serve(asked("/v1/laps", "session_key=9472&driver_number=1&lap_number%3E=56")))
        assert [lap["lap_number"] for lap in laps] == [56, 57]
        assert "round" not in laps[0]
        assert isinstance(laps[0]["segments_sector_1"], list)
        two = decoded(serve(asked("/v1/session_result", "session_key=9472&driver_number=1&driver_number=11")))
        assert [row["driver_number"] for row in two] == [1, 11]
        late = decoded(serve(asked("/v1/weather", "session_key=9472&date>2024-03-02T16:30:00&date<=2024-03-02T16:31:00")))
        assert len(late) == 1
        assert {type(row["lap_number"]) for row in decoded(serve(asked("/v1/race_control", "session_key=9078")))} <= {
            int,
            type(None),
        }
        nothing = serve(asked("/v1/laps", "session_key=1"))
        assert nothing is not None
        assert nothing.status == 404
        assert serve(asked("/v1/car_data", "session_key=9472")) is None

    def test_streams_and_schedules_are_the_recorded_bytes(self, real_data: Path) -> None:
        folder = "2018-04-29_Azerbaijan_Grand_Prix/2018-04-29_Race"
        stream = recorded_livetiming(real_data)(asked(f"/static/2018/{folder}/TimingData.jsonStream"))
        assert stream is not None
        assert stream.content.startswith(b"\xef\xbb\xbf")
        assert recorded_livetiming(real_data)(asked("/static/2018/../../x.jsonStream")) is None
        schedule = decoded(recorded_schedule(real_data)(asked("/theOehrly/f1schedule/master/schedule_2023.json")))
        assert len(schedule["event_name"]) >= 22
