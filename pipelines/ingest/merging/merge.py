"""Several sources, one lake: rows and columns chosen by `PRECEDENCE`, differences between sources counted and kept.

Pure. A merged row is what the sources together say as of when it became known: where a source corrected itself, the lake has one
row for each thing that could be read at the time. The column `source` names who gave at least one value, the most believed first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from feature_repo.visibility import CREATED, EVENT
from pipelines.errors import DifferentRacesError
from pipelines.ingest.canonical.entries import RESULT_KNOWN_AFTER
from pipelines.ingest.precedence import CORRECTED, PRECEDENCE, Precedence
from pipelines.schemas import TABLES, empty_frame

JOINED = "+"
# Two sources put the same decision at instants that differ by the seconds between their flags: that is one version, not two.
SAME_VERSION = pd.Timedelta(hours=1)
# Sources have put one race a day apart; two races are never closer than six days.
SAME_RACE = pd.Timedelta(days=3)
_SEASON_TABLES = ("circuits", "drivers", "constructors")
# The other tables of races count from the start of the race; qualifying and sprints have a start of their own.
_OFF_RACE_CLOCK = ("races", "qualifying", "sprint_results")
_STAMPS = (EVENT, CREATED, "source")

Tables = Mapping[str, pd.DataFrame]


@dataclass
class Comparison:
    """How far two sources agree about one column.

    Attributes:
        compared: keys that both have a value for.
        differ: keys whose values differ by more than is tolerated.
        largest: largest difference of numbers and times (seconds); NaN for texts and flags.
    """

    compared: int = 0
    differ: int = 0
    largest: float = float("nan")


@dataclass
class Merged:
    """The merge of one season.

    Attributes:
        tables: canonical table -> rows.
        compared: (table, column, believed source, other source) -> comparison.
        disagreements: one row a difference: `table, column, race_id, key, source, value, other_source, other_value` (texts).
        only_in: (table, source) -> rows that only this source has and that are not in the lake for that.
    """

    tables: dict[str, pd.DataFrame]
    compared: dict[tuple[str, str, str, str], Comparison] = field(default_factory=dict)
    disagreements: list[pd.DataFrame] = field(default_factory=list)
    only_in: dict[tuple[str, str], int] = field(default_factory=dict)


def merge(sources: Mapping[str, Tables]) -> Merged:
    """Merge what `sources` (name -> canonical tables of one season, validated) say.

    With one source its tables come out as they are. Races of a source that is not asked for them (`PRECEDENCE`) are the calendar
    that it went by: its rows are moved from there, and that is all.

    Raises:
        DifferentRacesError: a `race_id` means another race for one source than for another.
    """
    if len(sources) == 1:
        ((name, tables),) = sources.items()
        asked = [table for table in tables if name in PRECEDENCE[table].order]
        return Merged({table: tables[table] if table in asked else empty_frame(table) for table in TABLES})
    _refuse_different_races({name: tables["races"] for name, tables in sources.items() if "races" in tables})
    merged = Merged({})
    for table in TABLES:
        rule = PRECEDENCE[table]
        given = {name: sources[name][table] for name in rule.order if name in sources and len(sources[name].get(table, ()))}
        if TABLES[table].is_race_table and table not in _OFF_RACE_CLOCK:
            believed = merged.tables["races"]
            given = {name: _on_clock(table, frame, sources[name].get("races"), believed) for name, frame in given.items()}
        if not given:
            merged.tables[table] = empty_frame(table)
        elif len(given) == 1:
            merged.tables[table] = next(iter(given.values()))
        else:
            merged.tables[table] = _merge_versions(table, rule, given) if table in CORRECTED else _merge_table(table, rule, given)
            newest = {name: _newest(frame, list(TABLES[table].key)) for name, frame in given.items()}
            _compare(table, rule, newest, merged)
    return merged


def _on_clock(table: str, frame: pd.DataFrame, own: pd.DataFrame | None, believed: pd.DataFrame) -> pd.DataFrame:
    """Rows of one source on the clock of the start that is believed, or a result would be known before its race.

    A correction is not on the race's clock: it was noticed at its instant, long after the flag.

    Args:
        table: a table of races.
        frame: rows of races.
        own: the races as the same source has them, or as it found them when it was read.
        believed: merged races.
    """
    if own is None or own.empty:
        return frame
    races = own.set_index("race_id")
    later = believed.set_index("race_id")["race_start"].reindex(races.index) - races["race_start"]
    if not (later.fillna(pd.Timedelta(0)) != pd.Timedelta(0)).any():
        return frame
    by = frame["race_id"].map(later).fillna(pd.Timedelta(0))
    result = frame["race_id"].map(races["race_end"]) + RESULT_KNOWN_AFTER
    moved = frame.copy()
    for column in frame.select_dtypes("datetimetz").columns:
        noticed = (frame[column] > result) & (table in CORRECTED)
        moved[column] = (frame[column] + by).mask(noticed, frame[column]).astype(frame[column].dtype)
    moved[CREATED] = moved[[EVENT, CREATED]].max(axis=1).astype(frame[CREATED].dtype)
    return moved


def _refuse_different_races(races: Mapping[str, pd.DataFrame]) -> None:
    """Raise if sources count rounds differently: the same round at another circuit, or days apart."""
    names = list(races)
    for number, name in enumerate(names):
        for other in names[number + 1 :]:
            both = races[name].merge(races[other], on="race_id", suffixes=("", "_other"))
            apart = (both["race_start"] - both["race_start_other"]).abs() > SAME_RACE
            wrong = both[apart | (both["circuit_id"] != both["circuit_id_other"])]
            if len(wrong):
                first = wrong.iloc[0]
                mine = f"{first['circuit_id']!r} on {first['race_start']:%Y-%m-%d} from {name}"
                theirs = f"{first['circuit_id_other']!r} on {first['race_start_other']:%Y-%m-%d} from {other}"
                raise DifferentRacesError(
                    f"{first['race_id']}: got {mine} and {theirs} ({len(wrong)} such races), "
                    "expected the same race; one of them counts rounds differently: remove its folder below sources/ or read it "
                    "again with --refresh; the lake is as it was"
                )


def _newest(frame: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    return frame.sort_values([*key, CREATED], kind="stable").drop_duplicates(key, keep="last", ignore_index=True)


def _merge_table(table: str, rule: Precedence, given: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row a key. `given` is in the order of the rule."""
    key = list(TABLES[table].key)
    if not rule.fills:
        return _by_race(given)
    if table in _SEASON_TABLES or rule.rows == "union":
        rows = pd.concat([frame[key] for frame in given.values()], ignore_index=True).drop_duplicates(ignore_index=True)
    else:
        rows = _by_race(given)[key]
    index = pd.MultiIndex.from_frame(rows) if len(key) > 1 else pd.Index(rows[key[0]])
    aligned = {name: frame.set_index(key).reindex(index) for name, frame in given.items()}
    base = [np.asarray(frame["source"].notna()) for frame in aligned.values()]
    # the source that gives the row: the first that has it
    giver = np.select(base, list(aligned), default="")
    used = {name: giver == name for name in aligned}
    columns: dict[str, pd.Series[Any]] = {}
    for column in TABLES[table].cols:
        if column in key or column == "source":
            continue
        order = [name for name in rule.of(column) if name in aligned]
        columns[column] = _first_known(column, order, aligned, giver, used, free=table in _SEASON_TABLES or rule.rows == "union")
    merged = pd.DataFrame(columns, index=index).reset_index()
    if table in _SEASON_TABLES:
        # known since the first race of the season that any source has it in
        for stamp in (EVENT, CREATED):
            merged[stamp] = pd.concat([frame[stamp].reset_index(drop=True) for frame in aligned.values()], axis=1).min(axis=1)
    merged["source"] = _joined(used)
    dtypes = empty_frame(table).dtypes.to_dict()
    return merged[TABLES[table].columns].astype(dtypes)


def _first_known(
    column: str,
    order: list[str],
    aligned: Mapping[str, pd.DataFrame],
    giver: "np.ndarray[Any, Any]",
    used: dict[str, "np.ndarray[Any, Any]"],
    *,
    free: bool,
) -> "pd.Series[Any]":
    """A column by its order; instants on a source's own clock (laps) are never taken from another source than the row's.

    Since when a grid is known comes with the grid, as the stamps do with the clock.
    """
    first = aligned[order[0]][column]
    times = isinstance(first.dtype, pd.DatetimeTZDtype)
    if times and not free and column not in (EVENT, CREATED, "grid_timestamp"):
        value = pd.Series(pd.NaT, index=first.index, dtype=first.dtype)
        for name, frame in aligned.items():
            value = value.mask(giver == name, frame[column])
        return value
    value = first.copy() if times else first.astype(object)
    taken = value.notna().to_numpy()
    used[order[0]] |= taken
    for name in order[1:]:
        other = aligned[name][column]
        new = ~taken & other.notna().to_numpy()
        if new.any():
            value = value.where(~new, other if times else other.astype(object))
            taken |= new
            used[name] |= new
    return value


def _by_race(given: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Of each race, the rows of the first source that has any."""
    parts, seen = [], set[str]()
    for frame in given.values():
        part = frame[~frame["race_id"].isin(seen)]
        seen |= set(part["race_id"])
        parts.append(part)
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def _joined(used: Mapping[str, "np.ndarray[Any, Any]"]) -> list[str]:
    names = list(used)
    masks = np.column_stack([used[name] for name in names])
    texts = {
        row: JOINED.join(name for name, on in zip(names, row, strict=True) if on) for row in map(tuple, np.unique(masks, axis=0))
    }
    return [texts[tuple(row)] for row in masks]


def _merge_versions(table: str, rule: Precedence, given: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`_merge_table` once for each instant at which a key's sources had something new to say."""
    key = list(TABLES[table].key)
    if not any(frame.duplicated(key).any() for frame in given.values()):
        return _merge_table(table, rule, given)
    instants = _instants(pd.concat([frame[[*key, CREATED]] for frame in given.values()], ignore_index=True), key)
    versions = []
    for number in range(int(instants["number"].max()) + 1):
        at = instants[instants["number"] == number].drop(columns="number").rename(columns={CREATED: "_at"})
        seen = {}
        for name, frame in given.items():
            known = frame.merge(at, on=key)
            known = known[known[CREATED] <= known["_at"]].drop(columns="_at")
            if len(known):
                seen[name] = _newest(known, key)
        merged = _merge_table(table, rule, seen) if len(seen) > 1 else next(iter(seen.values()))
        merged = merged.merge(at, on=key)
        # as of several instants; the last one keeps what the rule says of a row that never changed
        several = merged[key].merge(instants.groupby(key)["number"].max().rename("last").reset_index(), on=key)["last"] > 0
        merged[CREATED] = merged[CREATED].mask(several.to_numpy(), merged["_at"])
        merged[EVENT] = merged[[EVENT, CREATED]].min(axis=1)
        versions.append(merged.drop(columns="_at"))
    every = pd.concat(versions, ignore_index=True).sort_values([*key, CREATED], kind="stable", ignore_index=True)
    # sources put one flag at seconds of their own: a later version must not look older, or the newest event would hide it
    every[EVENT] = every.groupby(key, sort=False)[EVENT].cummax()
    return every[changes(table, every)].reset_index(drop=True)[TABLES[table].columns].astype(empty_frame(table).dtypes.to_dict())


def _instants(known: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """`key, created_timestamp, number`: per key the instants to look at, each the last of those that belong to one version."""
    times = known.drop_duplicates().sort_values([*key, CREATED], kind="stable", ignore_index=True)
    by_key = times.groupby(key, sort=False)[CREATED]
    starts = (by_key.diff().isna() | (by_key.diff() > SAME_VERSION)).astype(int)
    times["number"] = starts.groupby([times[name] for name in key], sort=False).cumsum() - 1
    return times.drop_duplicates([*key, "number"], keep="last", ignore_index=True)


def changes(table: str, versions: pd.DataFrame) -> "pd.Series[bool]":
    """Which rows (sorted by key and created) say something else than the row of the same key before them."""
    key = list(TABLES[table].key)
    content = content_hash(table, versions)
    same_key = ~versions.duplicated(key)
    return same_key | (content != content.shift(1))


def content_hash(table: str, frame: pd.DataFrame) -> "pd.Series[Any]":
    """Per row, a hash of what it says: all columns but the stamps, the source and when a grid was known."""
    columns = [column for column in TABLES[table].cols if column not in (*_STAMPS, "grid_timestamp")]
    plain = frame[columns].astype(object)
    return pd.util.hash_pandas_object(plain.where(plain.notna(), None).astype(str), index=False)


def _compare(table: str, rule: Precedence, newest: Mapping[str, pd.DataFrame], merged: Merged) -> None:
    """Count and keep the differences between every source and those more believed than it."""
    key = list(TABLES[table].key)
    names = list(newest)
    for number, name in enumerate(names):
        for other in names[number + 1 :]:
            both = newest[name].merge(newest[other], on=key, suffixes=("", "_other"))
            if rule.rows == "race" and rule.tolerance:  # keys that two sources can share
                _count_alone(table, name, newest[name], newest[other], len(both), merged)
                _count_alone(table, other, newest[other], newest[name], len(both), merged)
            for column, tolerance in rule.tolerance.items():
                order = [source for source in rule.of(column) if source in (name, other)]
                if len(order) == 2:
                    _compare_column(table, key, column, tolerance, order, both, name, merged)


def _count_alone(table: str, name: str, mine: pd.DataFrame, theirs: pd.DataFrame, shared: int, merged: Merged) -> None:
    """Count rows that only `mine` has, in races that both sources tell of."""
    rows = int(mine["race_id"].isin(theirs["race_id"]).sum())
    if rows > shared:
        merged.only_in[(table, name)] = max(merged.only_in.get((table, name), 0), rows - shared)


def _compare_column(
    table: str, key: list[str], column: str, tolerance: float, order: list[str], both: pd.DataFrame, left: str, merged: Merged
) -> None:
    known = both[both[column].notna() & both[f"{column}_other"].notna()]
    if known.empty:
        return
    believed, other = (column, f"{column}_other") if order[0] == left else (f"{column}_other", column)
    first, second = known[believed], known[other]
    if isinstance(first.dtype, pd.DatetimeTZDtype):
        away = (first - second).dt.total_seconds().abs()
    elif pd.api.types.is_numeric_dtype(first) and not pd.api.types.is_bool_dtype(first):
        away = (first.astype("float64") - second.astype("float64")).abs()
    else:
        away = (first.astype(object) != second.astype(object)).astype("float64")
    # half a microsecond of slack: 89.18 - 89.179 is not exactly a millisecond in binary
    differ = away > tolerance + 5e-7
    text = not isinstance(first.dtype, pd.DatetimeTZDtype) and (
        not pd.api.types.is_numeric_dtype(first) or pd.api.types.is_bool_dtype(first)
    )
    merged.compared[(table, column, order[0], order[1])] = Comparison(
        len(known), int(differ.sum()), float("nan") if text else float(away.max())
    )
    if differ.any():
        rows = known[differ]
        named = [part for part in key if part != "race_id"]
        merged.disagreements.append(
            pd.DataFrame(
                {
                    "table": table,
                    "column": column,
                    "race_id": rows["race_id"].astype(str) if "race_id" in key else "",
                    "key": [" ".join(map(str, row)) for row in rows[named].to_numpy().tolist()],
                    "source": order[0],
                    "value": first[differ].astype(str),
                    "other_source": order[1],
                    "other_value": second[differ].astype(str),
                }
            )
        )
