"""What every request passes before it is read: the size of its body, and the clock that times it."""

import time
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.http_errors import error_body
from serving.metrics import NO_ENDPOINT, Metrics, endpoint_of, request_scope

TOO_LARGE = "(body too large)"
"""Endpoint in the metrics of a request that was refused for its size: it got no further than here."""


class BodyLimit:
    """ASGI middleware: a body beyond the limit is refused with 413, however it is sent, before any of it is parsed.

    Args:
        app: what is called with bodies within the limit.
        limit_bytes: the limit.
    """

    def __init__(self, app: ASGIApp, limit_bytes: int) -> None:
        self._app, self._limit = app, limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if declared.isdigit() and int(declared) > self._limit:
            await self._refuse(send, int(declared))
            return
        messages: list[Message] = []
        held, more = 0, True
        while more:
            message = await receive()
            messages.append(message)
            held += len(message.get("body", b""))
            more = message["type"] == "http.request" and message.get("more_body", False)
            if held > self._limit:
                await self._refuse(send, held)
                return

        async def replayed() -> Message:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, replayed, send)

    async def _refuse(self, send: Send, got: int) -> None:
        body = error_body("BodyTooLargeError", f"body: got {got} bytes or more, expected at most {self._limit}", "ask in parts")
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Timed:
    """ASGI middleware: notes how long each endpoint takes and how it answered.

    Args:
        app: what is timed.
        state: the application's state, whose `serving.metrics` is told.
    """

    def __init__(self, app: ASGIApp, state: Any) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and time it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, waited = time.perf_counter(), 500, 0.0

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal status, waited
            if message["type"] == "http.response.start":
                status = message["status"]
                if (b"content-type", b"text/event-stream; charset=utf-8") in message["headers"]:
                    waited = time.perf_counter() - started  # it goes on for as long as somebody listens
            await send(message)

        told = request_scope.set(scope)
        try:
            await self._app(scope, receive, noted)
        finally:
            request_scope.reset(told)
            endpoint = endpoint_of(scope)
            if status == 413 and endpoint == NO_ENDPOINT:
                endpoint = TOO_LARGE
            metrics: Metrics = self._state.serving.metrics
            metrics.request.labels(endpoint, scope["method"], str(status)).observe(waited or time.perf_counter() - started)
