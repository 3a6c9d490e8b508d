"""What is counted about a request, and what several processes say of themselves on one page."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import numpy as np
import pytest
from starlette.types import Message, Receive, Scope, Send

from serving.limits import BodyLimit, Timed
from serving.metrics import MULTIPROCESS_DIR, Metrics

SECONDS = {"wait": 0.1, "total": 0.2}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """A count so far: where Prometheus counts for several processes, all metrics of this one share it."""
    found: float | None = metrics.registry.get_sample_value(name, labels)
    return found or 0.0


def ask(metrics: Metrics, app: Any, scope: dict[str, Any]) -> list[Message]:
    """What an application under both middlewares sends to a request with an empty body."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    timed = Timed(BodyLimit(app, limit_bytes=10), SimpleNamespace(serving=SimpleNamespace(metrics=metrics)))
    anyio.run(timed, {"type": "http", "method": "POST", "headers": [], **scope}, receive, send)
    return sent


def routed_to(path: str, metrics: Metrics) -> Any:
    """An application that routes every request to one endpoint, which counts its stages in a thread."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = SimpleNamespace(path=path)
        await anyio.to_thread.run_sync(metrics.count_stages, SECONDS)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


def test_stages_are_counted_under_the_endpoint_of_their_request() -> None:
    metrics, stages = Metrics(), "pitwall_stage_seconds_count"
    expected = {"(none)": 2, "/v1/a/{b}": 1, "/v1/c": 1}
    metrics.count_stages(SECONDS)
    before = {"(none)": value(metrics, stages, endpoint="(none)", stage="wait") - 1}
    ask(metrics, routed_to("/v1/a/{b}", metrics), {})
    ask(metrics, routed_to("/v1/c", metrics), {})
    metrics.count_stages(SECONDS)
    for endpoint, times in expected.items():
        assert value(metrics, stages, endpoint=endpoint, stage="wait") - before.get(endpoint, 0) == times
    assert value(metrics, "pitwall_request_seconds_count", endpoint="/v1/c", method="POST", status="200") == 1


def test_a_body_that_is_too_large_is_counted_as_such() -> None:
    metrics = Metrics()
    labels = {"endpoint": "(body too large)", "method": "POST", "status": "413"}
    ask(metrics, routed_to("/v1/c", metrics), {"headers": [(b"content-length", b"11")]})
    before = value(metrics, "pitwall_request_seconds_count", **labels)
    sent = ask(metrics, routed_to("/v1/c", metrics), {"headers": [(b"content-length", b"11")]})
    assert sent[0]["status"] == 413
    assert value(metrics, "pitwall_request_seconds_count", **labels) - before == 1


def test_values_that_a_model_was_asked_with_are_counted_once_each() -> None:
    metrics = Metrics()
    said: Any = SimpleNamespace(
        drivers=["a", "b"],
        model=SimpleNamespace(feature_service="form_v1"),
        missing={"features": {"x": ["a", "b"], "y": ["b"]}},
        stale={"y": ["a", "b"]},
        seen=SimpleNamespace(tabular=np.zeros((3, 4), dtype=np.float32)),
    )
    metrics.count_inputs(said)
    counted = {
        status: value(metrics, "pitwall_feature_values_total", service="form_v1", status=status)
        for status in ("FRESH", "STALE", "MISSING")
    }
    assert counted == {"FRESH": 4, "STALE": 1, "MISSING": 3}, "of 2 drivers, 4 values each"


PROCESS = """
import sys
from serving.metrics import Metrics
metrics = Metrics()
waiting, *wrong = sys.argv[1:]
metrics.measured(waiting=int(waiting), problems={role: role in wrong for role in ("champion", "baseline")})
metrics.comparisons_left_out.inc(int(waiting))
print("measured", flush=True)
sys.stdin.readline()
print(metrics.page(list).decode(), flush=True)
"""


@contextmanager
def process(folder: Path, *said: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has measured itself; told to, it prints its page and ends."""
    environment = {**os.environ, MULTIPROCESS_DIR: str(folder)}
    command = [sys.executable, "-c", PROCESS, *said]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "measured\n"
            yield running
        finally:
            running.kill()


def page(asked: subprocess.Popen[str]) -> list[str]:
    return asked.communicate("\n", timeout=30)[0].splitlines()


def test_one_page_has_what_all_processes_measure(tmp_path: Path) -> None:
    with process(tmp_path, "3") as one, process(tmp_path, "20", "champion"):
        told = page(one)
    assert "pitwall_waiting 23.0" in told
    assert 'pitwall_model_problem{role="champion"} 1.0' in told
    assert 'pitwall_model_problem{role="baseline"} 0.0' in told
    assert "pitwall_comparisons_left_out_total 23.0" in told


def test_a_process_that_ended_waits_for_nothing_and_what_it_counted_stays(tmp_path: Path) -> None:
    with process(tmp_path, "3") as one:
        with process(tmp_path, "20", "champion"):
            pass
        told = page(one)
    assert "pitwall_waiting 3.0" in told
    assert 'pitwall_model_problem{role="champion"} 0.0' in told
    assert "pitwall_comparisons_left_out_total 23.0" in told


def test_a_process_that_is_only_starting_does_not_spoil_the_page(tmp_path: Path) -> None:
    """Between making a file and giving it its length a process may take a while, or be killed."""
    with process(tmp_path, "3") as one:
        (tmp_path / f"counter_{one.pid + 1}.db").touch()
        assert "pitwall_waiting 3.0" in page(one)


@pytest.mark.parametrize("problems", [{}, {"champion": True}], ids=["none", "champion"])
def test_a_role_without_a_problem_says_so(problems: dict[str, bool]) -> None:
    metrics = Metrics()
    metrics.measured(waiting=0, problems={"champion": False, "registry": False} | problems)
    assert value(metrics, "pitwall_model_problem", role="champion") == bool(problems)
    assert value(metrics, "pitwall_model_problem", role="registry") == 0
