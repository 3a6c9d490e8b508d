"""Throw-away database servers for online stores: started for one run, in a folder of their own, on a free port."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pipelines.errors import ServerNotAvailableError

START_SECONDS = 30.0
HOST = "127.0.0.1"


def needed_server(kind: str | None) -> AbstractContextManager[dict[str, Any]]:
    """The server of that kind, as the settings of a store that uses it; nothing for None.

    Raises:
        ServerNotAvailableError: its program is not installed, or it does not start.
    """
    if kind is None:
        return nullcontext({})
    return {"redis": redis_server, "postgres": postgres_server}[kind]()


def missing_programs(kind: str) -> list[str]:
    """The programs that a server of that kind needs and this machine lacks."""
    wanted = {"redis": ["redis-server"], "postgres": ["initdb", "postgres"]}[kind]
    return [name for name in wanted if shutil.which(name) is None]


@contextmanager
def redis_server() -> Iterator[dict[str, Any]]:
    """A Redis server that keeps nothing on disk."""
    _demand("redis")
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="conformance-redis-") as folder:
        command = ["redis-server", "--bind", HOST, "--port", str(port), "--save", "", "--appendonly", "no", "--dir", folder]
        with _running(command, "Redis", lambda: _accepts(port)):
            yield {"connection_string": f"{HOST}:{port}"}


@contextmanager
def postgres_server() -> Iterator[dict[str, Any]]:
    """A PostgreSQL server that trusts local connections and does not wait for the disk."""
    _demand("postgres")
    port = _free_port()
    owner = _unprivileged_user()
    with tempfile.TemporaryDirectory(prefix="conformance-postgres-") as folder:
        if owner is not None:
            shutil.chown(folder, owner)
        cluster = str(Path(folder) / "cluster")
        init = ["initdb", "-D", cluster, "-U", "pitwall", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C"]
        made = subprocess.run(init, capture_output=True, text=True, user=owner, cwd=folder, check=False)
        if made.returncode:
            raise ServerNotAvailableError(f"initdb: {made.stderr.strip()[-300:]}")
        command = ["postgres", "-D", cluster, "-p", str(port), "-h", HOST, "-k", folder, "-F"]
        with _running(command, "PostgreSQL", lambda: _answers_queries(port), user=owner, cwd=folder):
            yield {
                "host": HOST,
                "port": port,
                "database": "postgres",
                "user": "pitwall",
                "password": "unused",
                "sslmode": "disable",
                "connection_string": f"postgresql://pitwall@{HOST}:{port}/postgres",
            }


@contextmanager
def _running(
    command: list[str], name: str, ready: Callable[[], bool], user: str | None = None, cwd: str | None = None
) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=user, cwd=cwd)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerNotAvailableError(f"{name}: `{' '.join(command)}` did not start within {START_SECONDS:.0f} s")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _demand(kind: str) -> None:
    missing = missing_programs(kind)
    if missing:
        raise ServerNotAvailableError(
            f"{kind} server: {', '.join(missing)} not found on PATH; install it to test stores that need it"
        )


def _unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root; None: this process is not root and needs nobody else."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def _answers_queries(port: int) -> bool:
    import psycopg

    if not _accepts(port):
        return False
    try:
        psycopg.connect(host=HOST, port=port, dbname="postgres", user="pitwall", connect_timeout=2).close()
    except psycopg.OperationalError:
        return False  # it listens, but is still starting up
    return True
