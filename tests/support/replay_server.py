"""A web server of our own on a real local socket: it answers what a test tells it to, with the faults real services have."""

import json
import socket
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass(frozen=True)
class Request:
    """What a client sent. `params` are decoded (the last of equal names wins), `query` is as sent, header names in lower case."""

    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    query: str = ""


@dataclass(frozen=True)
class Response:
    """What to answer, and how badly.

    Attributes:
        status: HTTP status.
        body: bytes, or text, or a value to be sent as JSON.
        headers: further headers; with ETag or Last-Modified the server answers 304 to a client that has that version.
        content_type: sent as Content-Type, None: not sent.
        delay_s: seconds before the first byte.
        pieces: parts the body is sent in, with `pause_s` seconds between two.
        pause_s: see `pieces`.
        reset: the connection is reset (RST) instead of an answer.
        truncate_at: bytes of the body after which the connection is closed, though the header promised all.
    """

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = "application/json"
    delay_s: float = 0.0
    pieces: int = 1
    pause_s: float = 0.0
    reset: bool = False
    truncate_at: int | None = None

    @property
    def content(self) -> bytes:
        """The body as bytes."""
        if isinstance(self.body, bytes):
            return self.body
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


class Clock:
    """Epoch seconds that only sleeping and tests move; give a client the clock itself and its `sleep`."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Move on at once, and remember having slept."""
        self.slept.append(seconds)
        self.now += seconds


Handler = Callable[[Request], Response | None]


class ReplayServer:
    """Answers on 127.0.0.1 while its `with` block lasts; every request is kept in `requests`, in order of arrival.

    Routes of `on` come first, the latest first, then the handlers of `serve`; whoever returns None leaves the request to the
    next. What nobody answers is a 404 with a JSON body. A handler that raises makes the `with` block fail.

        with ReplayServer() as server:
            server.on("/v1/laps", once(too_many(1)))
            server.serve(recorded_openf1(real_data))
            client = PoliteClient("openf1", f"{server.url}/v1", ...)
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._routes: list[tuple[str, Mapping[str, str] | None, Handler]] = []
        self._handlers: list[Handler] = []
        self._failures: list[Exception] = []
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def on(self, path: str, answer: Any, params: Mapping[str, str | int] | None = None) -> None:
        """Answer GET `path` with a `Response`, a handler, or a body; `params` must then be the request's, all of them."""
        handler = answer if callable(answer) else _constant(answer if isinstance(answer, Response) else Response(body=answer))
        exact = None if params is None else {name: str(value) for name, value in params.items()}
        self._routes.insert(0, (path, exact, handler))

    def serve(self, handler: Handler) -> None:
        """Ask `handler` about every request that no route and no earlier handler answers."""
        self._handlers.append(handler)

    def paths(self) -> list[str]:
        """Path and query of every request so far."""
        return [request.path + (f"?{request.query}" if request.query else "") for request in self.requests]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.set()  # a slow answer ends now
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if error is None and self._failures:
            raise AssertionError(f"a handler of the replay server raised {self._failures[0]!r}") from self._failures[0]

    def answer(self, request: Request) -> Response:
        """The response to `request`, which is counted."""
        with self._lock:
            self.requests.append(request)
        try:
            for path, params, handler in self._routes:
                if path == request.path and params in (None, request.params) and (found := handler(request)) is not None:
                    return found
            for handler in self._handlers:
                if (found := handler(request)) is not None:
                    return found
        except Exception as error:  # noqa: BLE001 - told to the test when the block ends
            self._failures.append(error)
            return Response(status=500, body={"detail": repr(error)})
        return Response(status=404, body={"detail": "Not found."})

    def pause(self, seconds: float) -> None:
        """Sleep, but not beyond the end of the block."""
        self._closing.wait(seconds)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, replay: ReplayServer) -> None:
        self.replay = replay
        super().__init__(("127.0.0.1", 0), _Exchange)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away before its answer is what some tests are about; anything else makes the `with` block fail."""
        error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, ConnectionError | TimeoutError | ValueError):
            self.replay._failures.append(error)


class _Exchange(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"  # connections are kept, as real services do
    wbufsize = -1  # header and body leave in one packet
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        request = Request(
            method="GET",
            path=unquote(parts.path),
            params=dict(parse_qsl(parts.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in self.headers.items()},
            query=parts.query,
        )
        response = self.server.replay.answer(request)
        self.server.replay.pause(response.delay_s)
        if response.reset:
            # lingering for 0 s turns the close into a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        if _is_current(request, response):
            response = Response(status=304, headers=response.headers, content_type=None)
        self._send(response)

    def _send(self, response: Response) -> None:
        content = response.content
        self.send_response(response.status)
        if response.content_type is not None:
            self.send_header("Content-Type", response.content_type)
        if response.status != 304:
            self.send_header("Content-Length", str(len(content)))
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.end_headers()
        size = max(1, -(-len(content) // response.pieces))
        sent = content if response.truncate_at is None else content[: response.truncate_at]
        for start in range(0, len(sent), size):
            if start:
                self.wfile.flush()
                self.server.replay.pause(response.pause_s)
            self.wfile.write(sent[start : start + size])
        self.wfile.flush()
        if response.truncate_at is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are kept in `ReplayServer.requests`, not printed."""


def _constant(response: Response) -> Handler:
    return lambda _: response


def _is_current(request: Request, response: Response) -> bool:
    """The client said that it holds this very version."""
    have = {name.lower(): value for name, value in response.headers.items()}
    if response.status != 200:
        return False
    if (tag := request.headers.get("if-none-match")) is not None:
        return tag == have.get("etag")
    since, changed = request.headers.get("if-modified-since"), have.get("last-modified")
    return since is not None and changed is not None and parsedate_to_datetime(changed) <= parsedate_to_datetime(since)


def in_turn(*responses: Response | None) -> Handler:
    """Answer the first request with the first response, and so on; the last one answers all that follow.

    None leaves a request to the next handler.
    """
    lock, left = threading.Lock(), list(responses)

    def answer(request: Request) -> Response | None:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    return answer


def once(response: Response) -> Handler:
    """Answer one request, and leave those that follow to the next handler."""
    return in_turn(response, None)


def truncated(body: Any = None) -> Response:
    """JSON that ends in the middle, with a header that fits what was sent (a service cut it, not the network)."""
    content = Response(body={"MRData": {"total": "20", "limit": "30"}} if body is None else body).content
    return Response(body=content[: len(content) // 2])


def cut_off(body: Any = None) -> Response:
    """A connection that is closed in the middle of the body."""
    content = Response(body={"MRData": {"total": "20", "limit": "30"}} if body is None else body).content
    return Response(body=content, truncate_at=len(content) // 2)


def html_page(status: int = 200) -> Response:
    """A page for people, as a proxy or an overloaded service sends it."""
    page = "<!DOCTYPE html>\n<html><head><title>Just a moment</title></head><body>The service is busy.</body></html>\n"
    return Response(status=status, body=page, content_type="text/html; charset=utf-8")


def too_many(retry_after: int | str | None = None) -> Response:
    """429; `retry_after`: seconds or an HTTP date, None: the header is left out."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Response(status=429, body={"detail": "Request was throttled."}, headers=headers)


def server_error(status: int = 503) -> Response:
    """A 5xx with a JSON body."""
    return Response(status=status, body={"detail": "Service unavailable."})


def reset() -> Response:
    """The connection is reset without an answer."""
    return Response(reset=True)


def slow(body: Any, seconds: float, pieces: int = 20) -> Response:
    """A body that takes `seconds`, sent in `pieces` so that no single wait is long."""
    return Response(body=body, pieces=pieces, pause_s=seconds / max(1, pieces - 1))


def wrong_type(body: Any = "season,round\n2023,5\n", content_type: str = "text/csv") -> Response:
    """A body that is no JSON and does not claim to be."""
    return Response(body=body, content_type=content_type)
