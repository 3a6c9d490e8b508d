"""A redis-server of one's own for a test or a benchmark: nothing of the machine's Redis is touched."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def own_redis(folder: Path, *, port: int | None = None) -> Iterator[str]:
    """`127.0.0.1:<port>` of a server that keeps nothing on disk and ends with the block.

    Args:
        folder: its working directory.
        port: where it listens, such as where another one did that has ended; default a free one.
    """
    program = shutil.which("redis-server")
    if program is None:
        if os.environ.get("CI"):
            raise RuntimeError("redis-server: not found; the tests of the Redis store need it: apt-get install redis-server")
        pytest.skip("redis-server is not installed")
    if port is None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait(port, server)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=10)


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            if server.poll() is not None:
                raise RuntimeError(f"redis-server ended with {server.returncode}") from None
            time.sleep(0.05)
    raise RuntimeError(f"redis-server on port {port} did not answer in 10 s")
