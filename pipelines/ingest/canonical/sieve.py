"""Row accounting: every source row is kept, or counted as duplicate, replaced, not asked for, or quarantined with a reason."""

import json
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import pandas as pd

from pipelines.ingest.base import IngestReport
from pipelines.ingest.canonical.reading import FILE, ROW

logger = logging.getLogger(__name__)

ORIGIN = "_origin"  # number of the offered frame a row came from: later frames win
Rule = tuple[str, Callable[[pd.DataFrame], "pd.Series[bool]"]]


class Sieve:
    """Sorts source rows for one run and keeps the books in `report`.

    Frames have `season` and the columns `FILE` and `ROW` that say where a row came from.
    """

    def __init__(self, report: IngestReport, seasons: Collection[int]) -> None:
        self.report = report
        self.seasons = frozenset(seasons)
        self._rejected: dict[tuple[str, int], list[pd.DataFrame]] = {}

    def asked(self, table: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Count all rows of `frame` as read and keep those of the seasons asked for."""
        account = self.report.table(table)
        keep = frame["season"].isin(self.seasons)
        account.rows_read += len(frame)
        account.rows_other_season += int((~keep).sum())
        return frame[keep].reset_index(drop=True)

    def check(self, table: str, frame: pd.DataFrame, rules: Iterable[Rule]) -> pd.DataFrame:
        """Keep the rows that break no rule; the others are quarantined under the first rule they break."""
        if frame.empty:
            return frame
        reasons = pd.Series(None, index=frame.index, dtype=object)
        for reason, broken in rules:
            hit = broken(frame)
            if hit.any():
                reasons[reasons.isna() & hit.fillna(False).astype(bool)] = reason
        return self.reject(table, frame, reasons)

    def reject(self, table: str, frame: pd.DataFrame, reasons: "pd.Series[Any]") -> pd.DataFrame:
        """Quarantine the rows that have a reason; keep the others."""
        bad = reasons.notna()
        if not bad.any():
            return frame
        rejected = frame[bad]
        account = self.report.table(table)
        account.rows_quarantined += len(rejected)
        tally = self.report.quarantine_reasons.setdefault(table, {})
        for reason, count in reasons[bad].value_counts().items():
            tally[str(reason)] = tally.get(str(reason), 0) + int(count)
        shown = [column for column in frame.columns if not str(column).startswith("_")]
        rows = pd.DataFrame(
            {
                "season": rejected["season"].astype("int64"),
                "reason": reasons[bad].astype(str),
                "source_file": rejected[FILE],
                "row_number": rejected[ROW].astype("int64"),
                "row": [json.dumps(_plain(record), sort_keys=True) for record in rejected[shown].to_dict("records")],
            }
        )
        for season, part in rows.groupby("season"):
            self._rejected.setdefault((table, int(season)), []).append(part)
            logger.warning(
                "rows_quarantined table=%s season=%s rows=%s reason=%s", table, season, len(part), part["reason"].iloc[0]
            )
        return frame[~bad].reset_index(drop=True)

    def union(self, table: str, frames: Sequence[pd.DataFrame], key: list[str], content: list[str]) -> pd.DataFrame:
        """One row a key out of several frames; a later frame wins over an earlier one.

        A row equal (on `content`) to the one kept is a duplicate; one that differs is replaced if it is from another file, and
        quarantined if it is from the same file, because a file that contradicts itself has no later word.
        """
        if not frames:
            return pd.DataFrame(columns=[*key, *content, FILE, ROW])
        parts = [frame.assign(**{ORIGIN: number}) for number, frame in enumerate(frames) if len(frame)]
        every = pd.concat(parts, ignore_index=True) if parts else frames[0].assign(**{ORIGIN: 0})
        shared = every.duplicated(key, keep=False)
        if not shared.any():
            return every
        rivals = every[shared].sort_values([*key, ORIGIN, ROW], ascending=[*[True] * len(key), False, True], kind="stable")
        digest = pd.util.hash_pandas_object(
            rivals[content].astype(object).where(rivals[content].notna(), None).astype(str), index=False
        )
        group = rivals.groupby(key, sort=False, dropna=False)
        kept_digest = digest.groupby(group.ngroup()).transform("first")
        kept_origin = group[ORIGIN].transform("first")
        lost = rivals.duplicated(key, keep="first")
        same = lost & (digest == kept_digest)
        contradicts = lost & ~same & (rivals[ORIGIN] == kept_origin)
        account = self.report.table(table)
        account.rows_duplicate += int(same.sum())
        account.rows_replaced += int((lost & ~same & ~contradicts).sum())
        gone = rivals.index[lost & ~contradicts]
        reasons = pd.Series(None, index=every.index, dtype=object)
        reasons[rivals.index[contradicts]] = "duplicate key: differs from an earlier row of the same file"
        kept = every.drop(index=gone)
        return self.reject(table, kept, reasons[kept.index]).reset_index(drop=True)

    def other_session(self, table: str, rows: int) -> None:
        """Count rows of practice, qualifying or of races that were not held."""
        self.report.table(table).rows_other_session += rows

    def derived(self, table: str, rows: int) -> None:
        """Count rows made from another table's rows."""
        self.report.table(table).rows_read += rows

    def rejected(self, season: int) -> dict[str, pd.DataFrame]:
        """Table -> rows quarantined in a season, in a fixed order."""
        return {
            table: pd.concat(parts).sort_values(["source_file", "row_number", "reason"], kind="stable", ignore_index=True)
            for (table, of), parts in sorted(self._rejected.items())
            if of == season
        }


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, value in record.items():
        if pd.isna(value):
            plain[name] = None
        elif isinstance(value, bool | int | float | str):
            plain[name] = value
        else:
            plain[name] = str(value)
    return plain


def is_bad_ref(values: "pd.Series[Any]") -> "pd.Series[bool]":
    """Which values are not ids of the form `[a-z0-9_]{1,64}`."""
    return ~values.astype("string").str.fullmatch(r"[a-z0-9_]{1,64}").fillna(False).astype(bool)


def outside(column: str, low: float, high: float, *, whole: bool = False) -> Callable[[pd.DataFrame], "pd.Series[bool]"]:
    """A rule's test: the value is given and not within [low, high] (or not a whole number). Infinite values are outside."""

    def broken(frame: pd.DataFrame) -> "pd.Series[bool]":
        values = frame[column]
        wrong = values.notna() & ~values.between(low, high)
        return wrong | (values.notna() & (values % 1 != 0)) if whole else wrong

    return broken


def is_null(column: str) -> Callable[[pd.DataFrame], "pd.Series[bool]"]:
    """A rule's test: the value is not given."""
    return lambda frame: frame[column].isna()
