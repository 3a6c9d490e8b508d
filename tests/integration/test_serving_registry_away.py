"""The MLflow server is gone, or says nothing: the service lives, says so, and nobody is told that nothing is registered."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from champion_home import TOKEN
from fastapi.testclient import TestClient
from loop_setup import MLFLOW_WARNS, Loop, Pitwall
from mlflow.exceptions import MlflowException
from pydantic import SecretStr
from serve_process import free_port

from feature_repo.settings import Settings
from feature_repo.store import open_store
from ml.errors import RegistryUnavailableError
from ml.registry import MODEL_NAME, NOT_THERE, aliases_of, champion_history, get_version, open_registry, versions_of
from serving import models
from serving.app import create_app
from serving.commands_serve import serve
from serving.errors import NoModelError
from serving.predictor import Predictor
from serving.state import ServingState

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)


@pytest.fixture
def uri(monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a server that is gone: nobody listens on its port."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def client(loop: Loop, uri: str) -> Iterator[TestClient]:
    """The service over the loop's home, with its registry on that server."""
    settings = loop.settings.model_copy(update={"mlflow_tracking_uri": uri, "api_token": SecretStr(TOKEN)})
    with TestClient(create_app(settings), raise_server_exceptions=False) as one:
        yield one


def test_the_service_lives_and_says_that_the_registry_does_not_answer(client: TestClient, uri: str) -> None:
    assert client.get("/healthz").status_code == 200
    ready = client.get("/readyz").json()["parts"]["model"]
    assert not ready["ok"]
    assert uri in ready["detail"]
    assert "no registered model" not in ready["detail"]
    answer = client.get("/v1/models")
    assert answer.status_code == 200
    assert uri in answer.json()["registry_problem"]
    assert answer.json()["versions"] == []
    page = client.get("/models").text
    assert "registry does not answer" in page
    assert "No version is registered" not in page
    assert "Nothing was promoted" not in page
    assert "no champion to roll back" not in page


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("GET", "decisions", None), ("POST", "promote", {"version": "2"}), ("POST", "rollback", None)],
    ids=["decisions", "promote", "rollback"],
)
def test_what_needs_the_registry_is_asked_for_again_later(
    client: TestClient, uri: str, method: str, path: str, body: Any
) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = client.request(method, f"/v1/models/{MODEL_NAME}/{path}", json=body, headers=headers)
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) > 0
    error = answer.json()["error"]
    assert error["type"] == "RegistryUnavailableError"
    assert uri in error["message"]
    assert "PITWALL_MLFLOW_TRACKING_URI" in error["message"]


@pytest.mark.parametrize(("call", "said"), [("open_registry", "no answer within"), ("aliases_of", "are being loaded")])
def test_a_registry_that_accepts_and_says_nothing_holds_up_neither_start_nor_end(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, call: str, said: str
) -> None:
    for patience in ("REGISTRY_PATIENCE_S", "START_PATIENCE_S"):
        monkeypatch.setattr(models, patience, 0.2)
    monkeypatch.setattr(models, "CLOSING_PATIENCE_S", 0.1)
    monkeypatch.setattr(models, "open_registry", lambda _: object())
    monkeypatch.setattr(models, call, unheard := _Unheard())
    state = ServingState(loop.settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:1"}))
    try:
        assert unheard.asked.wait(60.0)
        with pytest.raises(NoModelError, match=said):
            _ = state.models.champion
        state.close()
        assert not unheard.given_up.is_set(), "the end has not waited for it"
    finally:
        unheard.answered.set()


class _Unheard:
    """What asks a server that lets one wait."""

    def __init__(self) -> None:
        self.asked, self.answered, self.given_up = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, _: Any) -> Any:
        self.asked.set()
        self.answered.wait(60.0)
        self.given_up.set()
        raise RegistryUnavailableError("too late")


@pytest.mark.parametrize(
    "command", [("predict", "--race", "2024_03"), ("promote",), ("status",), ("rollback",)], ids=lambda command: command[0]
)
def test_commands_end_with_a_named_error(
    loop: Loop, pitwall: Pitwall, uri: str, tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "pitwall.yaml").write_text(f"mlflow_tracking_uri: {uri}\n", encoding="utf-8")
    ended = pitwall(*command, home=loop.settings.home)
    assert ended.code == 1
    assert uri in ended.err
    assert "PITWALL_MLFLOW_TRACKING_URI" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("code", [NOT_THERE, "INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "PERMISSION_DENIED"])
def test_only_what_does_not_exist_is_taken_as_absent(loop: Loop, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    registry = open_registry(loop.settings)
    error = MlflowException("said by MLflow")
    error.error_code = code

    def refuses(*_: Any, **__: Any) -> Any:
        raise error

    for name in ("get_registered_model", "get_model_version", "search_model_versions"):
        monkeypatch.setattr(type(registry), name, refuses)
    if code == NOT_THERE:
        assert aliases_of(registry) == {}
        assert champion_history(registry) == []
        with pytest.raises(NoModelError, match="no registered model"):
            Predictor.open(loop.settings)
        with pytest.raises(NoModelError, match="no version '2'"):
            _load(loop, registry)
        return
    for asked in (
        lambda: aliases_of(registry),
        lambda: versions_of(registry),
        lambda: champion_history(registry),
        lambda: get_version(registry, "2"),
        lambda: open_registry(loop.settings),
        lambda: Predictor.open(loop.settings),
        lambda: _load(loop, registry),
    ):
        with pytest.raises(RegistryUnavailableError, match=f"{code}: said by MLflow"):
            asked()


def _load(loop: Loop, registry: Any) -> Predictor:
    return Predictor.load(loop.settings, open_store(loop.settings), registry, version="2", role="champion")


def test_a_password_in_the_address_is_not_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uri: str) -> None:
    settings = Settings(home=tmp_path, mlflow_tracking_uri=uri.replace("//", "//user:secret@"))
    with pytest.raises(RegistryUnavailableError) as told:
        open_registry(settings)
    assert uri in str(told.value)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("own", [None, "77"], ids=["default", "own"])
def test_the_service_asks_mlflow_briefly_unless_it_is_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: str | None
) -> None:
    names = ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    for name in (*names, "PITWALL_HOME"):
        monkeypatch.setenv(name, own or "")
    seen: dict[str, str] = {}

    def run(server: uvicorn.Server) -> None:
        seen.update({name: os.environ[name] for name in names})
        server.started = True

    monkeypatch.setattr("uvicorn.Server.run", run)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    serve(workers=1, home=tmp_path)
    assert list(seen.values()) == ([own, own] if own else ["10", "1"])
