"""Redis as an online store that never goes back in time: one hash a view, one packed value an entity.

    pitwall:<namespace>:<project>:<view>      hash; the three parts are percent-encoded, so no name can reach another's key
        <entity key, Feast's bytes>  ->  packed row
        \\xff\\xff\\xff\\xffnotes            ->  JSON object, the journal of materialization

Rows and journal are one Redis key: FLUSHDB, eviction or DEL takes both, so the journal never speaks of rows that are gone; the
number of rows is the hash's length, and a view is emptied without a scan. Whether a row is newer is decided inside Redis, by a
script that runs alone; it is short (`BATCH_ROWS`), so readers wait about a millisecond for it.
"""

import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import quote

import redis
from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.repo_config import FeastConfigBaseModel
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from feature_repo.stores.breaker import Breaker
from feature_repo.stores.errors import OnlineStoreUnavailableError, OnlineUrlError
from feature_repo.stores.online import PackedOnlineStore, WriteCounts
from feature_repo.stores.packed import STAMP_LENGTH, STAMP_OFFSET
from feature_repo.stores.servers import batches, expanded

# One script call: 500 rows of 170 bytes take Redis below 1 ms. 20 calls are sent at a time, so the network is not waited for.
BATCH_ROWS = 500
BATCH_BYTES = 512 * 1024
_CALLS_IN_FLIGHT = 20
_EARLIEST = -(2**63)

# An entity key starts with the number of its parts as four little-endian bytes: never 2**32 - 1.
_NOTES = b"\xff\xff\xff\xffnotes"

# Lua compares texts by the server's locale and holds numbers as doubles, so stamps are compared as four 32-bit numbers each.
_NEWER = f"""
local FIRST, SHORTEST = {STAMP_OFFSET + 1}, {STAMP_OFFSET + STAMP_LENGTH}
local function at_least_as_new(a, b)
  local a1, a2, a3, a4 = struct.unpack('>I4I4I4I4', a, FIRST)
  local b1, b2, b3, b4 = struct.unpack('>I4I4I4I4', b, FIRST)
  if a1 ~= b1 then return a1 > b1 end
  if a2 ~= b2 then return a2 > b2 end
  if a3 ~= b3 then return a3 > b3 end
  return a4 >= b4
end
"""
# KEYS: the view. ARGV: n entity keys, then their n values. Answers the rows written, unchanged, held back.
_WRITE = f"""{_NEWER}
local n = #ARGV / 2
local held = redis.call('HMGET', KEYS[1], unpack(ARGV, 1, n))
local put, size, unchanged, held_back = {{}}, 0, 0, 0
for i = 1, n do
  local old, new = held[i], ARGV[n + i]
  if old == new then
    unchanged = unchanged + 1
  elseif not old or #old < SHORTEST or at_least_as_new(new, old) then
    put[size + 1], put[size + 2] = ARGV[i], new
    size = size + 2
  else
    held_back = held_back + 1
  end
end
if size > 0 then redis.call('HSET', KEYS[1], unpack(put)) end
return {{size / 2, unchanged, held_back}}
"""
# KEYS: the view. ARGV: cursor, the notes' field. Answers the next cursor and the newest stamp of a page, or an empty one.
_NEWEST = f"""{_NEWER}
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', {BATCH_ROWS})
local newest = nil
for i = 1, #page[2], 2 do
  local value = page[2][i + 1]
  if page[2][i] ~= ARGV[2] and #value >= SHORTEST and (not newest or at_least_as_new(value, newest)) then newest = value end
end
return {{page[1], newest and string.sub(newest, FIRST, SHORTEST) or ''}}
"""
# KEYS: the view. ARGV: the notes' field, name, value.
_SET_NOTE = """
local notes = cjson.decode(redis.call('HGET', KEYS[1], ARGV[1]) or '{}')
notes[ARGV[2]] = ARGV[3]
return redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(notes))
"""


class PackedRedisOnlineStoreConfig(FeastConfigBaseModel):
    """How to reach Redis. No field holds a secret: passwords come from the environment."""

    type: Literal["feature_repo.stores.online_redis.PackedRedisOnlineStore"] = (
        "feature_repo.stores.online_redis.PackedRedisOnlineStore"
    )
    connection_string: str = "localhost:6379"
    """`redis://host:port/db`, `rediss://...` (TLS), `unix:///path`, or Feast's form `host:port,db=0,username=u,ssl=true`.
    `${NAME}` is taken from the environment when a connection is made."""

    password_env: str = "PITWALL_ONLINE_PASSWORD"
    """Environment variable with the password, used if `connection_string` has none."""

    namespace: str = "default"
    """Part of every key: stores with different namespaces never see each other's rows."""

    timeout_s: float = 10.0
    """Seconds to wait for a connection, for an answer, and for a free connection."""

    pause_s: float = 0.0
    """Seconds for which calls fail at once after one got no answer, which itself does not ask again; 0 = every call asks."""

    max_connections: int = 64
    """Connections of one process; a 65th thread waits."""


class PackedRedisOnlineStore(PackedOnlineStore):
    """Packed rows in Redis 6 or newer (one server or a primary with replicas; not a cluster). Thread-safe."""

    def __init__(self) -> None:
        self._clients: dict[tuple[str, str], tuple[redis.Redis, Breaker]] = {}
        self._lock = threading.Lock()

    def write_rows(self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes], values: Sequence[bytes]) -> WriteCounts:
        """Write each row unless its key holds a newer one; see `PackedOnlineStore.write_rows`.

        Atomic per batch of `BATCH_ROWS` rows. A writer that dies leaves whole batches; the same call again completes them.
        """
        name, totals = view_key(config, view), [0, 0, 0]
        calls = batches(keys, values, max_rows=BATCH_ROWS, max_bytes=BATCH_BYTES)
        with self._client(config) as client:
            in_flight: list[tuple[Sequence[bytes], Sequence[bytes]]] = []
            for call in calls:
                in_flight.append(call)
                if len(in_flight) == _CALLS_IN_FLIGHT:
                    _add(totals, _send(client, name, in_flight))
                    in_flight = []
            if in_flight:
                _add(totals, _send(client, name, in_flight))
        return WriteCounts(*totals)

    def read_rows(self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes]) -> list[bytes | None]:
        """The packed rows of `keys`, in their order, None where there is none."""
        return self.read_many(config, [(view, keys)])[0]

    def read_many(self, config: RepoConfig, requests: Sequence[tuple[FeatureView, Sequence[bytes]]]) -> list[list[bytes | None]]:
        """The packed rows of several views in one round trip: one `HMGET` a view, pipelined."""
        asked = [(view_key(config, view), keys) for view, keys in requests if keys]
        answers: Iterator[list[bytes | None]] = iter(())
        with self._client(config) as client:
            if len(asked) == 1:
                answers = iter([client.execute_command("HMGET", asked[0][0], *asked[0][1])])
            elif asked:
                pipeline = client.pipeline(transaction=False)
                for name, keys in asked:
                    pipeline.execute_command("HMGET", name, *keys)
                answers = iter(pipeline.execute())
        return [next(answers) if keys else [] for _, keys in requests]

    def count_rows(self, config: RepoConfig, view: FeatureView) -> int:
        """How many entities have a row."""
        name = view_key(config, view)
        with self._client(config) as client:
            pipeline = client.pipeline(transaction=True)
            pipeline.execute_command("HLEN", name)
            pipeline.execute_command("HEXISTS", name, _NOTES)
            fields, has_notes = pipeline.execute()
        return int(fields) - int(has_notes)

    def newest_event(self, config: RepoConfig, view: FeatureView) -> int | None:
        """The newest event time held, in microseconds since 1970 UTC; None if nothing is held. Redis looks at every row."""
        name, cursor, newest = view_key(config, view), b"0", b""
        with self._client(config) as client:
            while True:
                cursor, found = client.execute_command("EVAL", _NEWEST, 1, name, cursor, _NOTES)
                newest = max(newest, found)
                if int(cursor) == 0:
                    break
        return int.from_bytes(newest[:8], "big") + _EARLIEST if newest else None

    def clear(self, config: RepoConfig, view: FeatureView) -> None:
        """Delete the view's rows and notes."""
        with self._client(config) as client:
            client.execute_command("UNLINK", view_key(config, view))

    def get_notes(self, config: RepoConfig, view: FeatureView) -> dict[str, str]:
        """What was noted beside the view's rows."""
        with self._client(config) as client:
            notes = client.execute_command("HGET", view_key(config, view), _NOTES)
        return {} if notes is None else json.loads(notes)

    def set_note(self, config: RepoConfig, view: FeatureView, name: str, value: str) -> None:
        """Note `value` under `name`, in place of what was there."""
        with self._client(config) as client:
            client.execute_command("EVAL", _SET_NOTE, 1, view_key(config, view), _NOTES, name, value)

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],  # noqa: ARG002  (a hash is made by its first row)
        entities_to_delete: Sequence[Entity],  # noqa: ARG002  (Feast's interface)
        entities_to_keep: Sequence[Entity],  # noqa: ARG002
        partial: bool,  # noqa: ARG002
    ) -> None:
        """What `apply` calls: delete the rows of deleted views. Fails if Redis cannot be reached, even if there are none."""
        with self._client(config) as client:
            client.ping()
        for view in tables_to_delete:
            self.clear(config, view)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:  # noqa: ARG002
        """What `feast teardown` calls: delete the rows and notes of these views, and nothing else."""
        for view in tables:
            self.clear(config, view)
        self.disconnect()

    def disconnect(self) -> None:
        """Close the connections; the next call opens new ones."""
        with self._lock:
            clients, self._clients = self._clients, {}
        for client, _ in clients.values():
            client.close()
            client.connection_pool.disconnect()

    @contextmanager
    def _client(self, config: RepoConfig) -> Iterator[redis.Redis]:
        """A client of this process's pool; what goes wrong with the server is said in one sentence."""
        options: PackedRedisOnlineStoreConfig = config.online_store
        identity = (options.connection_string, options.password_env)
        known = self._clients.get(identity)
        if known is None:
            client = _connect(options)
            with self._lock:
                known = self._clients.setdefault(identity, (client, Breaker(f"Redis at {_where(client)}", options.pause_s)))
        client, breaker = known
        try:
            with breaker.passed(redis.ConnectionError, redis.TimeoutError):
                yield client
        except redis.AuthenticationError as error:
            raise OnlineStoreUnavailableError(
                f"Redis at {_where(client)}: refused the password or user ({error}); set {options.password_env}"
            ) from error
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise OnlineStoreUnavailableError(
                f"Redis at {_where(client)}: no answer ({error}); start it or correct PITWALL_ONLINE_URL, then run this again: "
                "what was written stays, nothing is written twice"
            ) from error
        except redis.ResponseError as error:
            raise OnlineStoreUnavailableError(
                f"Redis at {_where(client)}: refused a command ({error}); it must be a primary of version 6 or newer with memory "
                "left, and the user must be allowed EVAL and the hash commands"
            ) from error


def view_key(config: RepoConfig, view: FeatureView) -> bytes:
    """The Redis key of a view's hash. Percent-encoded parts hold no `:` and nothing that SCAN or KEYS would expand."""
    versioned = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
    parts = (config.online_store.namespace, config.project, versioned)
    return ":".join(["pitwall", *(quote(part, safe="") for part in parts)]).encode("ascii")


def _send(
    client: redis.Redis, name: bytes, calls: Sequence[tuple[Sequence[bytes], Sequence[bytes]]]
) -> list[tuple[int, int, int]]:
    # EVAL, not EVALSHA: the script's text is 1 kB beside 100 kB of rows, and Redis keeps it compiled either way; so a server
    # that was restarted or flushed its scripts needs no second attempt.
    pipeline = client.pipeline(transaction=False)
    for keys, values in calls:
        pipeline.execute_command("EVAL", _WRITE, 1, name, *keys, *values)
    return pipeline.execute()


def _add(totals: list[int], counts: Sequence[tuple[int, int, int]]) -> None:
    for count in counts:
        for position, number in enumerate(count):
            totals[position] += int(number)


def _connect(options: PackedRedisOnlineStoreConfig) -> redis.Redis:
    text = expanded(options.connection_string)
    slow = () if options.pause_s else (redis.TimeoutError, TimeoutError)  # where others wait, one who waited in vain gives up
    common: dict[str, Any] = {
        "max_connections": options.max_connections,
        "timeout": options.timeout_s,
        "socket_timeout": options.timeout_s,
        "socket_connect_timeout": options.timeout_s,
        "socket_keepalive": True,
        "health_check_interval": 30,
        # A restarted server leaves dead connections in the pool: one of them, then one that was refused, then the error.
        "retry": Retry(ExponentialBackoff(cap=0.2, base=0.05), 2, (redis.ConnectionError, *slow)),
        "password": os.environ.get(options.password_env) or None,
    }
    try:
        return redis.Redis(connection_pool=_pool(text, common))
    except (ValueError, TypeError):
        # The library's sentence may quote the string, and with it a password.
        raise OnlineUrlError(
            "online store: got a connection_string that is none of Redis, expected redis://host:port/db or host:port,db=0"
        ) from None


def _pool(text: str, common: dict[str, Any]) -> redis.BlockingConnectionPool:
    if "://" in text:
        if text.startswith("unix:"):
            del common["socket_keepalive"]
        return redis.BlockingConnectionPool.from_url(text, **common)
    address, *parameters = text.split(",")
    host, _, port = address.partition(":")
    given: dict[str, Any] = dict(parameter.split("=", 1) for parameter in parameters)
    if given.pop("ssl", "false").lower() == "true":
        common["connection_class"] = redis.SSLConnection
    db = int(given.pop("db", 0))
    return redis.BlockingConnectionPool(host=host, port=int(port or 6379), db=db, **{**common, **given})


def _where(client: redis.Redis) -> str:
    """host:port/db, or the socket: never the password."""
    reached = client.connection_pool.connection_kwargs
    address = reached.get("path") or f"{reached.get('host', 'localhost')}:{reached.get('port', 6379)}"
    return f"{address}/{reached.get('db') or 0}"
