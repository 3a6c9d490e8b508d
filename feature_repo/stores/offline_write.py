"""What the offline store writes: saved datasets, appended rows, logged features. Local files are replaced whole or not at all."""

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from feast import FeatureView
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination, FileSource, SavedDatasetFileStorage
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from feature_repo.files import TMP_PREFIX, atomic_path
from feature_repo.stores.errors import SourceError
from feature_repo.stores.offline_source import Source, locate


def persist(
    config: RepoConfig, storage: SavedDatasetStorage, retrieved: Callable[[], pa.Table], *, allow_overwrite: bool
) -> None:
    """Write a result where a saved dataset lies: one file if the path ends with `.parquet`, else a folder.

    Raises:
        SourceError: the storage is no `SavedDatasetFileStorage`.
        SavedDatasetLocationAlreadyExists: something lies there and may not be overwritten.
    """
    if not isinstance(storage, SavedDatasetFileStorage):
        raise SourceError(f"saved dataset: got {type(storage).__name__}, expected SavedDatasetFileStorage")
    source = storage.to_data_source()
    filesystem, path = locate(source, config.repo_path)
    exists = filesystem.get_file_info(path).type != pafs.FileType.NotFound
    if exists and not allow_overwrite:
        raise SavedDatasetLocationAlreadyExists(location=storage.file_options.uri)
    table = retrieved()
    if path.endswith(".parquet"):
        _replace_file(filesystem, path, table)
    elif not isinstance(filesystem, pafs.LocalFileSystem):
        pads.write_dataset(
            table, path, filesystem=filesystem, format="parquet", basename_template="part-{i}.parquet",
            existing_data_behavior="delete_matching",
        )  # fmt: skip
    else:
        folder = Path(path)
        written, old = (folder.with_name(f"{TMP_PREFIX}{uuid.uuid4().hex}") for _ in range(2))
        pads.write_dataset(table, written, format="parquet", basename_template="part-{i}.parquet")
        if exists:
            folder.rename(old)
        written.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def append(config: RepoConfig, view: FeatureView, table: pa.Table) -> None:
    """Add rows to the source of `view`: to its file, which is rewritten, or as a new file of its folder.

    Raises:
        SourceError: the columns are not those of the source, in its order.
    """
    opened = Source.open(view.batch_source, config.repo_path)
    schema = opened.schema
    if table.column_names != schema.names:
        raise SourceError(f"view {view.name}: got columns {table.column_names}, expected in this order {schema.names}")
    table = table.cast(schema)
    filesystem = opened.filesystem
    if filesystem.get_file_info(opened.base).type == pafs.FileType.File:
        before = pq.read_table(opened.base, filesystem=filesystem, partitioning=None)
        _replace_file(filesystem, opened.base, pa.concat_tables([before.cast(schema), table]))
        return
    _add_files(filesystem, opened.base, table, opened.folders)


def write_log(config: RepoConfig, data: pa.Table | Path, logging_config: LoggingConfig) -> None:
    """Add logged features below a destination, in hive folders where it is partitioned.

    Raises:
        SourceError: the destination is no `FileLoggingDestination`.
    """
    destination = logging_config.destination
    if not isinstance(destination, FileLoggingDestination):
        raise SourceError(f"feature log: got {type(destination).__name__}, expected FileLoggingDestination")
    table = pq.read_table(data) if isinstance(data, Path) else data
    source = FileSource(path=destination.path, s3_endpoint_override=destination.s3_endpoint_override)
    filesystem, path = locate(source, config.repo_path)
    _add_files(filesystem, path, table, destination.partition_by or [])


def _add_files(filesystem: pafs.FileSystem, base: str, table: pa.Table, folders: list[str]) -> None:
    layout = pads.partitioning(pa.schema([table.schema.field(name) for name in folders]), flavor="hive") if folders else None
    pads.write_dataset(
        table, base, filesystem=filesystem, format="parquet", partitioning=layout,
        basename_template=f"{uuid.uuid4().hex}-{{i}}.parquet", existing_data_behavior="overwrite_or_ignore",
    )  # fmt: skip


def _replace_file(filesystem: pafs.FileSystem, path: str, table: pa.Table) -> None:
    options: dict[str, Any] = {"coerce_timestamps": "us", "allow_truncated_timestamps": True}
    if not isinstance(filesystem, pafs.LocalFileSystem):
        pq.write_table(table, path, filesystem=filesystem, **options)
        return
    with atomic_path(Path(path)) as temporary:
        pq.write_table(table, temporary, **options)
