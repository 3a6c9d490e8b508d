"""When rows were known: the rules that keep every feature table free of the future, whatever order rows arrive in.

A row is known at `max(event_timestamp, created_timestamp)`. A row that comes later with the same natural key corrects the earlier
one from then on; what was computed before stays as it was. Instants are int64 microseconds since 1970 (UTC) inside computations.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feature_repo.visibility import CREATED, EVENT
from pipelines.errors import ConflictingRowsError

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

KNOWN = "known"
_UTC_US = "datetime64[us, UTC]"
_NEVER = 2**53  # the year 2255; exact as a float


def micros(stamps: "pd.Series[Any]") -> IntArray:
    """Tz-aware timestamps as int64 microseconds since 1970."""
    return stamps.astype(_UTC_US).astype("int64").to_numpy()


def stamps(instants: "IntArray | Sequence[int]") -> "pd.Series[Any]":
    """Int64 microseconds since 1970 as UTC timestamps."""
    return pd.Series(np.asarray(instants, dtype=np.int64)).astype("datetime64[us]").dt.tz_localize("UTC")


def versions(frame: pd.DataFrame, key: Sequence[str]) -> pd.DataFrame:
    """`frame` without repeated rows, sorted by key and time, with `known` (microseconds) added.

    Args:
        frame: canonical rows.
        key: natural key; several rows of a key are versions of it, told apart by when they were known.
    Raises:
        ConflictingRowsError: two different rows of one key became known at the same instant, so neither corrects the other.
    """
    rows = frame.assign(**{KNOWN: np.maximum(micros(frame[EVENT]), micros(frame[CREATED]))})
    rows = rows.sort_values([*key, KNOWN], kind="stable", ignore_index=True)
    repeated = rows.duplicated([*key, KNOWN], keep=False)
    if not repeated.any():
        return rows
    rows = rows.drop_duplicates(ignore_index=True)
    conflict = rows.duplicated([*key, KNOWN], keep=False)
    if conflict.any():
        first = rows.loc[conflict, list(key)].iloc[0].to_dict()
        raise ConflictingRowsError(
            f"{first}: {int(conflict.sum())} different rows became known at one instant, expected one; ingest the season again"
        )
    return rows


def as_known_at(rows: pd.DataFrame, moments: pd.DataFrame, key: Sequence[str]) -> pd.DataFrame:
    """What was known of a race at each moment: per moment and key, the newest version known by then.

    Args:
        rows: from `versions`; has `race_id`, `known`.
        moments: distinct (`race_id`, `known`), microseconds.
        key: natural key of `rows`, `race_id` included.
    Returns:
        `rows` once per moment of their race at which they were current; `known` is the moment's.
    """
    grown = moments[["race_id", KNOWN]].merge(rows.rename(columns={KNOWN: "_version"}), on="race_id", how="inner")
    grown = grown[grown["_version"] <= grown[KNOWN]]
    if grown.duplicated([KNOWN, *key]).any():
        grown = grown.sort_values([*key, KNOWN, "_version"], kind="stable").drop_duplicates([KNOWN, *key], keep="last")
    return grown.drop(columns="_version").sort_values(["race_id", KNOWN, *key[1:]], kind="stable", ignore_index=True)


def with_race(frame: pd.DataFrame, races: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """`frame` with columns of its race as the calendar said when each row was known; null where it said nothing yet.

    Args:
        frame: has `race_id` and `known`; its index is replaced by 0..n-1.
        races: canonical races.
        columns: columns of `races` to add.
    """
    calendar = versions(races, ["race_id"])[["race_id", KNOWN, *columns]].sort_values(KNOWN, kind="stable")
    left = frame[["race_id", KNOWN]].reset_index(drop=True).reset_index(names="_row").sort_values(KNOWN, kind="stable")
    joined = pd.merge_asof(left, calendar, on=KNOWN, by="race_id").sort_values("_row", kind="stable")
    return frame.reset_index(drop=True).assign(**{column: joined[column].array for column in columns})


def histories(race: IntArray, known: IntArray) -> Iterator[tuple[int, int, IntArray]]:
    """The history of one key each time something about it becomes known.

    Args:
        race: (n,) chronological number of the race each row is about.
        known: (n,) when each row became known; a later row of a race corrects the earlier one.
    Yields:
        (known, event, rows): the instant; the instant at which the newest race of the history was first known, at most `known`
        (a correction keeps it); the current row of each race known by then, in race order.
    """
    current: dict[int, int] = {}
    event = 0
    by_known = np.lexsort((race, known))
    instants = known[by_known]
    starts = np.flatnonzero(np.diff(instants, prepend=instants[:1] - 1))
    for start, end in zip(starts, [*starts[1:], len(instants)], strict=True):
        instant = int(instants[start])
        for row in by_known[start:end]:
            if int(race[row]) not in current:
                event = instant
            current[int(race[row])] = int(row)
        yield instant, event, np.array([current[number] for number in sorted(current)], dtype=np.int64)


def replayed(
    frame: pd.DataFrame, key: Sequence[str], entity: Sequence[str], compute: Callable[[pd.DataFrame], pd.DataFrame]
) -> pd.DataFrame:
    """Rows of a view that gets one row an event during a race, also where rows arrived late or were corrected.

    Rows known at their event are computed in one call. Where a race has a row that became known at another instant, or corrects
    an earlier one, the race is computed again with everything known by that instant: for the entities that something became known
    about then, and for the events that follow.

    Args:
        frame: canonical rows of a race table.
        key: its natural key.
        entity: key columns of the view, `race_id` first.
        compute: makes view rows (with `entity` columns and the stamps), by entity and event, from rows that were known at their
            event; a row may use only rows of its race with an event no later than its own.
    """
    rows = versions(frame, key)
    is_odd = (rows[KNOWN].to_numpy() != micros(rows[EVENT])) | rows.duplicated(list(key), keep="first").to_numpy()
    odd_instants = {race_id: np.unique(odd[KNOWN]) for race_id, odd in rows[is_odd].groupby("race_id", sort=True)}
    made = compute(rows[~is_odd])
    until = _per_race(made, {race_id: instants[0] for race_id, instants in odd_instants.items()}, default=_NEVER)
    parts = [made[micros(made[EVENT]) < until]]
    for step in range(max(map(len, odd_instants.values()), default=0)):
        begins = {race_id: instants[step] for race_id, instants in odd_instants.items() if step < len(instants)}
        ends = {race_id: instants[step + 1] for race_id, instants in odd_instants.items() if step + 1 < len(instants)}
        is_here = rows["race_id"].isin(begins).to_numpy()
        here, odd_here = rows[is_here], is_odd[is_here]
        since = _per_race(here, begins)
        arrived = here.loc[here[KNOWN] == since, list(entity)].drop_duplicates()
        made = compute(here[~odd_here | (here[KNOWN] <= since)].drop_duplicates(list(key), keep="last"))
        event, since, until = micros(made[EVENT]), _per_race(made, begins), _per_race(made, ends, default=_NEVER)
        parts.append(made[(event > since) & (event < until)])
        newest = made[event <= since].drop_duplicates(list(entity), keep="last").merge(arrived, on=list(entity))
        parts.append(newest.assign(**{CREATED: stamps(_per_race(newest, begins))}))
    filled = [part for part in parts if not part.empty]
    return pd.concat(filled, ignore_index=True) if filled else made


def _per_race(rows: pd.DataFrame, of_race: dict[str, int], default: int = 0) -> IntArray:
    return rows["race_id"].map(of_race).fillna(default).to_numpy(dtype=np.int64)


def table(rows: pd.DataFrame, entity: Sequence[str], dtypes: dict[str, str]) -> pd.DataFrame:
    """The feature table: key columns, features in their types, both stamps; sorted by key and time, one row a key and stamps."""
    columns = [*entity, *dtypes, EVENT, CREATED]
    typed = rows[columns].astype({**dict.fromkeys(entity, "object"), **dtypes, EVENT: _UTC_US, CREATED: _UTC_US})
    typed = typed.sort_values([*entity, EVENT, CREATED], kind="stable", ignore_index=True)
    return typed.drop_duplicates([*entity, EVENT, CREATED], keep="last", ignore_index=True)
