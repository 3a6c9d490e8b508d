"""The ingest step: reads a source, validates everything, then replaces the lake's partitions of the seasons asked for.

Idempotent: unchanged sources and code write nothing, and equal rows give equal bytes. All seasons are staged and checked before
the first partition is replaced, so a source that fails leaves the lake as it was. The record of what is up to date
(`state/ingest.json`) is withdrawn before the first rename and written after the last, so a killed run is done again.
"""

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
import pyarrow as pa

from feature_repo.files import read_json, remove_leftovers, sha256_json, write_json
from feature_repo.settings import Settings
from pipelines import schemas
from pipelines.errors import LakeSchemaError, SeasonsError, TooManyQuarantinedError
from pipelines.ingest.base import IngestReport, SeasonTables, Source
from pipelines.lake import Lake, StagedSeason
from pipelines.steps import code_hash

logger = logging.getLogger(__name__)

MAX_QUARANTINED_SHARE = 0.02
Progress = Callable[[str, int, int], None]


def ingest(settings: Settings, source: Source, seasons: Sequence[int], *, progress: Progress | None = None) -> IngestReport:
    """Write `seasons` of `source` into the lake of `settings.home`.

    Args:
        settings: where the lake is.
        source: what to read.
        seasons: seasons to replace; others in the lake stay as they are.
        progress: called with (what is being done, steps done, steps in all).
    Returns:
        What was read, written, left out and why. Up to date: `skipped_up_to_date` is set and nothing was read or written.
    Raises:
        SourceFormatError, SourceMissingError: the source cannot be understood; the lake is as it was.
        TooManyQuarantinedError: more than 2 % of a table's rows of a season would be left out; the lake is as it was.
        LakeSchemaError, MixedLakeError: the source offers rows that do not belong there; the lake is as it was.
        SeasonsError: no season was asked for.
    """
    asked = sorted(set(seasons))
    if not asked:
        raise SeasonsError("seasons: got none, expected at least one such as '2018-2024'")
    started = time.perf_counter()
    tell = progress or _tell_nobody
    report = IngestReport(source=source.name, is_simulated=source.is_simulated, seasons=asked)
    lake = Lake(settings.lake_dir)
    lake.root.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(str(lake.root / ".lock")):
        lake.check_kind(is_simulated=source.is_simulated)
        record = settings.state_dir / "ingest.json"
        fingerprint = _fingerprint(source)
        if all(_is_up_to_date(record, lake, season, fingerprint) for season in asked):
            report.skipped_up_to_date = True
            report.seconds = time.perf_counter() - started
            logger.info("ingest_skipped source=%s seasons=%s reason=up_to_date", source.name, asked)
            return report
        remove_leftovers(lake.root)
        staged = _stage(lake, source, asked, report, tell)
        tell("replacing partitions", len(asked), len(asked) + 1)
        _publish(lake, staged, record, fingerprint)
    report.seconds = time.perf_counter() - started
    tell("done", len(asked) + 1, len(asked) + 1)
    logger.info(
        "ingest_done source=%s seasons=%s rows=%s quarantined=%s seconds=%.1f",
        source.name,
        asked,
        sum(account.rows_written for account in report.tables.values()),
        sum(account.rows_quarantined for account in report.tables.values()),
        report.seconds,
    )
    return report


def _tell_nobody(_what: str, _done: int, _total: int) -> None:
    """The default progress."""


def _stage(lake: Lake, source: Source, asked: list[int], report: IngestReport, tell: Progress) -> list[StagedSeason]:
    """All seasons validated and on disk beside the lake; on any error what was staged is removed."""
    staged: list[StagedSeason] = []
    try:
        tell("reading", 0, len(asked) + 1)
        for offered in source.read(asked, report):
            _refuse_thin(offered)
            season = lake.stage(offered.season, offered.tables, offered.quarantine)
            staged.append(season)
            for table, rows in season.rows.items():
                report.table(table).rows_written += rows
            tell(f"season {offered.season}", len(staged), len(asked) + 1)
        _refuse_wrong_books(source, asked, staged, report)
    except BaseException:
        for season in staged:
            shutil.rmtree(season.folder, ignore_errors=True)
        raise
    return staged


def _refuse_wrong_books(source: Source, asked: list[int], staged: list[StagedSeason], report: IngestReport) -> None:
    """Raise if a source broke its contract: seasons, kind of rows, or rows that nobody accounted for."""
    got = [season.season for season in staged]
    if got != asked:
        raise LakeSchemaError(
            f"source {source.name}: got seasons {got}, expected {asked}; the source has to yield each asked season once"
        )
    for season in staged:
        if season.is_simulated != source.is_simulated:
            raise LakeSchemaError(
                f"source {source.name}, season {season.season}: got rows with is_simulated {season.is_simulated}, expected "
                f"{source.is_simulated}; simulated rows, and no others, have source == {schemas.SIMULATOR!r}"
            )
    wrong = {table: account.unaccounted for table, account in report.tables.items() if account.unaccounted}
    if wrong:
        raise LakeSchemaError(
            f"source {source.name}: rows read and rows accounted for differ by {wrong}, expected 0 for every table"
        )


def _refuse_thin(offered: SeasonTables) -> None:
    """Raise if more than the allowed share of a table's rows of the season is in quarantine; causes before effects."""
    for table in (name for name in schemas.TABLES if name in offered.quarantine):
        rejected = offered.quarantine[table]
        kept = len(offered.tables.get(table, ()))
        share = len(rejected) / (kept + len(rejected))
        if share > MAX_QUARANTINED_SHARE:
            reasons = rejected["reason"].value_counts()
            first = rejected[rejected["reason"] == reasons.index[0]].iloc[0]
            raise TooManyQuarantinedError(
                f"{table}, season {offered.season}: got {len(rejected)} of {kept + len(rejected)} rows to leave out "
                f"({share:.1%}), expected at most {MAX_QUARANTINED_SHARE:.0%}; the most common reason is {reasons.index[0]!r} "
                f"({reasons.iloc[0]} rows, the first in {first['source_file']}, row {first['row_number']}); repair the source, "
                "the lake is as it was"
            )


def _publish(lake: Lake, staged: list[StagedSeason], record: Path, fingerprint: str) -> None:
    known: dict[str, Any] = read_json(record)["seasons"] if record.exists() else {}
    renewed = {str(season.season) for season in staged}
    write_json(record, {"seasons": {season: entry for season, entry in known.items() if season not in renewed}})
    for season in staged:
        lake.publish(season)
    known |= {str(season.season): {"fingerprint": fingerprint, "partitions": dict(season.files)} for season in staged}
    write_json(record, {"seasons": known})


def _is_up_to_date(record: Path, lake: Lake, season: int, fingerprint: str) -> bool:
    if not record.exists():
        return False
    entry = read_json(record)["seasons"].get(str(season))
    return entry is not None and entry["fingerprint"] == fingerprint and entry["partitions"] == lake.hashes(season)


def _fingerprint(source: Source) -> str:
    """Hash of all that a partition depends on: the source's inputs, the code, and the libraries that write the bytes."""
    code = code_hash("pipelines/ingest", "pipelines/schemas.py", "pipelines/lake.py")
    libraries = {"pandas": pd.__version__, "pyarrow": pa.__version__}
    return sha256_json({"name": source.name, "inputs": source.fingerprint(), "code": code, "libraries": libraries})
