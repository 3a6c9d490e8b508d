"""What a source of races is: something that yields the canonical tables of a season, and accounts for every row it read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pandas as pd


@dataclass(frozen=True)
class SeasonTables:
    """One season as a source offers it.

    Attributes:
        season: championship year.
        tables: canonical table -> rows with exactly the columns of `pipelines.schemas.TABLES[table]`; a table left out is empty.
        quarantine: canonical table -> rows left out (`season, reason, source_file, row_number, row` as JSON text).
        rounds: rounds that the tables speak about, whole; None: the whole season. What the source said before about other rounds
            stays.
        calendar: for a source that has no races of its own, the rows of `races` that it put its instants by. They are kept with
            what it said, so that its rows follow when another start is believed, and never get into the lake themselves.
        told: canonical table -> round -> hash of what the source itself said of a classification (`canonical.told`). With it a
            correction that comes together with new code is told from a difference that the code makes.
    """

    season: int
    tables: dict[str, pd.DataFrame]
    quarantine: dict[str, pd.DataFrame] = field(default_factory=dict)
    rounds: frozenset[int] | None = None
    calendar: pd.DataFrame | None = None
    told: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


@dataclass
class TableAccount:
    """What became of the source rows of one canonical table. `rows_read` is the sum of all the others."""

    rows_read: int = 0
    rows_written: int = 0
    rows_quarantined: int = 0
    rows_duplicate: int = 0
    rows_replaced: int = 0
    rows_other_season: int = 0
    rows_other_session: int = 0

    @property
    def unaccounted(self) -> int:
        """Rows read that are in no other count; 0 when the books are right."""
        return self.rows_read - (
            self.rows_written
            + self.rows_quarantined
            + self.rows_duplicate
            + self.rows_replaced
            + self.rows_other_season
            + self.rows_other_session
        )


@dataclass
class IngestReport:
    """What an ingest read, wrote, left out and why.

    Attributes:
        source: name of the source.
        is_simulated: the rows are simulated.
        seasons: seasons asked for.
        tables: canonical table -> account.
        quarantine_reasons: table -> reason -> rows.
        notes: what degraded or deserves a look, in words.
        seconds: wall time.
        skipped_up_to_date: nothing had changed, so nothing was written; the accounts are those of the run that wrote.
        complete: seasons that were read whole.
        rounds: season -> rounds read, for seasons that were read in part.
        corrected: table -> rows whose source now says something else than before; the earlier rows stay (see `history`).
    """

    source: str
    is_simulated: bool
    seasons: list[int]
    tables: dict[str, TableAccount] = field(default_factory=dict)
    quarantine_reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    skipped_up_to_date: bool = False
    complete: list[int] = field(default_factory=list)
    rounds: dict[int, list[int]] = field(default_factory=dict)
    corrected: dict[str, int] = field(default_factory=dict)

    def table(self, name: str) -> TableAccount:
        """The account of one table, opened when it is first asked for."""
        return self.tables.setdefault(name, TableAccount())

    def note(self, text: str) -> None:
        """Add a remark once."""
        if text not in self.notes:
            self.notes.append(text)

    def to_json(self) -> dict[str, Any]:
        """The report as one JSON object."""
        return {
            "source": self.source,
            "is_simulated": self.is_simulated,
            "seasons": list(self.seasons),
            "tables": {name: dict(vars(account)) for name, account in self.tables.items()},
            "quarantine_reasons": {name: dict(reasons) for name, reasons in self.quarantine_reasons.items()},
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
            "skipped_up_to_date": self.skipped_up_to_date,
            "complete": list(self.complete),
            "rounds": {str(season): rounds for season, rounds in self.rounds.items()},
            "corrected": dict(self.corrected),
        }


class Source(Protocol):
    """Where seasons come from.

    `pipelines.ingest.run.ingest` validates and writes what `read` yields; a source never touches the lake. It fills, in the
    report, every count but `rows_written` (for a source without files: `report.table(name).rows_read += len(frame)`).
    """

    @property
    def name(self) -> str:
        """`files`, `simulator`, ...: the value of the column `source` in every row."""
        ...

    @property
    def is_simulated(self) -> bool:
        """The rows are simulated; every row then has `source == "simulator"`."""
        ...

    def fingerprint(self) -> str | None:
        """Hash of everything the rows depend on (file contents, parameters), so that an unchanged re-run can be skipped.

        What `read` yields for a season depends on this only, not on which other seasons were asked for. None: it is not known
        before the source is asked (a service on the network), so `read` is always called and answers from its own cache.
        """
        ...

    def read(self, seasons: Sequence[int], report: IngestReport) -> Iterator[SeasonTables]:
        """Yield each asked season once, in ascending order.

        A source that has to stop on the way yields the season it is in with the rounds that are complete, then raises
        `SourcePausedError`: what was yielded is written.

        Raises:
            SourceFormatError: a file or a response cannot be understood.
            SourceMissingError: a season has no rows.
            SourcePausedError: the source has to be asked again later.
        """
        ...
