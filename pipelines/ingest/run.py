"""The ingest step: reads a source, keeps what it said, and makes the lake's partitions from what all sources said.

    source --read--> sources/<name>/ (what it said, with what it corrected) --merge--> lake/

Idempotent: unchanged sources and code write nothing, and equal rows give equal bytes. All seasons are staged and checked before
the first partition is replaced, so a source that fails leaves everything as it was, and one that pauses leaves what is complete.
The record of what is up to date (`state/ingest.json`) is withdrawn before the first rename and written after the last, so a
killed run is done again.
"""

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import filelock
import pandas as pd
import pyarrow as pa

from feature_repo.files import read_json, remove_leftovers, sha256_json, write_json
from feature_repo.progress import Progress
from feature_repo.settings import Settings
from feature_repo.visibility import as_utc
from pipelines import schemas
from pipelines.errors import LakeSchemaError, SeasonsError, SourcePausedError, TooManyQuarantinedError
from pipelines.ingest.base import IngestReport, SeasonTables, Source
from pipelines.ingest.merging import differences
from pipelines.ingest.merging.kept import KeptSources, Update
from pipelines.ingest.merging.merge import Merged, merge
from pipelines.lake import Lake, StagedSeason
from pipelines.steps import code_hash

logger = logging.getLogger(__name__)

MAX_QUARANTINED_SHARE = 0.02
# a race has some ten changes of track status: one bad line of the feed is a large share of them, and no reason to stop
ONE_BAD_LINE = ("track_status", "race_control", "weather")


def ingest(
    settings: Settings,
    source: Source,
    seasons: Sequence[int],
    *,
    progress: Progress | None = None,
    observed_at: pd.Timestamp | None = None,
) -> IngestReport:
    """Write what `source` says about `seasons` into the lake of `settings.home`, merged with what other sources said before.

    Args:
        settings: where the lake is.
        source: what to read.
        seasons: seasons to read; others in the lake stay as they are.
        progress: called with (what is being done, steps done, steps in all).
        observed_at: when a classification that the source corrects became known, UTC. Default: when the source has told of the
            season; nothing that it said was heard later than that.
    Returns:
        What was read, written, left out and why. Up to date: `skipped_up_to_date` is set and nothing was read or written.
    Raises:
        SourceFormatError, SourceMissingError: the source cannot be understood; the lake is as it was.
        SourcePausedError: the source has to be asked again later; the rounds that were complete are in the lake.
        TooManyQuarantinedError: more than 2 % of a table's rows of a season would be left out; the lake is as it was.
        LakeSchemaError, MixedLakeError: the source offers rows that do not belong there; the lake is as it was.
        SourceUnfinishedError: a kill left another source (or other rounds of this one) half replaced; the lake is as it was.
        SeasonsError: no season was asked for.
    """
    asked = sorted(set(seasons))
    if not asked:
        raise SeasonsError("seasons: got none, expected at least one such as '2018-2024'")
    started = time.perf_counter()
    report = IngestReport(source=source.name, is_simulated=source.is_simulated, seasons=asked)
    lake = Lake(settings.lake_dir)
    lake.root.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(str(lake.root / ".lock")):
        lake.check_kind(is_simulated=source.is_simulated)
        run = _Run(settings, source, report, progress or _tell_nobody, observed_at)
        if all(run.is_up_to_date(season) for season in asked):
            report.skipped_up_to_date = True
            report.seconds = time.perf_counter() - started
            logger.info("ingest_skipped source=%s seasons=%s reason=up_to_date", source.name, asked)
            return report
        paused = run.write(asked)
    report.seconds = time.perf_counter() - started
    logger.info(
        "ingest_done source=%s seasons=%s rows=%s quarantined=%s seconds=%.1f paused=%s",
        source.name,
        asked,
        sum(account.rows_written for account in report.tables.values()),
        sum(account.rows_quarantined for account in report.tables.values()),
        report.seconds,
        paused is not None,
    )
    if paused is not None:
        raise SourcePausedError(f"{paused}; {_what_is_kept(report)}", paused.retry_at) from paused
    return report


def _tell_nobody(_what: str, _done: int, _total: int) -> None:
    """The default progress."""


@dataclass(frozen=True)
class _Staged:
    """One season on its way: what the source said, and the lake that follows from it."""

    own: tuple[StagedSeason, Update] | None
    lake: StagedSeason
    sources: tuple[str, ...]
    merged: Merged


class _Run:
    """One ingest under the lake's lock."""

    def __init__(
        self, settings: Settings, source: Source, report: IngestReport, tell: Progress, observed_at: pd.Timestamp | None
    ) -> None:
        self.settings = settings
        self.source = source
        self.report = report
        self.tell = tell
        self.observed_at = observed_at
        self.lake = Lake(settings.lake_dir)
        self.kept = KeptSources(settings)
        self.own = self.kept.of(source.name)
        self.record = settings.state_dir / "ingest.json"
        self.known: dict[str, Any] = read_json(self.record)["seasons"] if self.record.exists() else {}
        self.code = code_hash("pipelines/ingest", "pipelines/schemas.py", "pipelines/lake.py")
        inputs = source.fingerprint()
        # a hash of all that a partition depends on: the source's inputs, the code, and the libraries that write the bytes
        libraries = {"pandas": pd.__version__, "pyarrow": pa.__version__}
        self.fingerprint = (
            None
            if inputs is None
            else sha256_json({"name": source.name, "inputs": inputs, "code": self.code, "libraries": libraries})
        )

    def _recorded(self, season: int) -> dict[str, Any]:
        """What is known of this source's last word on a season: `fingerprint, partitions`; empty if nothing is."""
        return dict(self.known.get(str(season), {}).get("sources", {}).get(self.source.name, {}))

    def is_up_to_date(self, season: int) -> bool:
        """The lake holds what this source says now."""
        mine = self._recorded(season)
        return (
            self.fingerprint is not None
            and mine.get("fingerprint") == self.fingerprint
            and mine["partitions"] == self.own.hashes(season)
            and self.known[str(season)].get("partitions") == self.lake.hashes(season)
            and (self.source.is_simulated or self.known[str(season)].get("merged") == self.kept.names(season))
        )

    def write(self, asked: list[int]) -> SourcePausedError | None:
        """Read, stage and publish; the pause that the source asked for, if it did."""
        remove_leftovers(self.lake.root)
        if self.own.root.exists():
            remove_leftovers(self.own.root)
        for year in asked:  # before a service is asked for what could not be merged
            self.kept.refuse_unfinished(year, reading=self.source.name, rounds=None)
        staged: list[_Staged] = []
        paused = None
        try:
            self.tell("reading", 0, len(asked) + 1)
            try:
                for offered in self.source.read(asked, self.report):
                    self._stage(offered, staged)
                    self.tell(f"season {offered.season}", len(staged), len(asked) + 1)
            except SourcePausedError as error:
                paused = error
            self._refuse_wrong_books(asked, staged, complete=paused is None)
        except BaseException:
            for season in staged:
                for part in (season.lake, *(season.own or ())[:1]):
                    shutil.rmtree(part.folder, ignore_errors=True)
            raise
        self.tell("replacing partitions", len(asked), len(asked) + 1)
        self._publish(staged)
        self.tell("done", len(asked) + 1, len(asked) + 1)
        return paused

    def _stage(self, offered: SeasonTables, staged: list[_Staged]) -> None:
        """Validate one season and put it on disk beside the lake."""
        _refuse_thin(offered)
        for table, rows in offered.tables.items():
            self.report.table(table).rows_written += len(rows)
        if offered.rounds is None:
            self.report.complete.append(offered.season)
        else:
            self.report.rounds[offered.season] = sorted(offered.rounds)
        if self.source.is_simulated:  # nothing else may share a lake with it, so there is nothing to merge
            lake = self.lake.stage(offered.season, offered.tables, offered.quarantine)
            staged.append(_Staged(None, lake, (self.source.name,), Merged(dict(offered.tables))))
            return
        if "sources" not in self.known.get(str(offered.season), {}):  # or a folder that was deleted would come back
            self.kept.adopt(self.lake, offered.season)
        observed_at = as_utc(self.observed_at or _now())
        self.kept.refuse_unfinished(offered.season, reading=self.source.name, rounds=offered.rounds)
        update = self.kept.update(self.source.name, offered, observed_at, self.code)
        for table, rows in update.corrected.items():
            self.report.corrected[table] = self.report.corrected.get(table, 0) + rows
        own = self.own.stage(offered.season, update.whole.tables, update.whole.quarantine)
        try:
            others = [name for name in self.kept.names(offered.season) if name != self.source.name]
            said = {name: self.kept.read(name, offered.season) for name in others}
            said[self.source.name] = own.read()
            merged = merge(said)
            quarantine = _together([update.whole.quarantine, *[self.kept.quarantine(name, offered.season) for name in others]])
            lake = self.lake.stage(offered.season, merged.tables, quarantine)
        except BaseException:
            shutil.rmtree(own.folder, ignore_errors=True)
            raise
        staged.append(_Staged((own, update), lake, tuple(said), merged))

    def _refuse_wrong_books(self, asked: list[int], staged: list[_Staged], *, complete: bool) -> None:
        """Raise if a source broke its contract: seasons, kind of rows, or rows that nobody accounted for."""
        name = self.source.name
        got = [season.lake.season for season in staged]
        if got != (asked if complete else asked[: len(got)]):
            raise LakeSchemaError(
                f"source {name}: got seasons {got}, expected {asked}; the source has to yield each asked season once"
            )
        for season in staged:
            if season.lake.is_simulated != self.source.is_simulated:
                raise LakeSchemaError(
                    f"source {name}, season {season.lake.season}: got rows with is_simulated {season.lake.is_simulated}, "
                    f"expected {self.source.is_simulated}; simulated rows, and no others, have source == {schemas.SIMULATOR!r}"
                )
        wrong = {table: account.unaccounted for table, account in self.report.tables.items() if account.unaccounted}
        if wrong and complete:
            raise LakeSchemaError(
                f"source {name}: rows read and rows accounted for differ by {wrong}, expected 0 for every table"
            )

    def _publish(self, staged: list[_Staged]) -> None:
        """Rename everything into place, between withdrawing the record and writing it again."""
        for season in staged:
            said = self.known.get(str(season.lake.season), {}).get("sources", {})
            others = {name: record for name, record in said.items() if name != self.source.name}
            self.known[str(season.lake.season)] = {"sources": others}
        write_json(self.record, {"seasons": self.known})
        for season in staged:
            if season.own is not None:
                self.kept.publish(self.source.name, *season.own)
            self.lake.publish(season.lake)
            differences.keep(self.settings, season.lake.season, season.sources, season.merged)
            mine = {
                "fingerprint": self.fingerprint,
                "partitions": dict(season.own[0].files) if season.own is not None else {},
            }
            self.known[str(season.lake.season)] = {
                "sources": {**self.known[str(season.lake.season)]["sources"], self.source.name: mine},
                "merged": sorted(season.sources),
                "partitions": dict(season.lake.files),
            }
        write_json(self.record, {"seasons": self.known})


def _now() -> pd.Timestamp:
    return pd.Timestamp.now("UTC")


def _together(quarantines: Sequence[dict[str, pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """Rows left out of any source."""
    names = sorted({table for quarantine in quarantines for table in quarantine})
    return {
        table: pd.concat([quarantine[table] for quarantine in quarantines if table in quarantine], ignore_index=True)
        for table in names
    }


def _what_is_kept(report: IngestReport) -> str:
    """What a paused ingest has written."""
    written = sorted({season for season in report.seasons if season in report.rounds or season in report.complete})
    if not written:
        return "no race was complete, so the lake is as it was"
    parts = [
        f"{season} rounds {', '.join(map(str, report.rounds[season]))}" if season in report.rounds else f"{season} whole"
        for season in written
    ]
    return f"in the lake already: {'; '.join(parts)}"


def _refuse_thin(offered: SeasonTables) -> None:
    """Raise if more than the allowed share of a table's rows of the season is in quarantine; causes before effects."""
    for table in (name for name in schemas.TABLES if name in offered.quarantine):
        rejected = offered.quarantine[table]
        kept = len(offered.tables.get(table, ()))
        share = len(rejected) / (kept + len(rejected))
        one_line = table in ONE_BAD_LINE and len(rejected) == 1 and kept
        if share > MAX_QUARANTINED_SHARE and not one_line:
            reasons = rejected["reason"].value_counts()
            first = rejected[rejected["reason"] == reasons.index[0]].iloc[0]
            raise TooManyQuarantinedError(
                f"{table}, season {offered.season}: got {len(rejected)} of {kept + len(rejected)} rows to leave out "
                f"({share:.1%}), expected at most {MAX_QUARANTINED_SHARE:.0%}; the most common reason is {reasons.index[0]!r} "
                f"({reasons.iloc[0]} rows, the first in {first['source_file']}, row {first['row_number']}); repair the source, "
                "the lake is as it was"
            )
