"""A real `pitwall serve` on a free port, for tests and benchmarks."""

import http.client
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

PITWALL = Path(sys.executable).parent / "pitwall"
START_SECONDS, STOP_SECONDS = 120.0, 40.0


@dataclass
class Served:
    """A service under way.

    Attributes:
        process: its (first) process.
        port: on 127.0.0.1.
        log: what it says.
    """

    process: subprocess.Popen[bytes]
    port: int
    log: IO[bytes]

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def connect(self, timeout: float = 60.0) -> http.client.HTTPConnection:
        """A connection of one's own."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def said(self) -> str:
        """Everything on its stdout and stderr so far."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Tell it to stop and wait for it: its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=STOP_SECONDS)


@contextmanager
def serving(environment: Mapping[str, str], *, workers: int = 1) -> Iterator[Served]:
    """`pitwall serve`, ready to answer; stopped when the block ends.

    Args:
        environment: of the process, `PITWALL_HOME` included.
        workers: processes.
    Raises:
        RuntimeError: it ended, or was not ready in time; with what it said.
    """
    port = free_port()
    with tempfile.TemporaryFile() as log:
        command = [str(PITWALL), "serve", "--port", str(port), "--workers", str(workers)]
        process = subprocess.Popen(command, env=dict(environment), stdout=log, stderr=log)
        served = Served(process, port, log)
        try:
            _wait(served)
            yield served
        finally:
            try:
                served.stop()
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def answers_while_stopping(served: Served, path: str, body: bytes, *, n_requests: int) -> list[tuple[int, bytes]]:
    """Statuses and bodies of requests (POST, JSON) that were under way, all but the first, when the service was told to stop.

    Raises:
        OSError: one was not answered.
    """
    connections = [served.connect() for _ in range(n_requests)]
    for connection in connections:  # a connection that was accepted, not one that waits in the kernel
        connection.request("GET", "/healthz")
        connection.getresponse().read()
    for connection in connections:
        connection.request("POST", path, body, {"content-type": "application/json"})
    answers = []
    for connection in connections:
        response = connection.getresponse()
        answers.append((response.status, response.read()))
        if len(answers) == 1:
            served.process.terminate()
    return answers


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(served: Served) -> None:
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        if served.process.poll() is not None:
            raise RuntimeError(f"pitwall serve ended with {served.process.returncode}: {served.said()[-3000:]}")
        if _is_ready(served):
            return
        time.sleep(0.1)
    raise RuntimeError(f"pitwall serve: not ready after {START_SECONDS:.0f} s: {served.said()[-3000:]}")


def _is_ready(served: Served) -> bool:
    connection = served.connect(timeout=10)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
