"""GET /v1/races/{race_id}/live and /replay: a replay as it goes on, as Server-Sent Events and as one JSON object.

A stream ends with its replay, when that falls silent, after an hour, or when the service is told to stop; browsers come back by
themselves with `Last-Event-ID` and miss nothing. Each stream costs a look at one file every quarter of a second.
"""

import asyncio
import re
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import anyio
import anyio.to_thread
import orjson
from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serving.errors import NoReplayError, TooManyStreamsError
from serving.races import race_of
from serving.replay_file import ReplayEvent, ReplayReader, replay_path
from serving.schemas.replay import ReplayResponse
from serving.schemas.values import RaceId
from serving.state import ServingState, get_state

MAX_STREAMS = 200
"""At once, in one process."""

READ_THREADS = 4
"""Threads for the records that streams look at, and nothing else: a disk that hangs holds up streams, and no other answer."""

_LOOK_EVERY_S, _HEARTBEAT_S, _LONGEST_S = 0.25, 15.0, 3600.0
_EVENT_ID = re.compile(r"([0-9a-f]{12})-([0-9]{1,6})")
_OVER, _OVER_KINDS = ("ended", "interrupted"), ("end", "interrupted")

router = APIRouter(prefix="/v1/races", tags=["races"])

Served = Annotated[ServingState, Depends(get_state)]
RacePath = Annotated[RaceId, Path()]


class Streams:
    """The streams that an application has open, and the threads that they read in. Of the event loop alone."""

    def __init__(self) -> None:
        self.open = 0
        self.threads = anyio.CapacityLimiter(READ_THREADS)


class _Stream(StreamingResponse):
    """A stream that counts as open from when it is let in until its connection is gone, however little of it was read."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        streams = _streams(scope["app"])
        if streams.open >= MAX_STREAMS:  # nothing is waited for between this look and the count
            raise TooManyStreamsError(f"{streams.open} streams are open, the most one process serves; come back in a minute")
        streams.open += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            streams.open -= 1


@contextmanager
def ended_by_signals(app: FastAPI) -> Iterator[None]:
    """While the application runs: whatever tells the process to stop also ends its streams, which it would wait for.

    Signals reach a program's main thread only; an application that runs in another is stopped by other means.
    """
    app.state.stopping = False
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop(number: int, frame: FrameType | None) -> None:
        app.state.stopping = True
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@router.get("/{race_id}/replay", response_model=ReplayResponse)
def replay(
    race_id: RacePath,
    state: Served,
    after: Annotated[int, Query(ge=-1, le=100_000, description="Only events numbered above this.")] = -1,
) -> Response:
    """The newest replay of a race so far."""
    race_of(state.settings, race_id)
    reader = ReplayReader(replay_path(state.settings, race_id))
    lines = [event.line for event in reader.news() if event.number > after]
    last = None if reader.last is None else reader.last.id
    head = orjson.dumps({"race_id": race_id, "state": reader.state, "last_event_id": last})
    body = head[:-1] + b',"events":[' + b",".join(lines) + b"]}"  # the events are JSON already
    return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})


@router.get(
    "/{race_id}/live",
    response_class=StreamingResponse,
    responses={
        200: {
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
            "description": "Events start, lap, end, interrupted.",
        },
        204: {"description": "Nothing comes after the event that Last-Event-ID names: do not come back."},
    },
)
def live(
    race_id: RacePath,
    request: Request,
    state: Served,
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
    wait: Annotated[bool, Query(description="Leave out a replay that is over, and wait for the next one to begin.")] = False,
) -> Response:
    """Follow a replay: its events so far (those after `Last-Event-ID`), then each lap as it is predicted."""
    race_of(state.settings, race_id)
    reader = ReplayReader(replay_path(state.settings, race_id))
    events = reader.news()
    seen = _EVENT_ID.fullmatch(last_event_id or "")
    run, number = (seen[1], int(seen[2])) if seen else ("", -1)
    last = reader.last
    over = last is None or reader.state in _OVER
    # Of a replay that is over, only who was following it when the connection broke still wants the rest.
    waiting = wait and over and (last is None or last.run != run or last.number <= number)
    if last is None and not waiting:
        raise NoReplayError(f"{race_id}: was not replayed yet; run `pitwall replay --race {race_id}`, or ask with wait=true")
    if last is not None and over and not waiting and last.id == f"{run}-{number}":
        return Response(status_code=204)
    unseen = [] if waiting else [event for event in events if event.run != run or event.number > number]
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return _Stream(_follow(request, reader, unseen, waiting=waiting), media_type="text/event-stream", headers=headers)


async def _follow(
    request: Request, reader: ReplayReader, events: Sequence[ReplayEvent], *, waiting: bool
) -> AsyncIterator[bytes]:
    """The stream: events as they come, a comment now and then that keeps proxies from closing it."""
    threads = _streams(request.app).threads
    yield b"retry: 2000\n\n"
    began = said = time.monotonic()
    while True:
        for event in events:
            yield f"id: {event.id}\nevent: {event.kind}\ndata: ".encode() + event.line + b"\n\n"
        now = time.monotonic()
        if events:
            waiting, said = False, now
        if not waiting and reader.state in _OVER:
            if reader.last is not None and reader.last.kind not in _OVER_KINDS:  # it was killed
                yield b"event: interrupted\ndata: {}\n\n"
            return
        if now - began > _LONGEST_S or request.app.state.stopping:
            return
        if now - said > _HEARTBEAT_S:
            said = now
            yield b": still here\n\n"
        await asyncio.sleep(_LOOK_EVERY_S)
        # Left alone when the connection ends meanwhile: nobody else has this reader.
        events = await anyio.to_thread.run_sync(reader.news, limiter=threads, abandon_on_cancel=True)


def _streams(app: FastAPI) -> Streams:
    if not hasattr(app.state, "streams"):
        app.state.streams = Streams()
    found: Streams = app.state.streams
    return found
