"""The log of served vectors: what was answered, about which car and moment, and which rows of the store it came from.

Vectors are buffered and written in the background as whole files (`feature_repo/feature_log_files.py`). A process killed at any
instant leaves whole files only, and loses at most what it had not written yet.
"""

import atexit
import logging
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureStore
from numpy.typing import NDArray

from feature_repo.errors import InvalidIdError
from feature_repo.feature_log_files import (
    DRIVER_ID,
    MODEL_VERSION,
    MOMENT,
    RACE_ID,
    REQUEST_ID,
    SERVED_AT,
    SERVICE,
    SOURCE,
    TIME,
    WITHHELD,
    LogLayout,
    column,
    drop_oldest,
    log_folder,
    stamp,
    write_log_file,
)
from feature_repo.ids import validate_driver_id, validate_race_id, validate_ref
from feature_repo.settings import Settings
from feature_repo.store import open_store
from feature_repo.visibility import as_utc

logger = logging.getLogger(__name__)

Columns: TypeAlias = pd.DataFrame | Mapping[str, Any]
"""A frame, or its columns by name (arrays or lists of one length): making a frame takes longer than a lookup."""


@dataclass(frozen=True)
class LogCounts:
    """What became of the vectors given to a log, since it was opened.

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


@dataclass(frozen=True)
class _Served:
    """The vectors of one answer, as they were handed over."""

    frame: Columns
    entity_rows: Sequence[Mapping[str, str]]
    event_us: NDArray[np.int64] | None
    moment: pd.Timestamp
    withheld: bool
    source: str
    model_version: str
    served_at: pd.Timestamp
    request_id: str

    @property
    def rows(self) -> int:
        """Vectors."""
        return len(self.frame["race_id"])


class FeatureLog:
    """The log of one service in this process; other processes may write beside it.

    Vectors are buffered and written by a thread of its own, so that an answer waits for no disk. Nothing here raises into who
    serves: what cannot be logged is counted and said in the program's log. Open it after a fork, not before.

    Args:
        settings: which home; `log_max_mib` bounds the files of a service, the oldest go first.
        service: feature service.
        store: an open store of this home, to save opening one (0.2 s).
        rotate_rows: vectors after which a file is written.
        rotate_s: seconds after which a file is written, however few they are.
        buffer_rows: vectors held while the disk does not answer.
        max_bytes: instead of the setting.
    Raises:
        InvalidIdError, UnknownServiceError: no such service.
        NotAppliedError: the home has no feature registry.
    """

    def __init__(
        self,
        settings: Settings,
        service: str,
        *,
        store: FeatureStore | None = None,
        rotate_rows: int = 10_000,
        rotate_s: float = 60.0,
        buffer_rows: int = 100_000,
        max_bytes: int | None = None,
    ) -> None:
        self.folder = log_folder(settings, service)
        self.layout = LogLayout.of(store or open_store(settings), service)
        self._rotate_rows, self._rotate_s, self._buffer_rows = rotate_rows, rotate_s, buffer_rows
        self._max_bytes = settings.log_max_mib * 2**20 if max_bytes is None else max_bytes
        self._buffer: list[_Served] = []
        self._buffered = 0
        self._due = float("inf")
        self._counts = LogCounts()
        self._closed = False
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._writer: threading.Thread | None = None
        atexit.register(self.close)

    @classmethod
    def where_wanted(cls, settings: Settings, service: str, *, store: FeatureStore | None = None) -> "FeatureLog | None":
        """The log if the setting `log_features` asks for one, else None."""
        return cls(settings, service, store=store) if settings.log_features else None

    @property
    def counts(self) -> LogCounts:
        """What became of the vectors so far."""
        with self._changed:
            return self._counts

    def append(
        self,
        frame: Columns,
        *,
        entity_rows: Sequence[Mapping[str, str]],
        event_us: NDArray[np.int64] | None,
        moment: datetime | pd.Timestamp,
        withheld: bool,
        source: str = "online",
        model_version: str = "",
        request_id: str | None = None,
        served_at: datetime | pd.Timestamp | None = None,
    ) -> None:
        """Log the vectors of one answer. Returns at once and never raises; the arguments are handed over, not copied.

        Args:
            frame: (N rows) `race_id` and `driver_id` of the car each row is about, and the service's features as served.
            entity_rows: (N) the join keys that were really looked up.
            event_us: (N, V) when each view's row became true, microseconds since 1970 UTC, 0 where none was held; views in the
                service's order. None: not known.
            moment: what the answer is about: the newest event of the race for a live prediction, the clock for a lookup, the
                moment asked about for an answer from history.
            withheld: values older than their view's ttl at `moment` were withheld (predictions do, lookups do not).
            source: `online` or `offline`.
            model_version: registry version of the model that was asked with it; "" for a lookup.
            request_id: joins the rows of one answer, and this log with others; default a new one.
            served_at: default now.
        """
        try:
            served = _Served(
                frame=frame,
                entity_rows=entity_rows,
                event_us=event_us,
                moment=as_utc(moment),
                withheld=withheld,
                source=source,
                model_version=model_version,
                served_at=as_utc(served_at or datetime.now(UTC)),
                request_id=request_id or uuid.uuid4().hex,
            )
            self._take(served)
        except Exception as error:  # noqa: BLE001 - whoever serves an answer must not fail because it cannot be noted down
            self._failed(1, error)

    def flush(self) -> None:
        """Write everything appended so far; returns when it is on disk (or was counted as failed)."""
        with self._writing:
            batch = self._drain()
            if batch:
                self._write(batch)

    def close(self) -> None:
        """Write what is buffered and stop; later appends are counted as failed. Called at exit as well."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.flush()
        if self._writer is not None and self._writer is not threading.current_thread():
            self._writer.join(timeout=10.0)
        atexit.unregister(self.close)

    def __enter__(self) -> "FeatureLog":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _take(self, served: _Served) -> None:
        rows = served.rows
        with self._changed:
            if self._closed or self._buffered + rows > self._buffer_rows:
                reason = "closed" if self._closed else f"{self._buffered} vectors are waiting for the disk"
                self._counts = replace(self._counts, failed=self._counts.failed + rows)
                logger.warning("feature_log_lost service=%s rows=%d reason=%s", self.layout.service, rows, reason)
                return
            if self._writer is None:
                self._writer = threading.Thread(target=self._run, name=f"feature-log-{self.layout.service}", daemon=True)
                self._writer.start()
            if not self._buffer:
                self._due = time.monotonic() + self._rotate_s
                self._changed.notify_all()
            self._buffer.append(served)
            self._buffered += rows
            self._counts = replace(self._counts, accepted=self._counts.accepted + rows)
            if self._buffered >= self._rotate_rows:
                self._due = 0.0
                self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and time.monotonic() < self._due:
                    self._changed.wait(None if not self._buffer else max(self._due - time.monotonic(), 0.0))
                if self._closed:
                    return  # `close` writes the rest
            self.flush()

    def _drain(self) -> list[_Served]:
        with self._changed:
            batch, self._buffer, self._buffered, self._due = self._buffer, [], 0, float("inf")
            return batch

    def _write(self, batch: list[_Served]) -> None:
        table = self._converted([served for served in batch if self._is_sound(served)])
        if table is None:
            return
        try:
            write_log_file(self.folder, table)
            dropped = drop_oldest(self.folder, self._max_bytes)
        except Exception as error:  # noqa: BLE001 - a full disk must not stop what is being served
            self._failed(len(table), error)
            return
        with self._changed:
            counts = self._counts
            self._counts = replace(counts, written=counts.written + len(table), dropped=counts.dropped + dropped)
        logger.info("feature_log_written service=%s rows=%d dropped=%d", self.layout.service, len(table), dropped)

    def _converted(self, batch: list[_Served]) -> pa.Table | None:
        """The answers in the columns of the log, all at once; one by one if one of them has a value of a wrong type."""
        if not batch:
            return None
        try:
            return _as_table(self.layout, batch)
        except Exception as error:  # noqa: BLE001 - one answer that cannot be noted down must not take the others with it
            if len(batch) == 1:
                self._failed(batch[0].rows, error)
                return None
        found = [table for served in batch if (table := self._converted([served])) is not None]
        return pa.concat_tables(found) if found else None

    def _is_sound(self, served: _Served) -> bool:
        try:
            _check(self.layout, served)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it is counted
            self._failed(served.rows, error)
            return False
        return True

    def _failed(self, rows: int, error: Exception) -> None:
        with self._changed:
            self._counts = replace(self._counts, failed=self._counts.failed + rows)
        logger.warning(
            "feature_log_failed service=%s rows=%d error=%s: %s", self.layout.service, rows, type(error).__name__, error
        )


def _check(layout: LogLayout, served: _Served) -> None:
    """Refuse an answer that cannot be logged.

    Raises:
        InvalidIdError: a race, driver, join key or request id has not the form of ids.
        KeyError, ValueError: a feature or a key is missing, or the parts have different lengths.
    """
    rows, views = served.rows, len(layout.views)
    shape = (rows, views) if served.event_us is None else served.event_us.shape
    if len(served.entity_rows) != rows or shape != (rows, views):
        raise ValueError(
            f"got {rows} rows, {len(served.entity_rows)} entity rows, event times {shape}, expected ({rows}, {views})"
        )
    for _, names in layout.views:
        for name in names:
            if len(served.frame[name]) != rows:
                raise ValueError(f"{name}: got {len(served.frame[name])} values for {rows} rows")
    for check, ids in ((validate_race_id, served.frame["race_id"]), (validate_driver_id, served.frame["driver_id"])):
        for one in ids:
            check(one)
    for entity in served.entity_rows:
        for key in layout.keys:
            if key == "race_id":
                validate_race_id(entity[key])
            else:
                validate_ref(key, entity[key])
    if not served.request_id.replace("-", "").isalnum() or not served.request_id.isascii() or len(served.request_id) > 64:
        raise InvalidIdError(f"request_id: got {served.request_id[:80]!r}, expected up to 64 letters, digits and '-'")


def _as_table(layout: LogLayout, batch: Sequence[_Served]) -> pa.Table:
    """Checked answers in the columns of the log; whole columns at a time, because an answer has few rows and many columns.

    Raises:
        pa.ArrowInvalid, TypeError, ValueError: a value is not of its feature's type.
    """

    def repeated(values: list[Any]) -> list[Any]:
        return [value for value, served in zip(values, batch, strict=True) for _ in range(served.rows)]

    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([np.asarray(served.frame[name]) for served in batch])

    columns: dict[str, Any] = {
        SERVED_AT: repeated([served.served_at for served in batch]),
        REQUEST_ID: repeated([served.request_id for served in batch]),
        SERVICE: repeated([layout.service for _ in batch]),
        RACE_ID: joined("race_id"),
        DRIVER_ID: joined("driver_id"),
        MOMENT: repeated([served.moment for served in batch]),
        MODEL_VERSION: repeated([served.model_version for served in batch]),
        SOURCE: repeated([served.source for served in batch]),
        WITHHELD: repeated([served.withheld for served in batch]),
    }
    for key in layout.keys:
        columns[key] = [entity[key] for served in batch for entity in served.entity_rows]
    nothing = (np.zeros((served.rows, len(layout.views)), dtype=np.int64) for served in batch)
    event_us = np.concatenate(
        [none if served.event_us is None else served.event_us for served, none in zip(batch, nothing, strict=True)]
    )
    for position, (view, names) in enumerate(layout.views):
        columns |= {column(view, name): joined(name) for name in names}
        columns[stamp(view)] = pa.array(event_us[:, position], pa.int64(), mask=event_us[:, position] == 0).cast(TIME)
    arrays = [
        columns[field.name]
        if isinstance(columns[field.name], pa.Array)
        else pa.array(columns[field.name], field.type, from_pandas=True)
        for field in layout.schema
    ]
    return pa.Table.from_arrays(arrays, schema=layout.schema)
