"""What every source's raw rows have to be: the rules of each table, what tells its rows apart, and what they say."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from pipelines.ingest.canonical import conditions, entries, standings, timing
from pipelines.ingest.canonical.reading import Kind
from pipelines.ingest.canonical.sieve import Rule, Sieve


@dataclass(frozen=True)
class Check:
    """The check of one table.

    Attributes:
        rules: what a row must not break.
        key: columns that tell rows apart.
        content: columns in which a repeated row may contradict the first.
    """

    rules: list[Rule]
    key: list[str]
    content: list[str]


def _names(columns: Mapping[str, tuple[str, Kind]]) -> list[str]:
    return [name for name, _ in columns.values()]


CHECKS: dict[str, Check] = {
    "races": Check(entries.RACE_RULES, entries.RACE_KEY, entries.RACE_CONTENT),
    "entries": Check(entries.RESULT_RULES, entries.ENTRY_KEY, entries.RESULT_CONTENT),
    "qualifying": Check(entries.QUALIFYING_RULES, entries.ENTRY_KEY, entries.QUALIFYING_CONTENT),
    "sprint_results": Check(standings.SPRINT_RULES, entries.ENTRY_KEY, standings.SPRINT_CONTENT),
    "driver_standings": Check(standings.DRIVER_STANDING_RULES, standings.DRIVER_STANDING_KEY, standings.STANDING_CONTENT),
    "constructor_standings": Check(
        standings.CONSTRUCTOR_STANDING_RULES, standings.CONSTRUCTOR_STANDING_KEY, standings.STANDING_CONTENT
    ),
    "laps": Check(timing.LAP_RULES, timing.LAP_KEY, _names({**timing.LAP_COLUMNS, **timing.LAP_OPTIONAL})),
    "stints": Check(timing.STINT_RULES, timing.STINT_KEY, _names(timing.STINT_COLUMNS)),
    "pit_stops": Check(timing.PIT_RULES, timing.PIT_KEY, _names(timing.PIT_COLUMNS)),
    "weather": Check(conditions.WEATHER_RULES, conditions.WEATHER_KEY, _names(conditions.WEATHER_COLUMNS)),
    "track_status": Check(conditions.STATUS_RULES, conditions.STATUS_KEY, _names(conditions.STATUS_COLUMNS)),
    "race_control": Check(conditions.CONTROL_RULES, conditions.CONTROL_KEY, conditions.CONTROL_CONTENT),
}


def sifted(table: str, frames: Iterable[pd.DataFrame], sieve: Sieve, check: Check | None = None) -> pd.DataFrame:
    """The rows of all frames that break no rule, one a key; a later frame wins over an earlier one (see `Sieve.union`).

    Args:
        table: canonical table, under which rows are counted.
        frames: raw rows, with where they came from.
        sieve: keeps the books.
        check: another one than that of the table.
    """
    asked = check or CHECKS[table]
    fit = [sieve.check(table, sieve.asked(table, frame), asked.rules) for frame in frames]
    return sieve.union(table, fit, asked.key, asked.content)
