"""What errors over HTTP say: got and expected, a hint, Retry-After where waiting helps; declared where they can be."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from loop_setup import MLFLOW_WARNS, Loop

from serving.app import create_app

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)
ROWS = [{"race_id": "2024_04", "driver_id": "ines_dubois"}]


@pytest.fixture(scope="module")
def client(loop: Loop) -> Iterator[TestClient]:
    """The service over the shared home, which it does not change; without a token."""
    with TestClient(create_app(loop.settings), raise_server_exceptions=False) as one:
        yield one


def said(answer: Any, status: int) -> dict[str, str]:
    """The error of an answer with that status."""
    assert answer.status_code == status, answer.text
    error: dict[str, str] = answer.json()["error"]
    return error


def test_a_path_of_none_and_a_method_of_none_say_got_and_expected(client: TestClient) -> None:
    nothing = said(client.get("/v1/nothing"), 404)
    assert nothing["message"] == "path: got '/v1/nothing', expected one of those that /openapi.json lists"
    assert "/docs" in nothing["hint"]
    deleted = client.delete("/v1/predict")
    assert deleted.headers["allow"] == "POST"
    assert said(deleted, 405)["message"] == "method: got DELETE for '/v1/predict', expected POST"


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"race_id": "\xe4"}'], ids=["deep", "latin-1"])
def test_a_body_that_cannot_be_read_says_what_was_expected(client: TestClient, body: bytes) -> None:
    unread = client.post("/v1/predict", content=body, headers={"Content-Type": "application/json"})
    assert (
        said(unread, 400)["message"]
        == "body: got JSON nested too deeply to be read, or no UTF-8; expected one object as /docs shows it"
    )


def test_who_asks_now_about_what_is_only_known_later_is_told_to_name_a_moment(client: TestClient) -> None:
    error = said(client.post("/v1/features", json={"service": "race_result_v1", "entity_rows": ROWS}), 422)
    assert error["type"] == "NotServedOnlineError"
    assert "`as_of`" in error["hint"]


def test_waiting_is_not_offered_where_it_does_not_help(client: TestClient) -> None:
    refused = client.post("/v1/models/finish_position/rollback")
    assert said(refused, 503)["type"] == "TokenNotConfiguredError"
    assert "retry-after" not in refused.headers


def test_each_endpoint_declares_the_errors_that_it_can_answer(client: TestClient) -> None:
    asked, changes = {"400", "413", "422"}, {"401", "404", "409"}
    expected: dict[str, set[str]] = {
        "post /v1/features": asked | {"404", "503"},
        "post /v1/predict": asked | {"404", "409", "503"},
        "post /v1/models/{name}/promote": asked | changes | {"503"},
        "post /v1/models/{name}/rollback": asked | changes | {"503"},
        "get /v1/races": {"422", "503"},
        "get /v1/races/{race_id}": {"404", "422", "503"},
        "get /v1/models": {"503"},
        "get /v1/catalogue": {"503"},
        "get /healthz": set(),
        "get /readyz": {"503"},
        "get /metrics": set(),
    }
    paths = client.get("/openapi.json").json()["paths"]
    declared = {
        f"{method} {path}": {status for status in operation["responses"] if status >= "400"}
        for path, methods in paths.items()
        for method, operation in methods.items()
    }
    assert {name: declared[name] for name in expected} == expected
    for name, statuses in declared.items():
        assert ("{" in name) <= {"404", "422", "503"}.issubset(statuses), name
