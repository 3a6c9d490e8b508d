"""The lake: validated canonical tables as Parquet, one partition a table and season, replaced whole or not at all.

`lake/<table>/season=<YYYY>/part.parquet`; rows that were left out are in `lake/quarantine/<table>/season=<YYYY>/part.parquet`
with the reason. A partition exists only where it has rows, and equal rows give equal bytes. A lake with the marker file
`SIMULATED` holds simulated rows only.
"""

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.errors import DamagedFileError
from feature_repo.files import TMP_PREFIX, atomic_path, sha256_file, sha256_json, write_text
from pipelines import schemas
from pipelines.errors import LakeSchemaError, MixedLakeError

MARKER = "SIMULATED"
QUARANTINE = "quarantine"
_QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("season", pa.int64()),
        pa.field("reason", pa.string()),
        pa.field("source_file", pa.string()),
        pa.field("row_number", pa.int64()),
        pa.field("row", pa.string()),
    ]
)


@dataclass(frozen=True)
class StagedSeason:
    """A season's partitions, validated and on disk beside the lake, not yet part of it.

    Attributes:
        season: the season.
        folder: temporary folder that holds the files, laid out as in the lake.
        files: partition path relative to the lake -> SHA-256, for every partition that has rows.
        rows: table -> number of rows.
        is_simulated: the rows are simulated.
    """

    season: int
    folder: Path
    files: Mapping[str, str]
    rows: Mapping[str, int]
    is_simulated: bool = field(default=False)

    def read(self) -> dict[str, pd.DataFrame]:
        """The staged tables that have rows, as `Lake.read` would give them."""
        return {
            name: _as_frame(name, _read_part(self.folder / relative), schemas.TABLES[name].columns)
            for name in schemas.TABLES
            if (relative := f"{name}/season={self.season:04d}/part.parquet") in self.files
        }


class Lake:
    """Reads and replaces partitions below `root`. Two processes may read while one writes; one process writes at a time."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    @property
    def is_simulated(self) -> bool:
        """The lake carries the SIMULATED marker."""
        return (self.root / MARKER).exists()

    def path(self, table: str, season: int) -> Path:
        """Where a partition lies."""
        return self.root / schemas.table(table).name / f"season={season:04d}" / "part.parquet"

    def seasons(self, table: str) -> list[int]:
        """Seasons that have rows of `table`, ascending."""
        return _seasons_below(self.root / schemas.table(table).name)

    def read(self, table: str, seasons: Iterable[int] | None = None, columns: list[str] | None = None) -> pd.DataFrame:
        """Rows of `table`, by season and natural key; an empty frame with the right columns where there are none.

        Args:
            table: name of a canonical table.
            seasons: seasons to read; all when None. A season without rows contributes none.
            columns: columns to read, in the order wanted; all when None.
        Raises:
            UnknownTableError: there is no such table.
            LakeSchemaError: a column that the table does not have was asked for.
        """
        spec = schemas.table(table)
        wanted = spec.columns if columns is None else columns
        unknown = [column for column in wanted if column not in spec.cols]
        if unknown:
            raise LakeSchemaError(f"lake table {table}: got columns {unknown}, expected some of {spec.columns}")
        present = self.seasons(table)
        chosen = present if seasons is None else sorted(set(seasons) & set(present))
        parts = [_read_part(self.path(table, season), wanted) for season in chosen]
        if not parts:
            return schemas.empty_frame(table, wanted)
        return _as_frame(table, pa.concat_tables(parts), wanted)

    def write(self, table: str, season: int, frame: pd.DataFrame) -> None:
        """Replace one partition by `frame`, validated; no rows remove the partition.

        Raises:
            LakeSchemaError: the rows are not fit for the table (see `schemas.validate`).
            InvalidIdError: an id does not have the form of ids.
            MixedLakeError: simulated rows for a real lake, or real rows for a simulated one.
        """
        checked = schemas.validate(table, frame, season)
        is_simulated = _kind_of_rows(table, checked)
        if is_simulated is not None:
            self.admit(is_simulated=is_simulated)
        target = self.path(table, season)
        if checked.empty:
            target.unlink(missing_ok=True)
            return
        with atomic_path(target) as temporary:
            _write_part(temporary, pa.Table.from_pandas(checked, schema=schemas.arrow_schema(table), preserve_index=False))

    def stage(
        self, season: int, tables: Mapping[str, pd.DataFrame], quarantine: Mapping[str, pd.DataFrame] | None = None
    ) -> StagedSeason:
        """Validate and write all of a season beside the lake; `publish` then makes it part of it.

        Args:
            season: the season.
            tables: table -> rows; a table that is left out has no rows in that season.
            quarantine: table -> rows left out (`season, reason, source_file, row_number, row`).
        Raises:
            LakeSchemaError, InvalidIdError, MixedLakeError: as `write`; nothing stays behind and the lake is as it was.
        """
        checked = {name: schemas.validate(name, frame, season) for name, frame in tables.items()}
        kinds = {kind for name, frame in checked.items() if (kind := _kind_of_rows(name, frame)) is not None}
        if len(kinds) > 1:
            raise MixedLakeError(
                f"season {season}: got simulated and real rows together, expected one kind; ingest them into two homes"
            )
        self.check_kind(is_simulated=kinds == {True})
        self.root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{TMP_PREFIX}stage-{season}-", dir=self.root))
        try:
            files: dict[str, str] = {}
            for name, frame in checked.items():
                if not frame.empty:
                    part = pa.Table.from_pandas(frame, schema=schemas.arrow_schema(name), preserve_index=False)
                    _stage_part(folder, f"{name}/season={season:04d}/part.parquet", part, files)
            for name, rows in sorted((quarantine or {}).items()):
                if not rows.empty:
                    part = pa.Table.from_pandas(rows, schema=_QUARANTINE_SCHEMA, preserve_index=False)
                    _stage_part(folder, f"{QUARANTINE}/{schemas.table(name).name}/season={season:04d}/part.parquet", part, files)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return StagedSeason(
            season=season,
            folder=folder,
            files=files,
            rows={name: len(checked[name]) if name in checked else 0 for name in schemas.TABLES},
            is_simulated=kinds == {True},
        )

    def publish(self, staged: StagedSeason) -> None:
        """Rename a staged season's partitions into the lake and remove those that it no longer has.

        Every partition is replaced whole. A process killed between two renames leaves some partitions of the season new and the
        others old; the record of what is up to date must be withdrawn before and written after, so that a re-run does it again.
        """
        self.admit(is_simulated=staged.is_simulated)
        for relative in sorted(staged.files):
            target = self.root / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            (staged.folder / relative).replace(target)
        for name in schemas.TABLES:
            for relative in (
                f"{name}/season={staged.season:04d}/part.parquet",
                f"{QUARANTINE}/{name}/season={staged.season:04d}/part.parquet",
            ):
                if relative not in staged.files:
                    (self.root / relative).unlink(missing_ok=True)
        shutil.rmtree(staged.folder, ignore_errors=True)

    def check_kind(self, *, is_simulated: bool) -> None:
        """Raise `MixedLakeError` if rows of this kind may not enter the lake as it is."""
        if not self.partitions():
            return
        if is_simulated != self.is_simulated:
            kinds = {True: "simulated", False: "real"}
            raise MixedLakeError(
                f"{self.root}: got {kinds[is_simulated]} rows for a lake of {kinds[self.is_simulated]} rows, expected one kind; "
                "choose another home (--home or PITWALL_HOME)"
            )

    def admit(self, *, is_simulated: bool) -> None:
        """`check_kind`, then make the marker file agree with the kind of rows about to enter."""
        self.check_kind(is_simulated=is_simulated)
        if is_simulated and not self.is_simulated:
            write_text(self.root / MARKER, "Every row in this lake is simulated.\n")
        elif not is_simulated:
            (self.root / MARKER).unlink(missing_ok=True)

    def partitions(self) -> list[str]:
        """Paths of all partitions, quarantine included, relative to the lake, sorted."""
        if not self.root.exists():
            return []
        below = [*self.root.glob("*/season=*/part.parquet"), *self.root.glob(f"{QUARANTINE}/*/season=*/part.parquet")]
        return sorted(
            path.relative_to(self.root).as_posix()
            for path in below
            if not path.parts[len(self.root.parts)].startswith(TMP_PREFIX)
        )

    def hashes(self, season: int | None = None) -> dict[str, str]:
        """Partition path -> SHA-256 of its bytes; of one season, or of all."""
        suffix = None if season is None else f"/season={season:04d}/part.parquet"
        return {name: sha256_file(self.root / name) for name in self.partitions() if suffix is None or name.endswith(suffix)}

    def fingerprint(self) -> str:
        """Hash of the whole lake's content: changes when any partition's bytes do, and only then."""
        return sha256_json({name: digest for name, digest in self.hashes().items() if not name.startswith(f"{QUARANTINE}/")})

    def counts(self) -> dict[str, int]:
        """Rows of every table, and of the quarantine under `quarantined`, from the Parquet footers."""
        counts = dict.fromkeys([*schemas.TABLES, "quarantined"], 0)
        for name in self.partitions():
            first = name.split("/", 1)[0]
            counts["quarantined" if first == QUARANTINE else first] += _read_rows(self.root / name)
        return counts

    def read_quarantine(self, table: str, seasons: Iterable[int] | None = None) -> pd.DataFrame:
        """Rows of `table` that were left out: `season, reason, source_file, row_number, row` (JSON text)."""
        folder = self.root / QUARANTINE / schemas.table(table).name
        present = _seasons_below(folder)
        chosen = present if seasons is None else sorted(set(seasons) & set(present))
        parts = [_read_part(folder / f"season={season:04d}" / "part.parquet") for season in chosen]
        return pa.concat_tables([_QUARANTINE_SCHEMA.empty_table(), *parts]).to_pandas()


def _as_frame(table: str, rows: pa.Table, columns: list[str]) -> pd.DataFrame:
    """Rows read from disk in the dtypes that the table declares."""
    cols = schemas.TABLES[table].cols
    frame = rows.select(columns).to_pandas(ignore_metadata=True)
    return frame.astype({column: cols[column].dtype for column in columns if frame[column].dtype != cols[column].dtype})


def _read_rows(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except pa.ArrowInvalid as error:
        raise DamagedFileError(f"{path}: got no readable Parquet ({error}); delete it and run `pitwall ingest` again") from error


def _read_part(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.ParquetFile(path).read(columns=columns)
    except pa.ArrowInvalid as error:
        raise DamagedFileError(f"{path}: got no readable Parquet ({error}); delete it and run `pitwall ingest` again") from error


def _seasons_below(folder: Path) -> list[int]:
    found = folder.glob("season=[0-9][0-9][0-9][0-9]/part.parquet") if folder.exists() else []
    return sorted(int(path.parent.name.removeprefix("season=")) for path in found)


def _kind_of_rows(table: str, frame: pd.DataFrame) -> bool | None:
    if frame.empty:
        return None
    simulated = frame["source"] == schemas.SIMULATOR
    if simulated.any() and not simulated.all():
        raise MixedLakeError(
            f"lake table {table}: got {int(simulated.sum())} simulated rows of {len(frame)}, expected all or none"
        )
    return bool(simulated.all())


def _write_part(target: Path, part: pa.Table) -> None:
    # One writer version, fixed options and no pandas metadata: equal rows give equal bytes.
    pq.write_table(part.replace_schema_metadata(None), target, compression="zstd", version="2.6", coerce_timestamps="us")


def _stage_part(folder: Path, relative: str, part: pa.Table, files: dict[str, str]) -> None:
    target = folder / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    _write_part(target, part)
    files[relative] = sha256_file(target)
