"""Packed online rows in one SQLite file: the embedded online store.

A table a view (entity key -> packed row), and one for notes. The rule stands in the INSERT statement itself, so it holds for
every process that writes through this class; writers take turns, readers are never blocked (WAL).
"""

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from feast import Entity, FeatureView, RepoConfig
from feast.repo_config import FeastConfigBaseModel
from pydantic import StrictStr

from feature_repo.errors import NotAppliedError
from feature_repo.stores.online import PackedOnlineStore, WriteCounts, table_id
from feature_repo.stores.packed import STAMP_LENGTH, STAMP_OFFSET, stamps

BUSY_TIMEOUT_S = 60.0

_NOTES = "packed_notes"
_STAMP = f"substr({{}}value, {STAMP_OFFSET + 1}, {STAMP_LENGTH})"
_of_parents: list[list[sqlite3.Connection]] = []
# A statement has one sub-select a key: below SQLite's limit of 2,000 result columns.
_KEYS_PER_READ = 1_000


class PackedSqliteOnlineStoreConfig(FeastConfigBaseModel):
    """Configuration of the embedded online store."""

    type: Literal["feature_repo.stores.online_sqlite.PackedSqliteOnlineStore"] = (
        "feature_repo.stores.online_sqlite.PackedSqliteOnlineStore"
    )
    """Class path, for Feast."""

    path: StrictStr = "data/online_store.db"
    """The database file; a relative path counts from the feature repository."""


class PackedSqliteOnlineStore(PackedOnlineStore):
    """Packed online rows in one SQLite file. Threads and processes may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Readers take turns. Each gives up the interpreter's lock inside SQLite; where many do so at once, getting it back takes
        # longer than the read: 32 threads gave fewer answers a second without turns, and a longer tail.
        self._reading = threading.Lock()
        # Connections that nobody is using. Each call takes one and puts it back, so there are as many as there were callers at
        # once, whatever number of threads comes and goes; append and pop need no lock.
        self._idle: list[sqlite3.Connection] = []
        self._opened: tuple[int, ...] | None = None

    def write_rows(
        self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes], values: Sequence[bytes]
    ) -> WriteCounts:  # fmt: skip
        """See the base class. One transaction: all rows of a call or none."""
        if not keys:
            return WriteCounts()
        table = quoted(table_id(config, view))
        upsert = (
            f"INSERT INTO {table} AS held (entity_key, value) VALUES (?, ?) ON CONFLICT (entity_key) DO UPDATE SET value = "
            f"excluded.value WHERE {_STAMP.format('excluded.')} >= {_STAMP.format('held.')} AND excluded.value <> held.value"
        )
        with self._connected(config) as connection, _transaction(connection):
            before = connection.total_changes
            connection.executemany(upsert, zip(keys, values, strict=True))
            written = connection.total_changes - before
            if written == len(keys):
                return WriteCounts(written)
            # Nobody else can write before this transaction ends: what differs from our row now is newer than it.
            held = self._read(connection, [(table, keys)])[0]
            held_back = sum(have != want for have, want in zip(held, values, strict=True))
            return WriteCounts(written, len(keys) - written - held_back, held_back)

    def read_rows(self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes]) -> list[bytes | None]:
        """See the base class."""
        return self.read_many(config, [(view, keys)])[0]

    def read_many(
        self, config: RepoConfig, requests: Sequence[tuple[FeatureView, Sequence[bytes]]]
    ) -> list[list[bytes | None]]:  # fmt: skip
        """See the base class. Up to a thousand keys are one statement, which sees one state of the database."""
        with self._connected(config) as connection, self._reading:
            return self._read(connection, [(quoted(table_id(config, view)), keys) for view, keys in requests])

    def count_rows(self, config: RepoConfig, view: FeatureView) -> int:
        """See the base class."""
        with self._connected(config) as connection:
            return int(connection.execute(f"SELECT count(*) FROM {quoted(table_id(config, view))}").fetchone()[0])

    def newest_event(self, config: RepoConfig, view: FeatureView) -> int | None:
        """See the base class."""
        with self._connected(config) as connection:
            newest = connection.execute(f"SELECT max({_STAMP.format('')}) FROM {quoted(table_id(config, view))}").fetchone()[0]
        return None if newest is None else int(stamps([bytes(STAMP_OFFSET) + newest])[0, 0])

    def clear(self, config: RepoConfig, view: FeatureView) -> None:
        """See the base class."""
        name = table_id(config, view)
        with self._connected(config) as connection, _transaction(connection):
            connection.execute(f"DELETE FROM {quoted(name)}")
            connection.execute(f"DELETE FROM {_NOTES} WHERE view = ?", (name,))

    def get_notes(self, config: RepoConfig, view: FeatureView) -> dict[str, str]:
        """See the base class."""
        with self._connected(config) as connection:
            query = f"SELECT name, value FROM {_NOTES} WHERE view = ? ORDER BY name"
            return dict(connection.execute(query, (table_id(config, view),)).fetchall())

    def set_note(self, config: RepoConfig, view: FeatureView, name: str, value: str) -> None:
        """See the base class."""
        with self._connected(config) as connection:
            connection.execute(f"INSERT OR REPLACE INTO {_NOTES} VALUES (?, ?, ?)", (table_id(config, view), name, value))

    def is_ready_for(self, config: RepoConfig, view: FeatureView) -> bool:
        """See the base class."""
        if not database_path(config).exists():
            return False
        with self._connected(config) as connection:
            return _columns(connection, table_id(config, view)) == ["entity_key", "value"]

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],  # noqa: ARG002  (Feast's interface)
        entities_to_keep: Sequence[Entity],  # noqa: ARG002
        partial: bool,  # noqa: ARG002
    ) -> None:
        """What `apply` calls: make the tables of new views, drop those of deleted ones.

        A table of another shape (Feast's own store kept one row a feature) is replaced by an empty one.
        """
        path = database_path(config)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._connected(config, create=True) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            with _transaction(connection):
                columns = "view TEXT, name TEXT, value TEXT, PRIMARY KEY (view, name)"
                connection.execute(f"CREATE TABLE IF NOT EXISTS {_NOTES} ({columns}) WITHOUT ROWID")
                for view in tables_to_delete:
                    _drop(connection, table_id(config, view))
                for view in tables_to_keep:
                    name = table_id(config, view)
                    if _columns(connection, name) != ["entity_key", "value"]:
                        _drop(connection, name)
                        connection.execute(f"CREATE TABLE {quoted(name)} (entity_key BLOB PRIMARY KEY, value BLOB NOT NULL)")

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:  # noqa: ARG002
        """What `feast teardown` calls: delete the database."""
        self.disconnect()
        path = database_path(config)
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)

    def disconnect(self) -> None:
        """Close the connections that nobody is using."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextmanager
    def _connected(self, config: RepoConfig, *, create: bool = False) -> Iterator[sqlite3.Connection]:
        path = str(database_path(config))
        file = _file_of(path)
        if file is None and not create:  # SQLite would make an empty one
            raise NotAppliedError(f"{path}: no online store here; run `pitwall apply` (or `feast apply`) first")
        if file != self._opened:
            with self._lock:
                if self._opened is not None and file is not None and self._opened[0] != file[0]:
                    # A connection must not be used, nor closed, on the other side of a fork.
                    _of_parents.append(self._idle)
                    self._reading = threading.Lock()  # a thread of the parent may have held it
                self._idle = []
                self._opened = file
        idle = self._idle
        try:
            connection = idle.pop()
        except IndexError:
            connection = _open(path)
        try:
            yield connection
        except sqlite3.OperationalError as error:
            connection.close()
            if "no such table" in str(error):
                raise NotAppliedError(f"{path}: {error}; run `pitwall apply` (or `feast apply`) first") from error
            raise
        except BaseException:
            connection.close()
            raise
        idle.append(connection)

    def _read(self, connection: sqlite3.Connection, requests: Sequence[tuple[str, Sequence[bytes]]]) -> list[list[bytes | None]]:
        """One statement of one result row for many keys: every row fetched would release and take back the interpreter's lock,
        for which concurrent readers would queue.
        """
        asked = [(table, key) for table, keys in requests for key in keys]
        values: list[bytes | None] = []
        for start in range(0, len(asked), _KEYS_PER_READ):
            part = asked[start : start + _KEYS_PER_READ]
            columns = ",".join([f"(SELECT value FROM {table} WHERE entity_key=?)" for table, _ in part])
            values += connection.execute(f"SELECT {columns}", [key for _, key in part]).fetchone()
        found = iter(values)
        return [[next(found) for _ in keys] for _, keys in requests]


def database_path(config: RepoConfig) -> Path:
    """The file of the online store that `config` names."""
    path = Path(config.online_store.path)
    return path if path.is_absolute() or config.repo_path is None else Path(config.repo_path) / path


def quoted(identifier: str) -> str:
    """An SQL identifier in double quotes."""
    return '"' + identifier.replace('"', '""') + '"'


def _file_of(path: str) -> tuple[int, ...] | None:
    """This process and the file behind a path: another one after a fork, or when the database was deleted and made again."""
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return None
    return os.getpid(), status.st_dev, status.st_ino


def _open(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?) ORDER BY cid", (table,))]


def _drop(connection: sqlite3.Connection, table: str) -> None:
    connection.execute(f"DROP TABLE IF EXISTS {quoted(table)}")
    connection.execute(f"DELETE FROM {_NOTES} WHERE view = ?", (table,))
