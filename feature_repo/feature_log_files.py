"""The files of a feature log: their columns, their names, how they are written, dropped and read.

`<home>/feature_log/<service>/<first>-<last>-<rows>-<id>.parquet`: first and last instant served (microseconds since 1970 UTC) and
the number of vectors, so that a window is found, and the oldest are dropped, without opening a file. Columns are those of Feast's
own feature log where it has them: join keys, `<view>__<feature>`, `__log_timestamp`, `__request_id`; see docs/skew.md.
"""

import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureStore
from feast.type_map import feast_value_type_to_pa
from filelock import FileLock

from feature_repo.files import atomic_path, read_json, write_json
from feature_repo.ids import validate_ref
from feature_repo.settings import Settings
from feature_repo.store import get_service, views_of

SERVED_AT, REQUEST_ID = "__log_timestamp", "__request_id"  # Feast's names
SERVICE, RACE_ID, DRIVER_ID, MOMENT = "__service", "__race_id", "__driver_id", "__moment"
MODEL_VERSION, SOURCE, WITHHELD = "__model_version", "__source", "__expired_withheld"
TIME = pa.timestamp("us", tz="UTC")
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

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class LogFile:
    """One file of the log, as its name tells: first and last instant served, microseconds since 1970 UTC, and vectors."""

    path: Path
    first_us: int
    last_us: int
    rows: int


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


def log_files(folder: Path) -> list[LogFile]:
    """The whole files of a log, oldest first; anything else in the folder is left alone."""
    files = []
    for path in folder.glob("*.parquet"):
        parts = path.stem.split("-")
        if len(parts) == 4 and all(part.isdecimal() for part in parts[:3]):
            files.append(LogFile(path, int(parts[0]), int(parts[1]), int(parts[2])))
    return sorted(files, key=lambda file: (file.first_us, file.path.name))


def write_log_file(folder: Path, table: pa.Table) -> Path:
    """Write one file of the log, whole or not at all."""
    served = pc.min_max(table[SERVED_AT].cast(pa.int64()))
    name = f"{served['min'].as_py():016d}-{served['max'].as_py():016d}-{len(table)}-{uuid.uuid4().hex[:12]}.parquet"
    with atomic_path(folder / name) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return folder / name


def drop_oldest(folder: Path, max_bytes: int) -> int:
    """Remove the oldest files while the log takes more than `max_bytes`, but never the newest; returns the vectors dropped.

    What was dropped is noted in `dropped.json`, so that nobody takes the log for complete.
    """
    sizes = {}
    for file in log_files(folder):
        try:
            sizes[file] = file.path.stat().st_size
        except FileNotFoundError:  # another process dropped it in between
            continue
    if sum(sizes.values()) <= max_bytes:
        return 0
    with FileLock(folder / ".dropped.lock", timeout=30):
        dropped, total = [], sum(sizes.values())
        for file, size in list(sizes.items())[:-1]:
            if total <= max_bytes:
                break
            total -= size
            if file.path.exists():
                file.path.unlink()
                dropped.append(file)
        known = dropped_so_far(folder)
        rows = sum(file.rows for file in dropped)
        until_us = max([known["until_us"], *(file.last_us for file in dropped)])
        write_json(
            folder / "dropped.json",
            {"files": known["files"] + len(dropped), "rows": known["rows"] + rows, "until_us": until_us},
        )
    return rows


def dropped_so_far(folder: Path) -> dict[str, int]:
    """`files`, `rows` dropped since the log began, and `until_us`: the newest instant served among them."""
    path = folder / "dropped.json"
    return dict(read_json(path)) if path.exists() else {"files": 0, "rows": 0, "until_us": 0}


def read_log(
    settings: Settings, service: str, *, since: pd.Timestamp, until: pd.Timestamp
) -> Iterator[tuple[LogFile, pa.Table | None]]:
    """The vectors served from `since` to `until` (both included), a file at a time, oldest file first.

    Yields:
        The file and its vectors within the window; None for the vectors of a file that cannot be read.
    """
    since_us, until_us = since.value // 1000, until.value // 1000
    for file in log_files(log_folder(settings, service)):
        if file.last_us < since_us or file.first_us > until_us:
            continue
        try:
            table = pq.read_table(file.path)
        except FileNotFoundError:  # dropped by a writer after it was listed
            continue
        except (pa.ArrowInvalid, OSError) as error:
            logger.warning("feature_log_unreadable file=%s error=%s", file.path, error)
            yield file, None
            continue
        served = table[SERVED_AT]
        yield file, table.filter(pc.and_(pc.greater_equal(served, since), pc.less_equal(served, until)))
