"""A service whose Feast registry, a real PostgreSQL, goes away, hangs and comes back: what it read before goes on answering."""

import logging
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient
from loop_home import copy_of
from loop_setup import MLFLOW_WARNS, Loop
from online_servers import POSTGRES, Gate, gate_to, url_of, wait_until

from feature_repo.settings import Settings
from feature_repo.store import apply, open_store
from feature_repo.stores.errors import FeatureRegistryUnavailableError
from serving.app import create_app
from serving.lookup import lookup

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)
RACE, DRIVER = "2024_04", "ines_dubois"
PAST = "2024-03-31T14:00:00Z"
ROWS = [{"race_id": RACE, "driver_id": DRIVER}]
BOUND_S = 5.0
QUESTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/features", {"entity_rows": ROWS}),
    ("/v1/features", {"entity_rows": ROWS, "as_of": PAST}),
    ("/v1/predict", {"race_id": RACE, "as_of": PAST}),
)
NEVER_ASKED = {"entity_rows": ROWS, "as_of": PAST, "service": "race_result_v1"}


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A way to PostgreSQL that can be shut."""
    opened, _ = gate_to("postgres")
    yield opened
    opened.flows.set()
    opened.shut()


@pytest.fixture
def settings_on_postgres(loop: Loop, gate: Gate, tmp_path: Path) -> Iterator[Settings]:
    """The loop's home with its Feast registry in a database of its own."""
    url_of("postgres")
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(POSTGRES, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        user = connection.info.user
    settings = copy_of(loop, tmp_path / "home")
    settings = settings.model_copy(update={"registry_url": f"postgresql+psycopg://{user}@127.0.0.1:{gate.port}/{name}"})
    apply(settings)
    yield settings
    with psycopg.connect(POSTGRES, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def client(settings_on_postgres: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The service, which reads what a service needs from the registry again for every request."""
    monkeypatch.setattr("serving.plans.PLAN_FOR_S", 0.0)
    with TestClient(create_app(settings_on_postgres), raise_server_exceptions=False) as one:
        yield one


def contents(client: TestClient) -> list[dict[str, Any]]:
    """What is answered, without when and how fast: the clock is read for each answer."""
    said = []
    for path, body in QUESTIONS:
        answer = client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        moving = {"latency_ms"} if "as_of" in body else {"as_of"}
        said.append({name: part for name, part in answer.json().items() if name not in moving})
    for column in said[0]["features"].values():
        del column["age_s"]
    return said


def failing(client: TestClient) -> set[str]:
    """The parts that /readyz calls missing."""
    return {name for name, part in client.get("/readyz").json()["parts"].items() if not part["ok"]}


def test_what_was_read_before_goes_on_answering_while_the_registry_is_away(
    client: TestClient, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "serving.plans")
    before = contents(client)
    assert failing(client) == set()
    for _ in range(2):
        caplog.clear()
        gate.shut()
        assert contents(client) == before
        assert contents(client) == before
        assert failing(client) == {"registry"}
        detail = client.get("/readyz").json()["parts"]["registry"]["detail"]
        assert "FeatureRegistryUnavailableError" in detail
        assert f"127.0.0.1:{gate.port}" in detail
        assert "PITWALL_REGISTRY_URL" in detail
        unknown = client.post("/v1/features", json=NEVER_ASKED)
        assert (unknown.status_code, unknown.headers["retry-after"]) == (503, "2")
        assert unknown.json()["error"]["type"] == "FeatureRegistryUnavailableError"
        assert client.get("/v1/catalogue").status_code == 200
        gate.open()
        wait_until(lambda: failing(client) == set())
        wait_until(lambda: contents(client) == before and "registry_back" in caplog.text)
        said = [record.getMessage().split()[0] for record in caplog.records if record.name == "serving.plans"]
        assert said == ["registry_away", "registry_back"]
    wait_until(lambda: client.post("/v1/features", json=NEVER_ASKED).status_code == 200)


def test_nobody_waits_for_a_registry_that_hangs(client: TestClient, gate: Gate) -> None:
    before = contents(client)
    gate.flows.clear()
    for _ in range(2):
        began = time.monotonic()
        assert contents(client) == before
        assert failing(client) == {"registry"}
        assert time.monotonic() - began < len(QUESTIONS) * BOUND_S
    began = time.monotonic()
    assert client.post("/v1/features", json=NEVER_ASKED).status_code == 503
    assert time.monotonic() - began < BOUND_S
    gate.flows.set()
    wait_until(lambda: failing(client) == set())
    wait_until(lambda: client.post("/v1/features", json=NEVER_ASKED).status_code == 200)
    assert contents(client) == before


def test_commands_name_the_registry_that_does_not_answer(settings_on_postgres: Settings, gate: Gate) -> None:
    gate.shut()
    with pytest.raises(FeatureRegistryUnavailableError, match=f"127.0.0.1:{gate.port}.*PITWALL_REGISTRY_URL") as refused:
        lookup(settings_on_postgres, race_id=RACE, driver_id=DRIVER)
    assert "[SQL" not in str(refused.value)
    with pytest.raises(FeatureRegistryUnavailableError):
        apply(settings_on_postgres)
    gate.open()
    lookup(settings_on_postgres, race_id=RACE, driver_id=DRIVER, store=open_store(settings_on_postgres))


def test_a_service_that_starts_without_it_is_not_ready_until_it_is_there(
    settings_on_postgres: Settings, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.models._FIRST_PAUSE_S", 0.1)
    gate.shut()
    with TestClient(
        create_app(settings_on_postgres.model_copy(update={"model_poll_s": 0.1})), raise_server_exceptions=False
    ) as client:
        assert client.get("/healthz").status_code == 200
        assert "registry" in failing(client)
        gate.open()
        wait_until(lambda: failing(client) == set())
        contents(client)
