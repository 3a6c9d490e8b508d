"""Online stores on real servers for tests: a namespace of one's own on each, packed rows of any time, writers in processes."""

import contextlib
import multiprocessing
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from feast import Entity, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.types import Float64
from psycopg import sql

from feature_repo.stores.online import PackedOnlineStore
from feature_repo.stores.packed import STAMP_LENGTH, STAMP_OFFSET

REDIS = os.environ.get("PITWALL_TEST_REDIS", "redis://127.0.0.1:6379/15")
POSTGRES = os.environ.get("PITWALL_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/test")
_TYPES = {
    "sqlite": "feature_repo.stores.online_sqlite.PackedSqliteOnlineStore",
    "redis": "feature_repo.stores.online_redis.PackedRedisOnlineStore",
    "postgres": "feature_repo.stores.online_postgres.PackedPostgresOnlineStore",
}
# The preloaded modules are imported once; each writer is then a process of its own within milliseconds.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["online_servers", *(name.rpartition(".")[0] for name in _TYPES.values())])


@dataclass
class Online:
    """An online store of one's own: how it is configured, and the store."""

    kind: str
    config: RepoConfig
    store: PackedOnlineStore


def url_of(kind: str) -> str:
    """The URL of the server; skips where it does not answer, and fails in CI."""
    url = {"redis": REDIS, "postgres": POSTGRES}[kind]
    try:
        if kind == "redis":
            with redis.Redis.from_url(url, socket_connect_timeout=2) as client:
                client.ping()
        else:
            psycopg.connect(url, connect_timeout=2).close()
    except (redis.RedisError, psycopg.Error) as error:
        reason = f"no {kind} at {url} ({error}); start it or set PITWALL_TEST_{kind.upper()}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return url


@contextlib.contextmanager
def online(kind: str, folder: Path, *, url: str | None = None, project: str = "pitwall", **options: Any) -> Iterator[Online]:
    """A store with a namespace, schema or file that no other test has; removed afterwards."""
    name = f"test_{secrets.token_hex(6)}"
    if kind == "sqlite":
        options = {"path": str(folder / f"{name}.db"), **options}
    else:
        space = {"namespace": name} if kind == "redis" else {"db_schema": name}
        options = {"connection_string": url or url_of(kind), **space, **options}
    config = repo_config(folder, kind, project=project, **options)
    store = open_store(config)
    try:
        yield Online(kind, config, store)
    finally:
        store.disconnect()
        remove_namespace(kind, name)


def repo_config(folder: Path, kind: str, *, project: str = "pitwall", **options: Any) -> RepoConfig:
    """A Feast configuration with a store of this kind."""
    return RepoConfig(
        project=project,
        provider="local",
        registry={"registry_type": "sql", "path": f"sqlite:///{folder / 'registry.db'}"},
        online_store={"type": _TYPES[kind], **options},
        entity_key_serialization_version=3,
        repo_path=folder,
    )


def open_store(config: RepoConfig) -> PackedOnlineStore:
    """The store that a configuration names, as Feast makes it."""
    store = get_online_store_from_config(config.online_store)
    assert isinstance(store, PackedOnlineStore)
    return store


def remove_namespace(kind: str, name: str) -> None:
    """Delete what a namespace of the tests' servers holds."""
    if kind == "redis":
        with redis.Redis.from_url(REDIS) as client:
            for key in client.scan_iter(f"pitwall:{name}:*"):
                client.delete(key)
    elif kind == "postgres":
        with psycopg.connect(POSTGRES) as connection:
            connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))


def a_view(name: str = "form") -> FeatureView:
    """A view of one number a driver."""
    driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.STRING)
    source = FileSource(name="source", path="nowhere.parquet", timestamp_field="event_timestamp")
    return FeatureView(name=name, entities=[driver], schema=[Field(name="x", dtype=Float64)], source=source)


def row(event_us: int, created_us: int, payload: bytes = b"") -> bytes:
    """Bytes that a store takes for a packed row of these times: it looks at nothing but the stamps."""
    moments = b"".join((moment + 2**63).to_bytes(8, "big") for moment in (event_us, created_us))
    assert len(moments) == STAMP_LENGTH
    return b"t" * STAMP_OFFSET + moments + payload


def stamp_of(value: bytes) -> bytes:
    """What orders two rows of a key."""
    return value[STAMP_OFFSET : STAMP_OFFSET + STAMP_LENGTH]


# Microseconds around which a comparison may go wrong: sign, 32-bit words, the end of a double's exact integers, now.
EDGES = (-(2**62), -1, 2**32 - 1, 2**53, 3 * 2**48 - 1, 1_730_000_000_000_000)


def versions(n_keys: int, n_versions: int) -> dict[bytes, list[bytes]]:
    """Per key its rows, oldest first: times one microsecond apart, three created times an event."""
    result = {}
    for number in range(n_keys):
        edge = EDGES[number % len(EDGES)] - n_versions // 6
        times = [(edge + version // 3, edge + version % 3) for version in range(n_versions)]
        result[b"key%d" % number] = [row(event, created, b"%d/%d" % (event, created)) for event, created in times]
    return result


def write_shuffled(config: RepoConfig, view: FeatureView, rows: dict[bytes, list[bytes]], seed: int, start: Any) -> None:
    """What a writer process does: all rows of all keys, a few at a time, some keys twice in a call.

    The order is the writer's own, from older to newer but for a dozen versions: all writers write near the newest row there is,
    so that a store whose check and write are two steps is caught between them.
    """
    chance = random.Random(seed)
    ordered = [
        (version + chance.uniform(0, 12), key, value) for key, values in rows.items() for version, value in enumerate(values)
    ]
    everything = [(key, value) for _, key, value in sorted(ordered)]
    store = open_store(config)
    start.wait()
    while everything:
        size = chance.randint(1, 20)
        part, everything = everything[:size], everything[size:]
        store.write_rows(config, view, [key for key, _ in part], [value for _, value in part])


def watch(config: RepoConfig, view: FeatureView, keys: Sequence[bytes], start: Any, stop: Any, seen: Any) -> None:
    """What a reader process does: put (reads, changes seen, keys that went back in time) into `seen` when told to stop."""
    store, reads, changes, went_back = open_store(config), 0, 0, set()
    newest: dict[bytes, bytes] = {}
    start.wait()
    while not stop.is_set():
        for key, value in zip(keys, store.read_rows(config, view, keys), strict=True):
            stamp = b"" if value is None else stamp_of(value)
            changes += stamp != newest.get(key, b"")
            if stamp < newest.get(key, b""):
                went_back.add(key)
            newest[key] = stamp
        reads += 1
    seen.put((reads, changes, sorted(went_back)))


def write_endlessly(config: RepoConfig, view: FeatureView, n_keys: int) -> None:
    """What a writer that is to be killed does: newer and newer rows of the same keys."""
    store, version = open_store(config), 0
    while True:
        version += 1
        store.write_rows(config, view, *many_rows(n_keys, version))


def many_rows(n_keys: int, version: int) -> tuple[list[bytes], list[bytes]]:
    """Keys and rows of one version, each row a few hundred bytes that say whose they are."""
    keys = [b"key%06d" % number for number in range(n_keys)]
    return keys, [row(version, number, b"%d of %d;" % (version, number) * 20) for number in range(n_keys)]


class Gate:
    """A port in front of a server, which can be shut and opened again: for clients, the server is down and back.

    While `flows` is not set, it accepts and nothing comes through: for clients, the server hangs.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []
        self.flows = threading.Event()
        self.flows.set()

    def open(self) -> None:
        """Let clients through."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        """Cut every connection and refuse new ones."""
        if self._listener is not None:
            # A listener that is only closed goes on accepting while a thread waits in accept().
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        while self._open:
            self._cut(self._open.pop())

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            self._open += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self.flows.wait()
                target.sendall(data)
        except OSError:
            return
        finally:
            self._cut(target)

    @staticmethod
    def _cut(end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


def gate_to(kind: str) -> tuple[Gate, str]:
    """An open gate before the server of the tests, and the URL through it."""
    parts = urlsplit(url_of(kind))
    gate = Gate(parts.hostname or "127.0.0.1", parts.port or {"redis": 6379, "postgres": 5432}[kind])
    gate.open()
    return gate, parts._replace(netloc=f"{parts.username + '@' if parts.username else ''}127.0.0.1:{gate.port}").geturl()


def wait_until(condition: Any, seconds: float = 30.0) -> None:
    """Return once `condition()` holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)
