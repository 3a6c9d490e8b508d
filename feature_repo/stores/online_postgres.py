"""PostgreSQL as an online store that never goes back in time: one table a view, one packed value an entity.

    <db_schema>.<project>_<view>_<hash>      the hash tells apart names that are cut at 63 bytes or join to the same text
        entity_key  bytea primary key        Feast's bytes; from \\xffffffff on: the journal of materialization
        value       bytea                    packed row; or the note

Rows and journal are one table: DROP, TRUNCATE or a restore takes both, so the journal never speaks of rows that are gone. Whether
a row is newer is decided in the upsert itself, under the row's lock. Bytes compare as unsigned bytes in any collation.
"""

import functools
import hashlib
import json
import math
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, LiteralString, TypeVar

import psycopg
from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.repo_config import FeastConfigBaseModel
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import Field

from feature_repo.errors import NotAppliedError
from feature_repo.stores.breaker import Breaker
from feature_repo.stores.errors import OnlineStoreUnavailableError, OnlineUrlError
from feature_repo.stores.online import PackedOnlineStore, WriteCounts
from feature_repo.stores.packed import STAMP_LENGTH, STAMP_OFFSET
from feature_repo.stores.servers import batches, expanded

BATCH_ROWS = 5_000
BATCH_BYTES = 8 * 1024 * 1024
_EARLIEST = -(2**63)

# An entity key starts with the number of its parts as four little-endian bytes: never 2**32 - 1.
_NOTE = b"\xff\xff\xff\xff"

_CREATE = """
CREATE TABLE IF NOT EXISTS {table} (entity_key bytea PRIMARY KEY, value bytea NOT NULL) WITH (fillfactor = 70)
"""
# Packed numbers do not compress, and a stamp cannot be cut out of a compressed value without unpacking it.
_STORE_PLAIN = "ALTER TABLE {table} ALTER value SET STORAGE EXTERNAL"
_DROP = "DROP TABLE IF EXISTS {table}"
# Rows go in in the order of their keys, so writers wait for each other in a line and never in a circle. The row of a conflict is
# locked even where the condition refuses it, so the count after the upsert sees what the upsert saw.
_WRITE = """
INSERT INTO {table} AS held (entity_key, value)
SELECT entity_key, value FROM unnest(%b::bytea[], %b::bytea[]) AS new (entity_key, value) ORDER BY entity_key
ON CONFLICT (entity_key) DO UPDATE SET value = excluded.value
WHERE held.value <> excluded.value
  AND substring(held.value FROM {first} FOR {length}) <= substring(excluded.value FROM {first} FOR {length})
"""
_FILL = "COPY {table} (entity_key, value) FROM STDIN (FORMAT BINARY)"
_ANY_ROW = "SELECT 1 FROM {table} LIMIT 1"
_COUNT_EQUAL = """
SELECT count(*) FROM unnest(%b::bytea[], %b::bytea[]) AS new (entity_key, value)
JOIN {table} AS held USING (entity_key) WHERE held.value = new.value
"""
_READ = "SELECT {position}, entity_key, value FROM {table} WHERE entity_key = ANY(%b)"
_COUNT = "SELECT count(*) FROM {table} WHERE entity_key < %b"
_NEWEST = """
SELECT substring(value FROM {first} FOR 8) FROM {table} WHERE entity_key < %b ORDER BY 1 DESC LIMIT 1
"""
_NOTES = "SELECT entity_key, value FROM {table} WHERE entity_key >= %b"
_SET_NOTE = """
INSERT INTO {table} VALUES (%b, %b) ON CONFLICT (entity_key) DO UPDATE SET value = excluded.value
"""

Answer = TypeVar("Answer")


class PackedPostgresOnlineStoreConfig(FeastConfigBaseModel):
    """How to reach PostgreSQL. No field holds a secret: passwords come from the environment."""

    type: Literal["feature_repo.stores.online_postgres.PackedPostgresOnlineStore"] = (
        "feature_repo.stores.online_postgres.PackedPostgresOnlineStore"
    )
    connection_string: str = "postgresql://localhost:5432/postgres"
    """What libpq takes: `postgresql://user@host:port/database?sslmode=require` or `host=... dbname=...`. `${NAME}` is taken from
    the environment when a connection is made."""

    password_env: str = "PITWALL_ONLINE_PASSWORD"
    """Environment variable with the password, used if `connection_string` has none. Without either, libpq looks at PGPASSWORD and
    its password file."""

    db_schema: str = Field(default="feast_online", min_length=1, max_length=63, pattern="^[ -~]+$")
    """Schema of the tables, made when it is absent. Stores with different schemas never see each other's rows."""

    timeout_s: float = 10.0
    """Seconds to wait for a connection, and for a free connection."""

    statement_timeout_s: float = 60.0
    """Seconds after which the server gives up a statement, a wait for another writer's locks included. A server that does not do
    even that is given up `timeout_s` later."""

    pause_s: float = 0.0
    """Seconds for which calls fail at once after one got no answer; 0 = every call asks."""

    max_connections: int = 16
    """Connections of one process; a 17th thread waits."""


class PackedPostgresOnlineStore(PackedOnlineStore):
    """Packed rows in PostgreSQL 12 or newer. Thread-safe."""

    def __init__(self) -> None:
        self._pools: dict[tuple[int, str, str], _Connections] = {}
        self._lock = threading.Lock()
        # Schema and table -> whether the keys written so far were all new to it. A wrong guess costs time and nothing else.
        self._filling: dict[tuple[str, str], bool] = {}

    def write_rows(self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes], values: Sequence[bytes]) -> WriteCounts:
        """Write each row unless its key holds a newer one; see `PackedOnlineStore.write_rows`.

        One transaction a batch of `BATCH_ROWS` rows. A writer that dies leaves whole batches; the same call again completes them.
        """
        table = (config.online_store.db_schema, table_of(config, view))
        if table not in self._filling and keys:
            empty = self._run(config, lambda connection: connection.execute(_composed(_ANY_ROW, *table)).fetchone()) is None
            self._filling[table] = empty
        totals = [0, 0, 0]
        for batch_keys, batch_values in batches(keys, values, max_rows=BATCH_ROWS, max_bytes=BATCH_BYTES):
            rows = sorted(zip(batch_keys, batch_values, strict=True))
            written, equal = self._run(config, functools.partial(self._write_batch, table, rows))
            for position, number in enumerate((written, equal - written, len(rows) - equal)):
                totals[position] += number
        return WriteCounts(*totals)

    def _write_batch(
        self, table: tuple[str, str], rows: list[tuple[bytes, bytes]], connection: psycopg.Connection
    ) -> tuple[int, int]:
        """How many rows were written, and how many are held as given, in one transaction."""
        if self._filling.get(table):
            # COPY takes half the time of an upsert, and fails as a whole when a key is held already.
            try:
                with connection.transaction(), connection.cursor().copy(_composed(_FILL, *table)) as copy:
                    copy.set_types(["bytea", "bytea"])
                    for row in rows:
                        copy.write_row(row)
            except psycopg.errors.UniqueViolation:
                self._filling[table] = False
            else:
                return len(rows), len(rows)
        arrays = [list(column) for column in zip(*rows, strict=True)]
        with connection.transaction():
            written = connection.execute(_composed(_WRITE, *table), arrays).rowcount
            if written == len(rows):
                return written, written
            found = connection.execute(_composed(_COUNT_EQUAL, *table), arrays).fetchone()
            return written, 0 if found is None else int(found[0])

    def read_rows(self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes]) -> list[bytes | None]:
        """The packed rows of `keys`, in their order, None where there is none."""
        return self.read_many(config, [(view, keys)])[0]

    def read_many(self, config: RepoConfig, requests: Sequence[tuple[FeatureView, Sequence[bytes]]]) -> list[list[bytes | None]]:
        """The packed rows of several views in one round trip: one query, prepared once a connection."""
        asked = [(position, table_of(config, view), list(keys)) for position, (view, keys) in enumerate(requests) if keys]
        found: list[dict[bytes, bytes]] = [{} for _ in requests]
        if asked:
            query = _read_query(config.online_store.db_schema, tuple((position, table) for position, table, _ in asked))
            parameters = [keys for _, _, keys in asked]
            for position, key, value in self._run(
                config, lambda connection: connection.cursor(binary=True).execute(query, parameters, prepare=True).fetchall()
            ):
                found[position][key] = value
        return [[rows.get(key) for key in keys] for rows, (_, keys) in zip(found, requests, strict=True)]

    def count_rows(self, config: RepoConfig, view: FeatureView) -> int:
        """How many entities have a row."""
        return int(self._value(config, _statement(_COUNT, config, view)))

    def newest_event(self, config: RepoConfig, view: FeatureView) -> int | None:
        """The newest event time held, in microseconds since 1970 UTC; None if nothing is held. Reads the table once."""
        newest = self._value(config, _statement(_NEWEST, config, view))
        return None if newest is None else int.from_bytes(newest, "big") + _EARLIEST

    def clear(self, config: RepoConfig, view: FeatureView) -> None:
        """Delete the view's rows and notes."""
        self._run(config, lambda connection: connection.execute(_statement("TRUNCATE {table}", config, view)))
        self._filling.clear()

    def get_notes(self, config: RepoConfig, view: FeatureView) -> dict[str, str]:
        """What was noted beside the view's rows."""
        query = _statement(_NOTES, config, view)
        rows = self._run(config, lambda connection: connection.execute(query, (_NOTE,)).fetchall())
        return {bytes(key)[len(_NOTE) :].decode(): bytes(value).decode() for key, value in rows}

    def set_note(self, config: RepoConfig, view: FeatureView, name: str, value: str) -> None:
        """Note `value` under `name`, in place of what was there."""
        query, row = _statement(_SET_NOTE, config, view), (_NOTE + name.encode(), value.encode())
        self._run(config, lambda connection: connection.execute(query, row))

    def is_ready_for(self, config: RepoConfig, view: FeatureView) -> bool:
        """Whether `apply` has made the view's table."""
        table = sql.Identifier(config.online_store.db_schema, table_of(config, view)).as_string()
        found = self._run(config, lambda connection: connection.execute("SELECT to_regclass(%s)", (table,)).fetchone())
        return found is not None and found[0] is not None

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],  # noqa: ARG002  (Feast's interface)
        entities_to_keep: Sequence[Entity],  # noqa: ARG002
        partial: bool,  # noqa: ARG002
    ) -> None:
        """What `apply` calls: make the schema and the tables of new views, drop those of deleted ones."""
        schema = config.online_store.db_schema

        def make(connection: psycopg.Connection) -> None:
            with connection.transaction():
                # IF NOT EXISTS looks before it makes: of two that apply at once, both would make, and one would fail.
                connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (schema,))
                connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
                for view in tables_to_delete:
                    connection.execute(_statement(_DROP, config, view))
                for view in tables_to_keep:
                    connection.execute(_statement(_CREATE, config, view))
                    connection.execute(_statement(_STORE_PLAIN, config, view))

        self._run(config, make)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:  # noqa: ARG002
        """What `feast teardown` calls: drop the tables of these views, and the schema if nothing else is in it."""
        schema = config.online_store.db_schema

        def drop(connection: psycopg.Connection) -> None:
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (schema,))
                for view in tables:
                    connection.execute(_statement(_DROP, config, view))
                is_used = connection.execute(
                    "SELECT 1 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = %s LIMIT 1",
                    (schema,),
                ).fetchone()
                if not is_used and schema != "public":
                    connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {}").format(sql.Identifier(schema)))

        self._run(config, drop)
        self.disconnect()

    def disconnect(self) -> None:
        """Close the connections that nobody is using."""
        with self._lock:
            pools = [pool for (process, *_), pool in self._pools.items() if process == os.getpid()]
            self._filling = {}
        for pool in pools:
            pool.close()

    def _value(self, config: RepoConfig, query: bytes) -> Any:
        """The first value of the first row of a query that leaves the notes out."""
        row = self._run(config, lambda connection: connection.cursor(binary=True).execute(query, (_NOTE,)).fetchone())
        return None if row is None else row[0]

    def _run(self, config: RepoConfig, work: Callable[[psycopg.Connection], Answer]) -> Answer:
        """Do `work` on a connection; what goes wrong with the server is said in one sentence."""
        options: PackedPostgresOnlineStoreConfig = config.online_store
        identity = (os.getpid(), options.connection_string, options.password_env)
        pool = self._pools.get(identity)
        if pool is None:
            with self._lock:
                pool = self._pools.setdefault(identity, _Connections(options))
        try:
            return pool.run(work)
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
            raise NotAppliedError(
                f"PostgreSQL at {pool.where}, schema {options.db_schema}: {_first_line(error)}; run `pitwall apply` first"
            ) from error
        except psycopg.OperationalError as error:
            raise OnlineStoreUnavailableError(
                f"PostgreSQL at {pool.where}: no answer ({_first_line(error)}); start it, correct PITWALL_ONLINE_URL or set "
                f"{options.password_env}, then run this again: what was written stays, nothing is written twice"
            ) from error
        except psycopg.Error as error:
            raise OnlineStoreUnavailableError(
                f"PostgreSQL at {pool.where}, schema {options.db_schema}: refused a statement ({_first_line(error)})"
            ) from error


class _Connection(psycopg.Connection):
    """A connection that gives up a server that accepts questions and answers none; psycopg alone would wait forever."""

    patience_s: float = math.inf

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """What every statement goes through."""
        return super().wait(self._until(gen, time.monotonic() + self.patience_s), *args, **kwargs)

    def _until(self, gen: Any, deadline: float) -> Any:
        """`gen`, which is asked again every tenth of a second while there is no answer."""
        ready = None
        while True:
            try:
                wanted = gen.send(ready)
            except StopIteration as done:
                return done.value
            if time.monotonic() > deadline:
                self.close()
                raise psycopg.OperationalError(f"no answer within {self.patience_s:g} s")
            ready = yield wanted


class _Connections:
    """Connections of one process to one database, at most so many.

    A refused connection is an error at once, not after a wait in a queue, and the first call after the server is back succeeds.
    """

    def __init__(self, options: PackedPostgresOnlineStoreConfig) -> None:
        text = expanded(options.connection_string)
        try:
            given = conninfo_to_dict(text)
        except psycopg.ProgrammingError:
            # libpq's own sentence may quote the whole string, and with it a password.
            raise OnlineUrlError(
                "online store: got a connection_string that libpq cannot read, expected postgresql://user@host:port/database"
            ) from None
        password = os.environ.get(options.password_env)
        settings: dict[str, Any] = {"connect_timeout": max(2, round(options.timeout_s)), **given}
        if password and "password" not in given:
            settings["password"] = password
        self._conninfo = make_conninfo(**settings)
        self._statement_timeout_ms = round(options.statement_timeout_s * 1000)
        self._wait_s = options.timeout_s
        self._places = threading.BoundedSemaphore(options.max_connections)
        self._idle: queue.LifoQueue[psycopg.Connection] = queue.LifoQueue()
        self._patience_s = options.statement_timeout_s + options.timeout_s
        named = {"host": "localhost", "port": "5432", "dbname": given.get("user", "?"), **given}
        self.where = f"{named['host']}:{named['port']}/{named['dbname']}"
        self._breaker = Breaker(f"PostgreSQL at {self.where}", options.pause_s)

    def run(self, work: Callable[[psycopg.Connection], Answer]) -> Answer:
        """Do `work` on a connection; once more on a new one if an idle one turned out to be dead."""
        with self._breaker.passed(psycopg.OperationalError):
            return self._run(work)

    def _run(self, work: Callable[[psycopg.Connection], Answer]) -> Answer:
        if not self._places.acquire(timeout=self._wait_s):
            raise psycopg.OperationalError(f"all connections of this process were busy for {self._wait_s:g} s")
        try:
            connection, is_new = self._take()
            try:
                answer = work(connection)
            except psycopg.OperationalError:
                if is_new or not connection.broken:
                    self._give_back(connection)
                    raise
                # The server was restarted: the other idle connections are as dead. What `work` did was not committed, or is the
                # same when done again.
                self.close()
                connection = self._connect()
                answer = work(connection)
            except BaseException:
                self._give_back(connection)
                raise
            self._give_back(connection)
            return answer
        finally:
            self._places.release()

    def close(self) -> None:
        """Close the idle connections."""
        while True:
            try:
                self._idle.get_nowait().close()
            except queue.Empty:
                return

    def _take(self) -> tuple[psycopg.Connection, bool]:
        try:
            return self._idle.get_nowait(), False
        except queue.Empty:
            return self._connect(), True

    def _give_back(self, connection: psycopg.Connection) -> None:
        if connection.closed or connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            connection.close()
        else:
            self._idle.put(connection)

    def _connect(self) -> psycopg.Connection:
        connection = _Connection.connect(self._conninfo, autocommit=True)
        connection.patience_s = self._patience_s
        connection.execute("SELECT set_config('statement_timeout', %s, false)", (str(self._statement_timeout_ms),))
        return connection


def table_of(config: RepoConfig, view: FeatureView) -> str:
    """The name of a view's table: readable as far as it goes, and never another's."""
    versioned = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
    return _table_name(config.project, versioned)


@functools.lru_cache(maxsize=1024)
def _table_name(project: str, view: str) -> str:
    readable = re.sub(r"\W+", "_", f"{project}_{view}", flags=re.ASCII)[:45]
    return f"{readable}_{hashlib.sha256(json.dumps([project, view]).encode()).hexdigest()[:16]}"


def _statement(text: LiteralString, config: RepoConfig, view: FeatureView) -> bytes:
    return _composed(text, config.online_store.db_schema, table_of(config, view))


# Composing takes longer than a read of a grid: done once a view, or once a combination of views.
@functools.lru_cache(maxsize=4096)
def _composed(text: LiteralString, schema: str, table: str) -> bytes:
    return _fill(text, schema, table).as_bytes()


@functools.lru_cache(maxsize=1024)
def _read_query(schema: str, tables: tuple[tuple[int, str], ...]) -> bytes:
    parts = [_fill(_READ, schema, table, position=sql.Literal(position)) for position, table in tables]
    return sql.SQL(" UNION ALL ").join(parts).as_bytes()


def _fill(text: LiteralString, schema: str, table: str, **parts: sql.Composable) -> sql.Composed:
    return sql.SQL(text).format(
        table=sql.Identifier(schema, table),
        schema=sql.Identifier(schema),
        first=sql.Literal(STAMP_OFFSET + 1),
        length=sql.Literal(STAMP_LENGTH),
        **parts,
    )


def _first_line(error: psycopg.Error) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
