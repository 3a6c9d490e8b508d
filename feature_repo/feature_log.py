"""The log of served vectors: what was answered, about which car and moment, and which rows of the store it came from.

Vectors are buffered and written in the background as whole files; columns and folders are in `feature_repo/feature_log_files.py`.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureStore
from numpy.typing import NDArray

from feature_repo.background_log import BackgroundLog
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
    WITHHELD,
    LogLayout,
    column,
    log_folder,
    stamp,
)
from feature_repo.ids import validate_driver_id, validate_race_id, validate_ref
from feature_repo.parquet_log import TIME
from feature_repo.settings import Settings
from feature_repo.store import open_store
from feature_repo.visibility import as_utc

Columns: TypeAlias = pd.DataFrame | Mapping[str, Any]
"""A frame, or its columns by name (arrays or lists of one length): making a frame takes longer than a lookup."""


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


class FeatureLog(BackgroundLog[_Served]):
    """The log of one service in this process; other processes may write beside it.

    Nothing here waits for a disk or raises into who serves (see `BackgroundLog`). Open it after a fork, not before.

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
        self.layout = LogLayout.of(store or open_store(settings), service)
        super().__init__(
            log_folder(settings, service),
            "feature_log",
            max_bytes=settings.log_max_mib * 2**20 if max_bytes is None else max_bytes,
            rotate_rows=rotate_rows,
            rotate_s=rotate_s,
            buffer_rows=buffer_rows,
        )

    @classmethod
    def where_wanted(cls, settings: Settings, service: str, *, store: FeatureStore | None = None) -> "FeatureLog | None":
        """The log if the setting `log_features` asks for one, else None."""
        return cls(settings, service, store=store) if settings.log_features else None

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
            self.take(served)
        except Exception as error:  # noqa: BLE001 - whoever serves an answer must not fail because it cannot be noted down
            self.refuse(1, error)

    def rows_of(self, entry: _Served) -> int:
        """Vectors."""
        return entry.rows

    def check(self, entry: _Served) -> None:
        """Refuse an answer that cannot be logged."""
        _check(self.layout, entry)

    def to_table(self, entries: Sequence[_Served]) -> pa.Table:
        """The vectors in the columns of the service's log."""
        return _as_table(self.layout, entries)

    def __enter__(self) -> "FeatureLog":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


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
