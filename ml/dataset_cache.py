"""The index of the training set on disk: `dataset_cache.json`, one entry per race and driver."""

import logging
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from feature_repo.files import read_json, write_json
from feature_repo.ids import validate_driver_id, validate_race_id
from feature_repo.visibility import as_utc, visible
from ml.errors import DatasetCacheError
from ml.rows import N_POSITIONS, Rows

logger = logging.getLogger(__name__)

Feature = float | str | None


class CacheEntry(BaseModel):
    """One race and driver: where its picture is (None = no picture), its features in the file's order, its label."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    race_id: str
    driver_id: str
    image_path: str | None
    tabular_features: tuple[Feature, ...]
    label: int = Field(ge=1, le=N_POSITIONS)
    finished: bool


class DatasetCache(BaseModel):
    """The whole file. `generated_at` is when the newest thing in it became known, so equal content gives equal bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metadata: tuple[CacheEntry, ...]
    feature_names: tuple[str, ...]
    generated_at: datetime


def parse_cache(content: Any, *, origin: str) -> DatasetCache:
    """Check the JSON value of a dataset cache.

    Args:
        content: the JSON value.
        origin: the file, named in the error.
    Raises:
        DatasetCacheError: keys missing or unexpected, values of the wrong type, a feature vector of another length than
            `feature_names`, an id of the wrong form, a path that leaves the picture folder, or a race and driver twice.
    """
    try:
        cache = DatasetCache.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DatasetCacheError(
            f"{origin}: {where}: {first['msg']} (and {error.error_count() - 1} more); build it again"
        ) from error
    seen: set[tuple[str, str]] = set()
    for i, entry in enumerate(cache.metadata):
        key = (validate_race_id(entry.race_id), validate_driver_id(entry.driver_id))
        where = f"{origin}: metadata[{i}] {entry.race_id} {entry.driver_id}"
        if key in seen:
            raise DatasetCacheError(f"{where}: appears twice; build it again")
        seen.add(key)
        if len(entry.tabular_features) != len(cache.feature_names):
            raise DatasetCacheError(f"{where}: got {len(entry.tabular_features)} features, expected {len(cache.feature_names)}")
        if any(isinstance(value, float) and not math.isfinite(value) for value in entry.tabular_features):
            raise DatasetCacheError(f"{where}: got a feature that is not finite, expected a number or null")
        if entry.image_path is not None and (
            PurePosixPath(entry.image_path).is_absolute() or ".." in entry.image_path.split("/")
        ):
            raise DatasetCacheError(f"{where}: image_path: got {entry.image_path!r}, expected a path inside the picture folder")
    return cache


class DatasetCacheBuilder:
    """Writes and checks a dataset cache.

    Args:
        cache_file: the `dataset_cache.json` to write.
        image_dir: what picture paths are relative to.
    """

    def __init__(self, cache_file: Path, image_dir: Path) -> None:
        self.cache_file = Path(cache_file)
        self.image_dir = Path(image_dir)

    def extract_lap_speeds(
        self, laps: pd.DataFrame, *, course_length_km: float, as_of: datetime | str | pd.Timestamp
    ) -> NDArray[np.float32]:
        """Average speed of every lap of one car that ended, and was known, by `as_of`.

        Args:
            laps: one car's laps of one race: `lap`, `lap_time_s`, `lap_start`, `event_timestamp` (lap end), `created_timestamp`.
            course_length_km: length of a lap.
            as_of: the moment asked about.
        Returns:
            (n,) km/h in lap order. A lap without an official time takes its end minus its start; a lap with neither is left out.
        Raises:
            DatasetCacheError: a length or lap time that is not positive.
        """
        if not (math.isfinite(course_length_km) and course_length_km > 0):
            raise DatasetCacheError(f"course_length_km: got {course_length_km}, expected a positive number")
        known = laps[visible(laps, as_of)].sort_values("lap", kind="stable")
        measured = (known["event_timestamp"] - known["lap_start"]).dt.total_seconds()
        seconds = known["lap_time_s"].astype("float64").fillna(measured).dropna()
        if (seconds <= 0).any():
            lap = int(known.loc[seconds.index[(seconds <= 0).to_numpy()][0], "lap"])
            raise DatasetCacheError(f"lap {lap}: got a lap time of 0 s or less, expected a positive time")
        return (course_length_km / seconds.to_numpy() * 3600).astype(np.float32)

    def extract_tabular_features(
        self, features: pd.Series, feature_names: Sequence[str], *, whose: str = "one row"
    ) -> list[Feature]:
        """One row of features as JSON values in the order of `feature_names`: NaN becomes null, text stays text.

        Args:
            features: one value a feature, by name.
            feature_names: which, in which order.
            whose: the car, for the message of an error.
        Raises:
            DatasetCacheError: a feature is absent or infinite.
        """
        absent = [name for name in feature_names if name not in features.index]
        if absent:
            raise DatasetCacheError(
                f"{whose}, features {', '.join(absent[:8])}: absent, expected all {len(feature_names)}; "
                "run `pitwall features` again"
            )
        values = [_json_value(features[name]) for name in feature_names]
        infinite = [
            name for name, value in zip(feature_names, values, strict=True) if isinstance(value, float) and math.isinf(value)
        ]
        if infinite:
            raise DatasetCacheError(
                f"{whose}, features {', '.join(infinite[:8])}: got infinity, expected finite or missing; "
                "run `pitwall features` again"
            )
        return values

    def build_cache(
        self, rows: Rows, *, image_paths: Mapping[tuple[str, str], str], newest_created: datetime | str | pd.Timestamp
    ) -> DatasetCache:
        """Write the cache, whole or not at all; equal inputs give equal bytes.

        Args:
            rows: the training set.
            image_paths: (race_id, driver_id) -> path of the picture, relative to `image_dir`, with `/`.
            newest_created: newest `created_timestamp` among all that went in; becomes `generated_at`.
        Raises:
            DatasetCacheError: what would be written is not a valid cache.
        """
        names = [str(name) for name in rows.features.columns]
        entries = []
        for i, (race_id, driver_id) in enumerate(zip(rows.keys["race_id"], rows.keys["driver_id"], strict=True)):
            entries.append(
                {
                    "race_id": str(race_id),
                    "driver_id": str(driver_id),
                    "image_path": image_paths.get((race_id, driver_id)) if rows.has_picture[i] else None,
                    "tabular_features": self.extract_tabular_features(
                        rows.features.iloc[i], names, whose=f"{race_id}/{driver_id}"
                    ),
                    "label": int(rows.position[i]),
                    "finished": bool(rows.finished[i]),
                }
            )
        content = {"metadata": entries, "feature_names": names, "generated_at": as_utc(newest_created).isoformat()}
        cache = parse_cache(content, origin=self.cache_file.name)
        write_json(self.cache_file, content)
        with_picture = sum(entry.image_path is not None for entry in cache.metadata)
        logger.info("dataset_cache_written file=%s rows=%d pictures=%d", self.cache_file.name, len(entries), with_picture)
        return cache

    def validate_cache(self) -> list[str]:
        """Check the file and that its pictures are there.

        Returns:
            `race_id/driver_id` of every entry whose picture file is missing (they train without one).
        Raises:
            MissingInputError: no cache file.
            DatasetCacheError: the file is damaged; the message names the entry.
        """
        try:
            content = read_json(self.cache_file)
        except ValueError as error:
            raise DatasetCacheError(f"{self.cache_file.name}: not JSON: {error}; build it again") from error
        cache = parse_cache(content, origin=self.cache_file.name)
        return [
            f"{entry.race_id}/{entry.driver_id}"
            for entry in cache.metadata
            if entry.image_path is not None and not (self.image_dir / entry.image_path).is_file()
        ]


def _json_value(value: Any) -> Feature:
    if value is None or pd.isna(value):
        return None
    return value if isinstance(value, str) else float(value)
