"""A service whose online store is PostgreSQL: what it answers, what fails while that is away, and that it then comes back."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from fastapi.testclient import TestClient
from loop_home import copy_of
from loop_setup import MLFLOW_WARNS, Loop
from online_servers import Gate, remove_namespace, url_of, wait_until
from psycopg import sql

from feature_repo.settings import Settings
from feature_repo.spine import Moment, load_moments, resolve_moment
from feature_repo.store import apply, online_path
from feature_repo.stores.choose import online_config
from pipelines.materialize import materialize
from serving.app import create_app

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)
RACE = "2024_04"
PAST = "2024-03-31T14:00:00Z"
LIVE = {"race_id": RACE, "live": True}
ROWS = {"entity_rows": [{"race_id": RACE, "driver_id": driver} for driver in ("ines_dubois", "xavi_pratt")]}


@pytest.fixture(scope="module")
def gate() -> Iterator[Gate]:
    """A port before PostgreSQL, open."""
    server = urlsplit(url_of("postgres"))
    between = Gate(server.hostname or "127.0.0.1", server.port or 5432)
    between.open()
    yield between
    between.shut()


@pytest.fixture(scope="module")
def settings(loop: Loop, gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The loop's home on PostgreSQL behind the port, with the newest race half over."""
    server = urlsplit(url_of("postgres"))
    user = server.netloc.rpartition("@")[0]
    home = copy_of(loop, tmp_path_factory.mktemp("postgres") / "home")
    made = home.model_copy(update={"online_url": f"postgresql://{user}@127.0.0.1:{gate.port}{server.path}"})
    half_materialized(made)
    yield made
    remove_namespace("postgres", online_config(made)["db_schema"])


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), raise_server_exceptions=False) as running:
        yield running


def half_materialized(settings: Settings) -> None:
    apply(settings)
    materialize(settings, until=resolve_moment(load_moments(settings), RACE, Moment.parse("fraction:0.5")).as_of)


def known(answer: Any) -> dict[str, tuple[Any, ...]]:
    """Feature -> values, event times and statuses, all that does not age."""
    assert answer.status_code == 200, answer.text
    return {
        name: (column["value"], column["event_timestamp"], column["status"]) for name, column in answer.json()["features"].items()
    }


def finishing_order(answer: Any) -> Any:
    assert answer.status_code == 200, answer.text
    assert answer.json()["source"] == "online"
    return answer.json()["drivers"]


def test_it_answers_from_postgres_what_it_answers_from_sqlite(loop: Loop, client: TestClient, tmp_path: Path) -> None:
    reference = copy_of(loop, tmp_path / "reference")
    online_path(reference).unlink()
    half_materialized(reference)
    with TestClient(create_app(reference), raise_server_exceptions=False) as other:
        lookups, predictions = (
            [each.post(path, json=body) for each in (client, other)]
            for path, body in (("/v1/features", ROWS), ("/v1/predict", LIVE))
        )
    first, second = map(known, lookups)
    assert first == second
    assert any(value is not None for values, _, _ in first.values() for value in values)
    assert finishing_order(predictions[0]) == finishing_order(predictions[1])


def test_it_answers_what_it_can_without_postgres_and_comes_back_by_itself(client: TestClient, gate: Gate) -> None:
    lookup, order = known(client.post("/v1/features", json=ROWS)), finishing_order(client.post("/v1/predict", json=LIVE))
    past = client.post("/v1/predict", json={"race_id": RACE, "as_of": PAST}).json()["drivers"]
    gate.shut()
    try:
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert {name for name, part in ready.json()["parts"].items() if not part["ok"]} == {"online_store"}
        assert "PostgreSQL" in ready.json()["parts"]["online_store"]["detail"]
        for answer in (client.post("/v1/features", json=ROWS), client.post("/v1/predict", json=LIVE)):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert answer.json()["error"]["type"] == "OnlineStoreUnavailableError"
            assert "PostgreSQL" in answer.json()["error"]["message"]
        assert re.search(r"^pitwall_online_store_up 0\.0$", client.get("/metrics").text, re.MULTILINE)
        still = client.post("/v1/predict", json={"race_id": RACE, "as_of": PAST})
        assert (still.status_code, still.json()["drivers"]) == (200, past)
        assert client.post("/v1/features", json={**ROWS, "as_of": PAST}).status_code == 200
    finally:
        gate.open()
    wait_until(lambda: client.get("/readyz").status_code == 200)
    assert known(client.post("/v1/features", json=ROWS)) == lookup
    assert finishing_order(client.post("/v1/predict", json=LIVE)) == order


def test_connections_that_the_server_ends_are_replaced(settings: Settings, client: TestClient) -> None:
    before = known(client.post("/v1/features", json=ROWS))
    with psycopg.connect(url_of("postgres"), autocommit=True) as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND query LIKE %s",
            [f"%{online_config(settings)['db_schema']}%"],
        ).fetchall()
    assert ended, "the service has a connection of its own"
    assert known(client.post("/v1/features", json=ROWS)) == before


def test_rows_that_may_not_be_read_are_said_and_come_back(settings: Settings, client: TestClient) -> None:
    schema = sql.Identifier(online_config(settings)["db_schema"])
    aside = sql.Identifier(f"{online_config(settings)['db_schema']}_aside")
    rename = sql.SQL("ALTER SCHEMA {} RENAME TO {}")
    before = known(client.post("/v1/features", json=ROWS))
    with psycopg.connect(url_of("postgres"), autocommit=True) as connection:
        connection.execute(rename.format(schema, aside))
        try:
            answer = client.post("/v1/features", json=ROWS)
        finally:
            connection.execute(rename.format(aside, schema))
    assert answer.status_code == 503, answer.text
    assert "pitwall apply" in answer.json()["error"]["message"]
    assert known(client.post("/v1/features", json=ROWS)) == before
