"""Standings that depend on everybody at once: Elo ratings and the championship, replayed in the order things became known.

Elo: everyone starts at 1500. A race is one round in which each starter meets every other: with score S the share of opponents
finished behind (a tie is half) and expectation E the mean of 1 / (1 + 10^((opponent - own) / 400)), the rating changes by
K (S - E) with K = 32 for the whole race; all changes of a race use the ratings before it. A correction of an old race replays
every race after it.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator

import numpy as np
import pandas as pd

from pipelines.features.knowledge import KNOWN, FloatArray

START = 1500.0
K = 32.0
SCALE = 400.0

_Field = tuple[list[str], FloatArray]


def played(before: dict[str, float], names: list[str], finish: FloatArray) -> dict[str, float]:
    """Ratings after one race.

    Args:
        before: rating of everyone who has raced; others start at `START`.
        names: the n competitors of the race.
        finish: (n,) finishing order, lower is better.
    """
    after = dict(before)
    if len(names) < 2:
        after.update({name: before.get(name, START) for name in names})
        return after
    rating = np.array([before.get(name, START) for name in names])
    score = (finish[:, None] < finish[None, :]) + 0.5 * (finish[:, None] == finish[None, :])
    expected = 1.0 / (1.0 + 10.0 ** ((rating[None, :] - rating[:, None]) / SCALE))
    surplus = score - expected
    np.fill_diagonal(surplus, 0.0)
    change = K * surplus.sum(axis=1) / (len(names) - 1)
    after.update(zip(names, (rating + change).tolist(), strict=True))
    return after


def elo(facts: pd.DataFrame, competitor: str) -> pd.DataFrame:
    """Each competitor's rating at each publication of a race they were in, all races known by then counted.

    Args:
        facts: `race` (chronological number), `known`, `finish` and the competitor's id.
        competitor: name of the id column.
    Returns:
        `known, <competitor>, elo`, one row each.
    """
    order: list[int] = []
    fields: dict[int, _Field] = {}
    after: dict[int, dict[str, float]] = {}
    rows: list[tuple[int, str, float]] = []
    for known, published in _publications(facts, competitor):
        for race in published:
            if race not in fields:
                insort(order, race)
            fields[race] = published[race]
        first = bisect_left(order, min(published))
        ratings = after[order[first - 1]] if first else {}
        for race in order[first:]:
            ratings = played(ratings, *fields[race])
            after[race] = ratings
        touched = sorted({name for names, _ in published.values() for name in names})
        rows.extend((known, name, ratings[name]) for name in touched)
    return pd.DataFrame(rows, columns=[KNOWN, competitor, "elo"]).astype({KNOWN: "int64", competitor: "object", "elo": "float64"})


def standings(teams: pd.DataFrame) -> pd.DataFrame:
    """Each constructor's championship place in the latest season known at each publication.

    Args:
        teams: from `team_facts`: `season, race, known, constructor_id, points, finish_best`.
    Returns:
        `known, constructor_id, standing` for the constructors of that season; equal points go to the better best finish, equal
        both share the place. NaN for a constructor without any known points in it.
    """
    current: dict[int, pd.DataFrame] = {}
    season_of: dict[int, int] = {}
    tables = []
    for known, published in teams.sort_values([KNOWN, "race", "constructor_id"], kind="stable").groupby(KNOWN, sort=True):
        for race, rows in published.groupby("race", sort=True):
            current[int(race)] = rows
            season_of[int(race)] = int(rows["season"].iloc[0])
        latest = max(season_of.values())
        season = pd.concat([rows for race, rows in sorted(current.items()) if season_of[race] == latest])
        by_team = season.groupby("constructor_id", sort=True)
        total = by_team.agg(best=("finish_best", "min")).assign(points=by_team["points"].sum(min_count=1)).reset_index()
        rank = np.lexsort((total["best"].to_numpy(), -total["points"].to_numpy()))
        total = total.iloc[rank]
        is_new = np.concatenate(([True], (np.diff(total[["points", "best"]].to_numpy(), axis=0) != 0).any(axis=1)))
        place = np.maximum.accumulate(np.where(is_new, np.arange(1, len(total) + 1), 0)).astype(np.float64)
        place[total["points"].isna()] = np.nan  # they sort last, so that no place of the others depends on them
        tables.append(total[["constructor_id"]].assign(**{KNOWN: known, "standing": place}))
    columns = {"constructor_id": "object", KNOWN: "int64", "standing": "float64"}
    return (pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(columns))).astype(columns)


def _publications(facts: pd.DataFrame, competitor: str) -> Iterator[tuple[int, dict[int, _Field]]]:
    ordered = facts.sort_values([KNOWN, "race", competitor], kind="stable")
    for known, published in ordered.groupby(KNOWN, sort=True):
        yield (
            int(known),
            {
                int(race): (rows[competitor].tolist(), rows["finish"].to_numpy(dtype=np.float64))
                for race, rows in published.groupby("race", sort=True)
            },
        )
