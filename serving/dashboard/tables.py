"""Rows of feature tables for the pages, and which version of a file they came from."""

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from feature_repo.errors import MissingInputError
from feature_repo.settings import Settings

FileVersion = tuple[Path, int, int, int]
"""A file and what changes when it is replaced: time of change (ns), size, inode."""


def file_version(path: Path) -> FileVersion:
    """The version of a file as it is now.

    Raises:
        MissingInputError: there is no such file.
    """
    if not path.exists():
        raise MissingInputError(f"{path}: no such file; run `pitwall features` first")
    status = path.stat()
    return path, status.st_mtime_ns, status.st_size, status.st_ino


def versions(settings: Settings, *tables: str) -> tuple[FileVersion, ...]:
    """The versions of feature tables as they are now.

    Raises:
        MissingInputError: a table does not exist.
    """
    return tuple(file_version(settings.features_dir / f"{table}.parquet") for table in tables)


def rows_of_race(path: Path, race_id: str) -> pd.DataFrame:
    """All rows of a race in a feature table; empty where it has none."""
    return pq.read_table(path, filters=[("race_id", "==", race_id)]).to_pandas()
