"""The files of a log: how they are named, written, dropped and read.

`<folder>/<first>-<last>-<rows>-<id>.parquet`: first and last instant of a row (microseconds since 1970 UTC) and the number of
rows, so that a window is found, and the oldest are dropped, without opening a file.
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
from filelock import FileLock

from feature_repo.files import atomic_path, read_json, write_json

TIME = pa.timestamp("us", tz="UTC")
LOGGED_AT = "__log_timestamp"
"""Column of the instant of a row, unless a log says another one; Feast's name."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LogFile:
    """One file of a log, as its name tells: first and last instant, microseconds since 1970 UTC, and rows."""

    path: Path
    first_us: int
    last_us: int
    rows: int


def log_files(folder: Path) -> list[LogFile]:
    """The whole files of a log, oldest first; anything else in the folder is left alone."""
    files = []
    for path in folder.glob("*.parquet"):
        parts = path.stem.split("-")
        if len(parts) == 4 and all(part.isdecimal() for part in parts[:3]):
            files.append(LogFile(path, int(parts[0]), int(parts[1]), int(parts[2])))
    return sorted(files, key=lambda file: (file.first_us, file.path.name))


def write_log_file(folder: Path, table: pa.Table, *, time: str = LOGGED_AT) -> Path:
    """Write one file of a log, whole or not at all.

    Args:
        folder: of the log.
        table: its rows, at least one.
        time: column of their instants.
    """
    instants = pc.min_max(table[time].cast(pa.int64()))
    name = f"{instants['min'].as_py():016d}-{instants['max'].as_py():016d}-{len(table)}-{uuid.uuid4().hex[:12]}.parquet"
    with atomic_path(folder / name) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return folder / name


def drop_oldest(folder: Path, max_bytes: int) -> int:
    """Remove the oldest files while the log takes more than `max_bytes`, but never the newest; returns the rows dropped.

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
    """`files`, `rows` dropped since the log began, and `until_us`: the newest instant among them."""
    path = folder / "dropped.json"
    return dict(read_json(path)) if path.exists() else {"files": 0, "rows": 0, "until_us": 0}


def read_log_files(
    folder: Path, *, since: pd.Timestamp, until: pd.Timestamp, time: str = LOGGED_AT
) -> Iterator[tuple[LogFile, pa.Table | None]]:  # fmt: skip
    """The rows from `since` to `until` (both included), a file at a time, oldest file first.

    Args:
        folder: of the log; there need not be one.
        since, until: the window.
        time: column of the instants.
    Yields:
        The file and its rows within the window; None for the rows of a file that cannot be read.
    """
    since_us, until_us = since.value // 1000, until.value // 1000
    for file in log_files(folder):
        if file.last_us < since_us or file.first_us > until_us:
            continue
        try:
            table = pq.read_table(file.path)
        except FileNotFoundError:  # dropped by a writer after it was listed
            continue
        except (pa.ArrowInvalid, OSError) as error:
            logger.warning("log_file_unreadable file=%s error=%s", file.path, error)
            yield file, None
            continue
        instants = table[time]
        yield file, table.filter(pc.and_(pc.greater_equal(instants, since), pc.less_equal(instants, until)))
