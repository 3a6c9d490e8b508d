"""The pages of a trained home over HTTP: what they show is what the JSON API says, whatever is asked of them."""

import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pandas as pd
import pytest
from fastapi.testclient import TestClient
from loop_home import copy_of
from loop_setup import MLFLOW_WARNS, Loop

from feature_repo.files import read_parquet
from feature_repo.spine import Moment
from feature_repo.stores.errors import OnlineStoreUnavailableError
from feature_repo.stores.online import packed_store
from feature_repo.visibility import CREATED, EVENT
from serving.app import create_app
from serving.dashboard.catalogue import SAMPLED_ROWS, catalogue, distributions
from serving.dashboard.formats import ordinal, percent
from serving.dashboard.moment_view import driver_features, moment_view
from serving.dashboard.race_data import race_data
from serving.dashboard.seasons import race_list
from serving.replay import replay
from serving.state import ServingState

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)
RACE = "2024_03"
VOID = {"wbr", "meta", "link", "input", "img", "br", "rect", "line", "circle"}


class Page(HTMLParser):
    """A page taken apart; raises where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag, f"</{tag}> closes another tag"

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [
            found
            for name, found in self.tags
            if name == tag and all(found.get(key) == value for key, value in attributes.items())
        ]


@pytest.fixture(scope="module")
def client(loop: Loop) -> Iterator[TestClient]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with TestClient(create_app(loop.settings), raise_server_exceptions=False) as opened:
            yield opened


@pytest.fixture
def state(client: TestClient) -> ServingState:
    found: ServingState = client.app.state.serving  # type: ignore[attr-defined]
    return found


def words(text: str) -> str:
    """What a reader sees of a page, without its tags."""
    return unescape(re.sub(r"<[^>]*>", "", text))


def drivers_in(text: str) -> list[str]:
    return [str(link["data-driver"]) for link in Page(text).all("a") if "data-driver" in link]


@pytest.mark.parametrize(
    "address", ["/", "/seasons/2024", f"/races/{RACE}", f"/races/{RACE}?lap=0", "/models", "/features", "/docs"]
)
def test_every_page_is_well_formed_and_strict_about_what_it_loads(client: TestClient, address: str) -> None:
    answer = client.get(address)
    assert answer.status_code == 200, answer.text
    page = Page(answer.text)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not page.all("style")
    assert not [
        attributes for _, attributes in page.tags if "style" in attributes or any(key.startswith("on") for key in attributes)
    ]
    loaded = [
        str(found.get(key)) for tag, key in (("script", "src"), ("link", "href"), ("img", "src")) for found in page.all(tag)
    ]
    assert loaded
    assert all(source.startswith("/") and not source.startswith("//") for source in loaded), "nothing from another host"
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert [found["href"] for found in page.all("a", **{"class": "skip"})] == ["#main"]


def test_what_pages_load_is_there_and_is_kept_by_its_hash(client: TestClient) -> None:
    page = Page(client.get("/").text)
    for source in [page.all("script")[0]["src"], *[found["href"] for found in page.all("link")]]:
        answer = client.get(str(source))
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        again = client.get(str(source), headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_the_list_shows_every_race_newest_season_first(client: TestClient, loop: Loop) -> None:
    races = race_list(loop.settings)
    shown = re.findall(r'href="/races/([0-9_]+)"', client.get("/").text)
    assert shown == [race["race_id"] for race in races]
    assert [race["season"] for race in races] == sorted((race["season"] for race in races), reverse=True)
    assert client.get("/").text.count("SIMULATED") == len(races)
    assert '<a href="/v1/races">/v1/races</a>' in client.get("/").text
    twin = Page(client.get("/seasons/2023").text).all("a")[-1]["href"]
    assert [race["season"] for race in client.get(str(twin)).json()["races"]] == [2023] * sum(r.startswith("2023") for r in shown)
    assert re.findall(r'href="/races/([0-9_]+)"', client.get("/seasons/2023").text) == [r for r in shown if r.startswith("2023")]
    results = read_parquet(loop.settings.features_dir / "race_result.parquet")
    won = results[results["finish_position"] == 1].set_index("race_id")["driver_id"]
    assert {race["race_id"]: race["winner"]["driver_id"] for race in races} == won.to_dict()


@pytest.mark.parametrize("lap", [0, 1, 17])
def test_the_race_page_shows_the_predicted_order_of_the_lap(client: TestClient, lap: int) -> None:
    said = client.post("/v1/predict", json={"race_id": RACE, "lap": lap}).json()
    answer = client.get(f"/races/{RACE}?lap={lap}")
    assert drivers_in(answer.text) == [driver["driver_id"] for driver in said["drivers"]]
    assert said["moment"]["as_of"] in answer.text
    assert f"version {said['model']['version']}" in answer.text
    assert all(note.replace("`", "") in words(answer.text) for note in said["notes"])
    slider = Page(answer.text).all("input", id="lap")[0]
    assert (slider["type"], slider["value"], slider["min"]) == ("range", str(lap), "0")


@pytest.mark.parametrize("lap", [0, 17, 200])
def test_the_race_page_and_its_json_show_the_same(client: TestClient, lap: int) -> None:
    """Everything on the page about the moment, its cars, tyres, weather and the result, is in the JSON that its footer names."""
    text = client.get(f"/races/{RACE}?lap={lap}").text
    twin = client.get(str(Page(text).all("a", id="twin")[0]["href"]))
    said = twin.json()
    assert twin.content == client.get(f"/v1/races/{RACE}/moment?lap={lap}").content
    shown = words(text)
    assert [car["driver_id"] for car in said["cars"]] == drivers_in(text)
    assert said["as_of"] in shown
    assert all(note.replace("`", "") in shown for note in said["notes"])
    assert f"{said['exact_places']} of {len(said['cars'])} exact, {said['mean_error_places']:.1f} places off" in shown
    weather = said["weather"]
    sky = "rain" if weather["is_raining"] else "dry"
    assert f"{sky}, air {weather['air_c']:.0f} °C, track {weather['track_c']:.0f} °C" in shown
    showers = [f"rain from lap {one['from_lap']:.0f} to {one['to_lap']:.0f}" for one in said["rain"]]
    assert not said["cars"][0]["stints"] or ("; ".join(showers) or "no rain measured") in shown
    rows = re.findall(r'<li class="car.*?</li>', text, re.DOTALL)
    for car, row in zip(said["cars"], map(words, rows), strict=True):
        for name, chance in (("Win", car["p_win"]), ("Podium", car["p_podium"]), ("Points", car["p_points"])):
            assert f"{name} {percent(chance)}\n" in row
        assert f"Likeliest place {car['likeliest_position']} " in row
        assert f"assigned place {car['position']}; finished {car['result']['position']}" in row
        assert f"Now {car['running_position'] or '–'}" in row
        assert car["driver_name"] in row
        off = car["result"]["off_by"]
        assert ("exactly as predicted" if off == 0 else f"{abs(off)} places further {'back' if off > 0 else 'ahead'}") in row
        tyres = "; ".join(f"{one['compound'].lower()} laps {one['start']} to {one['end']}" for one in car["stints"])
        assert tyres in shown


def test_a_lap_of_a_replay_is_shown_as_the_replay_said_it(loop: Loop, tmp_path: Path) -> None:
    settings = copy_of(loop, tmp_path / "home")
    first = replay(settings, RACE, speed=0, from_lap=8, to_lap=9, version="1").run
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        recorded = client.get(f"/v1/races/{RACE}/replay").json()["events"][1]
        text = client.get(f"/races/{RACE}?lap=8&replay={first}").text
        said = client.get(str(Page(text).all("a", id="twin")[0]["href"])).json()
        assert {car["driver_id"]: car["probabilities"] for car in said["cars"]} == {
            driver["driver_id"]: driver["probabilities"] for driver in recorded["drivers"]
        }
        parts = ("model", "source", "notes", "missing", "fallbacks", "stale")
        assert [said[part] for part in parts] == [recorded[part] for part in parts]
        assert said["replay"] == recorded["run"] == first
        assert f"replayed with {said['model']['name']} version 1" in words(text)
        assert all(f"&replay={first}" in str(link["href"]) for link in Page(text).all("a") if "data-driver" in link)
        refused = client.get(f"/races/{RACE}?lap=7&replay={first}")
        assert (refused.status_code, "has not shown lap 7" in refused.text) == (404, True)
        second = replay(settings, RACE, speed=0, from_lap=8, to_lap=8, version="2").run
        assert (
            f"expected the newest, {second}"
            in client.get(f"/v1/races/{RACE}/moment?lap=9&replay={first}").json()["error"]["message"]
        )
        assert "version 2" in words(client.get(f"/races/{RACE}?lap=8&replay={second}").text)


def test_the_page_about_the_api_shows_every_endpoint_with_its_fields_and_examples(client: TestClient) -> None:
    spec = client.get("/openapi.json").json()
    page = words(client.get("/docs").text)
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            assert f"{method.upper()} {path} " in page
            assert operation["description"].split("\n\n")[0].replace("\n", " ").replace("`", "") in page
            assert all(one["name"] in page for one in operation.get("parameters", []))
    for name in ("PredictRequest", "MomentResponse", "ErrorBody"):
        form = spec["components"]["schemas"][name]
        assert json.dumps(form["examples"][0], indent=2, ensure_ascii=False) in page
        assert all(field in page for field in form["properties"])
    assert """curl -s "$PITWALL/v1/races/2024_16/moment\"""" in page
    assert "-H \"Authorization: Bearer $PITWALL_API_TOKEN\" -H 'Content-Type: application/json' -d" in page


def test_before_the_first_lap_the_page_says_so_and_draws_no_empty_boxes(client: TestClient) -> None:
    text = client.get(f"/races/{RACE}?lap=0").text
    assert "at lights out" in text
    assert words(text).count("No car has completed a lap") == 2
    assert "trace.png" not in text
    assert "strips" not in text


def test_a_driver_is_told_apart_from_the_place_given_to_him(client: TestClient) -> None:
    """Each place is given out once, so most cars are placed beside their likeliest place."""
    for driver in client.post("/v1/predict", json={"race_id": RACE, "lap": 17}).json()["drivers"]:
        chances = driver["probabilities"]
        said = words(client.get(f"/races/{RACE}?lap=17&driver={driver['driver_id']}&fragment=driver").text)
        likeliest = 1 + chances.index(max(chances))
        assert f"Predicted {ordinal(driver['position'])}; taken alone, likeliest {ordinal(likeliest)} (" in said


def test_without_a_lap_the_page_shows_the_default_moment(client: TestClient, loop: Loop) -> None:
    lap = Moment.parse(loop.settings.moment).lap_of(race_data(loop.settings, RACE).scheduled_laps)
    assert client.get(f"/races/{RACE}").text == client.get(f"/races/{RACE}?lap={lap}").text


def test_a_lap_beyond_the_last_is_the_last(client: TestClient, loop: Loop) -> None:
    last = race_data(loop.settings, RACE).last_lap
    assert Page(client.get(f"/races/{RACE}?lap=200").text).all("input", id="lap")[0]["value"] == str(last)


def test_the_fragment_is_what_the_page_holds(client: TestClient) -> None:
    whole, part = (client.get(f"/races/{RACE}?lap=9{more}").text for more in ("", "&fragment=moment"))
    assert part in whole
    assert "<html" not in part
    assert len(drivers_in(part)) == 20


def test_a_driver_opens_with_features_as_json_gives_them(client: TestClient, state: ServingState, loop: Loop) -> None:
    race = race_data(loop.settings, RACE)
    view = moment_view(state, race, 12)
    driver = view.rows[4].driver_id
    lines = driver_features(state, view, driver)
    row = {
        "race_id": RACE,
        "driver_id": driver,
        "constructor_id": race.entrant(driver).constructor_id,
        "circuit_id": race.circuit_id,
    }
    asked = {"service": "finish_position_v1", "entity_rows": [row], "as_of": view.as_of.isoformat()}
    answer = client.post("/v1/features", json=asked).json()
    said = {line.name: (line.value, line.status) for group in lines.values() for line in group}
    assert said == {name: (found["value"][0], found["status"][0]) for name, found in answer["features"].items()}
    part = client.get(f"/races/{RACE}?lap=12&driver={driver}&fragment=driver").text
    assert part in client.get(f"/races/{RACE}?lap=12&driver={driver}").text
    assert re.findall(r'<th scope="row">([a-z0-9_]+)</th>', part.replace("<wbr>", "")) == list(said)


def test_tyres_weather_and_order_are_those_known_at_the_lap(state: ServingState, loop: Loop) -> None:
    race = race_data(loop.settings, RACE)
    state_rows = read_parquet(loop.settings.features_dir / "race_state.parquet")
    tyres = read_parquet(loop.settings.features_dir / "tire_state.parquet")
    for lap in (0, 5, race.last_lap):
        view = moment_view(state, race, lap)
        known = state_rows[
            (state_rows["race_id"] == RACE) & (state_rows[CREATED] <= view.as_of) & (state_rows[EVENT] <= view.as_of)
        ]
        driven = known.groupby("driver_id")["running_laps_completed"].max()
        assert {row.driver_id: row.stints[-1].end for row in view.rows if row.stints} == driven.astype(int).to_dict()
        for row in view.rows:
            assert [stint.start for stint in row.stints[1:]] == [stint.end + 1 for stint in row.stints[:-1]]
            assert not row.stints or row.stints[0].start == 1
        newest = (
            tyres[(tyres["race_id"] == RACE) & (tyres[EVENT] <= view.as_of)]
            .sort_values(EVENT)
            .drop_duplicates("driver_id", keep="last")
        )
        compounds = dict(zip(newest["driver_id"], newest["tire_compound"], strict=True))
        assert {row.driver_id: row.stints[-1].compound for row in view.rows if row.stints} == compounds
        assert sorted(row.running for row in view.rows if row.running) == list(range(1, len(driven) + 1))
        assert view.rain is not None
        assert all(0 <= start <= end <= lap for start, end in view.rain)
        assert view.compounds == ["SOFT", "MEDIUM", "HARD", "INTERMEDIATE", "WET"]


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        ({"weather_air_temp_c": 21.4, "weather_is_raining": None}, "rain unknown, air 21 °C, track unknown"),
        ({"weather_air_temp_c": None, "weather_is_raining": 1.0}, "rain, air unknown, track unknown"),
        ({"weather_air_temp_c": 9.0, "weather_is_raining": 0.0}, "dry, air 9 °C, track unknown"),
    ],
    ids=["no rain gauge", "no thermometer", "no track sensor"],
)
def test_what_was_not_measured_is_said_to_be_unknown(
    client: TestClient, loop: Loop, monkeypatch: pytest.MonkeyPatch, measured: dict[str, float | None], said: str
) -> None:
    race = race_data(loop.settings, RACE)
    readings = race._weather.assign(**{"weather_track_temp_c": float("nan"), **measured})
    monkeypatch.setattr("serving.routes.pages.race_data", lambda *_: replace(race, _weather=readings))
    monkeypatch.setattr("serving.dashboard.moment_view._kept", WeakKeyDictionary())
    text = words(client.get(f"/races/{RACE}?lap=12").text)
    assert said in text
    assert "nan" not in text
    assert ("Rainunknown" in text) == (measured["weather_is_raining"] is None), "and so is the rain so far"


def test_later_rows_change_nothing_but_the_result(loop: Loop) -> None:
    race = race_data(loop.settings, RACE)
    middle = race.laps[10]
    assert max(stint.end for stints in race.stints(middle).values() for stint in stints) == 10
    assert race.weather(race.race_start - pd.Timedelta(days=1)) is None
    assert race.rain(race.race_start) == []
    assert race.result_known_at is not None
    assert race.result_known_at > race.laps[race.last_lap]


def test_a_view_is_computed_once_per_lap(client: TestClient, state: ServingState, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answer = state.answer

    def counted(race_id: str, moment: Moment | None = None, **how: Any) -> Any:
        asked.append(str(moment))
        return answer(race_id, moment, **how)

    monkeypatch.setattr(state, "answer", counted)
    for lap in (3, 4, 3, 4, 3):
        client.get(f"/races/{RACE}?lap={lap}&fragment=moment")
    assert asked == ["lap:3", "lap:4"]


@pytest.mark.parametrize(
    ("address", "status", "kind"),
    [
        ("/races/2024_99", 404, "UnknownEntityError"),
        ("/races/..%2f..%2fetc", 404, None),
        ("/races/'; DROP TABLE races; --", 422, "InvalidIdError"),
        ("/races/2024_03?lap=-1", 422, "RequestValidationError"),
        ("/races/2024_03?lap=1e9", 422, "RequestValidationError"),
        ("/races/2024_03?driver=<script>", 422, "RequestValidationError"),
        ("/races/2024_03?driver=nobody", 404, "UnknownEntityError"),
        ("/races/2024_03?fragment=driver", 404, "UnknownEntityError"),
        ("/races/2024_03?fragment=all", 422, "RequestValidationError"),
        ("/seasons/1999", 404, "UnknownEntityError"),
        ("/seasons/x", 422, "RequestValidationError"),
        ("/static/..%2fapp.js", 404, None),
        ("/static/secret.css", 404, "NotFound"),
    ],
)
def test_bad_requests_are_pages_that_say_what_is_wrong(client: TestClient, address: str, status: int, kind: str | None) -> None:
    answer = client.get(address)
    assert answer.status_code == status
    if kind is not None:
        assert f'<p class="error-kind">{kind}</p>' in answer.text
        assert "<script>" not in answer.text
        Page(answer.text)


def test_an_address_of_no_page_is_a_page_for_browsers_and_json_for_programs(client: TestClient) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    answer = client.get("/no<b>such", headers=browser)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "/no&lt;b&gt;such" in answer.text
    assert '<a href="/">' in answer.text
    Page(answer.text)
    for other in (
        client.get("/nosuch"),
        client.get("/nosuch", headers={"Accept": "application/json"}),
        client.get("/v1/nosuch", headers=browser),
        client.post("/nosuch", headers=browser),
    ):
        assert other.status_code == 404
        assert other.json()["error"]["type"] == "HTTPError"


def test_a_fault_inside_is_answered_without_its_insides(
    client: TestClient, state: ServingState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(state, "answer", broken)
    answer = client.get(f"/races/{RACE}?lap=6")
    assert answer.status_code == 500
    assert "secret detail" not in answer.text


def test_the_model_board_shows_versions_verdicts_and_gains(client: TestClient) -> None:
    board = client.get("/v1/models").json()
    text = client.get("/models").text
    assert [version["version"] for version in board["versions"]] == re.findall(r'id="version-(\d+)"', text)
    decided = [version for version in board["versions"] if version["decision"]]
    assert decided
    for version in decided:
        decision = version["decision"]
        assert set(decision["metrics"]) >= {version["model"], "ensemble", "grid_order"}
        assert sum(len(shares) for shares in decision["slices"].values()) == len(decision["slices"]) * len(decision["metrics"])
        assert all(reason.replace("`", "") in words(text) for reason in decision["reasons"])
        assert all(check["message"].replace("`", "") in words(text) for check in decision["checks"])
        if decision["gain"]["estimate"] is not None:
            assert f"{100 * decision['gain']['estimate']:+.1f} %" in text
        assert decision["controls"], "the evaluation of this very model compares it with blank pictures"
    assert "PITWALL_API_TOKEN" in text, "this service has no token, so the page says that it refuses changes"
    assert not Page(text).all("input", type="password")


def test_slices_of_a_season_are_exact_places_over_its_rows(client: TestClient, loop: Loop) -> None:
    decision = next(version["decision"] for version in client.get("/v1/models").json()["versions"] if version["decision"])
    record = client.get("/v1/models/finish_position/decisions?inputs=true").json()["decisions"][0]["inputs"]["candidate"]
    for season, shares in decision["slices"].items():
        races = [race for race in record["races"] if race["race_id"].startswith(season)]
        assert shares[record["name"]] == pytest.approx(sum(r["hits"] for r in races) / sum(r["n_rows"] for r in races))


def test_the_catalogue_is_feasts(client: TestClient, state: ServingState, loop: Loop) -> None:
    text = client.get("/features").text
    known = catalogue(state)
    views = {view.name: view for view in state.store.list_feature_views()}
    assert [view["name"] for view in known["views"]] == sorted(views)
    for view in known["views"]:
        definition = views[view["name"]]
        assert [feature["name"] for feature in view["features"]] == [field.name for field in definition.features]
        assert view["ttl_s"] == definition.ttl.total_seconds()
        assert all(f"<h3>{feature['name']} " in text.replace("<wbr>", "") for feature in view["features"])
        assert all(feature["distribution"]["sampled"] for feature in view["features"])
    assert {service["name"] for service in known["services"]} == {service.name for service in state.store.list_feature_services()}
    assert [entity["name"] for entity in known["entities"]] == ["circuit", "constructor", "driver", "race"]


def test_histograms_are_of_evenly_spaced_rows(loop: Loop) -> None:
    for view in ("race_state", "tire_state"):
        frame = read_parquet(loop.settings.features_dir / f"{view}.parquet")
        step = -(-len(frame) // SAMPLED_ROWS)
        for name, shape in distributions(loop.settings, view).items():
            seen = frame[name].iloc[::step]
            assert shape["sampled"] == len(seen) <= SAMPLED_ROWS
            assert shape["missing"] == pytest.approx(seen.isna().mean())
            assert sum(shape["counts"]) == seen.notna().sum()
            if "edges" in shape:
                assert (shape["edges"][0], shape["edges"][-1]) == pytest.approx((seen.min(), seen.max()), rel=1e-5)


def test_the_catalogue_tells_fresh_from_stale(state: ServingState) -> None:
    then = pd.Timestamp(next(view for view in catalogue(state)["views"] if view["name"] == "driver_form")["newest_online"])
    status = {}
    for days in (1, 3000):
        known = catalogue(state, now=then + pd.Timedelta(days=days))
        status[days] = {view["name"]: view["status"] for view in known["views"]}
    assert status[1]["driver_form"] == "FRESH"
    assert status[3000]["driver_form"] == "STALE"


def test_without_the_online_store_the_catalogue_is_shown_with_ages_unknown(
    client: TestClient, state: ServingState, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def gone(_config: Any, view: Any) -> int:
        asked.append(view.name)
        raise OnlineStoreUnavailableError("store.example: does not answer")

    monkeypatch.setattr(packed_store(state.store), "newest_event", gone)
    answer = client.get("/features")
    assert answer.status_code == 200
    assert "store.example: does not answer" in answer.text
    assert len(asked) == 1, "a store that is away is not asked for every view"
    known = catalogue(state)
    assert {view["status"] for view in known["views"] if view["is_online"]} == {"UNKNOWN"}
    assert {view["status"] for view in known["views"] if not view["is_online"]} <= {"FRESH", "STALE"}
