"""Parquet behind a Feast `FileSource`: a file, a folder of files or a hive-partitioned one, on disk or in a bucket, read lazily.

A `Source` is the files of one moment. What is read is checked against it: if a file was replaced meanwhile, reading starts again.
"""

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
from feast import FileSource
from feast.data_format import ParquetFormat
from feast.data_source import DataSource

from feature_repo.stores.errors import SourceError

Bounds = Mapping[str, tuple[Any, Any]]


class SourceMovedError(Exception):
    """A file of the source was replaced while it was read; caught where the reading can start again."""


@dataclass(frozen=True)
class Group:
    """A row group: the least that is read.

    Attributes:
        file: number of its file.
        number: number within the file.
        start: number of its first row within the source.
        n_rows: rows.
        n_bytes: of all columns, as they are encoded in the file, before compression.
        bounds: smallest and largest value of columns that tell; times in microseconds.
    """

    file: int
    number: int
    start: int
    n_rows: int
    n_bytes: int
    bounds: Bounds

    def may_hold(self, wanted: Bounds) -> bool:
        """Whether a row of this group can lie within all wanted bounds; an end that is None is open."""
        for column, (least, most) in wanted.items():
            smallest, largest = self.bounds.get(column, (None, None))
            if smallest is None or largest is None:
                continue
            if (most is not None and smallest > most) or (least is not None and largest < least):
                return False
        return True


@dataclass(frozen=True)
class Layout:
    """Columns and row groups of a source.

    Attributes:
        schema: of the files and their partition folders; text is dictionary-encoded.
        groups: all row groups, in order.
    """

    schema: pa.Schema
    groups: tuple[Group, ...]
    dataset: pads.Dataset = field(repr=False)

    @property
    def n_rows(self) -> int:
        """Rows of the source."""
        return self.groups[-1].start + self.groups[-1].n_rows if self.groups else 0

    @property
    def nbytes(self) -> int:
        """Bytes held, about."""
        return 4096 + 1024 * len(self.groups)

    def width(self, column: str) -> int:
        """Bytes that a value of `column` takes in memory, about."""
        type_ = self.schema.field(column).type
        if pa.types.is_dictionary(type_):
            return 24
        try:
            return max(type_.bit_width // 8, 1)
        except ValueError:  # lists and the like: as if the whole row were this column, and the answer took as much again
            return 64 + 2 * sum(group.n_bytes for group in self.groups) // max(self.n_rows, 1)


@dataclass(frozen=True)
class Source:
    """The files of a `FileSource` as they were when it was opened.

    Attributes:
        name: for messages.
        filesystem: where the files lie.
        base: the file, or the folder that holds them.
        stamps: (path, time of change in ns, size, inode) of each file, sorted by path.
    """

    name: str
    filesystem: pafs.FileSystem = field(repr=False)
    base: str
    stamps: tuple[tuple[str, int, int, int], ...]

    @classmethod
    def open(cls, source: DataSource | None, repo_path: Path | str | None) -> "Source":
        """The files of `source` now; a relative path is below `repo_path`.

        Raises:
            SourceError: it is no Parquet `FileSource`, or there is no file.
        """
        if not isinstance(source, FileSource) or not isinstance(source.file_format, ParquetFormat | None):
            kind = type(source).__name__ if not isinstance(source, FileSource) else type(source.file_format).__name__
            raise SourceError(f"source {getattr(source, 'name', None)}: got {kind}, expected a FileSource of Parquet files")
        filesystem, base = locate(source, repo_path)
        stamps = _stamps(filesystem, base)
        if not stamps:
            raise SourceError(f"source {source.name}: no Parquet file at {base}; write it before asking for its features")
        return cls(source.name, filesystem, base, stamps)

    def again(self) -> "Source":
        """The files at the same place as they are now: without resolving the place once more, which takes longer than looking.

        Raises:
            SourceError: there is no file any more.
        """
        stamps = _stamps(self.filesystem, self.base)
        if not stamps:
            raise SourceError(f"source {self.name}: no Parquet file at {self.base}; write it before asking for its features")
        return self if stamps == self.stamps else replace(self, stamps=stamps)

    @property
    def key(self) -> Hashable:
        """What must be equal for two sources to hold the same bytes."""
        return (self.filesystem.type_name, self.base, self.stamps)

    @property
    def folders(self) -> list[str]:
        """Columns that are names of folders (`season=2024/`), outermost first."""
        parts = [part for path, *_ in self.stamps for part in Path(path.removeprefix(self.base)).parts[:-1] if "=" in part]
        return list(dict.fromkeys(part.split("=")[0] for part in parts))

    @property
    def schema(self) -> pa.Schema:
        """Columns as they are stored, those of folders last."""
        plain = [entry.with_type(_plain(entry.type)) for entry in self._dataset.schema]
        return pa.schema(plain)

    def layout(self, bounded: Sequence[str]) -> Layout:
        """Read the schema and the row groups, with bounds of the columns in `bounded`."""
        dataset = self._dataset
        groups: list[Group] = []
        start = 0
        for number, fragment in enumerate(self._fragments):
            constant = {name: (value, value) for name, value in pads.get_partition_keys(fragment.partition_expression).items()}
            for info in fragment.row_groups:
                statistics = info.statistics or {}
                bounds = {
                    name: _bounds(statistics[name], dataset.schema.field(name).type) for name in bounded if name in statistics
                }
                groups.append(Group(number, info.id, start, info.num_rows, info.total_byte_size, constant | bounds))
                start += info.num_rows
        self.check()
        return Layout(dataset.schema, tuple(groups), dataset)

    def read(self, groups: Sequence[Group], columns: Sequence[str]) -> pa.Table:
        """Columns of row groups, in order.

        Raises:
            SourceMovedError: a file was replaced since the source was opened.
        """
        tables = []
        try:
            for number, members in _by_file(groups):
                fragment = self._fragments[number]
                part = fragment.subset(row_group_ids=[group.number for group in members])
                tables.append(part.to_table(schema=self._dataset.schema, columns=list(columns)))
        except (OSError, pa.ArrowInvalid):
            self.check()
            raise
        self.check()
        if not tables:
            return self._dataset.schema.empty_table().select(list(columns))
        return pa.concat_tables(tables)

    def check(self) -> None:
        """Raise `SourceMovedError` if a file is no longer the one that was opened."""
        if _stamps(self.filesystem, self.base) != self.stamps:
            raise SourceMovedError(self.base)

    @cached_property
    def _dataset(self) -> pads.Dataset:
        paths = [path for path, *_ in self.stamps]
        options = {"partition_base_dir": self.base, "partitioning": pads.HivePartitioning.discover()}
        try:
            factory = pads.FileSystemDatasetFactory(
                self.filesystem, paths, pads.ParquetFileFormat(), pads.FileSystemFactoryOptions(**options)
            )
            plain = factory.inspect(promote_options="permissive")
            text = {entry.name for entry in plain if _is_text(entry.type)} - set(self.folders)
            if not text:
                return factory.finish(plain)
            # Dictionaries keep text small, and most Parquet files hold them already.
            reading = pads.ParquetFileFormat(read_options=pads.ParquetReadOptions(dictionary_columns=text))
            factory = pads.FileSystemDatasetFactory(self.filesystem, paths, reading, pads.FileSystemFactoryOptions(**options))
            coded = [entry.with_type(pa.dictionary(pa.int32(), entry.type)) if entry.name in text else entry for entry in plain]
            return factory.finish(pa.schema(coded))
        except (OSError, pa.ArrowInvalid) as error:
            self.check()
            raise SourceError(f"source {self.name}: {self.base} is no readable Parquet: {error}") from error

    @cached_property
    def _fragments(self) -> list[Any]:
        return list(self._dataset.get_fragments())


def locate(source: FileSource, repo_path: Path | str | None) -> tuple[pafs.FileSystem, str]:
    """File system and path of a `FileSource`, as Feast resolves them."""
    uri = source.path.removeprefix("file://")
    absolute = FileSource.get_uri_for_file_path(repo_path=repo_path, uri=uri)
    filesystem, path = FileSource.create_filesystem_and_path(
        absolute, source.file_options.s3_endpoint_override, source.resolve_credentials()
    )
    if filesystem is not None:
        return filesystem, path
    return pafs.FileSystem.from_uri(path) if "://" in path else (pafs.LocalFileSystem(), os.path.abspath(path))  # noqa: PTH100


def _stamps(filesystem: pafs.FileSystem, base: str) -> tuple[tuple[str, int, int, int], ...]:
    if isinstance(filesystem, pafs.LocalFileSystem):
        root = Path(base)
        paths = [root] if root.is_file() else sorted(path for path in root.rglob("*") if _is_data(path.relative_to(root).parts))
        found = [(str(path), os.stat(path)) for path in paths if path.is_file()]  # noqa: PTH116
        return tuple((path, stat.st_mtime_ns, stat.st_size, stat.st_ino) for path, stat in found)
    info = filesystem.get_file_info(base)
    infos = [info]
    if info.type == pafs.FileType.Directory:
        infos = filesystem.get_file_info(pafs.FileSelector(base, recursive=True))
        infos = [entry for entry in infos if _is_data(entry.path.removeprefix(base).strip("/").split("/"))]
    files = [entry for entry in infos if entry.type == pafs.FileType.File]
    return tuple(sorted((entry.path, entry.mtime_ns or 0, entry.size or 0, 0) for entry in files))


def _is_data(parts: Sequence[str]) -> bool:
    """Temporary and administrative files begin with a dot or an underscore, as pyarrow and Spark have it."""
    return not any(part.startswith((".", "_")) for part in parts)


def _plain(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def _is_text(type_: pa.DataType) -> bool:
    return pa.types.is_string(type_) or pa.types.is_large_string(type_)


def _bounds(statistics: Mapping[str, Any], type_: pa.DataType) -> tuple[Any, Any]:
    ends = (statistics.get("min"), statistics.get("max"))
    if None in ends:
        return (None, None)
    if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
        return (_stamp_us(ends[0]), _stamp_us(ends[1]))
    return ends if isinstance(ends[0], int | str) else (None, None)


def _stamp_us(time: Any) -> int:
    """Microseconds since 1970 UTC. Not through Arrow: it forgets zones where PYARROW_IGNORE_TIMEZONE is set, as for Spark."""
    stamp = pd.Timestamp(time)
    in_utc = stamp if stamp.tzinfo is None else stamp.tz_convert("UTC")
    return int(in_utc.asm8.astype("datetime64[us]").astype("int64"))


def _by_file(groups: Sequence[Group]) -> Iterator[tuple[int, list[Group]]]:
    members: list[Group] = []
    for group in groups:
        if members and group.file != members[0].file:
            yield members[0].file, members
            members = []
        members.append(group)
    if members:
        yield members[0].file, members
