"""Following a replay over HTTP: whole, in order, resumed where the connection broke, ended with the race; and its JSON twin."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from loop_home import copy_of
from loop_setup import MLFLOW_WARNS, Loop, loop_environment
from serve_process import serving

from feature_repo.settings import Settings
from serving.app import create_app
from serving.replay import replay
from serving.replay_file import ReplayEvent, ReplayReader, ReplayWriter, replay_path
from serving.routes import live

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)

RACE, OTHER, NEVER = "2024_02", "2024_03", "2024_01"
Event = tuple[str, str, dict[str, Any]]
"""Id, kind, data."""


@pytest.fixture(scope="module")
def home(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A copy of the loop's home in which one race was replayed."""
    settings = copy_of(loop, tmp_path_factory.mktemp("live") / "home")
    replay(settings, RACE, speed=0, to_lap=5)
    return settings


@pytest.fixture(scope="module")
def served(home: Settings) -> Iterator[tuple[str, FastAPI]]:
    """The service on a port of its own: the test client cannot read a stream before it has ended."""
    app = create_app(home)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        threading.Event().wait(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}", app
    app.state.stopping = True
    server.should_exit = True
    thread.join()


@contextmanager
def following(url: str, race_id: str = RACE, **asked: Any) -> Iterator[Iterator[Event]]:
    with httpx.stream("GET", f"{url}/v1/races/{race_id}/live", timeout=60, **asked) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield _events(answer.iter_lines())


def _events(lines: Iterator[str]) -> Iterator[Event]:
    found: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            found[name] = value
        elif "event" in found:
            yield found.get("id", ""), found["event"], json.loads(found["data"])
            found = {}


def laps(events: list[Event]) -> list[int]:
    return [data["lap"] for _, kind, data in events if kind == "lap"]


def test_a_replay_that_is_over_is_told_whole_and_ends(served: tuple[str, FastAPI], home: Settings) -> None:
    url, _ = served
    with following(url) as stream:
        events = list(stream)
    assert [kind for _, kind, _ in events] == ["start", *["lap"] * 6, "end"]
    assert laps(events) == [0, 1, 2, 3, 4, 5]
    assert [data for _, _, data in events] == [json.loads(line) for line in replay_path(home, RACE).read_text().splitlines()]
    twin = httpx.get(f"{url}/v1/races/{RACE}/replay").json()
    assert twin["events"] == [data for _, _, data in events]
    assert (twin["state"], twin["last_event_id"]) == ("ended", events[-1][0])
    later = httpx.get(f"{url}/v1/races/{RACE}/replay", params={"after": 5}).json()
    assert [event["id"] for event in later["events"]] == [6, 7]


def test_it_goes_on_after_the_last_event_seen(served: tuple[str, FastAPI]) -> None:
    url, _ = served
    with following(url) as stream:
        events = list(stream)
    for wait in ("false", "true"):
        with following(url, headers={"Last-Event-ID": events[3][0]}, params={"wait": wait}) as stream:
            assert list(stream) == events[4:]
    over = httpx.get(f"{url}/v1/races/{RACE}/live", headers={"Last-Event-ID": events[-1][0]})
    assert over.status_code == 204, "a browser does not come back"
    for other in (f"{'0' * 12}-3", "nonsense", "../../x", "9" * 60):
        with following(url, headers={"Last-Event-ID": other}) as stream:
            assert list(stream) == events, "an id of another replay says nothing about this one"


def test_laps_arrive_while_the_race_is_replayed(served: tuple[str, FastAPI], home: Settings) -> None:
    url, _ = served
    with following(url, RACE, params={"wait": "true"}) as stream, ThreadPoolExecutor(1) as elsewhere:
        done = elsewhere.submit(replay, home, RACE, speed=0, to_lap=12)
        events = list(stream)
        report = done.result()
    assert laps(events) == list(range(13)), "not those of the replay before"
    assert {data["run"] for _, _, data in events} == {report.run}
    assert events[-1][1] == "end"


def test_a_race_never_replayed(served: tuple[str, FastAPI]) -> None:
    url, _ = served
    answer = httpx.get(f"{url}/v1/races/{NEVER}/live")
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "NoReplayError")
    twin = httpx.get(f"{url}/v1/races/{NEVER}/replay")
    assert twin.json() == {"race_id": NEVER, "state": "none", "last_event_id": None, "events": []}


@pytest.mark.parametrize("race_id", ["2024_77", "2024_8", "..%2f..%2fetc", "x" * 300, "2024_02;drop", "%00", "2024_02%0a"])
@pytest.mark.parametrize("which", ["live", "replay"])
def test_hostile_and_unknown_races(served: tuple[str, FastAPI], race_id: str, which: str) -> None:
    answer = httpx.get(f"{served[0]}/v1/races/{race_id}/{which}")
    assert answer.status_code in (404, 422)
    assert answer.json()["error"]["message"]


def test_a_replay_that_falls_silent_ends_its_streams(
    served: tuple[str, FastAPI], home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = served
    monkeypatch.setattr("serving.replay_file.SILENCE_S", 0.0)
    with ReplayWriter(replay_path(home, OTHER), "a" * 12, {"event": "start", "race_id": OTHER}) as record:
        record.append({"event": "lap", "lap": 0, "next_in_s": 0.0})
        with following(url, OTHER) as stream:
            assert [kind for _, kind, _ in stream] == ["start", "lap", "interrupted"]
    with pytest.raises(OSError, match="full"), ReplayWriter(replay_path(home, OTHER), "b" * 12, {"event": "start"}):
        raise OSError("disk full")
    with following(url, OTHER) as stream:
        events = list(stream)
    assert [kind for _, kind, _ in events] == ["start", "interrupted"], "said once"
    assert httpx.get(f"{url}/v1/races/{OTHER}/live", headers={"Last-Event-ID": events[-1][0]}).status_code == 204
    assert httpx.get(f"{url}/v1/races/{OTHER}/replay").json()["state"] == "interrupted"


def test_streams_are_bounded_and_heartbeats_keep_them(served: tuple[str, FastAPI], monkeypatch: pytest.MonkeyPatch) -> None:
    url, app = served
    monkeypatch.setattr(live, "_HEARTBEAT_S", 0.0)
    monkeypatch.setattr(live, "MAX_STREAMS", 1)
    with httpx.stream("GET", f"{url}/v1/races/{NEVER}/live", params={"wait": "true"}, timeout=60) as first:
        lines = first.iter_lines()
        while next(lines) != ": still here":
            assert app.state.streams.open == 1
        refused = httpx.get(f"{url}/v1/races/{NEVER}/live", params={"wait": "true"})
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "TooManyStreamsError")
        assert refused.headers["retry-after"]
        monkeypatch.setattr(live, "_LONGEST_S", 0.0)
        assert all(line.startswith(":") or not line for line in lines), "it ends after its time"
    while app.state.streams.open:
        threading.Event().wait(0.05)


def test_no_more_streams_than_allowed_are_let_in_at_once(served: tuple[str, FastAPI], monkeypatch: pytest.MonkeyPatch) -> None:
    url, app = served
    together, over, begin = threading.Barrier(6), threading.Barrier(6), StreamingResponse.__init__

    def all_together(response: StreamingResponse, *body: Any, **how: Any) -> None:
        begin(response, *body, **how)
        with suppress(threading.BrokenBarrierError):
            together.wait(20)  # all six stand at the door before the first is counted

    monkeypatch.setattr(StreamingResponse, "__init__", all_together)
    monkeypatch.setattr(live, "MAX_STREAMS", 2)

    def ask(_: int) -> int:
        with httpx.stream("GET", f"{url}/v1/races/{NEVER}/live", params={"wait": "true"}, timeout=60) as answer:
            over.wait(30)
            return answer.status_code

    with ThreadPoolExecutor(6) as people:
        assert sorted(people.map(ask, range(6))) == [200] * 2 + [503] * 4
    while app.state.streams.open:
        threading.Event().wait(0.05)


def test_a_disk_that_hangs_holds_up_streams_and_nothing_else(
    served: tuple[str, FastAPI], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, app = served
    read, hung, comes_back = ReplayReader.news, threading.Event(), threading.Event()

    def hangs(reader: ReplayReader) -> list[ReplayEvent]:
        if hasattr(app.state, "streams") and app.state.streams.open:
            hung.set()
            comes_back.wait(60)
        return read(reader)

    monkeypatch.setattr(ReplayReader, "news", hangs)
    try:
        with httpx.stream("GET", f"{url}/v1/races/{NEVER}/live", params={"wait": "true"}, timeout=60):
            assert hung.wait(30)
            assert httpx.get(f"{url}/healthz", timeout=10).status_code == 200
    finally:
        comes_back.set()
    while app.state.streams.open:
        threading.Event().wait(0.05)


def test_a_stream_is_timed_until_it_begins(served: tuple[str, FastAPI]) -> None:
    url, _ = served
    with following(url) as stream:
        list(stream)
    page = httpx.get(f"{url}/metrics").text
    assert 'pitwall_request_seconds_count{endpoint="/v1/races/{race_id}/live"' in page


def test_the_openapi_page_describes_both(home: Settings) -> None:
    paths = TestClient(create_app(home)).app.openapi()["paths"]  # type: ignore[attr-defined]
    stream = paths["/v1/races/{race_id}/live"]["get"]["responses"]
    assert "text/event-stream" in stream["200"]["content"]
    assert "204" in stream
    assert "/v1/races/{race_id}/replay" in paths


def test_a_service_told_to_stop_ends_its_streams(home: Settings) -> None:
    with serving(loop_environment(home.home)) as process, following(process.url, NEVER, params={"wait": "true"}) as stream:
        process.process.terminate()
        assert list(stream) == [], "the stream ends of itself"
        assert process.process.wait(timeout=19) in (0, -15), "before the service would cut it off"
