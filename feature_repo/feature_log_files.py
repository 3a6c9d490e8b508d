"""The columns of a feature log, and where its files are: `<home>/feature_log/<service>/`, named as in `parquet_log.py`.

Columns are those of Feast's own feature log where it has them: join keys, `<view>__<feature>`, `__log_timestamp`, `__request_id`;
see docs/skew.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
from feast import FeatureStore
from feast.type_map import feast_value_type_to_pa

from feature_repo.ids import validate_ref
from feature_repo.parquet_log import LOGGED_AT, TIME, LogFile, log_files, read_log_files
from feature_repo.settings import Settings
from feature_repo.store import get_service, views_of

SERVED_AT, REQUEST_ID = LOGGED_AT, "__request_id"  # Feast's names
SERVICE, RACE_ID, DRIVER_ID, MOMENT = "__service", "__race_id", "__driver_id", "__moment"
MODEL_VERSION, SOURCE, WITHHELD = "__model_version", "__source", "__expired_withheld"
_SYSTEM = pa.schema(
    [
        (SERVED_AT, TIME),
        (REQUEST_ID, pa.string()),
        (SERVICE, pa.string()),
        (RACE_ID, pa.string()),
        (DRIVER_ID, pa.string()),
        (MOMENT, TIME),
        (MODEL_VERSION, pa.string()),
        (SOURCE, pa.string()),
        (WITHHELD, pa.bool_()),
    ]
)


@dataclass(frozen=True)
class LogLayout:
    """The columns of a service's log.

    Attributes:
        service: the feature service.
        keys: its join keys, sorted.
        views: its views with the features taken from each, in the service's order.
        schema: of the files.
    """

    service: str
    keys: tuple[str, ...]
    views: tuple[tuple[str, tuple[str, ...]], ...]
    schema: pa.Schema

    @classmethod
    def of(cls, store: FeatureStore, service: str) -> "LogLayout":
        """The layout of a service as it is registered now.

        Raises:
            InvalidIdError: the name may not become part of a path.
            UnknownServiceError: no such service.
        """
        validate_ref("feature_service", service)
        views = views_of(store, get_service(store, service))
        keys = tuple(sorted({key for view, _ in views for key in view.join_keys}))
        columns = [(key, pa.string()) for key in keys]
        for view, names in views:
            types = {field.name: feast_value_type_to_pa(field.dtype.to_value_type()) for field in view.features}
            columns += [(column(view.name, name), types[name]) for name in names]
            columns.append((stamp(view.name), TIME))
        named = tuple((view.name, tuple(names)) for view, names in views)
        return cls(service, keys, named, pa.schema([*_SYSTEM, *pa.schema(columns)]))


def column(view: str, feature: str) -> str:
    """Where a feature of a view is logged."""
    return f"{view}__{feature}"


def stamp(view: str) -> str:
    """Where the event time of the row used of a view is logged; null where none was held, or nobody said."""
    return f"{view}__timestamp"


def log_folder(settings: Settings, service: str) -> Path:
    """Where the log of a service is.

    Raises:
        InvalidIdError: the name may not become part of a path.
    """
    return settings.home / "feature_log" / validate_ref("feature_service", service)


def logged_services(settings: Settings) -> list[str]:
    """The services that have a log, by name."""
    root = settings.home / "feature_log"
    folders = [path for path in root.iterdir() if path.is_dir() and log_files(path)] if root.exists() else []
    return sorted(path.name for path in folders)


def read_log(
    settings: Settings, service: str, *, since: pd.Timestamp, until: pd.Timestamp
) -> Iterator[tuple[LogFile, pa.Table | None]]:
    """The vectors served from `since` to `until` (both included), a file at a time, oldest file first.

    Returns:
        The file and its vectors within the window; None for the vectors of a file that cannot be read.
    """
    return read_log_files(log_folder(settings, service), since=since, until=until)
