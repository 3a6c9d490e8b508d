"""What each source said, as canonical tables in `sources/<name>/`; the lake is made from these, so no source overwrites another.

A source's folder is laid out as a lake. It holds what the source said last, and before that what it corrected.
"""

import json
import re
import shutil
from typing import Any

import pandas as pd

from feature_repo.files import atomic_path
from feature_repo.settings import Settings
from feature_repo.visibility import EVENT
from pipelines.ingest.base import SeasonTables
from pipelines.ingest.merging.history import with_history
from pipelines.ingest.merging.precedence import CORRECTED
from pipelines.lake import Lake, races_last
from pipelines.schemas import SIMULATOR, TABLES, conform, empty_frame

_QUARANTINE_KEY = ["season", "reason", "source_file", "row_number", "row"]


class KeptSources:
    """The sources of one home."""

    def __init__(self, settings: Settings) -> None:
        self.root = settings.sources_dir

    def of(self, name: str) -> Lake:
        """The folder of one source."""
        return Lake(self.root / name)

    def names(self, season: int) -> list[str]:
        """Sources that told of a season, sorted; one whose first word was cut off by a kill is not among them.

        The races are what is written last, so a source without any of the season has not been written whole.
        """
        if not self.root.exists():
            return []
        found = [path.name for path in self.root.iterdir() if path.is_dir() and re.fullmatch(r"[a-z0-9_]+", path.name)]
        return sorted(name for name in found if season in self.of(name).seasons("races"))

    def read(self, name: str, season: int) -> dict[str, pd.DataFrame]:
        """What a source said about a season: table -> rows, only tables that have any."""
        own = self.of(name)
        return {table: own.read(table, [season]) for table in TABLES if season in own.seasons(table)}

    def quarantine(self, name: str, season: int) -> dict[str, pd.DataFrame]:
        """Rows of a source that were left out."""
        own = self.of(name)
        found = {table: own.read_quarantine(table, [season]) for table in TABLES}
        return {table: rows for table, rows in found.items() if len(rows)}

    def adopt(self, lake: Lake, season: int) -> None:
        """Take a season that an earlier version of Pitwall wrote straight into the lake as what its one source said."""
        if self.names(season) or season not in lake.seasons("races"):
            return
        names = set(lake.read("races", [season], ["source"])["source"])
        if len(names) != 1 or SIMULATOR in names:
            return
        (name,) = names
        suffix = f"season={season:04d}/part.parquet"
        for relative in races_last(path for path in lake.partitions() if path.endswith(suffix)):
            with atomic_path(self.of(name).root / relative) as temporary:
                shutil.copyfile(lake.root / relative, temporary)

    def update(
        self, name: str, offered: SeasonTables, observed_at: pd.Timestamp, *, same_recipe: bool
    ) -> tuple[SeasonTables, dict[str, int]]:
        """What the source has said about the season with what it offers now: other rounds stay, corrections are kept.

        Returns:
            The season's tables and quarantine, whole; and per table how many rows were corrected.
        """
        before = self.read(name, offered.season)
        tables, corrected = {}, {}
        for table in TABLES:
            now = conform(table, offered.tables[table]) if table in offered.tables else empty_frame(table)
            then = before.get(table, empty_frame(table))
            if table in CORRECTED:
                mine = then if offered.rounds is None else then[then["round"].isin(offered.rounds)]
                now, count = with_history(table, mine.reset_index(drop=True), now, observed_at, same_recipe=same_recipe)
                if count:
                    corrected[table] = count
            tables[table] = now if offered.rounds is None else _beside(table, then, now, offered.rounds)
        quarantine = dict(offered.quarantine)
        if offered.rounds is not None:
            for table, rows in self.quarantine(name, offered.season).items():
                others = rows[[_round_of(text) not in offered.rounds for text in rows["row"]]]
                both = [frame for frame in (others, quarantine.get(table)) if frame is not None and len(frame)]
                if both:
                    quarantine[table] = pd.concat(both, ignore_index=True).drop_duplicates(_QUARANTINE_KEY, ignore_index=True)
        return SeasonTables(offered.season, tables, quarantine), corrected


def _beside(table: str, then: pd.DataFrame, now: pd.DataFrame, rounds: frozenset[int]) -> pd.DataFrame:
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
