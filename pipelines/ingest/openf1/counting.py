"""Which round of the season a weekend is: by its date where the calendar is known, and counted where it is not.

OpenF1 has no official round, and a race without a result may have been cancelled or may lack its result for a while: only a
calendar tells, so nothing is counted on beyond such a race.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd

from feature_repo.settings import Settings
from pipelines.ingest.files.fallbacks import read_f1db_dates
from pipelines.ingest.openf1.answers import RaceWeekend
from pipelines.lake import Lake

SAME_RACE = pd.Timedelta(days=3)  # calendars date some races a day apart; two races are a week apart
Standing = Literal["held", "silent", "ahead"]


@dataclass
class Counted:
    """The weekends of a season, told apart.

    Attributes:
        rounds: official round -> weekend.
        cancelled: weekends without a result for which the calendar leaves no round.
        unplaced: weekends that the calendar has no certain round for.
        doubtful: a race without a result that others follow, where the calendar ends: what follows has no round.
    """

    rounds: dict[int, RaceWeekend] = field(default_factory=dict)
    cancelled: list[RaceWeekend] = field(default_factory=list)
    unplaced: list[RaceWeekend] = field(default_factory=list)
    doubtful: RaceWeekend | None = None


def calendars(
    settings: Settings, name: str, season: int, paths: Sequence[Path]
) -> tuple[dict[int, pd.Timestamp], dict[int, pd.Timestamp]]:
    """Round -> start of its race (UTC; f1db: the day), as others than the source `name` have it, and with what it gave before.

    Args:
        settings: where the lake is.
        name: the source that counts.
        season: championship year.
        paths: folders that may hold `f1db/races.csv`; the lake comes before them.
    """
    lake = Lake(settings.lake_dir).read("races", [season], ["round", "race_start", "source"])
    every = {int(row["round"]): row["race_start"] for row in lake.to_dict("records")}
    official = {int(round_): every[round_] for round_ in lake.loc[lake["source"] != name, "round"]}
    for path in paths:
        official = read_f1db_dates(path, season) | official
    return official, every | official


def count_rounds(
    weekends: Sequence[RaceWeekend],
    calendar: Mapping[int, pd.Timestamp],
    standing: Callable[[RaceWeekend], Standing],
    last: int | None = None,
) -> Counted:
    """The round of each weekend.

    Between two races of the calendar, weekends take the rounds that it leaves free, if they are as many: those with a result, or
    else all of them. A weekend without a result for which no round is left was cancelled.

    Args:
        weekends: in order of their races.
        calendar: official round -> start of its race, UTC; may have gaps or be empty.
        standing: `held`: the race has a result; `silent`: it is over and has none; `ahead`: it is not over. Asked only about
            weekends that are not in the calendar.
        last: count no further than this round; None: to the end.
    """
    found, before = Counted(), 0
    between: list[RaceWeekend] = []
    dated = _by_date(weekends, calendar)
    for weekend in weekends:
        round_ = dated.get(weekend.race_key)
        if round_ is None:
            between.append(weekend)
            continue
        _fill(found, between, range(before + 1, round_), standing)
        found.rounds[round_] = weekend
        before, between = round_, []
    _count_on(found, between, before, standing, last)
    return found


def _by_date(weekends: Sequence[RaceWeekend], calendar: Mapping[int, pd.Timestamp]) -> dict[int, int]:
    """`race_key` -> round of the calendar whose race is nearest and no other one."""
    found: dict[int, int] = {}
    for round_, start in sorted(calendar.items()):
        nearest = min(weekends, key=lambda weekend: abs(weekend.race_start - start), default=None)
        if nearest is not None and abs(nearest.race_start - start) <= SAME_RACE:
            found.setdefault(nearest.race_key, round_)
    return found


def _fill(found: Counted, between: list[RaceWeekend], free: range, standing: Callable[[RaceWeekend], Standing]) -> None:
    held = [weekend for weekend in between if standing(weekend) == "held"]
    for candidates in (held, between):
        if len(candidates) == len(free):
            found.rounds.update(zip(free, candidates, strict=True))
            found.cancelled += [weekend for weekend in between if weekend not in candidates]
            return
    found.unplaced += between


def _count_on(
    found: Counted, weekends: list[RaceWeekend], before: int, standing: Callable[[RaceWeekend], Standing], last: int | None
) -> None:
    for number, weekend in enumerate(weekends, start=1):
        if last is not None and before + number > last:
            return
        if standing(weekend) == "silent" and any(standing(later) == "held" for later in weekends[number:]):
            found.doubtful = weekend
            return
        found.rounds[before + number] = weekend
