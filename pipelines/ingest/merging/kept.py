"""What each source said, as canonical tables in `sources/<name>/`; the lake is made from these, so no source overwrites another.

A source's folder is laid out as a lake. It holds what the source said last, and before that what it corrected. Beside the tables:

- `unfinished/season=<YYYY>.json` while a season is being written: it tells what a kill left behind from what the source said;
- `heard/season=<YYYY>.json`: round -> which code read it, and hashes of what the source itself said of its classifications.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from feature_repo.files import atomic_path, read_json, write_json
from feature_repo.settings import Settings
from feature_repo.visibility import EVENT
from pipelines.errors import SourceUnfinishedError
from pipelines.ingest.base import SeasonTables
from pipelines.ingest.catalogue import source_names, sources
from pipelines.ingest.merging.history import with_history
from pipelines.ingest.precedence import CORRECTED
from pipelines.lake import Lake, StagedSeason
from pipelines.schemas import SIMULATOR, TABLES, conform, empty_frame

_QUARANTINE_KEY = ["season", "reason", "source_file", "row_number", "row"]


@dataclass(frozen=True)
class Unfinished:
    """A season of a source that is being written, or was when the process was killed.

    Attributes:
        is_first: the source had not told of the season before, so what is there is nothing.
        rounds: rounds that were read, which have to be read again; None: the whole season.
    """

    is_first: bool
    rounds: frozenset[int] | None


@dataclass(frozen=True)
class Update:
    """What a source has said of a season with what it offers now.

    Attributes:
        whole: the season's tables and quarantine, other rounds included.
        corrected: table -> rows that the source corrected.
        heard: round -> `code` that read it, and table -> hash of what the source said of it.
        rounds: rounds that were offered; None: the season.
    """

    whole: SeasonTables
    corrected: dict[str, int]
    heard: dict[str, dict[str, str]]
    rounds: frozenset[int] | None


class KeptSources:
    """The sources of one home."""

    def __init__(self, settings: Settings) -> None:
        self.root = settings.sources_dir

    def of(self, name: str) -> Lake:
        """The folder of one source."""
        return Lake(self.root / name)

    def names(self, season: int) -> list[str]:
        """Sources that told of a season, sorted; one whose first word was cut off by a kill is not among them."""
        if not self.root.exists():
            return []
        found = [path.name for path in self.root.iterdir() if path.is_dir() and re.fullmatch(r"[a-z0-9_]+", path.name)]
        return sorted(name for name in found if self._has_told(name, season))

    def read(self, name: str, season: int) -> dict[str, pd.DataFrame]:
        """What a source said about a season: table -> rows, only tables that have any."""
        own = self.of(name)
        told = self._has_told(name, season)
        return {table: own.read(table, [season]) for table in TABLES if told and season in own.seasons(table)}

    def quarantine(self, name: str, season: int) -> dict[str, pd.DataFrame]:
        """Rows of a source that were left out."""
        own = self.of(name)
        found = {table: own.read_quarantine(table, [season]) for table in TABLES if self._has_told(name, season)}
        return {table: rows for table, rows in found.items() if len(rows)}

    def publish(self, name: str, staged: StagedSeason, update: Update) -> None:
        """Replace a season of a source by what was staged of `update`."""
        with self._writing(name, staged.season, update.rounds):
            self.of(name).publish(staged)
            write_json(self._beside(name, "heard", staged.season), update.heard)

    def refuse_unfinished(self, season: int, *, reading: str, rounds: frozenset[int] | None) -> None:
        """Raise if a kill left a source half replaced, unless that source is read, with all that was being replaced.

        Raises:
            SourceUnfinishedError: it says what to run.
        """
        for name in self.names(season):
            left = self._unfinished(name, season)
            if left is None or (name == reading and (rounds is None or (left.rounds is not None and left.rounds <= rounds))):
                continue
            takes_rounds = any(info.name == name and "--rounds" in info.options for info in sources())
            asked = f" --rounds {','.join(map(str, sorted(left.rounds)))}" if takes_rounds and left.rounds is not None else ""
            raise SourceUnfinishedError(
                f"{self.root / name}: got the season {season} half replaced by an ingest that was killed, expected what {name} "
                f"said whole; run `pitwall ingest --source {name} --seasons {season}{asked}` again, with the options it "
                "had; the lake is as it was"
            )

    def adopt(self, lake: Lake, season: int) -> None:
        """Take a season that an earlier version of Pitwall wrote straight into the lake as what its one source said."""
        if self.names(season) or season not in lake.seasons("races"):
            return
        names = set(lake.read("races", [season], ["source"])["source"])
        if len(names) != 1 or not names <= set(source_names()) - {SIMULATOR}:
            return
        (name,) = names
        suffix = f"season={season:04d}/part.parquet"
        with self._writing(name, season, None):
            for relative in (path for path in lake.partitions() if path.endswith(suffix)):
                with atomic_path(self.of(name).root / relative) as temporary:
                    shutil.copyfile(lake.root / relative, temporary)

    def _beside(self, name: str, what: str, season: int) -> Path:
        return self.root / name / what / f"season={season:04d}.json"

    def _heard(self, name: str, season: int) -> dict[str, dict[str, str]]:
        file = self._beside(name, "heard", season)
        return dict(read_json(file)) if file.exists() and self._has_told(name, season) else {}

    def _unfinished(self, name: str, season: int) -> Unfinished | None:
        mark = self._beside(name, "unfinished", season)
        if not mark.exists():
            return None
        said = read_json(mark)
        return Unfinished(said["is_first"], None if said["rounds"] is None else frozenset(said["rounds"]))

    def _has_told(self, name: str, season: int) -> bool:
        left = self._unfinished(name, season)
        return not (left and left.is_first) and any(season in self.of(name).seasons(table) for table in TABLES)

    @contextmanager
    def _writing(self, name: str, season: int, rounds: frozenset[int] | None) -> Iterator[None]:
        """Mark a season of a source as unfinished until the block has ended."""
        mark = self._beside(name, "unfinished", season)
        is_first = not self._has_told(name, season)
        write_json(mark, {"is_first": is_first, "rounds": None if rounds is None else sorted(rounds)})
        yield
        mark.unlink()

    def update(self, name: str, offered: SeasonTables, observed_at: pd.Timestamp, code: str) -> Update:
        """What the source has said about the season with what it offers now: other rounds stay, corrections are kept.

        Args:
            name: the source.
            offered: what it offers now.
            observed_at: when it had told.
            code: hash of the code that read it.
        """
        before = self.read(name, offered.season)
        given = offered.tables if offered.calendar is None else {**offered.tables, "races": offered.calendar}
        heard = _hear(offered, code)
        heard_before = self._heard(name, offered.season)
        tables, corrected = {}, {}
        for table in TABLES:
            now = conform(table, given[table]) if table in given else empty_frame(table)
            then = before.get(table, empty_frame(table))
            if table in CORRECTED:
                mine = then if offered.rounds is None else then[then["round"].isin(offered.rounds)]
                ours = {int(round_): _is_ours(table, heard_before.get(round_), said) for round_, said in heard.items()}
                now, count = with_history(table, mine.reset_index(drop=True), now, observed_at, ours=ours)
                if count:
                    corrected[table] = count
            tables[table] = now if offered.rounds is None else _with_others(table, then, now, offered.rounds)
        quarantine = dict(offered.quarantine)
        if offered.rounds is not None:
            for table, rows in self.quarantine(name, offered.season).items():
                others = rows[[_round_of(text) not in offered.rounds for text in rows["row"]]]
                both = [frame for frame in (others, quarantine.get(table)) if frame is not None and len(frame)]
                if both:
                    quarantine[table] = pd.concat(both, ignore_index=True).drop_duplicates(_QUARANTINE_KEY, ignore_index=True)
            heard = {round_: said for round_, said in heard_before.items() if int(round_) not in offered.rounds} | heard
        return Update(SeasonTables(offered.season, tables, quarantine), corrected, heard, offered.rounds)


def _hear(offered: SeasonTables, code: str) -> dict[str, dict[str, str]]:
    """`Update.heard` of what is offered."""
    rounds = {int(round_) for table in CORRECTED if table in offered.tables for round_ in offered.tables[table]["round"].unique()}
    return {
        str(round_): {"code": code, **{table: told[round_] for table, told in offered.told.items() if round_ in told}}
        for round_ in sorted(rounds)
    }


def _is_ours(table: str, before: dict[str, str] | None, now: dict[str, str]) -> bool | None:
    """Whether a difference in a race's rows is our doing; None: nothing tells (see `with_history`)."""
    if before is None:
        return None
    if before["code"] == now["code"]:
        return False
    return before[table] == now[table] if table in before and table in now else None


def _with_others(table: str, then: pd.DataFrame, now: pd.DataFrame, rounds: frozenset[int]) -> pd.DataFrame:
    """Rows of the rounds read now, and the earlier rows of the others."""
    others = then[~then["round"].isin(rounds)] if TABLES[table].is_race_table else then
    if others.empty or now.empty:
        return now if others.empty else others
    if TABLES[table].is_race_table:
        return pd.concat([others, now], ignore_index=True)
    # a driver, team or circuit is known since its first race of the season, whichever rounds were read now
    both = pd.concat([now, others], ignore_index=True).sort_values([*TABLES[table].key, EVENT], kind="stable")
    return both.drop_duplicates(list(TABLES[table].key), keep="first", ignore_index=True)


def _round_of(text: str) -> int | None:
    row: dict[str, Any] = json.loads(text)
    value = row.get("round")
    return None if value is None else int(value)
