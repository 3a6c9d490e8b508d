"""Callers of an HTTP service: each keeps one connection and asks again as soon as it is answered.

Requests are bytes made beforehand and answers are read, not parsed, so that the callers, which share the machine with the
service, take little of it.
"""

import asyncio
import json
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
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    bytes_read: int = 0

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
