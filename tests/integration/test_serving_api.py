"""The JSON API over the home of the loop: it says what the commands say, in the form it declares, and refuses in one form."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from loop_setup import MLFLOW_WARNS, Loop

from feature_repo.spine import Moment, entity_frame, load_entrants, load_moments
from feature_repo.store import historical, open_store
from feature_repo.stores.errors import OnlineStoreUnavailableError
from ml.traces.store import ImageArtifactStore
from serving.app import create_app
from serving.lookup import lookup
from serving.past_lookup import lookup_past
from serving.predictor import Predictor
from serving.races import cars_at, moment_point
from serving.schemas import answers, board, replay
from serving.schemas.answers import Answer
from serving.schemas.moment import MomentResponse

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)
MOMENTS = ({}, {"lap": 3}, {"fraction": 0.25}, {"pre_race": True})


@pytest.fixture(scope="module")
def client(loop: Loop) -> Iterator[TestClient]:
    """The service over the shared home, which it does not change."""
    with TestClient(create_app(loop.settings), raise_server_exceptions=False) as one:
        yield one


@pytest.fixture(scope="module")
def race_id(loop: Loop) -> str:
    """The newest race."""
    return str(load_entrants(loop.settings)["race_id"].max())


@pytest.fixture(scope="module")
def driver_id(loop: Loop, race_id: str) -> str:
    """A driver in it."""
    entrants = load_entrants(loop.settings)
    return str(entrants.loc[entrants["race_id"] == race_id, "driver_id"].iloc[3])


@pytest.mark.parametrize("asked", MOMENTS)
def test_predict_says_what_the_command_says(loop: Loop, client: TestClient, race_id: str, asked: dict[str, Any]) -> None:
    answer = client.post("/v1/predict", json={"race_id": race_id, **asked})
    assert answer.status_code == 200, answer.text
    said = answer.json()
    text = "pre_race" if "pre_race" in asked else "".join(f"{kind}:{value}" for kind, value in asked.items())
    expected = Predictor.open(loop.settings).predict(race_id, Moment.parse(text) if text else None).to_json()
    assert {key: said[key] for key in expected} == expected
    assert said["latency_ms"] > 0
    assert ("missing_values" in said["fallbacks"]) == bool(said["missing"]["features"])


def test_predict_at_an_instant_and_for_some_drivers(loop: Loop, client: TestClient, race_id: str, driver_id: str) -> None:
    moments = load_moments(loop.settings)
    known_at = moments.loc[(moments["race_id"] == race_id) & (moments["lap"] == 5), "known_at"].iloc[0]
    whole = client.post("/v1/predict", json={"race_id": race_id, "as_of": known_at.isoformat()}).json()
    part = client.post("/v1/predict", json={"race_id": race_id, "as_of": known_at.isoformat(), "drivers": [driver_id]}).json()
    assert whole["moment"]["lap"] == 5
    assert whole["moment"]["as_of"] == known_at.isoformat()
    assert part["drivers"] == [driver for driver in whole["drivers"] if driver["driver_id"] == driver_id]
    stranger = client.post("/v1/predict", json={"race_id": race_id, "drivers": ["nobody"]})
    assert stranger.status_code == 404
    assert "not among the" in stranger.json()["error"]["message"]


def test_past_features_are_those_of_feasts_join(loop: Loop) -> None:
    store = open_store(loop.settings)
    for race in sorted(set(load_entrants(loop.settings)["race_id"]))[::5]:
        for moment in map(Moment.parse, ("pre_race", "lap:1", "fraction:0.5", "fraction:1")):
            spine = entity_frame(loop.settings, moment, [race])
            point = moment_point(loop.settings, race, moment)
            cars = cars_at(loop.settings, race, point.as_of)
            assert {key: list(values) for key, values in cars.items()} == {key: spine[key].tolist() for key in cars}
            moments_us = np.full(len(spine), point.as_of.value // 1000, dtype=np.int64)
            for service in ("finish_position_v1", "speed_trace_v1", "race_state_v1", "race_result_v1"):
                expected = historical(store, service, spine)
                found = lookup_past(store, service, cars, moments_us).arrays()
                for name, column in found.items():
                    assert column.dtype == expected[name].to_numpy().dtype, name
                    for got, wanted in zip(column.tolist(), expected[name].tolist(), strict=True):
                        same = (
                            np.array_equal(got, wanted, equal_nan=isinstance(got, float)) if got is not None else wanted is None
                        )
                        assert same, (service, name, got, wanted)


@pytest.mark.parametrize("as_of_lap", [None, 4])
def test_features_are_those_of_the_lookup(
    loop: Loop, client: TestClient, race_id: str, driver_id: str, as_of_lap: int | None
) -> None:
    asked: dict[str, Any] = {"entity_rows": [{"race_id": race_id, "driver_id": driver_id}]}
    as_of = None
    if as_of_lap is not None:
        as_of = moment_point(loop.settings, race_id, Moment("lap", lap=as_of_lap)).as_of
        asked["as_of"] = as_of.isoformat()
    answer = client.post("/v1/features", json=asked)
    assert answer.status_code == 200, answer.text
    said = answer.json()
    expected = lookup(loop.settings, race_id=race_id, driver_id=driver_id, as_of=as_of).to_json()
    assert said["source"] == expected["source"]
    assert list(said["features"]) == list(expected["features"])
    for name, feature in expected["features"].items():
        column = said["features"][name]
        value = feature["value"]
        assert column["value"] == [pytest.approx(value, rel=1e-6) if isinstance(value, float) else value], name
        assert column["status"] == [feature["status"]], name
        assert (column["event_timestamp"][0] is None) == (feature["event_timestamp"] is None)
        if feature["age_s"] is not None:
            assert column["age_s"][0] == pytest.approx(feature["age_s"], abs=60 if as_of is None else 1e-6), name


def test_rows_with_every_key_are_asked_as_they_are(client: TestClient) -> None:
    row = {"race_id": "1999_01", "driver_id": "nobody", "constructor_id": "nobody", "circuit_id": "nowhere"}
    said = client.post("/v1/features", json={"entity_rows": [row]}).json()
    assert said["entity_rows"] == [row]
    assert {status for column in said["features"].values() for status in column["status"]} <= {"MISSING", "STALE", "FRESH"}
    assert said["features"]["driver_finish_mean_3"]["status"] == ["MISSING"]
    lacking = client.post("/v1/features", json={"entity_rows": [{"driver_id": "nobody"}]})
    assert lacking.status_code == 422
    assert "every row needs" in lacking.json()["error"]["message"]


def test_a_race_has_a_result_once_it_was_known(loop: Loop, client: TestClient, race_id: str) -> None:
    start = moment_point(loop.settings, race_id, Moment("pre_race")).as_of
    then = client.get(f"/v1/races/{race_id}", params={"as_of": start.isoformat()}).json()
    now = client.get(f"/v1/races/{race_id}").json()
    assert then["result"] is None
    assert [lap["lap"] for lap in then["laps"]] in ([], [0])
    assert [row["position"] for row in now["result"]] == list(range(1, len(now["result"]) + 1))
    assert {row["driver_id"] for row in now["entrants"]} >= {row["driver_id"] for row in now["result"]}
    listed = client.get("/v1/races").json()["races"]
    assert {race["race_id"] for race in listed} == set(load_entrants(loop.settings)["race_id"])
    season = listed[0]["season"]
    assert {race["season"] for race in client.get("/v1/races", params={"season": season}).json()["races"]} == {season}


def test_a_trace_is_the_stored_picture_and_is_sent_once(loop: Loop, client: TestClient) -> None:
    stored = ImageArtifactStore(loop.settings.multimodal_dir)
    record = next(record for record in stored.records().values() if record.is_default)
    url = f"/v1/races/{record.race_id}/drivers/{record.driver_id}/trace.png"
    first = client.get(url)
    assert first.content == stored.load(record)
    assert first.headers["etag"] == f'"{record.sha256}"'
    again = client.get(url, headers={"If-None-Match": f'W/"x", {first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(url, headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_trace_that_is_not_stored_is_drawn_as_it_would_be(loop: Loop, client: TestClient) -> None:
    stored = ImageArtifactStore(loop.settings.multimodal_dir)
    record = next(record for record in stored.records().values() if record.is_default)
    url = f"/v1/races/{record.race_id}/drivers/{record.driver_id}/trace.png"
    drawn = client.app.state.serving.trace_png(record.race_id, record.driver_id, Moment("lap", lap=record.lap))  # type: ignore[attr-defined]
    assert hashlib.sha256(drawn).hexdigest() == record.sha256
    earlier = client.get(url, params={"lap": 2})
    assert earlier.status_code == 200
    assert earlier.headers["etag"] == f'"{hashlib.sha256(earlier.content).hexdigest()}"'
    assert earlier.content != stored.load(record)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:100])], ids=["gone", "cut"])
def test_a_trace_whose_file_is_damaged_is_drawn_anew(
    loop: Loop,
    client: TestClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], Any],
) -> None:
    shutil.copytree(loop.settings.multimodal_dir, tmp_path / "multimodal")
    stored = ImageArtifactStore(tmp_path / "multimodal")
    monkeypatch.setattr("serving.routes.races._store", lambda _root: stored)
    record = next(record for record in stored.records().values() if record.is_default)
    damage(tmp_path / "multimodal" / record.uri)
    answer = client.get(f"/v1/races/{record.race_id}/drivers/{record.driver_id}/trace.png")
    assert answer.status_code == 200, answer.text
    assert hashlib.sha256(answer.content).hexdigest() == record.sha256
    assert answer.headers["etag"] == f'"{record.sha256}"'
    assert record.uri in caplog.text


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("POST", "/v1/predict", b'{"race_id": "2099_01"}', 404, "not among the"),
        ("POST", "/v1/predict", b'{"race_id": "../../etc"}', 422, "race_id"),
        ("POST", "/v1/predict", '{"race_id": "２０２４_08"}'.encode(), 422, "race_id"),
        ("POST", "/v1/predict", b'{"race_id": "RACE", "lap": 1, "live": true}', 422, "at most one of"),
        ("POST", "/v1/predict", b'{"race_id": "RACE", "lap": 199}', 422, "scheduled over"),
        ("POST", "/v1/predict", b'{"race_id": "RACE", "fraction": NaN}', 422, "fraction"),
        ("POST", "/v1/predict", b'{"race_id": "RACE", "fraction": Infinity}', 422, "fraction"),
        ("POST", "/v1/predict", b'{"race_id": "RACE", "lap": true}', 422, "lap"),
        ("POST", "/v1/predict", b'{"race_id": "RACE", "as_of": "2199-01-01T00:00:00Z"}', 422, "expected an instant in the past"),
        ("POST", "/v1/predict", b'{"race_id": "RACE", "as_of": "1999-01-01T00:00:00Z"}', 404, "known to take part"),
        ("POST", "/v1/predict", b'{"race_id": "RACE", "as_of": "99999-01-01"}', 422, "as_of"),
        ("POST", "/v1/predict", b'{"race_id": "RACE", "unheard": 1}', 422, "unheard"),
        ("POST", "/v1/predict", b"[" * 100_000, 400, "nested too deeply"),
        ("POST", "/v1/predict", b'"\xe4"', 400, "UTF-8"),
        ("POST", "/v1/predict", b"\xff\xfe", 422, "JSON decode"),
        ("POST", "/v1/predict", b"", 422, "body"),
        ("POST", "/v1/features", b'{"entity_rows": []}', 422, "at least 1"),
        ("POST", "/v1/features", b'{"service": "nope", "entity_rows": [{"race_id": "RACE", "driver_id": "x"}]}', 404, "nope"),
        ("POST", "/v1/features", '{"entity_rows": [{"driver_id": "müller"}]}'.encode(), 422, "driver_id"),
        ("POST", "/v1/features", b'{"service": "race_result_v1", "entity_rows": [{"race_id": "RACE"}]}', 422, "materialized"),
        ("GET", "/v1/races/2099_01", b"", 404, "not among the"),
        ("GET", "/v1/races/%2e%2e%2f%2e%2e", b"", 404, "path: got"),
        ("GET", "/v1/races/RACE?as_of=soon", b"", 422, "as_of"),
        ("GET", "/v1/races/2099_01/moment", b"", 404, "not among the"),
        ("GET", "/v1/races/RACE/moment?lap=-1", b"", 422, "lap"),
        ("GET", "/v1/races/RACE/moment?replay=../x", b"", 422, "replay"),
        ("GET", "/v1/races/RACE/moment?replay=0123456789ab", b"", 404, "expected the newest"),
        ("GET", "/v1/races/RACE/drivers/nobody/trace.png?lap=3", b"", 404, "not among the"),
        ("GET", "/v1/races/RACE/drivers/..%5c..%5cx/trace.png", b"", 422, "driver_id"),
        ("GET", "/v1/models/other/decisions", b"", 404, "finish_position"),
        ("POST", "/v1/models/finish_position/rollback", b"", 503, "PITWALL_API_TOKEN"),
        ("POST", "/v1/models/finish_position/promote", b'{"version": "1"}', 503, "PITWALL_API_TOKEN"),
        ("DELETE", "/v1/predict", b"", 405, "expected POST"),
        ("GET", "/nothing/here", b"", 404, "path: got"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_form(
    client: TestClient, race_id: str, method: str, path: str, body: bytes, status: int, says: str
) -> None:
    answer = client.request(method, path.replace("RACE", race_id), content=body.replace(b"RACE", race_id.encode()), headers=JSON)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"type", "message", "hint"}
    assert says in error["message"]
    assert len(answer.content) < 4096
    assert ("retry-after" in answer.headers) == (status == 503 and "PITWALL_API_TOKEN" not in says)


def test_bodies_and_rows_beyond_the_limit_are_refused(client: TestClient, race_id: str) -> None:
    large = client.post("/v1/predict", content=b"x" * 10_000_000, headers=JSON)
    assert large.status_code == 413
    assert "at most 1048576" in large.json()["error"]["message"]
    parts = client.post("/v1/predict", content=(b"x" * 65_536 for _ in range(40)), headers=JSON)
    assert parts.status_code == 413
    many = client.post("/v1/features", json={"entity_rows": [{"a": "b"}] * 10_001})
    assert many.status_code == 422
    assert "at most 10000" in many.json()["error"]["message"]
    allowed = client.post(
        "/v1/features", json={"service": "race_state_v1", "entity_rows": [{"race_id": race_id, "driver_id": "x"}] * 10_000}
    )
    assert allowed.status_code == 200
    assert len(allowed.json()["features"]["running_position"]["value"]) == 10_000


def test_a_lost_online_store_is_said_and_comes_back(client: TestClient, race_id: str, driver_id: str) -> None:
    asked = {"entity_rows": [{"race_id": race_id, "driver_id": driver_id}]}

    def gone(*_: Any, **__: Any) -> None:
        raise OnlineStoreUnavailableError("Redis at localhost: no answer")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("feature_repo.stores.online_sqlite.PackedSqliteOnlineStore.read_many", gone)
        answer = client.post("/v1/features", json=asked)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert "no answer" in answer.json()["error"]["message"]
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert {name for name, part in ready.json()["parts"].items() if not part["ok"]} == {"online_store"}
        past = client.post("/v1/predict", json={"race_id": race_id})
        assert past.status_code == 200, "answers about past moments need no online store"
    assert client.post("/v1/features", json=asked).status_code == 200
    assert client.get("/readyz").json()["status"] == "ready"


def test_metrics_count_what_was_answered(client: TestClient, race_id: str, driver_id: str) -> None:
    client.post("/v1/predict", json={"race_id": race_id})
    client.post("/v1/features", json={"entity_rows": [{"race_id": race_id, "driver_id": driver_id}]})
    page = client.get("/metrics").text
    for name in (
        'pitwall_request_seconds_count{endpoint="/v1/predict",method="POST",status="200"}',
        'pitwall_stage_seconds_count{endpoint="/v1/predict",stage="model"}',
        'pitwall_feature_values_total{service="finish_position_v1"',
        "pitwall_predictions_total{",
        'pitwall_model_age_seconds{role="',
        'pitwall_view_freshness_seconds{view="driver_form"}',
        "pitwall_online_store_up 1.0",
    ):
        assert name in page, name


def test_every_endpoint_declares_its_form(client: TestClient) -> None:
    spec = client.get("/openapi.json").json()
    assert {path for path in spec["paths"] if path.startswith("/v1/")} >= {
        "/v1/features",
        "/v1/predict",
        "/v1/races",
        "/v1/races/{race_id}",
        "/v1/races/{race_id}/moment",
        "/v1/races/{race_id}/drivers/{driver_id}/trace.png",
        "/v1/models",
        "/v1/models/{name}/decisions",
        "/v1/models/{name}/promote",
        "/v1/models/{name}/rollback",
        "/v1/catalogue",
    }
    assert spec["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    guarded = {path for path, methods in spec["paths"].items() if any("security" in one for one in methods.values())}
    assert guarded == {"/v1/models/{name}/promote", "/v1/models/{name}/rollback"}
    bodies = spec["components"]["schemas"]
    for name in ("FeaturesRequest", "PredictRequest", "PromoteRequest", "RollbackRequest"):
        assert bodies[name]["examples"]
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            content = operation["responses"]["200"].get("content", {})
            assert content, f"{method} {path} declares no answer"
            json_schema = content.get("application/json", {}).get("schema")
            assert json_schema != {}, f"{method} {path} declares any JSON"
            for status, answer in operation["responses"].items():
                form = answer.get("content", {}).get("application/json", {}).get("schema")
                assert form is None or bodies[form["$ref"].rpartition("/")[2]]["examples"], f"{path} {status}: no example"
            assert operation.get("description"), f"{method} {path} says nothing"


def test_answers_and_examples_have_the_form_that_is_declared(client: TestClient, race_id: str, driver_id: str) -> None:
    """Answers are not checked when they are given, and no field may go undeclared."""
    row = {"race_id": race_id, "driver_id": driver_id}
    asked: list[tuple[type[Answer], str, dict[str, Any] | None]] = [
        (answers.FeaturesResponse, "/v1/features", {"service": "finish_position_v1", "entity_rows": [row]}),
        (answers.FeaturesResponse, "/v1/features", {"service": "speed_trace_v1", "entity_rows": [row]}),
        (answers.PredictResponse, "/v1/predict", {"race_id": race_id, "lap": 3}),
        (answers.PredictResponse, "/v1/predict", {"race_id": race_id, "live": True}),
        (answers.RacesResponse, "/v1/races", None),
        (answers.RaceResponse, f"/v1/races/{race_id}", None),
        (answers.RaceResponse, f"/v1/races/{race_id}?as_of=1950-01-01T00:00:00Z", None),
        (MomentResponse, f"/v1/races/{race_id}/moment?lap=0", None),
        (MomentResponse, f"/v1/races/{race_id}/moment", None),
        (MomentResponse, f"/v1/races/{race_id}/moment?replay={'0' * 12}", None),
        (answers.HealthResponse, "/healthz", None),
        (answers.ReadyResponse, "/readyz", None),
        (board.ModelsResponse, "/v1/models", None),
        (board.DecisionsResponse, "/v1/models/finish_position/decisions?inputs=true", None),
        (board.CatalogueResponse, "/v1/catalogue", None),
        (replay.ReplayResponse, f"/v1/races/{race_id}/replay", None),
    ]
    for form, path, body in asked:
        answer = client.get(path) if body is None else client.post(path, json=body)
        declared = form if answer.status_code == 200 else answers.ErrorBody
        declared.model_validate_json(answer.content, strict=True)
    for form in (board.MoveResponse, answers.ErrorBody, *[form for form, *_ in asked]):
        (example,) = form.model_json_schema()["examples"]
        form.model_validate_json(json.dumps(example), strict=True)
