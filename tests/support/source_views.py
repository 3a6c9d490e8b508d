"""What several sources might say of the same small lake, and sources that say it."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from pipelines.ingest.base import IngestReport, SeasonTables
from pipelines.ingest.precedence import CORRECTED, PRECEDENCE
from pipelines.schemas import TABLES, conform

Frames = dict[str, pd.DataFrame]
NAMES = ("files", "fastf1", "livetiming", "jolpica", "openf1")


def said_by(name: str, lake: Frames, seed: int, *, season: int = 2022) -> Frames:
    """`lake`'s tables of one season as the source `name` tells them: whole races and single rows left out, nulls, other values.

    Values of columns that sources are compared in differ in a tenth of the rows.
    """
    rng = np.random.default_rng(seed)
    said = {}
    for table, frame in lake.items():
        rows = frame[frame["season"] == season].reset_index(drop=True)
        if name not in PRECEDENCE[table].order or rows.empty:
            continue
        if "race_id" in rows:
            missing = [race for race in sorted(rows["race_id"].unique()) if rng.random() < 0.25]
            rows = rows[~rows["race_id"].isin(missing)]
        rows = rows[rng.random(len(rows)) < 0.95].reset_index(drop=True).assign(source=name)
        for column, col in TABLES[table].cols.items():
            if column in TABLES[table].key or column == "season":
                continue
            if col.nullable:
                rows[column] = rows[column].mask(rng.random(len(rows)) < 0.3)
            elif col.kind == "int" and column in PRECEDENCE[table].tolerance:
                rows[column] = rows[column].mask(rng.random(len(rows)) < 0.1, rows[column] + 1)
        if table in CORRECTED:
            # every source puts the flag, and so the result, at a second of its own
            by = pd.Timedelta(seconds=int(rng.integers(-3, 4)))
            rows["event_timestamp"], rows["created_timestamp"] = rows["event_timestamp"] + by, rows["created_timestamp"] + by
        if len(rows):
            said[table] = conform(table, rows)
    return said


def with_clock(frames: Frames, name: str, by: pd.Timedelta) -> Frames:
    """What a source tells whose schedule has every race `by` later."""
    said = {}
    for table, rows in frames.items():
        times = rows.select_dtypes("datetimetz").columns if TABLES[table].is_race_table or table == "races" else []
        said[table] = rows.assign(source=name, **{column: rows[column] + by for column in times})
    return {table: rows for table, rows in said.items() if len(rows)}


class Told:
    """A service that says what it was given; it may say some rounds only, pause or fail."""

    is_simulated = False

    def __init__(
        self,
        name: str,
        tables: Frames,
        *,
        rounds: Sequence[int] | None = None,
        then: Exception | None = None,
        told: Mapping[str, Mapping[int, str]] | None = None,
    ) -> None:
        self.name = name
        self.told = told or {}
        self.rounds = None if rounds is None else frozenset(rounds)
        self.then = then
        keep = self.rounds
        self.tables = {
            table: rows if keep is None or "round" not in rows else rows[rows["round"].isin(keep)].reset_index(drop=True)
            for table, rows in tables.items()
        }

    def fingerprint(self) -> str | None:
        return None

    def read(self, seasons: Sequence[int], report: IngestReport) -> Iterator[SeasonTables]:
        for offered in (self.offered(season) for season in seasons):
            for table, rows in offered.tables.items():
                report.table(table).rows_read += len(rows)
            yield offered
        if self.then is not None:
            raise self.then

    def offered(self, season: int) -> SeasonTables:
        """What it says of a season."""
        tables = {table: rows[rows["season"] == season] if "season" in rows else rows for table, rows in self.tables.items()}
        return SeasonTables(season, tables, rounds=self.rounds, told=self.told)


class Still(Told):
    """A source that tells beforehand that it says the same as ever."""

    def fingerprint(self) -> str:
        return "as ever"
