"""A lake as it could have been at an instant: the future deleted, or another future in its place. Frames in, frames out.

What was knowable is kept as it is: rows that were true and known by then. Two facts were known at other times than their rows:
the grid half of an entry at `grid_timestamp`, long before its result, and `race_end` at the flag, long after the calendar.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from feature_repo.visibility import CREATED, EVENT, visible
from pipelines import schemas

Frames = dict[str, pd.DataFrame]
Variant = Callable[[Frames, pd.Timestamp], Frames]

GRID_HALF = ("constructor_id", "code", "car_number", "grid", "is_pit_lane_start", "grid_timestamp")
# Where a table cannot do without a time that nobody knew yet: long after anything a lake holds, and the same for every row.
_NOT_KNOWN_FOR = pd.Timedelta(days=3650)
_FIXED = {"race_id", "driver_id", "season", "round", "source", EVENT, CREATED}
_CORRECTED_AFTER = pd.Timedelta(hours=1)
_CORRECTED_SINCE = pd.Timedelta(days=120)


def truncated(lake: Frames, as_of: pd.Timestamp) -> Frames:
    """Only what was knowable at `as_of`.

    Of an entry whose grid was known but not its result, the result is that of a car about which nothing is known: not classified,
    last, no lap, published in ten years. A race that was not over ends at its start.
    """
    kept = {name: frame[visible(frame, as_of)].reset_index(drop=True) for name, frame in lake.items()}
    if "entries" in lake:
        pending = _on_the_grid(lake["entries"], as_of)
        never = as_of + _NOT_KNOWN_FOR
        unknown = pending.assign(
            position=np.nan, position_order=1, is_classified=False, status="Unknown", points=np.nan, laps_completed=0
        ).assign(**{EVENT: never, CREATED: never})
        kept["entries"] = _joined(kept["entries"], unknown)
    if "races" in kept:
        races = kept["races"]
        kept["races"] = races.assign(race_end=races["race_end"].mask(races["race_end"] > as_of, races["race_start"]))
    return kept


def scrambled(lake: Frames, as_of: pd.Timestamp, *, seed: int = 0) -> Frames:
    """What was knowable at `as_of`, followed by another future.

    Later rows are dropped (one in ten), or changed in every column but their key and a minute and a half later; cars drive laps
    that they never drove; results that were not out are others; and one row in five of the last four months is corrected an hour
    after `as_of`.
    """
    rng = np.random.default_rng(seed)
    return {name: _other_future(name, frame, as_of, rng) for name, frame in sorted(lake.items())}


def _on_the_grid(entries: pd.DataFrame, as_of: pd.Timestamp) -> pd.DataFrame:
    """Entries whose result was not known and whose grid was; a mere correction of a result told nothing new about the grid."""
    first = ~entries.sort_values(CREATED, kind="stable").duplicated(["race_id", "driver_id", "grid_timestamp"]).sort_index()
    return entries[~visible(entries, as_of) & (entries["grid_timestamp"] <= as_of) & first]


def _other_future(name: str, frame: pd.DataFrame, as_of: pd.Timestamp, rng: np.random.Generator) -> pd.DataFrame:
    known = visible(frame, as_of)
    past, future = frame[known], frame[~known]
    fixed = set(schemas.table(name).key) | _FIXED
    later = pd.Timedelta(seconds=95)
    if name == "entries":
        fixed_grid = future["grid_timestamp"] <= as_of  # of these only the result is open; they stay
        pending = _shifted(_revalued(future[fixed_grid], fixed | set(GRID_HALF), later, rng), later)
        free = future[~fixed_grid]
        parts = [past, pending]
    else:
        free, parts = future, [past]
    parts.append(_shifted(_revalued(free[rng.random(len(free)) >= 0.1], fixed, later, rng), later))
    if name == "laps" and len(free):
        last = free.sort_values("lap", kind="stable").groupby(["race_id", "driver_id"]).tail(1)
        last = last.assign(lap=last["lap"] + 1)
        longer = pd.Timedelta(seconds=300)
        parts.append(_shifted(_revalued(last, fixed, longer, rng), longer))
    recent = past[(past[CREATED] > as_of - _CORRECTED_SINCE).to_numpy() & (rng.random(len(past)) < 0.2)]
    recent = recent.drop_duplicates(list(schemas.table(name).key), keep="last")
    corrected = _revalued(recent, fixed | set(GRID_HALF), pd.Timedelta(0), rng)
    parts.append(
        corrected.assign(**{CREATED: pd.Series(as_of + _CORRECTED_AFTER, index=corrected.index, dtype=frame[CREATED].dtype)})
    )
    made = _joined(*parts)
    if name == "races":
        is_open = made["race_end"] > as_of
        made["race_end"] = made["race_end"].mask(is_open, made["race_end"] + pd.Timedelta(minutes=7))
    return made


def _revalued(rows: pd.DataFrame, fixed: set[str], later: pd.Timedelta, rng: np.random.Generator) -> pd.DataFrame:
    """Every column that is not fixed: times later, numbers that may be broken changed, everything else dealt out anew."""
    changed = {}
    for column in rows.columns:
        if column in fixed:
            continue
        values = rows[column]
        if isinstance(values.dtype, pd.DatetimeTZDtype):
            changed[column] = values + later
        elif values.dtype == np.float64:
            dealt = values.to_numpy()[rng.permutation(len(values))]
            changed[column] = pd.Series(dealt * rng.uniform(0.9, 1.1, len(values)), index=values.index)
        else:
            changed[column] = values.iloc[rng.permutation(len(values))].set_axis(values.index)
    return rows.assign(**changed)


def _shifted(rows: pd.DataFrame, by: pd.Timedelta) -> pd.DataFrame:
    return rows.assign(**{column: rows[column] + by for column in (EVENT, CREATED)})


def _joined(*parts: pd.DataFrame) -> pd.DataFrame:
    filled = [part for part in parts if len(part)]
    if not filled:
        return parts[0].reset_index(drop=True)
    return pd.concat([part.astype(parts[0].dtypes) for part in filled], ignore_index=True)
