"""What a service does when it is asked nonsense, far too much, or while it is told to stop."""

import copy
import json
import re
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, example, given, settings
from hypothesis.errors import Unsatisfiable
from loop_home import copy_of
from loop_setup import Loop, loop_environment
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serve_process import Served, answers_while_stopping, serving

from feature_repo.spine import Moment, load_moments, resolve_moment
from feature_repo.store import apply, online_path
from pipelines.materialize import materialize
from serving.online_lookup import MAX_ROWS

TOKEN = "a-token-of-a-test"
RACE = "2024_04"
BODY_LIMIT = 1024 * 1024
EXAMPLES = 15
"""Per endpoint and mode (what the description allows, what it does not)."""

MOMENTS = {"lap": 8, "fraction": 0.5, "pre_race": True, "as_of": "2024-03-31T13:30:00Z", "live": True}
ALWAYS = {"POST /v1/predict": [{"race_id": RACE, moment: value} for moment, value in MOMENTS.items()]}
"""Bodies that are sent besides: right ones of every kind."""

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def environment(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a service over the loop's home, in which the newest race is half over."""
    home = copy_of(loop, tmp_path_factory.mktemp("robust") / "home")
    online_path(home).unlink()
    apply(home)
    materialize(home, until=resolve_moment(load_moments(home), RACE, Moment.parse("fraction:0.5")).as_of)
    return {**loop_environment(home.home), "PITWALL_API_TOKEN": TOKEN, "PITWALL_MODEL_POLL_S": "60"}


@pytest.fixture(scope="module")
def served(environment: dict[str, str]) -> Iterator[Served]:
    with serving(environment) as running:
        yield running


def ask(served: Served, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    connection = served.connect()
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in ({**JSON, **(headers or {})} if body is not None else headers or {}).items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def refused(status: int, body: bytes) -> dict[str, str]:
    """The error in an answer; it must be one, and not a fault of the service."""
    assert 400 <= status < 500, (status, body[:500])
    error = json.loads(body)["error"]
    assert set(error) == {"type", "message", "hint"}
    assert error["message"]
    assert "Traceback" not in error["message"]
    return dict(error)


def test_a_process_of_its_own_counts_what_it_answers(served: Served) -> None:
    """Feast sets Prometheus' variable for several processes when it is imported; a single process counts all the same."""
    assert ask(served, "POST", "/v1/predict", json.dumps({"race_id": RACE, "lap": 8}).encode())[0] == 200
    page = ask(served, "GET", "/metrics")[1].decode()
    assert re.search(r'^pitwall_request_seconds_count\{endpoint="/v1/predict",.*status="200"\} [1-9]', page, re.MULTILINE)
    assert re.search(r'^pitwall_stage_seconds_count\{endpoint="/v1/predict",stage="model"\} [1-9]', page, re.MULTILINE)
    assert re.search(r"^pitwall_predictions_total\{.*\} [1-9]", page, re.MULTILINE)


def test_nothing_its_description_allows_or_forbids_makes_it_fail(served: Served) -> None:
    """Both modes; what needs the token has it. How each endpoint answers right questions is tested elsewhere."""
    description = requests.get(f"{served.url}/openapi.json", timeout=60).json()
    answered: dict[str, set[Any]] = {}
    for form in (description, with_ids_there_are(description)):
        operations = [found.ok() for found in schemathesis.openapi.from_dict(form).get_all_operations()]
        operations = [operation for operation in operations if not operation.path.endswith("/live")]  # a stream without end
        assert len(operations) >= 12
        with requests.Session() as session:
            for operation in operations:
                for mode in schemathesis.GenerationMode:
                    explore(served, session, operation, mode, answered)
    for endpoint in ("POST /v1/predict", "POST /v1/features", "GET /v1/races/{race_id}"):
        assert {200, 404, 422} <= answered[endpoint], endpoint
    assert {"online", "offline"} <= answered["POST /v1/predict"]
    assert served.process.poll() is None


THERE_ARE = {
    "2024_16": [RACE, "2024_01", "2031_01"],
    "ines_dubois": ["ines_dubois", "xavi_pratt", "nobody"],
    "finish_position_v1": ["finish_position_v1", "race_state_v1", "speed_trace_v1", "nothing_v1"],
    "2024-08-18T13:30:00Z": ["2024-03-31T14:00:00Z", "2023-01-01T00:00:00+14:00", "1950-01-01", "2024-02-30", "2999-01-01"],
    "3": ["1", "2", "3"],
}


def with_ids_there_are(description: Any) -> Any:
    """The description with ids of this home, and some of nothing, in place of patterns: random ids get no further than 404.

    Only of what is asked: answers are held to what the service itself says of them. A prediction is about one moment.
    """
    known = copy.deepcopy(description)
    for path in known["paths"].values():
        for operation in path.values():
            operation["parameters"] = _with_known_ids(operation.get("parameters", []))
    schemas = known["components"]["schemas"]
    schemas |= {name: _with_known_ids(form) for name, form in schemas.items() if name.endswith("Request")}
    asked = schemas["PredictRequest"]["properties"] | {"pre_race": {"const": True}, "live": {"const": True}}
    schemas["PredictRequest"] = {
        "anyOf": [
            {
                "type": "object",
                "properties": {name: asked[name] for name in ("race_id", "drivers", moment)},
                "required": ["race_id", moment],
                "additionalProperties": False,
            }
            for moment in MOMENTS
        ]
    }
    ids = {"race_id": THERE_ARE["2024_16"], "driver_id": THERE_ARE["ines_dubois"]}
    row = {
        "properties": {key: {"enum": values} for key, values in ids.items()},
        "required": [*ids],
        "additionalProperties": False,
    }
    schemas["FeaturesRequest"]["properties"]["entity_rows"] |= {"items": {"type": "object", **row}, "maxItems": 3}
    return known


def _with_known_ids(part: Any) -> Any:
    if isinstance(part, list):
        return [_with_known_ids(one) for one in part]
    if not isinstance(part, dict):
        return part
    examples = part.get("examples")
    if part.get("type") == "string" and examples and examples[0] in THERE_ARE:
        return {"type": "string", "enum": THERE_ARE[examples[0]]}
    return {name: _with_known_ids(one) for name, one in part.items()}


def explore(
    served: Served,
    session: requests.Session,
    operation: schemathesis.APIOperation,
    mode: schemathesis.GenerationMode,
    answered: dict[str, set[Any]],
) -> None:
    """Ask an operation in every way, hold each answer to the description, and note status and source of all."""
    seen = answered.setdefault(operation.label, set())

    @settings(max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def asked(case: schemathesis.Case) -> None:
        response = case.call(base_url=served.url, session=session, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60)
        case.validate_response(response, checks=CHECKS)
        seen.add(response.status_code)
        if operation.label == "POST /v1/predict" and response.status_code == 200:
            seen.add(response.json()["source"])
        if response.status_code >= 400:
            assert set(json.loads(response.content)["error"]) == {"type", "message", "hint"}, response.content[:300]

    for body in ALWAYS.get(operation.label, []):
        asked = example(case=operation.Case(body=body, media_type="application/json"))(asked)
    # What has neither parameters nor a body cannot be asked wrongly.
    with suppress(Unsatisfiable) if mode is schemathesis.GenerationMode.NEGATIVE else nullcontext():
        asked()


@pytest.mark.parametrize(
    "path",
    [
        "/v1/races/..%2f..%2f..%2fetc%2fpasswd",
        "/v1/races/%2e%2e/%2e%2e/etc/passwd",
        "/v1/races/2024_04%00",
        "/v1/races/2024_04%0d%0aset-cookie:%20a=b",
        "/v1/races/%EF%BC%92024_04",  # a full-width digit
        "/v1/races/2024_04'%20OR%201=1--",
        "/v1/races/" + "9" * 5000,
        "/v1/races/%ff%fe",
        f"/v1/races/{RACE}/drivers/..%2f..%2fregistry.db/trace.png",
        f"/v1/races/{RACE}/drivers/%00/trace.png",
        f"/v1/races/{RACE}/drivers/nobody/trace.png",
        f"/v1/races/{RACE}/drivers/{'a' * 65}/trace.png",
        f"/v1/races/{RACE}/drivers/ines_dubois/trace.png?lap=-1",
        f"/v1/races/{RACE}/drivers/ines_dubois/trace.png?lap=99999999999999999999999",
        f"/v1/races/{RACE}/drivers/ines_dubois/trace.png?lap=NaN",
        f"/v1/races/{RACE}?as_of=9999-12-31T23:59:59Z",
        f"/v1/races/{RACE}?as_of=0001-01-01T00:00:00Z",
        f"/v1/races/{RACE}?as_of=2024-05-26T14:00:00%2B99:99",
        f"/v1/races/{RACE}?as_of=" + "1" * 41,
        f"/v1/races/{RACE}?as_of=%F0%9F%8F%81",
        "/v1/races?season=1e400",
        "/v1/races?season=2024abc",
        "/v1/models/..%2f..%2fmlflow.db/decisions",
        "/v1/models/another/decisions",
        "/v1/nothing",
    ],
)
def test_hostile_ids_and_paths_are_refused(served: Served, path: str) -> None:
    refused(*ask(served, "GET", path))


def predict(**asked: Any) -> bytes:
    return json.dumps({"race_id": RACE, **asked}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"2024_04"',
        b"\xff\xfe\x00",
        b'{"race_id": "\xff"}',
        predict(race_id="\x00"),
        predict(race_id="\ud800"),
        predict(race_id="२०२४_०४"),
        predict(race_id="2024_04\n"),
        predict(race_id=20240401),
        predict(race_id={"$gt": ""}),
        predict(**{"\ud800": 1}),
        predict(fraction=float("nan")),
        predict(fraction=float("-inf")),
        predict(lap=1.5),
        predict(lap=True),
        predict(lap=-1),
        b'{"race_id": "2024_04", "lap": 1' + b"0" * 5000 + b"}",
        b'{"race_id": "2024_04", "lap": 1e999}',
        predict(lap=3, live=True),
        predict(as_of="2999-01-01T00:00:00Z"),
        predict(as_of="2024-02-30T00:00:00Z"),
        predict(as_of="-9999999999-01-01"),
        predict(drivers=[]),
        predict(drivers=["ines_dubois"] * 101),
        predict(drivers=["../../etc/passwd"]),
        predict(drivers=["nobody"]),
        predict(surprise="x"),
    ],
)
def test_hostile_questions_are_refused(served: Served, body: bytes) -> None:
    refused(*ask(served, "POST", "/v1/predict", body))


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"race_id":[', b'{"entity_rows":[{"race_id":['])
@pytest.mark.parametrize("path", ["/v1/predict", "/v1/features", "/v1/models/finish_position/promote"])
def test_json_as_deep_as_the_body_allows_is_refused(served: Served, path: str, opening: bytes) -> None:
    body = opening * (100_000 // len(opening))
    refused(*ask(served, "POST", path, body, {"authorization": f"Bearer {TOKEN}"}))


def features(rows: list[dict[Any, Any]], **asked: Any) -> bytes:
    return json.dumps({"service": "race_state_v1", "entity_rows": rows, **asked}).encode()


ROW = {"race_id": RACE, "driver_id": "ines_dubois"}


@pytest.mark.parametrize(
    "body",
    [
        features([]),
        features([{}]),
        features([{"race_id": None, "driver_id": "ines_dubois"}]),
        features([{"race_id": RACE}]),
        features([ROW, {"driver_id": "ines_dubois"}]),
        features([{**ROW, "\ud800": "x"}]),
        features([{**ROW, "driver_id": "é" * 10}]),
        features([{**ROW, "driver_id": float("nan")}]),
        features([{**ROW, "driver_id": ["ines_dubois"]}]),
        features([{f"key_{letter}": "x" for letter in "abcdefghijklmnopq"}]),
        features([ROW], service="../../registry"),
        features([ROW], service="nothing_v1"),
        features([ROW], as_of="tomorrow"),
        features([{"race_id": "2031_01", "driver_id": "ines_dubois"}], service="finish_position_v1"),
    ],
)
def test_hostile_entity_rows_are_refused(served: Served, body: bytes) -> None:
    refused(*ask(served, "POST", "/v1/features", body))


def test_as_many_rows_as_the_limit_says_and_no_more(served: Served) -> None:
    assert MAX_ROWS == 10_000
    status, body = ask(served, "POST", "/v1/features", features([ROW] * MAX_ROWS))
    assert status == 200
    answer = json.loads(body)
    assert len(answer["entity_rows"]) == MAX_ROWS
    assert all(len(column["value"]) == MAX_ROWS for column in answer["features"].values())
    status, body = ask(served, "POST", "/v1/features", features([ROW] * (MAX_ROWS + 1)))
    assert "10000" in refused(status, body)["message"]
    assert status == 422


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/features"])
def test_a_body_of_10_mb_is_refused_with_its_limit(served: Served, path: str) -> None:
    connection = served.connect()
    connection.putrequest("POST", path)
    connection.putheader("content-length", str(10_000_000))
    connection.endheaders()
    response = connection.getresponse()  # without having sent any of it
    assert str(BODY_LIMIT) in refused(response.status, response.read())["message"]
    assert response.status == 413
    connection.close()


def test_a_body_of_undeclared_size_is_counted(served: Served) -> None:
    connection = served.connect()

    def pieces() -> Iterator[bytes]:
        for _ in range(160):
            yield b" " * 65_536

    try:
        connection.request("POST", "/v1/predict", pieces(), {**JSON, "transfer-encoding": "chunked"}, encode_chunked=True)
        response = connection.getresponse()
    except (BrokenPipeError, ConnectionResetError):  # it hung up while we were sending, which it may
        response = None
    finally:
        if response is not None:
            assert response.status == 413
            assert str(BODY_LIMIT) in refused(413, response.read())["message"]
        connection.close()
    assert ask(served, "GET", "/healthz")[0] == 200


@pytest.mark.parametrize(
    ("method", "path"), [("DELETE", "/v1/predict"), ("GET", "/v1/predict"), ("PUT", "/v1/races"), ("TRACE", "/")]
)
def test_other_methods_are_refused(served: Served, method: str, path: str) -> None:
    status, body = ask(served, method, path)
    refused(status, body)
    assert status == 405


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-encoding": "gzip"},
        {"content-type": "application/json; charset=utf-16"},
    ],
)
def test_other_content_types_end_in_an_answer(served: Served, headers: dict[str, str]) -> None:
    status, _ = ask(served, "POST", "/v1/predict", predict(), headers)
    assert status < 500


WRONG_TOKENS = [None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xe9", TOKEN, "x" * 4000]


@pytest.mark.parametrize("token", WRONG_TOKENS)
def test_nothing_is_changed_without_the_token(served: Served, token: str | None) -> None:
    headers = {} if token is None else {"authorization": token}
    status, body = ask(served, "POST", "/v1/models/finish_position/rollback", b"", headers)
    assert refused(status, body)["type"] == "WrongTokenError"
    assert status == 401


def test_sigterm_lets_answers_under_way_finish(environment: dict[str, str]) -> None:
    rows = features([ROW] * 1_000, service="finish_position_v1")
    with serving(environment) as served:
        answers = answers_while_stopping(served, "/v1/features", rows, n_requests=6)
        assert [status for status, _ in answers] == [200] * 6
        assert len({frozenset(json.loads(body)["features"]) for _, body in answers}) == 1
        assert served.process.wait(timeout=30) == 0, served.said()[-2000:]
        with pytest.raises(OSError, match="refused"):
            served.connect(timeout=2).connect()
        assert "Traceback" not in served.said()
