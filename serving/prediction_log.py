"""The log of predictions: what was said about each driver, by which model, from which inputs, and how long it took.

`<home>/prediction_log/`, whole Parquet files written in the background (`feature_repo/background_log.py`). Hashes of inputs and
pictures are computed there too, so an answer pays for putting one object into a list.
"""

import hashlib
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.background_log import BackgroundLog
from feature_repo.errors import InvalidIdError
from feature_repo.ids import validate_driver_id, validate_race_id
from feature_repo.parquet_log import TIME, LogFile, read_log_files
from feature_repo.settings import Settings
from feature_repo.visibility import as_utc
from ml.traces.renderer import TraceRenderer
from serving.live_pictures import Drawing
from serving.prediction import Prediction

if TYPE_CHECKING:
    from serving.state import Answer

SHADOW = "shadow"
"""Role of a model that is asked beside the one that answers, and whose answer nobody is shown."""

SERVED_AT = "served_at"
SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        (SERVED_AT, TIME),
        ("race_id", pa.string()),
        ("driver_id", pa.string()),
        ("simulated", pa.bool_()),
        ("as_of", TIME),
        ("lap", pa.int64()),
        ("source", pa.string()),
        ("model", pa.string()),
        ("model_version", pa.string()),
        ("role", pa.string()),
        ("saw_this_race", pa.string()),
        ("feature_service", pa.string()),
        ("features_sha256", pa.string()),
        ("picture_sha256", pa.string()),
        ("place", pa.int64()),
        ("expected_position", pa.float64()),
        ("p_win", pa.float64()),
        ("p_podium", pa.float64()),
        ("p_points", pa.float64()),
        ("probabilities", pa.list_(pa.float64())),
        ("latency_ms", pa.float64()),
        ("fallbacks", pa.list_(pa.string())),
    ]
)
"""One row a driver; docs/serving.md says what each column is."""

_KEEP_PICTURES = 4096


@dataclass(frozen=True)
class _Said:
    """One answer, as it was handed over."""

    prediction: Prediction
    role: str
    version: str
    latency_ms: float
    fallbacks: tuple[str, ...]
    request_id: str
    served_at: pd.Timestamp


class PredictionLog(BackgroundLog[_Said]):
    """The log of a process. Recording returns at once and never raises; what cannot be logged is counted (`counts`).

    Args:
        settings: which home; `log_max_mib` bounds the files, the oldest go first.
        rotate_rows: rows after which a file is written.
        rotate_s: seconds after which a file is written, however few they are.
        buffer_rows: rows held while the disk does not answer.
        max_bytes: instead of the setting.
    """

    time_column = SERVED_AT

    def __init__(
        self,
        settings: Settings,
        *,
        rotate_rows: int = 10_000,
        rotate_s: float = 60.0,
        buffer_rows: int = 100_000,
        max_bytes: int | None = None,
    ) -> None:
        super().__init__(
            prediction_log_folder(settings),
            "prediction_log",
            max_bytes=settings.log_max_mib * 2**20 if max_bytes is None else max_bytes,
            rotate_rows=rotate_rows,
            rotate_s=rotate_s,
            buffer_rows=buffer_rows,
        )
        self._pictures = _PictureHashes()

    def record(
        self,
        answer: "Answer",
        *,
        role: str | None = None,
        request_id: str | None = None,
        served_at: datetime | pd.Timestamp | None = None,
    ) -> None:
        """Log an answer.

        Args:
            answer: what was answered.
            role: in which the model answered, if not its own (`SHADOW`).
            request_id: joins the rows of one request: of the answer shown and of those made beside it; default a new one.
            served_at: default now.
        """
        try:
            self.take(
                _Said(
                    prediction=answer.prediction,
                    role=role or answer.model.role,
                    version=answer.model.version,
                    latency_ms=answer.latency_ms,
                    fallbacks=tuple(answer.fallbacks),
                    request_id=request_id or uuid.uuid4().hex,
                    served_at=as_utc(served_at or datetime.now(UTC)),
                )
            )
        except Exception as error:  # noqa: BLE001 - whoever serves an answer must not fail because it cannot be noted down
            self.refuse(1, error)

    def rows_of(self, entry: _Said) -> int:
        """Drivers."""
        return len(entry.prediction.drivers)

    def check(self, entry: _Said) -> None:
        """Refuse an answer whose ids have not the form of ids."""
        validate_race_id(entry.prediction.race_id)
        for driver in entry.prediction.drivers:
            validate_driver_id(driver.driver_id)
        if not (entry.request_id.isascii() and entry.request_id.replace("-", "").isalnum() and len(entry.request_id) <= 64):
            raise InvalidIdError(f"request_id: got {entry.request_id[:80]!r}, expected up to 64 letters, digits and '-'")

    def to_table(self, entries: Sequence[_Said]) -> pa.Table:
        """The rows of answers, with the hashes of what the model saw."""
        return pa.Table.from_pylist([row for entry in entries for row in self._rows(entry)], SCHEMA)

    def _rows(self, entry: _Said) -> Iterator[dict[str, Any]]:
        said = entry.prediction
        about: dict[str, Any] = {
            "request_id": entry.request_id,
            SERVED_AT: entry.served_at,
            "race_id": said.race_id,
            "simulated": said.simulated,
            "as_of": pd.Timestamp(said.moment["as_of"]),
            "lap": said.moment["lap"],
            "source": said.source,
            "model": said.model.name,
            "model_version": entry.version,
            "role": entry.role,
            "saw_this_race": said.saw_this_race,
            "feature_service": said.model.feature_service,
            "latency_ms": entry.latency_ms,
            "fallbacks": list(entry.fallbacks),
        }
        row_of = {} if said.seen is None else {driver: row for row, driver in enumerate(said.seen.driver_ids)}
        for driver in said.drivers:
            features_sha256 = picture_sha256 = None
            if said.seen is not None:
                features_sha256 = features_hash(said.seen.tabular[row_of[driver.driver_id]])
                picture_sha256 = self._pictures.of(said.seen.drawings[row_of[driver.driver_id]])
            yield about | {
                "driver_id": driver.driver_id,
                "features_sha256": features_sha256,
                "picture_sha256": picture_sha256,
                "place": driver.position,
                "expected_position": driver.expected_position,
                "p_win": driver.p_win,
                "p_podium": driver.p_podium,
                "p_points": driver.p_points,
                "probabilities": driver.probabilities,
            }


def prediction_log_folder(settings: Settings) -> Path:
    """Where the log of a home is."""
    return settings.home / "prediction_log"


def read_predictions(
    settings: Settings, *, since: pd.Timestamp, until: pd.Timestamp
) -> Iterator[tuple[LogFile, pa.Table | None]]:  # fmt: skip
    """The predictions served from `since` to `until` (both included), a file at a time; None for a file that cannot be read."""
    return read_log_files(prediction_log_folder(settings), since=since, until=until, time=SERVED_AT)


def features_hash(row: NDArray[np.float32]) -> str:
    """SHA-256 of a car's model input: (F,) float32 little-endian in the model's order, every missing value as the same NaN."""
    canonical = np.where(np.isnan(row), np.float32(np.nan), row).astype("<f4")
    return hashlib.sha256(canonical.tobytes()).hexdigest()


class _PictureHashes:
    """SHA-256 of pictures as PNG, which is also the picture's name in `pitwall traces` and its ETag; a picture is drawn once."""

    def __init__(self) -> None:
        self._renderer = TraceRenderer()
        self._known: OrderedDict[Any, str] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, drawing: Drawing | None) -> str | None:
        """The hash of what a picture shows; None without one."""
        if drawing is None:
            return None
        key = drawing.key
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        trace = drawing.trace
        png = self._renderer.render(trace.lap_numbers, trace.speeds_kph, drawing.axes, title=drawing.title)
        found = hashlib.sha256(png).hexdigest()
        with self._lock:
            self._known[key] = found
            if len(self._known) > _KEEP_PICTURES:
                self._known.popitem(last=False)
        return found
