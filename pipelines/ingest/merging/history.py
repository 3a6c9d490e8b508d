"""What a source said before is kept: a classification that it corrects becomes a second row, known when it was noticed.

Pure. A question about the time before the correction (`--as-of`) finds the earlier row, as anyone who asked then would have.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from feature_repo.visibility import CREATED, EVENT
from pipelines.ingest.merging.merge import content_hash
from pipelines.schemas import TABLES

_GRID = ["grid", "is_pit_lane_start"]
# what stewards decide: a difference here is taken for the source's where nothing says whose it is
_JUDGED = ("position", "is_classified", "status", "points")


def with_history(
    table: str,
    before: pd.DataFrame,
    now: pd.DataFrame,
    observed_at: pd.Timestamp,
    *,
    ours: Mapping[int, bool | None] | None = None,
) -> tuple[pd.DataFrame, int]:
    """The rows of `now`, after the rows of `before` that they correct.

    Args:
        table: a canonical table.
        before: rows of the same source and races, as they were last written.
        now: rows that the source gives now. It may itself give several versions of a key, each with its own created time.
        observed_at: when the source had told: a correction became known to us then.
        ours: round -> whether a difference is our doing, because the source says what it said and the code has changed: then the
            row is rewritten and nothing was corrected. None: nothing tells; what stewards decide is the source's then, anything
            else ours. A round that is left out: the source's.
    Returns:
        Rows with the table's columns, and how many keys were corrected now. Repeating it with the same rows changes nothing.
    """
    if before.empty or now.empty:
        return now, 0
    key = list(TABLES[table].key)
    old = before.assign(_content=content_hash(table, before)).sort_values([*key, CREATED], kind="stable", ignore_index=True)
    new = now.assign(_content=content_hash(table, now)).sort_values([*key, CREATED], kind="stable", ignore_index=True)
    old_of, new_of = old.groupby(key).indices, new.groupby(key).indices
    kept_old: list[int] = []
    repeated: list[int] = []
    known: dict[int, pd.Timestamp] = {}
    corrected = 0
    whose = ours or {}
    for name, at_new in new_of.items():
        at_old = old_of.get(name)
        if at_old is None:
            continue
        *first, last = (int(number) for number in at_new)
        newest = int(at_old[-1])
        since = old[CREATED].iat[newest]
        same = new["_content"].iat[last] == old["_content"].iat[newest]
        is_ours = whose.get(int(new["round"].iat[last]), False)
        if same or (_same_judgement(old.loc[newest], new.loc[last]) if is_ours is None else is_ours):
            if len(at_old) <= len(at_new):
                continue  # nothing but what the source tells now
            earlier, noticed = at_old[:-1], since
        else:
            corrected += 1
            # never known before it was said, nor at the instant of the row that it corrects
            earlier, noticed = at_old, max(observed_at, since + pd.Timedelta(microseconds=1))
        # the newest event is what a question finds, so a correction is never of an earlier instant
        event = max(new[EVENT].iat[last], old[EVENT].iloc[earlier].max())
        new.loc[last, EVENT], known[last] = event, max(noticed, event)
        kept_old += [int(number) for number in earlier]
        # what the source tells now of the time before is no news, or it rewrites what was read then
        told = set(old["_content"].iloc[earlier])
        repeated += [number for number in first if new["_content"].iat[number] in told or new[CREATED].iat[number] <= since]
    if not known:
        return now, 0
    stamps = pd.Series(known)
    if "grid_timestamp" in new:
        # a starting place that a correction changes was not known an hour before the race, whatever is corrected after that
        newest_old = old.drop_duplicates(key, keep="last")[[*key, *_GRID, "grid_timestamp"]]
        before_it = new.loc[stamps.index, key].merge(newest_old, on=key, how="left").set_axis(stamps.index)
        moved = (before_it[_GRID] != new.loc[stamps.index, _GRID]).any(axis=1)
        since_when = before_it["grid_timestamp"].mask(moved, stamps)
        new.loc[stamps.index, "grid_timestamp"] = since_when.clip(lower=new.loc[stamps.index, "grid_timestamp"])
    new.loc[stamps.index, CREATED] = stamps
    every = pd.concat([old.loc[kept_old], new.drop(index=repeated)], ignore_index=True)
    ordered = every.sort_values([*key, CREATED], kind="stable", ignore_index=True)
    return ordered[TABLES[table].columns].astype(now.dtypes.to_dict()), corrected


def _same_judgement(before: "pd.Series[Any]", now: "pd.Series[Any]") -> bool:
    return all(
        before[column] == now[column] or (pd.isna(before[column]) and pd.isna(now[column])) for column in _JUDGED if column in now
    )
