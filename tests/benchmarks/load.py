"""Callers of an HTTP service: each keeps one connection and asks again as soon as it is answered.

Requests are bytes made beforehand and answers are read, not parsed, so that the callers, which share the machine with the
service, take little of it. `load` copes with whatever a service does; `replay` asks one question again and again from plain
sockets and takes a quarter of the time of `load`.
"""

import asyncio
import json
import selectors
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

TIMEOUT_S = 60.0


@dataclass
class Load:
    """What callers saw.

    Attributes:
        seconds: from the first question to the last answer.
        latencies: seconds of each answer.
        statuses: status -> answers.
        lost: questions without a whole answer, by what happened.
        bytes_read: of the bodies.
        cpu_s: processor seconds that the callers took.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    bytes_read: int = 0
    cpu_s: float = 0.0

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def percentile(self, percent: float) -> float:
        """Seconds that so many percent of the answers took at most."""
        return float(np.percentile(self.latencies, percent))

    def told(self) -> str:
        """One line."""
        return (
            f"{self.per_second:.0f} answers/s, p50 {1e3 * self.percentile(50):.1f} ms, p99 {1e3 * self.percentile(99):.1f} ms"
            + (f", LOST {dict(self.lost)}" if self.lost else "")
            + (f", statuses {dict(self.statuses)}" if set(self.statuses) != {200} else "")
        )


def request(method: str, path: str, body: Any = None) -> bytes:
    """The bytes of a request that keeps its connection."""
    content = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def load(port: int, requests: Sequence[bytes], *, callers: int, seconds: float) -> Load:
    """Let `callers` ask for some seconds, each going through `requests` in turn; questions under way at the end are waited for.

    Args:
        port: on 127.0.0.1.
        requests: bytes to send.
        callers: connections at once.
        seconds: how long new questions are asked.
    """
    return asyncio.run(_load(port, requests, callers, seconds))


def replay(port: int, asked: bytes, *, callers: int, seconds: float) -> Load:
    """As `load`, for one question whose answers have a `content-length`; a connection that breaks is lost and not opened again.

    Args:
        port: on 127.0.0.1.
        asked: bytes to send.
        callers: connections at once.
        seconds: how long new questions are asked.
    """
    seen, cpu = Load(), time.process_time()
    started = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for _ in range(callers):
            caller = _Replaying(socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S))
            caller.ask(asked)
            selector.register(caller.connection, selectors.EVENT_READ, caller)
        while selector.get_map():
            ready = selector.select(TIMEOUT_S)
            now = time.perf_counter()
            for key, _ in ready:
                caller = key.data
                status = caller.read(seen)
                if status is None:
                    continue
                if status:
                    seen.statuses[status] += 1
                    seen.latencies.append(now - caller.began)
                else:
                    seen.lost["EOFError"] += 1
                if status and now < started + seconds:
                    caller.ask(asked)
                else:
                    selector.unregister(caller.connection)
                    caller.connection.close()
            if not ready:
                for key in list(selector.get_map().values()):
                    seen.lost["TimeoutError"] += 1
                    selector.unregister(key.fileobj)
                    key.data.connection.close()
    seen.seconds, seen.cpu_s = time.perf_counter() - started, time.process_time() - cpu
    return seen


class _Replaying:
    """One connection of `replay`."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.began = 0.0
        self._status, self._left = 0, 0

    def ask(self, asked: bytes) -> None:
        """Send the question."""
        self.began, self._left = time.perf_counter(), 0
        self.connection.sendall(asked)

    def read(self, seen: Load) -> int | None:
        """Take what has come: the status once the answer is whole, 0 if the connection broke, else None."""
        try:
            part = self.connection.recv(1 << 18)
        except OSError:
            part = b""
        if not part:
            return 0
        if not self._left:  # heads come in one piece
            head, _, body = part.partition(b"\r\n\r\n")
            self._status, self._left = int(head[9:12]), int(head.lower().partition(b"content-length:")[2].split(b"\r", 1)[0])
            seen.bytes_read += self._left
            part = body
        self._left -= len(part)
        return None if self._left else self._status


async def _load(port: int, requests: Sequence[bytes], callers: int, seconds: float) -> Load:
    seen = Load()
    started = time.perf_counter()
    await asyncio.gather(*(_caller(port, requests, number, started + seconds, seen) for number in range(callers)))
    seen.seconds = time.perf_counter() - started
    return seen


async def _caller(port: int, requests: Sequence[bytes], number: int, until: float, seen: Load) -> None:
    turn, connection = number, None
    while time.perf_counter() < until:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                connection = connection or await asyncio.open_connection("127.0.0.1", port)
                status, size, keeps = await _ask(*connection, requests[turn % len(requests)])
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            seen.lost[type(error).__name__] += 1
            keeps = False
        else:
            seen.latencies.append(time.perf_counter() - began)
            seen.statuses[status] += 1
            seen.bytes_read += size
        turn += 1
        if not keeps and connection is not None:
            connection[1].close()
            connection = None
    if connection is not None:
        connection[1].close()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: bytes) -> tuple[int, int, bool]:
    """Status, bytes of the body, and whether the connection stays."""
    writer.write(asked)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head[9:12])
    keeps = b"connection: close" not in head
    if b"transfer-encoding: chunked" in head:
        size = 0
        while length := int(await reader.readline(), 16):
            size += len(await reader.readexactly(length + 2)) - 2
        await reader.readline()
        return status, size, keeps
    _, found, rest = head.partition(b"content-length:")
    if not found:
        raise ValueError("an answer without a length")
    length = int(rest.partition(b"\r\n")[0])
    await reader.readexactly(length)
    return status, length, keeps
