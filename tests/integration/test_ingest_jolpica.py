"""The Jolpica source through the real client over a real socket: recorded seasons, faults, stops and second runs."""

import copy
import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from http_recorded import recorded_jolpica
from jolpica_made import laps_from_fastf1, seasons_from_folder
from jolpica_pages import jolpica_from_ergast, jolpica_from_folder
from jolpica_pages import page as cut
from killed_run import kill_on_the_way
from lake_differences import lake_hashes
from replay_server import (
    Clock,
    Handler,
    ReplayServer,
    Request,
    Response,
    html_page,
    in_turn,
    once,
    reset,
    server_error,
    slow,
    too_many,
    truncated,
    wrong_type,
)

from feature_repo.settings import Settings
from pipelines.errors import SourceFormatError, SourceMissingError, SourcePausedError
from pipelines.ingest.base import IngestReport, SeasonTables
from pipelines.ingest.catalogue import source_info
from pipelines.ingest.files.ergast import ErgastDump
from pipelines.ingest.files.source import FilesSource
from pipelines.ingest.jolpica.source import JolpicaSource
from pipelines.ingest.run import ingest
from pipelines.ingest.web.client import Limits, PoliteClient
from pipelines.lake import Lake
from pipelines.schemas import conform, validate

AUTHORED = Path(__file__).resolve().parents[1] / "data" / "http" / "jolpica"
BASE = "/ergast/f1"
DAY = 86_400.0
AFTER = pd.Timestamp("2031-03-01", tz="UTC").timestamp()  # the season of the hand-written responses is over


@pytest.fixture
def server() -> Iterator[ReplayServer]:
    with ReplayServer() as replay:
        replay.serve(jolpica_from_folder(AUTHORED))
        replay.serve(seasons_from_folder(AUTHORED))
        yield replay


def a_source(server: ReplayServer, home: Path, clock: Clock | None = None, **options: Any) -> JolpicaSource:
    """A source of its own, as a new run makes it; `home` holds the cache."""
    clock = clock or Clock(AFTER)
    settings = Settings(home=home, jolpica_url=f"{server.url}{BASE}")
    limits = options.pop("limits", Limits(per_second=100_000))
    client = PoliteClient(
        "jolpica",
        settings.jolpica_url,
        settings.cache_dir,
        limits,
        refresh=options.pop("refresh", False),
        sleep=clock.sleep,
        clock=clock,
        **{name: options.pop(name) for name in ("timeout_s", "max_retries") if name in options},
    )
    _open_clients.append(client)
    return JolpicaSource(settings, client=client, clock=clock, **options)


_open_clients: list[PoliteClient] = []


@pytest.fixture(autouse=True)
def no_client_stays_open() -> Iterator[None]:
    """Close the clients that a test and its fixtures made."""
    yield
    while _open_clients:
        _open_clients.pop().close()


def read(source: JolpicaSource | FilesSource, *seasons: int) -> tuple[list[SeasonTables], IngestReport]:
    """What the source yields, and its report, whose books are right."""
    report = IngestReport(source=source.name, is_simulated=False, seasons=list(seasons))
    offered = list(source.read(seasons, report))
    for season in offered:
        for name, rows in season.tables.items():
            report.table(name).rows_written += len(rows)
    assert {name: account.unaccounted for name, account in report.tables.items() if account.unaccounted} == {}
    return offered, report


def same(left: SeasonTables, right: SeasonTables) -> None:
    assert set(left.tables) == set(right.tables) == set(source_info("jolpica").tables)
    for name in left.tables:
        pd.testing.assert_frame_equal(left.tables[name], right.tables[name])


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> SeasonTables:
    """The hand-written season as a service without faults gives it, fit for the lake."""
    with ReplayServer() as replay:
        replay.serve(jolpica_from_folder(AUTHORED))
        replay.serve(seasons_from_folder(AUTHORED))
        [season], _ = read(a_source(replay, tmp_path_factory.mktemp("clean")), 2030)
    return replace(season, tables={name: validate(name, rows, 2030) for name, rows in season.tables.items()})


def same_as_clean(season: SeasonTables, clean: SeasonTables) -> None:
    same(replace(season, tables={name: conform(name, rows) for name, rows in season.tables.items()}), clean)


def answer_of(handler: Handler, path: str, **params: str) -> dict[str, Any]:
    found = handler(Request("GET", f"{BASE}/{path}", params, {}))
    assert found is not None
    return dict(found.body)


# --- whole seasons ---------------------------------------------------------------------------------------------------------


def test_a_season_with_a_sprint_and_a_cancelled_race(server: ReplayServer, tmp_path: Path, clean: SeasonTables) -> None:
    [season], report = read(a_source(server, tmp_path), 2030)
    same_as_clean(season, clean)
    tables = clean.tables
    assert season.rounds is None
    assert tables["races"]["race_id"].tolist() == ["2030_01", "2030_03"]
    assert "season 2030: rounds 2 are in the calendar but have no results; not ingested" in report.notes
    assert report.table("races").rows_other_session == 1

    entries = tables["entries"].set_index(["race_id", "driver_id"])
    assert entries.loc[("2030_01", "quick"), ["position", "points", "grid"]].tolist() == [1.0, 25.0, 1]
    assert entries.loc["2030_01", "is_pit_lane_start"].sum() == 1
    assert entries.loc["2030_01", "is_classified"].sum() == 3

    sprint = tables["sprint_results"].set_index("driver_id")
    assert set(sprint["race_id"]) == {"2030_03"}
    assert sprint.loc["quick", ["position", "points", "laps_completed"]].tolist() == [1.0, 8.0, 3]
    began = pd.Timestamp(
        answer_of(jolpica_from_folder(AUTHORED), "2030.json")["MRData"]["RaceTable"]["Races"][2]["Sprint"]["date"]
    )
    took = sprint["event_timestamp"].iloc[0].tz_localize(None) - began
    assert pd.Timedelta(0) < took < pd.Timedelta(days=1)
    assert (sprint["created_timestamp"] - sprint["event_timestamp"] == pd.Timedelta(hours=3)).all()

    standings = tables["driver_standings"].set_index(["race_id", "driver_id"])
    assert standings.loc[("2030_03", "quick"), ["position", "points", "wins"]].tolist() == [1, 51.0, 1]
    ends = tables["races"].set_index("race_id")["race_end"]
    assert standings.loc[("2030_01", "quick"), "created_timestamp"] == ends["2030_01"] + pd.Timedelta(hours=3)
    assert tables["constructor_standings"]["points"].tolist() == [43.0, 15.0, 101.0, 36.0]

    laps = tables["laps"].set_index(["race_id", "driver_id", "lap"])
    start = tables["races"].set_index("race_id").loc["2030_01", "race_start"]
    assert laps.loc[("2030_01", "quick", 1), "event_timestamp"] == start + pd.Timedelta(seconds=97.25)
    assert laps.loc[("2030_01", "quick", 5), "event_timestamp"] == ends["2030_01"] == start + pd.Timedelta(seconds=476.93)
    assert laps.loc[("2030_01", "rapido"), "stint"].tolist() == [1, 1, 1, 2, 2]
    stops = tables["pit_stops"].set_index(["race_id", "driver_id"])
    assert stops.loc[("2030_01", "rapido"), "pit_lane_time_s"] == 23.54


def test_a_season_that_does_not_exist_and_one_without_results(server: ReplayServer, tmp_path: Path) -> None:
    own_client = JolpicaSource(Settings(home=tmp_path, jolpica_url=f"{server.url}{BASE}"))
    with pytest.raises(SourceMissingError, match="season 2031: got an empty calendar"):
        read(own_client, 2031)
    with pytest.raises(
        SourceMissingError, match="season 2030: got no results of rounds 2, expected those of races that were held"
    ):
        read(a_source(server, tmp_path, rounds=[2]), 2030)


def test_some_rounds_are_asked_for_one_by_one(server: ReplayServer, tmp_path: Path, clean: SeasonTables) -> None:
    [some], report = read(a_source(server, tmp_path, rounds=[3, 2]), 2030)
    assert some.rounds == {3}
    assert not any("/2030/1/" in path or "/2030/results" in path for path in server.paths())
    for name in ("races", "entries", "laps", "sprint_results", "driver_standings", "pit_stops"):
        expected = clean.tables[name][clean.tables[name]["race_id"] == "2030_03"].reset_index(drop=True)
        pd.testing.assert_frame_equal(conform(name, some.tables[name]), expected)
    assert "season 2030: rounds 2 are in the calendar but have no results; not ingested" in report.notes


def test_a_round_that_the_season_does_not_have(server: ReplayServer, tmp_path: Path) -> None:
    with pytest.raises(SourceMissingError, match=r"season 2030: got no rounds 7, 9, expected rounds 1-3"):
        read(a_source(server, tmp_path, rounds=[1, 7, 9]), 2030)


@pytest.fixture(scope="module")
def real(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Rounds 1-3 of 2023 and all of 2024 as the source gives them, with its report and the requests."""
    with ReplayServer() as server:
        for handler in (recorded_jolpica(real_data), laps_from_fastf1(real_data), jolpica_from_ergast(real_data)):
            server.serve(handler)
        home, now = tmp_path_factory.mktemp("real"), Clock(pd.Timestamp("2026-11-20", tz="UTC").timestamp())
        [first], _ = read(a_source(server, home, now, rounds=[1, 2, 3]), 2023)
        server.requests.clear()
        [second], report = read(a_source(server, home, now), 2024)
        tables = {name: validate(name, rows, 2024) for name, rows in second.tables.items()}
        return {"2023": first.tables, "2024": tables, "report": report, "requests": len(server.requests)}


def test_a_real_season_costs_less_than_an_hour_of_requests(real: dict[str, Any]) -> None:
    assert real["requests"] < 400
    assert len(real["2024"]["races"]) == 24
    assert len(real["2024"]["sprint_results"]) == 120
    assert real["2024"]["driver_standings"].groupby("race_id").size().min() == 20
    assert len(real["2024"]["laps"]) > 26_000
    assert real["report"].quarantine_reasons == {}


def test_a_real_season_equals_the_dump_of_the_same_database(real: dict[str, Any], real_data: Path) -> None:
    dump = ErgastDump(real_data)
    assert dump.results is not None
    assert dump.qualifying is not None
    key = ["round", "driver_id"]
    official = dump.results[dump.results["season"] == 2024].set_index(key).sort_index()
    ours = real["2024"]["entries"].set_index(key).sort_index()
    for column in ("constructor_id", "code", "car_number", "position", "position_order", "points", "laps_completed", "status"):
        pd.testing.assert_series_equal(
            ours[column].astype(official[column].dtype), official[column], check_dtype=False, check_index_type=False
        )
    timed = dump.qualifying[dump.qualifying["season"] == 2024].set_index(key).sort_index()
    qualified = real["2024"]["qualifying"].set_index(key).sort_index()
    for column in ("position", "q1_s", "q2_s", "q3_s"):
        np.testing.assert_allclose(qualified[column].astype(float), timed[column].astype(float), atol=1e-9)


def test_sprints_and_standings_of_a_real_season_equal_those_of_files(real: dict[str, Any], real_data: Path) -> None:
    [files], report = read(FilesSource([real_data]), 2024)
    assert report.tables["driver_standings"].rows_read > 30_000  # the dump has every race since 1950
    for table, key, rows in (
        ("sprint_results", "driver_id", 120),
        ("driver_standings", "driver_id", 519),
        ("constructor_standings", "constructor_id", 240),
    ):
        theirs, ours = (
            conform(table, tables[table]).sort_values(["round", key], ignore_index=True)
            for tables in (real["2024"], files.tables)
        )
        assert len(ours) == rows
        said = [column for column in ours if column not in ("source", "event_timestamp", "created_timestamp")]
        pd.testing.assert_frame_equal(ours[said], theirs[said])
        if table == "sprint_results":  # the standings' instant is the flag, which the timing feed knows better
            later = (theirs["event_timestamp"] - ours["event_timestamp"]).groupby(ours["round"]).first()
            # the schedule of today corrects the start of Qatar's sprint, 13:00 in the dump, to 14:00
            assert later.dt.total_seconds().to_dict() == {5: 0, 6: 0, 11: 0, 19: 0, 21: 0, 23: 3600}


def test_recorded_laps_are_the_laps_of_the_timing_feed(real: dict[str, Any], real_data: Path) -> None:
    # the first 100 rows of 2023 R1 were recorded: laps 1 to 5 of all cars
    feed = pd.read_parquet(real_data / "fastf1" / "laps_2023.parquet", columns=["RoundNumber", "Driver", "LapNumber", "LapTime"])
    feed = feed[(feed["RoundNumber"] == 1) & feed["LapNumber"].between(2, 5)]
    laps = real["2023"]["laps"].merge(real["2023"]["entries"][["race_id", "driver_id", "code"]], on=["race_id", "driver_id"])
    joined = laps[laps["round"] == 1].merge(feed, left_on=["code", "lap"], right_on=["Driver", "LapNumber"])
    assert len(joined) == 80
    np.testing.assert_allclose(joined["lap_time_s"], joined["LapTime"].dt.total_seconds(), atol=1e-9)


def test_pit_entries_of_a_real_season_are_seconds_late_and_never_early(real: dict[str, Any], real_data: Path) -> None:
    columns = ["Season", "Round", "Driver", "LapNumber", "PitInTime", "PitOutTime"]
    feed = pd.read_parquet(real_data / "fastf1_undercut" / "pit_stops_2018_2024.parquet", columns=columns)
    feed = feed[feed["Season"] == 2024].rename(columns={"Round": "round", "Driver": "code", "LapNumber": "lap"})
    starts = pd.read_parquet(
        real_data / "fastf1" / "laps_2024.parquet", columns=["RoundNumber", "LapNumber", "LapStartTime"]
    ).query("LapNumber == 1")
    lights_out = starts.groupby("RoundNumber")["LapStartTime"].agg(lambda values: values.mode().min())
    tables = real["2024"]
    stops = tables["pit_stops"].merge(tables["entries"][["race_id", "driver_id", "code"]], on=["race_id", "driver_id"])
    stops = stops.merge(tables["races"][["race_id", "race_start"]], on="race_id").merge(feed, on=["round", "code", "lap"])
    elapsed = (stops["pit_in"] - stops["race_start"]).dt.total_seconds()
    late = elapsed - (stops["PitInTime"] - stops["round"].map(lights_out)).dt.total_seconds()
    assert len(late) > 800
    assert late.quantile(0.02) > -1.5
    assert 1.0 < late.median() < 4.0
    assert late.quantile(0.98) < 25.0
    took = (stops["PitOutTime"] - stops["PitInTime"]).dt.total_seconds() - stops["pit_lane_time_s"]
    assert took.abs().quantile(0.95) < 0.5


# --- faults ----------------------------------------------------------------------------------------------------------------


def test_passing_faults_all_over_a_season_change_nothing(server: ReplayServer, tmp_path: Path, clean: SeasonTables) -> None:
    faults = {
        "2030": truncated(),
        "2030/results": html_page(),
        "2030/qualifying": too_many(7),
        "2030/sprint": Response(body={"MRData": {}}),
        "2030/1/laps": reset(),
        "2030/1/pitstops": server_error(),
        "2030/3/laps": html_page(503),
    }
    for path, fault in faults.items():
        server.on(f"{BASE}/{path}.json", once(fault))
    clock = Clock(AFTER)
    [found], _ = read(a_source(server, tmp_path, clock), 2030)
    same_as_clean(found, clean)
    again = {path for path, times in Counter(server.paths()).items() if times == 2}
    assert again == {f"{BASE}/{path}.json?limit=100" for path in faults}
    assert sum(wait >= 7 for wait in clock.slept) == 1


@dataclass(frozen=True)
class Lasting:
    """A fault that stays: where, what is answered, what is asked for, and the error that names it."""

    path: str | None
    answer: Any
    error: type[Exception]
    said: str
    season: int = 2030
    rounds: list[int] | None = None


LAPS = r"2030/3/laps.json\?limit=100"
LASTING = {
    "truncated JSON": Lasting("2030/3/laps", truncated(), SourceFormatError, LAPS + ": got .*expected one whole JSON document"),
    "HTML page": Lasting("2030/3/laps", html_page(), SourceFormatError, LAPS + ": got text/html.*expected application/json"),
    "wrong type": Lasting("2030/3/laps", wrong_type(), SourceFormatError, LAPS + ": got text/csv.*expected application/json"),
    "other JSON": Lasting("2030/3/laps", {"MRData": {}}, SourceFormatError, LAPS + ", column 'MRData.limit': got None"),
    "429": Lasting("2030/3/laps", too_many(1800), SourcePausedError, LAPS + ": got HTTP 429.*season 2030: 1 of 2 races are"),
    "reset": Lasting("2030/3/laps", reset(), SourcePausedError, LAPS + ".*run the same command again.*1 of 2 races"),
    "slow body": Lasting("2030/3/laps", slow({"MRData": {}}, 600), SourcePausedError, LAPS + ": got ReadTimeout.*1 of 2 races"),
    "sprint weekend": Lasting(
        "2030/sprint", truncated(), SourceFormatError, "2030/sprint.json.*expected one whole JSON document"
    ),
    "cancelled race": Lasting(None, None, SourceMissingError, "got no results of rounds 2", rounds=[2]),
    "empty season": Lasting(None, None, SourceMissingError, "season 2031: got an empty calendar", season=2031),
}


@pytest.fixture(scope="module")
def first_race(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home into which round 1 was ingested."""
    home = tmp_path_factory.mktemp("first") / "home"
    with ReplayServer() as replay:
        replay.serve(jolpica_from_folder(AUTHORED))
        ingest(Settings(home=home), a_source(replay, home, rounds=[1]), [2030])
    return home


@pytest.fixture(scope="module")
def whole_lake(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The lake of the hand-written season, ingested at once from a service without faults."""
    home = Settings(home=tmp_path_factory.mktemp("whole") / "home")
    with ReplayServer() as replay:
        replay.serve(jolpica_from_folder(AUTHORED))
        replay.serve(seasons_from_folder(AUTHORED))
        ingest(home, a_source(replay, home.home), [2030])
    return lake_hashes(home.lake_dir)


# a page that repeats: `test_a_page_that_repeats_ends_in_an_error_and_is_not_kept`
@pytest.mark.parametrize("fault", LASTING.values(), ids=LASTING)
def test_a_lasting_fault_is_named_leaves_the_lake_and_a_healed_service_completes_it(
    server: ReplayServer, tmp_path: Path, first_race: Path, whole_lake: dict[str, str], fault: Lasting
) -> None:
    home = Settings(home=tmp_path / "home")
    shutil.copytree(first_race, home.home)
    before = lake_hashes(home.lake_dir)
    if fault.path is not None:
        server.on(f"{BASE}/{fault.path}.json", fault.answer)
    hasty = {"timeout_s": 0.5, "max_retries": 1} if fault is LASTING["slow body"] else {}
    with pytest.raises(fault.error, match=fault.said):
        ingest(home, a_source(server, home.home, rounds=fault.rounds, **hasty), [fault.season])
    assert lake_hashes(home.lake_dir) == before
    server._routes.clear()
    ingest(home, a_source(server, home.home), [2030])
    assert lake_hashes(home.lake_dir) == whole_lake
    twice = {path.partition("?")[0] for path, times in Counter(server.paths()).items() if times > 1}
    assert twice <= {f"{BASE}/{fault.path}.json"}  # what was answered is kept


def test_a_value_that_is_not_as_documented_names_the_file_to_delete(
    server: ReplayServer, tmp_path: Path, clean: SeasonTables
) -> None:
    laps = answer_of(jolpica_from_folder(AUTHORED), "2030/1/laps.json", limit="100")
    laps["MRData"]["RaceTable"]["Races"][0]["Laps"][1]["Timings"][0]["time"] = "soon"
    server.on(f"{BASE}/2030/1/laps.json", once(Response(body=laps)))
    with pytest.raises(SourceFormatError, match=r"2030/1/laps.json\?limit=100, row 5, column 'time': got 'soon'") as error:
        read(a_source(server, tmp_path), 2030)
    asked = Counter(server.paths())
    named = re.search(r"delete (\S+) and run the same command again", str(error.value))
    assert named is not None
    Path(named[1]).unlink()
    [season], _ = read(a_source(server, tmp_path), 2030)
    same_as_clean(season, clean)
    assert {path for path in asked if server.paths().count(path) > 1} == {f"{BASE}/2030/1/laps.json?limit=100"}


@pytest.mark.parametrize(
    ("echoed", "said"),
    [
        (False, r"column 'MRData.offset': got 0, expected 4"),
        (True, r"row 1, column 'Laps': got a row of an earlier page again: .*quick"),
    ],
    ids=["says that it is the first", "says that it is the one asked for"],
)
def test_a_page_that_repeats_ends_in_an_error_and_is_not_kept(
    server: ReplayServer, tmp_path: Path, clean: SeasonTables, echoed: bool, said: str
) -> None:
    repeated = json.loads((AUTHORED.parent / "repeated_page.json").read_text(encoding="utf-8"))
    home = Settings(home=tmp_path)
    ingest(home, a_source(server, tmp_path, rounds=[3]), [2030])
    before = lake_hashes(home.lake_dir)

    def the_same_again(request: Request) -> Response:
        offset = request.params.get("offset", "0") if echoed else "0"
        return Response(body={"MRData": {**repeated["MRData"], "offset": offset}})

    laps = f"{BASE}/2030/1/laps.json"
    server.on(laps, the_same_again)
    for _ in range(2):
        server.requests.clear()
        with pytest.raises(SourceFormatError, match=r"2030/1/laps.json\?limit=100&offset=4.* " + said):
            ingest(home, a_source(server, tmp_path), [2030])
        assert server.paths().count(f"{laps}?limit=100&offset=4") > 1  # asked again, by a later run too
        assert lake_hashes(home.lake_dir) == before
    server._routes.clear()
    ingest(home, a_source(server, tmp_path), [2030])
    assert len(Lake(home.lake_dir).read("laps").query("race_id == '2030_01'")) == 17


def test_pages_of_two_states_of_a_document_are_read_again(server: ReplayServer, tmp_path: Path, clean: SeasonTables) -> None:
    """A row moved to the first page after that was fetched, so what follows begins with a row that was on it: as many in all."""
    whole = answer_of(jolpica_from_folder(AUTHORED), "2030/1/laps.json", limit="100")
    earlier = copy.deepcopy(whole)
    laps = earlier["MRData"]["RaceTable"]["Races"][0]["Laps"]
    laps[-1]["Timings"].append(laps[0]["Timings"].pop())
    first = in_turn(*[Response(body=cut(document, 4, 0)) for document in (earlier, whole)])

    def page(request: Request) -> Response | None:
        offset = int(request.params.get("offset", 0))
        return first(request) if offset == 0 else Response(body=cut(whole, 4, offset))

    server.on(f"{BASE}/2030/1/laps.json", page)
    [season], _ = read(a_source(server, tmp_path), 2030)
    same_as_clean(season, clean)


def test_a_document_that_grows_between_two_pages_is_read_again(server: ReplayServer, tmp_path: Path, clean: SeasonTables) -> None:
    whole = answer_of(jolpica_from_folder(AUTHORED), "2030/1/laps.json", limit="100")
    asked: list[int] = []

    def growing(request: Request) -> Response:
        offset = int(request.params.get("offset", 0))
        asked.append(offset)
        page = cut(whole, 9, offset)
        if len(asked) == 1:
            page["MRData"]["total"] = "16"
        return Response(body=page)

    server.on(f"{BASE}/2030/1/laps.json", growing)
    [season], _ = read(a_source(server, tmp_path), 2030)
    assert asked == [0, 9, 0, 9]
    same_as_clean(season, clean)


def test_smaller_pages_than_asked_for_give_the_same_season(server: ReplayServer, tmp_path: Path, clean: SeasonTables) -> None:
    for path in ("2030/results", "2030/1/laps", "2030/3/laps", "2030/qualifying", "2030/3/driverstandings"):
        handler = seasons_from_folder(AUTHORED) if path.count("/") == 1 else jolpica_from_folder(AUTHORED)
        whole = answer_of(handler, f"{path}.json", limit="100")

        def three_a_page(request: Request, whole: dict[str, Any] = whole) -> Response:
            return Response(body=cut(whole, 3, int(request.params.get("offset", 0))))

        server.on(f"{BASE}/{path}.json", three_a_page)
    [found], _ = read(a_source(server, tmp_path), 2030)
    same_as_clean(found, clean)


def test_an_impossible_row_is_left_out_and_can_be_found_again(server: ReplayServer, tmp_path: Path) -> None:
    laps = answer_of(jolpica_from_folder(AUTHORED), "2030/1/laps.json", limit="100")
    laps["MRData"]["RaceTable"]["Races"][0]["Laps"][4]["Timings"][0] |= {"time": "5:00:00.000"}
    server.on(f"{BASE}/2030/1/laps.json", laps)
    [season], report = read(a_source(server, tmp_path), 2030)
    assert report.quarantine_reasons["laps"] == {"impossible lap time": 1}
    row = season.quarantine["laps"].iloc[0]
    assert row["source_file"] == "2030/1/laps.json?limit=100"
    assert '"driver_id": "quick"' in row["row"]


def test_pit_stops_wait_for_the_laps_of_their_race(server: ReplayServer, tmp_path: Path) -> None:
    server.on(f"{BASE}/2030/1/laps.json", answer_of(jolpica_from_folder(AUTHORED), "2030/2/laps.json"))
    [season], report = read(a_source(server, tmp_path), 2030)
    assert "season 2030: pit stops of round 1 are left out: the service has no laps of it (yet)" in report.notes
    assert set(season.tables["pit_stops"]["race_id"]) == set(season.tables["laps"]["race_id"]) == {"2030_03"}
    assert set(season.tables["races"]["race_id"]) == {"2030_01", "2030_03"}  # the flag is the start and the winner's time


# --- second runs -----------------------------------------------------------------------------------------------------------


def test_a_second_run_asks_for_nothing_and_refresh_for_everything(
    server: ReplayServer, tmp_path: Path, clean: SeasonTables
) -> None:
    read(a_source(server, tmp_path), 2030)
    asked = Counter(server.paths())
    assert set(asked.values()) == {1}
    [again], _ = read(a_source(server, tmp_path), 2030)
    assert Counter(server.paths()) == asked
    same_as_clean(again, clean)
    read(a_source(server, tmp_path, Clock(AFTER + 1), refresh=True), 2030)
    assert Counter(server.paths()) == Counter(dict.fromkeys(asked, 2))


def test_a_season_under_way_is_asked_again_where_it_can_change(server: ReplayServer, tmp_path: Path) -> None:
    clock = Clock(pd.Timestamp("2030-11-05", tz="UTC").timestamp())  # two days after round 3
    read(a_source(server, tmp_path, clock), 2030)

    def asked_after(seconds: float) -> set[str]:
        clock.now += seconds
        server.requests.clear()
        read(a_source(server, tmp_path, clock), 2030)
        return {request.path.removeprefix(f"{BASE}/") for request in server.requests}

    of_season = {"2030/results.json", "2030/qualifying.json", "2030/sprint.json"}
    of_race = {f"2030/3/{name}.json" for name in ("laps", "pitstops", "driverstandings", "constructorstandings")}
    assert asked_after(1800) == set()
    assert asked_after(7200) == of_season | of_race  # the calendar is good for 12 hours
    assert asked_after(20 * DAY) == of_season | of_race | {"2030.json"}  # once more, now that the race is settled
    assert asked_after(13 * 3600) == of_season | {"2030.json"}
    assert asked_after(90 * DAY) == of_season | {"2030.json"}  # once more, now that the season is over
    assert asked_after(1000 * DAY) == set()


def test_the_hourly_limit_stops_the_run_with_what_is_complete(server: ReplayServer, tmp_path: Path) -> None:
    home = Settings(home=tmp_path)
    limits = Limits(per_second=1000, per_hour=9)  # calendar, results, qualifying, sprint, and the 4 documents of round 1
    clock = Clock(AFTER)
    with pytest.raises(SourcePausedError, match="season 2030: 1 of 2 races are complete") as paused:
        ingest(home, a_source(server, tmp_path, clock, limits=limits), [2030])
    assert paused.value.retry_at is not None
    assert set(Lake(home.lake_dir).read("races")["race_id"]) == {"2030_01"}
    clock.now = paused.value.retry_at.timestamp() + 1
    ingest(home, a_source(server, tmp_path, clock, limits=limits), [2030])
    assert set(Lake(home.lake_dir).read("races")["race_id"]) == {"2030_01", "2030_03"}
    assert set(Counter(server.paths()).values()) == {1}


_CHILD = """
import sys
from pathlib import Path
from feature_repo.settings import Settings
from pipelines.ingest.web.client import Limits, PoliteClient
from pipelines.ingest.jolpica.source import JolpicaSource
from pipelines.ingest.run import ingest

home, url = Path(sys.argv[1]), sys.argv[2]
settings = Settings(home=home, jolpica_url=url)
client = PoliteClient("jolpica", url, settings.cache_dir, Limits(per_second=100_000))
ingest(settings, JolpicaSource(settings, client=client, clock=lambda: float(sys.argv[3])), [2030])
"""


def test_a_run_killed_in_mid_season_downloads_nothing_twice(server: ReplayServer, tmp_path: Path) -> None:
    stuck = f"{BASE}/2030/3/pitstops.json"
    body = answer_of(jolpica_from_folder(AUTHORED), "2030/3/pitstops.json", limit="100")
    server.on(stuck, once(slow(body, seconds=60)))

    def is_stuck() -> bool:
        return any(request.path == stuck for request in server.requests)

    kill_on_the_way(_CHILD, str(tmp_path), f"{server.url}{BASE}", str(AFTER), folder=tmp_path, when=is_stuck)
    home = Settings(home=tmp_path)
    assert Lake(home.lake_dir).read("races").empty
    ingest(home, a_source(server, tmp_path, Clock(time.time())), [2030])
    assert set(Lake(home.lake_dir).read("races")["race_id"]) == {"2030_01", "2030_03"}
    twice = {path for path, times in Counter(server.paths()).items() if times > 1}
    assert twice == {f"{stuck}?limit=100"}  # the one that was never answered
