"""A service over a Redis of its own that goes away and comes back: what fails, what goes on, and that it recovers by itself."""

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from loop_home import copy_of
from loop_setup import MLFLOW_WARNS, Loop
from online_servers import wait_until
from own_redis import own_redis

from feature_repo.settings import Settings
from feature_repo.spine import Moment, load_moments, resolve_moment
from feature_repo.store import apply
from pipelines.materialize import materialize
from serving.app import create_app

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)
RACE = "2024_04"
PAST = "2024-03-31T14:00:00Z"
ROWS = [{"race_id": RACE, "driver_id": "ines_dubois"}]
BOUND_S = 5.0
"""Longer than a store that does not answer is waited for while serving, far shorter than when materializing."""


class Redis:
    """A Redis that can be stopped and started again at the same address, empty."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._running = folder, ExitStack()
        self.address = self._running.enter_context(own_redis(folder))

    def stop(self) -> None:
        self._running.close()

    def start(self) -> None:
        self._running.enter_context(own_redis(self._folder, port=int(self.address.rpartition(":")[2])))


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def settings_on_redis(loop: Loop, redis: Redis, tmp_path: Path) -> Settings:
    """The loop's home with the newest race half over."""
    copied = copy_of(loop, tmp_path / "home")
    settings = copied.model_copy(update={"online_url": f"redis://{redis.address}/0"})
    apply(settings)
    materialize_half(settings)
    return settings


def materialize_half(settings: Settings) -> None:
    materialize(settings, until=resolve_moment(load_moments(settings), RACE, Moment.parse("fraction:0.5")).as_of)


def statuses(answer: Any) -> set[str]:
    return {status for column in answer.json()["features"].values() for status in column["status"]}


def test_it_answers_what_it_can_without_redis_and_comes_back_by_itself(settings_on_redis: Settings, redis: Redis) -> None:
    with TestClient(create_app(settings_on_redis), raise_server_exceptions=False) as client:

        def live() -> Any:
            return client.post("/v1/predict", json={"race_id": RACE, "live": True})

        before = live()
        assert before.status_code == 200, before.text
        assert before.json()["source"] == "online"
        past = client.post("/v1/predict", json={"race_id": RACE, "as_of": PAST}).json()

        redis.stop()
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert {name for name, part in ready.json()["parts"].items() if not part["ok"]} == {"online_store"}
        assert "Redis" in ready.json()["parts"]["online_store"]["detail"]
        for answer in (live(), client.post("/v1/features", json={"entity_rows": ROWS})):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert answer.json()["error"]["type"] == "OnlineStoreUnavailableError"
            assert "Redis" in answer.json()["error"]["message"]
        assert client.get("/healthz").status_code == 200
        metrics = client.get("/metrics")
        assert metrics.status_code == 200
        assert re.search(r"^pitwall_online_store_up 0\.0$", metrics.text, re.MULTILINE)
        still = client.post("/v1/predict", json={"race_id": RACE, "as_of": PAST})
        assert still.status_code == 200
        assert still.json()["drivers"] == past["drivers"]
        known_then = client.post("/v1/features", json={"entity_rows": ROWS, "as_of": PAST})
        assert known_then.status_code == 200
        assert "FRESH" in statuses(known_then)

        redis.start()  # empty: it kept nothing
        wait_until(lambda: client.get("/readyz").status_code == 200)
        empty = client.post("/v1/features", json={"entity_rows": ROWS})
        assert empty.status_code == 200
        assert statuses(empty) == {"MISSING"}
        materialize_half(settings_on_redis)
        again = live()
        assert again.status_code == 200
        assert again.json()["drivers"] == before.json()["drivers"]
        assert "MISSING" not in statuses(client.post("/v1/features", json={"entity_rows": ROWS, "service": "race_state_v1"}))


class Silent:
    """A server that accepts and never answers."""

    def __init__(self, port: int) -> None:
        self._listening = socket.create_server(("127.0.0.1", port))
        self._held: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        for one in [self._listening, *self._held]:
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._held.append(self._listening.accept()[0])


def test_a_hanging_redis_makes_nobody_wait_who_does_not_need_it(settings_on_redis: Settings, redis: Redis) -> None:
    live, now = {"race_id": RACE, "live": True}, {"entity_rows": ROWS}
    with TestClient(create_app(settings_on_redis), raise_server_exceptions=False) as client:
        past_questions = [
            ("/v1/predict", {"race_id": RACE, "as_of": PAST}),
            ("/v1/features", {"entity_rows": ROWS, "as_of": PAST}),
        ]
        expected = [_content(client.post(path, json=body)) for path, body in past_questions]
        refused: list[Any] = []
        enough = threading.Event()

        def ask_on(path: str, body: dict[str, Any]) -> None:
            while not enough.is_set():
                refused.append(client.post(path, json=body))

        redis.stop()
        asking = [
            threading.Thread(target=ask_on, args=question)
            for question in [("/v1/predict", live), ("/v1/features", now)] * (2 * settings_on_redis.serve_slots)
        ]
        with Silent(int(redis.address.rpartition(":")[2])):
            for one in asking:
                one.start()
            try:
                for _ in range(3):
                    seen = len(refused)
                    for (path, body), content in zip(past_questions, expected, strict=True):
                        began = time.monotonic()
                        assert _content(client.post(path, json=body)) == content
                        assert time.monotonic() - began < BOUND_S
                    began = time.monotonic()
                    ready = client.get("/readyz")
                    assert time.monotonic() - began < BOUND_S
                    assert {name for name, part in ready.json()["parts"].items() if not part["ok"]} == {"online_store"}
                    assert re.search(r"^pitwall_online_store_up 0\.0$", client.get("/metrics").text, re.MULTILINE)
                    assert client.get("/healthz").status_code == 200
                    wait_until(lambda seen=seen: len(refused) > seen + 100)
            finally:
                enough.set()
                for one in asking:
                    one.join(timeout=60)
        assert {(answer.status_code, answer.headers["retry-after"]) for answer in refused} == {(503, "2")}
        assert {answer.json()["error"]["type"] for answer in refused} == {"OnlineStoreUnavailableError"}
        redis.start()
        wait_until(lambda: client.get("/readyz").status_code == 200)
        assert client.post("/v1/features", json=now).status_code == 200


def _content(answer: Any) -> dict[str, Any]:
    """What an answer says, without how long it took."""
    assert answer.status_code == 200, answer.text
    return {name: part for name, part in answer.json().items() if name != "latency_ms"}


def test_it_starts_without_redis_and_is_not_ready_until_it_is_there(settings_on_redis: Settings, redis: Redis) -> None:
    redis.stop()
    with TestClient(create_app(settings_on_redis), raise_server_exceptions=False) as client:
        assert client.get("/readyz").status_code == 503
        assert client.post("/v1/predict", json={"race_id": RACE, "as_of": PAST}).status_code == 200
        redis.start()
        wait_until(lambda: client.get("/readyz").status_code == 200)
