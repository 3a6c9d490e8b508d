"""What Feast's SQLite online store lacks: it refuses older rows, keeps microseconds of the newest row, and reads times as UTC.

Feast upserts whatever it is given, so an older window would overwrite a newer one. The rule is put into the database itself: a
trigger on every online table ignores an update that is older than what is there, whichever client sends it (`feast materialize`,
`FeatureStore.push`, ours). Feast keeps whole seconds; `pitwall_newest` beside its tables keeps the exact (event, created) of the
row each key holds, and the journal of materialization, so that both change in one transaction with the features.
"""

import functools
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import feast.infra.online_stores.sqlite  # noqa: F401  (its import registers the adapters that use_utc() replaces)

BUSY_TIMEOUT_S = 60.0

_TABLES = """
CREATE TABLE IF NOT EXISTS pitwall_views (view TEXT PRIMARY KEY, table_name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS pitwall_newest (
    view TEXT NOT NULL, entity_key BLOB NOT NULL, event_us INTEGER NOT NULL, created_us INTEGER NOT NULL,
    PRIMARY KEY (view, entity_key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pitwall_chunks (
    view TEXT NOT NULL, chunk TEXT NOT NULL, content_sha256 TEXT NOT NULL,
    PRIMARY KEY (view, chunk)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pitwall_journal (
    view TEXT NOT NULL, since_us INTEGER NOT NULL, until_us INTEGER NOT NULL, source_sha256 TEXT NOT NULL,
    definition_sha256 TEXT NOT NULL, n_rows INTEGER NOT NULL, finished_us INTEGER NOT NULL,
    PRIMARY KEY (view, since_us, until_us)
) WITHOUT ROWID;
"""
SIDE_TABLES = ("pitwall_newest", "pitwall_chunks", "pitwall_journal")


def use_utc() -> None:
    """Make Feast's SQLite times UTC in this process, whatever its time zone.

    Feast stores a naive UTC time through `datetime.timestamp()`, which takes it as local time, and reads it back so: two
    processes in different zones disagree, and an hour is lost when summer time ends. `sqlite3` keeps adapters and converters per
    process; Feast sets its own on import, and these replace them.
    """
    sqlite3.register_adapter(datetime, _to_epoch_s)
    sqlite3.register_converter("timestamp", _from_epoch_s)


@contextmanager
def connect(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to the online store for writing: explicit transactions, readers not blocked, closed at the end."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        yield connection
    finally:
        connection.close()


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Everything inside is written together or not at all; other writers wait."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def install(path: Path, tables: dict[str, str]) -> None:
    """Guard the online tables; forget views that are no longer served. Idempotent.

    Args:
        path: the SQLite online store.
        tables: online view -> its Feast table (which exists).
    """
    with connect(path) as connection:
        connection.executescript(_TABLES)
        with transaction(connection):
            known = dict(connection.execute("SELECT view, table_name FROM pitwall_views"))
            for view in sorted(set(known) - set(tables)):
                forget(connection, view)
                connection.execute("DELETE FROM pitwall_views WHERE view = ?", (view,))
                connection.execute(f"DROP TABLE IF EXISTS {quoted(known[view])}")
            for view, table in sorted(tables.items()):
                connection.execute("INSERT OR REPLACE INTO pitwall_views VALUES (?, ?)", (view, table))
                connection.execute(
                    f"CREATE TRIGGER IF NOT EXISTS {quoted('pitwall_guard_' + table)} BEFORE UPDATE ON {quoted(table)} "
                    "WHEN NEW.event_ts < OLD.event_ts OR (NEW.event_ts = OLD.event_ts AND NEW.created_ts < OLD.created_ts) "
                    "BEGIN SELECT RAISE(IGNORE); END"
                )


def forget(connection: sqlite3.Connection, view: str, tables: Iterable[str] = SIDE_TABLES) -> None:
    """Delete what the side tables say about one view."""
    for table in tables:
        connection.execute(f"DELETE FROM {table} WHERE view = ?", (view,))


def quoted(identifier: str) -> str:
    """An SQL identifier in double quotes."""
    return '"' + identifier.replace('"', '""') + '"'


def epoch_s(microseconds: int) -> int:
    """Whole seconds since 1970 as Feast stores them: cut towards zero."""
    return int(microseconds / 1_000_000)


def _to_epoch_s(moment: datetime) -> int:
    return int((moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).timestamp())


# A grid of 20 cars reads 800 cells of 40 different times.
@functools.lru_cache(maxsize=4096)
def _from_epoch_s(seconds: bytes) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)
