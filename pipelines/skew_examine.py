"""One chunk of the feature log against history: recompute, compare, look for the rows and the car that were really served."""

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureStore, FeatureView
from numpy.typing import NDArray

from feature_repo.feature_log_files import (
    DRIVER_ID,
    MOMENT,
    RACE_ID,
    REQUEST_ID,
    SERVED_AT,
    WITHHELD,
    LogLayout,
    column,
    stamp,
)
from feature_repo.store import historical
from feature_repo.stores.asof import NULL_US, to_us
from feature_repo.visibility import EVENT
from pipelines.skew_compare import FIRST_MISMATCH, OtherCar, ViewRows, canonical, compare, row_times, whose
from pipelines.skew_report import Example
from pipelines.skew_tally import FeatureTally, ViewTally

MOST_GRIDS = 500
"""Race and moment pairs of a chunk whose other cars are looked at, to see whose values were served."""


@dataclass
class Work:
    """What one service is compared with, and what was found so far.

    Attributes:
        store: the open store; `layout`, `views` and `entrants` (by race and driver) are what the service is made of.
        features: counts by feature, `tallies` by view, `keys` by join key.
        strangers: vectors about cars that never entered the race.
        unsearched: race and moment pairs whose other cars were not looked at.
        served_us: first and last instant served, microseconds.
    """

    store: FeatureStore
    layout: LogLayout
    views: list[tuple[FeatureView, list[str]]]
    entrants: pd.DataFrame
    features: dict[str, FeatureTally]
    tallies: dict[str, ViewTally]
    keys: dict[str, int]
    key_example: Example | None = None
    strangers: int = 0
    vectors: int = 0
    wrong_keys: int = 0
    future_rows: int = 0
    unsearched: int = 0
    requests: int = 0
    served_us: tuple[int, int] | None = None
    last_requests: set[str] = field(default_factory=set)


def examine(work: Work, log: pa.Table) -> None:
    """Compare one chunk."""
    log = log.combine_chunks()
    keys = _true_keys(work, log)
    moment_us = to_us(log[MOMENT])
    history = _history(work, keys, moment_us)
    said = _who(log)
    bad = _wrong_logged_keys(work, log, keys, said)
    told = np.zeros(len(said), dtype=np.bool_)
    for view, _ in work.views:
        told |= to_us(log[stamp(view.name)]) != NULL_US
    future = np.zeros(len(said), dtype=np.bool_)
    broken: dict[str, NDArray[np.bool_]] = {}
    expired_allowed = ~log[WITHHELD].to_numpy(zero_copy_only=False).astype(np.bool_)
    for view, names in work.views:
        tally, rows = work.tallies[view.name], ViewRows(view, keys)
        served_us = to_us(log[stamp(view.name)])
        used = rows.known_at(keys, moment_us, ttl=True)
        expired = np.zeros(len(said), dtype=np.bool_)
        if rows.ttl_us is not None:
            expired = expired_allowed & (served_us != NULL_US) & (served_us < moment_us - rows.ttl_us)
            used = np.where(expired, rows.known_at(keys, moment_us, ttl=False), used)
        times = row_times(served_us, rows.events(used), moment_us, told=told, fresh_for_s=_fresh_for_s(view))
        tally.add(times, served_us, keys[rows.keys], said)
        tally.expired_served += int(expired.sum())
        future |= times.future
        broken[view.name] = np.zeros(len(said), dtype=np.bool_)
        for name in names:
            expected = history[name].tolist()
            if expired.any():  # history withholds these; the values served are compared with the row itself
                held = rows.values(name, used)
                expected = [
                    held[at] if is_old else value for at, (value, is_old) in enumerate(zip(expected, expired, strict=True))
                ]
            codes = compare(log[column(view.name, name)], expected)
            work.features[name].add(log[column(view.name, name)], expected, codes, said)
            broken[view.name] |= codes >= FIRST_MISMATCH
    bad |= _wrong_values(work, log, keys, moment_us, broken, said)
    work.vectors += len(said)
    work.wrong_keys += int(bad.sum())
    work.future_rows += int(future.sum())
    requests = set(log[REQUEST_ID].unique().to_pylist())  # the rows of an answer lie together, at most across two chunks
    work.requests += len(requests - work.last_requests)
    work.last_requests = requests
    served = to_us(log[SERVED_AT])
    first, last = work.served_us or (int(served[0]), int(served[0]))
    work.served_us = (min(first, int(served.min())), max(last, int(served.max())))


def _true_keys(work: Work, log: pa.Table) -> pd.DataFrame:
    """The join keys of the cars that were asked about, whatever was looked up; the logged ones of a stranger to the race."""
    logged = log.select(list(work.layout.keys)).to_pandas()
    asked = pd.MultiIndex.from_arrays([log[RACE_ID].to_pylist(), log[DRIVER_ID].to_pylist()])
    own = work.entrants.reindex(asked)[list(work.layout.keys)].reset_index(drop=True)
    stranger = own.isna().all(axis=1)
    work.strangers += int(stranger.sum())
    return own.where(~stranger, logged, axis=0)


def _history(work: Work, keys: pd.DataFrame, moment_us: NDArray[np.int64]) -> pd.DataFrame:
    """The service's features of each car at its moment, as training would see them; each question is asked once."""
    spine = keys.assign(**{EVENT: pd.to_datetime(moment_us, unit="us", utc=True)})
    asked = spine.drop_duplicates(ignore_index=True)
    found = historical(work.store, work.layout.service, asked)
    places = asked.assign(place=range(len(asked)))
    place = spine.merge(places, on=list(spine.columns), how="left", validate="many_to_one")["place"]
    return found.iloc[place.to_numpy()].reset_index(drop=True)


def _who(log: pa.Table) -> list[Example]:
    columns = {"race_id": RACE_ID, "driver_id": DRIVER_ID, "request_id": REQUEST_ID}
    found = [log[name].to_pylist() for name in columns.values()]
    times = [[stamp.isoformat() for stamp in log[name].to_pylist()] for name in (MOMENT, SERVED_AT)]
    return [dict(zip([*columns, "moment", "served_at"], row, strict=True)) for row in zip(*found, *times, strict=True)]


def _wrong_logged_keys(work: Work, log: pa.Table, keys: pd.DataFrame, said: list[Example]) -> NDArray[np.bool_]:
    wrong = np.zeros(len(said), dtype=np.bool_)
    for key in work.layout.keys:
        used = np.array(log[key].to_pylist(), dtype=object)
        differs = np.asarray(used != keys[key].to_numpy(dtype=object), dtype=np.bool_)
        work.keys[key] += int(differs.sum())
        if differs.any() and work.key_example is None:
            at = int(np.flatnonzero(differs)[0])
            work.key_example = {**said[at], "key": key, "served": used[at], "expected": keys[key].iloc[at]}
        wrong |= differs
    return wrong


def _wrong_values(
    work: Work,
    log: pa.Table,
    keys: pd.DataFrame,
    moment_us: NDArray[np.int64],
    broken: dict[str, NDArray[np.bool_]],
    said: list[Example],
) -> NDArray[np.bool_]:
    """Which vectors carry the values of another car of their race; only rows that differ from their own history are looked at."""
    wrong = np.zeros(len(said), dtype=np.bool_)
    differing = np.flatnonzero(np.logical_or.reduce(list(broken.values())))
    if not len(differing):
        return wrong
    grids = pd.DataFrame({"race": [said[at]["race_id"] for at in differing], "moment": moment_us[differing]}).drop_duplicates()
    work.unsearched += max(len(grids) - MOST_GRIDS, 0)
    cars = grids.head(MOST_GRIDS).merge(work.entrants.reset_index(drop=True), left_on="race", right_on="race_id")
    if cars.empty:
        return wrong
    cars_us = cars["moment"].to_numpy(dtype=np.int64)
    car_keys = cars[list(work.layout.keys)]
    history = _history(work, car_keys, cars_us)
    for view, names in work.views:
        rows = ViewRows(view, car_keys)
        events = rows.events(rows.known_at(car_keys, cars_us, ttl=True))
        entities = list(zip(*[cars[key] for key in rows.keys], strict=True))
        vectors = list(zip(*[[canonical(value) for value in history[name]] for name in names], strict=True))
        by_grid: dict[tuple[str, int], dict[tuple[Hashable, ...], list[OtherCar]]] = {}
        own_us: dict[tuple[str, str, int], int] = {}
        for at, (race, driver, moment) in enumerate(zip(cars["race"], cars["driver_id"], cars_us.tolist(), strict=True)):
            other = OtherCar(driver, entities[at], int(events[at]))
            by_grid.setdefault((race, moment), {}).setdefault(vectors[at], []).append(other)
            own_us[race, driver, moment] = int(events[at])
        served_us, tally = to_us(log[stamp(view.name)]), work.tallies[view.name]
        served = [log[column(view.name, name)] for name in names]
        for at in np.flatnonzero(broken[view.name]).tolist():
            race, driver, moment = said[at]["race_id"], said[at]["driver_id"], int(moment_us[at])
            owner = whose(
                tuple(canonical(values[at].as_py()) for values in served),
                keys=tuple(keys[key].iloc[at] for key in rows.keys),
                served_us=int(served_us[at]),
                own_us=own_us.get((race, driver, moment), NULL_US),
                others=by_grid.get((race, moment), {}),
            )
            if owner is not None:
                wrong[at] = True
                tally.wrong_key += 1
                tally.examples.setdefault("wrong_key", {**said[at], "values_of": owner})
    return wrong


def _fresh_for_s(view: FeatureView) -> float | None:
    if "fresh_for_s" in view.tags:
        return float(view.tags["fresh_for_s"])
    return view.ttl.total_seconds() if view.ttl else None
