"""A log that whoever serves an answer never waits for: entries are buffered, and written by a thread of their own as whole files.

A process killed at any instant leaves whole files only (`feature_repo/parquet_log.py`), and loses at most what it had not written
yet. Nothing here raises into the caller: what cannot be logged is counted and said in the program's log.
"""

import atexit
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Generic, TypeVar

import pyarrow as pa

from feature_repo.parquet_log import LOGGED_AT, drop_oldest, write_log_file

Entry = TypeVar("Entry")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LogCounts:
    """What became of the rows given to a log, since it was opened.

    Attributes:
        accepted: taken into the buffer.
        written: in a file on disk.
        failed: refused (an id, a column), not writable, or more than the buffer holds.
        dropped: of old files removed to stay within the size, whoever wrote them.
    """

    accepted: int = 0
    written: int = 0
    failed: int = 0
    dropped: int = 0


class BackgroundLog(ABC, Generic[Entry]):
    """The log of one process in a folder; other processes may write beside it. Open it after a fork, not before.

    A subclass says what an entry is, and makes rows of it in the background.

    Args:
        folder: of the files.
        name: what the log is called in the program's log.
        max_bytes: size of all files; the oldest go first.
        rotate_rows: rows after which a file is written.
        rotate_s: seconds after which a file is written, however few they are.
        buffer_rows: rows held while the disk does not answer.

    Attributes:
        on_count: called with a name of `LogCounts` and a number of rows whenever rows are counted.
    """

    time_column = LOGGED_AT
    """Column of the instant of a row."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        max_bytes: int,
        rotate_rows: int = 10_000,
        rotate_s: float = 60.0,
        buffer_rows: int = 100_000,
    ) -> None:
        self.folder = folder
        self._name = name
        self._rotate_rows, self._rotate_s, self._buffer_rows = rotate_rows, rotate_s, buffer_rows
        self._max_bytes = max_bytes
        self._buffer: list[Entry] = []
        self._buffered = 0
        self._due = float("inf")
        self._counts = dict.fromkeys((part.name for part in fields(LogCounts)), 0)
        self.on_count: Callable[[str, int], None] | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._writer: threading.Thread | None = None
        atexit.register(self.close)

    @abstractmethod
    def rows_of(self, entry: Entry) -> int:
        """How many rows an entry becomes."""

    @abstractmethod
    def check(self, entry: Entry) -> None:
        """Raise, whatever it is, if an entry cannot be logged. Called in the background."""

    @abstractmethod
    def to_table(self, entries: Sequence[Entry]) -> pa.Table:
        """The rows of checked entries, in the columns of the log. Called in the background."""

    @property
    def counts(self) -> LogCounts:
        """What became of the rows so far."""
        with self._changed:
            return LogCounts(**self._counts)

    def take(self, entry: Entry) -> None:
        """Buffer an entry; it is handed over, not copied. Returns at once; a full buffer or a closed log counts it as failed."""
        rows = self.rows_of(entry)
        with self._changed:
            if self._closed or self._buffered + rows > self._buffer_rows:
                reason = "closed" if self._closed else f"{self._buffered} rows are waiting for the disk"
                self._count(failed=rows)
                logger.warning("%s_lost folder=%s rows=%d reason=%s", self._name, self.folder.name, rows, reason)
                return
            if self._writer is None:
                self._writer = threading.Thread(target=self._run, name=f"{self._name}-{self.folder.name}", daemon=True)
                self._writer.start()
            if not self._buffer:
                self._due = time.monotonic() + self._rotate_s
                self._changed.notify_all()
            self._buffer.append(entry)
            self._buffered += rows
            self._count(accepted=rows)
            if self._buffered >= self._rotate_rows:
                self._due = 0.0
                self._changed.notify_all()

    def refuse(self, rows: int, error: Exception) -> None:
        """Count rows that cannot be logged."""
        with self._changed:
            self._count(failed=rows)
        logger.warning(
            "%s_failed folder=%s rows=%d error=%s: %s", self._name, self.folder.name, rows, type(error).__name__, error
        )

    def flush(self) -> None:
        """Write everything taken so far; returns when it is on disk (or was counted as failed)."""
        with self._writing:
            batch = self._drain()
            if batch:
                self._write(batch)

    def close(self) -> None:
        """Write what is buffered and stop; later entries are counted as failed. Called at exit as well."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.flush()
        if self._writer is not None and self._writer is not threading.current_thread():
            self._writer.join(timeout=10.0)
        atexit.unregister(self.close)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and time.monotonic() < self._due:
                    self._changed.wait(None if not self._buffer else max(self._due - time.monotonic(), 0.0))
                if self._closed:
                    return  # `close` writes the rest
            self.flush()

    def _drain(self) -> list[Entry]:
        with self._changed:
            batch, self._buffer, self._buffered, self._due = self._buffer, [], 0, float("inf")
            return batch

    def _write(self, batch: list[Entry]) -> None:
        table = self._converted([entry for entry in batch if self._is_sound(entry)])
        if table is None:
            return
        try:
            write_log_file(self.folder, table, time=self.time_column)
            dropped = drop_oldest(self.folder, self._max_bytes)
        except Exception as error:  # noqa: BLE001 - a full disk must not stop what is being served
            self.refuse(len(table), error)
            return
        with self._changed:
            self._count(written=len(table), dropped=dropped)
        logger.info("%s_written folder=%s rows=%d dropped=%d", self._name, self.folder.name, len(table), dropped)

    def _count(self, **rows: int) -> None:
        """Add to the counts; the caller holds the lock."""
        for name, number in rows.items():
            self._counts[name] += number
            if number and self.on_count is not None:
                self.on_count(name, number)

    def _converted(self, batch: list[Entry]) -> pa.Table | None:
        """The rows of all entries at once; one by one if one of them has a value of a wrong type."""
        if not batch:
            return None
        try:
            return self.to_table(batch)
        except Exception as error:  # noqa: BLE001 - one entry that cannot be noted down must not take the others with it
            if len(batch) == 1:
                self.refuse(self.rows_of(batch[0]), error)
                return None
        found = [table for entry in batch if (table := self._converted([entry])) is not None]
        return pa.concat_tables(found) if found else None

    def _is_sound(self, entry: Entry) -> bool:
        try:
            self.check(entry)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it is counted
            self.refuse(self.rows_of(entry), error)
            return False
        return True
