"""Online features of a Feast service straight from packed rows: what Feast's SDK answers, faster, plus age and status.

`FeatureStore.get_online_features` makes a message object per value; here one read brings the packed rows of every view, and numpy
takes them apart. Values, nulls and event times are those the SDK gives (a property test holds them together); what the SDK does
not say is added: how old a value is, and whether that is still fresh.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
import pandas as pd
from feast import FeatureService, FeatureStore, FeatureView
from feast.feature_view import DUMMY_ENTITY_ID
from numpy.typing import NDArray

from feature_repo.store import get_service, views_of
from feature_repo.stores.online import packed_store
from feature_repo.stores.packed import KeyLayout, Layout, Unpacked, unpack
from feature_repo.visibility import as_utc
from serving.errors import EntityRowError, NotServedOnlineError
from serving.plans import Plans

Status = Literal["FRESH", "STALE", "MISSING"]
MAX_ROWS = 10_000


@dataclass(frozen=True)
class ViewPlan:
    """What a service takes from one view.

    Attributes:
        view: the view.
        layout: of its packed rows.
        key_layout: of its entity keys.
        keys: per join key, its name in the view and in a request (another one where the service maps it).
        names: features taken, in order.
        ttl_s: its ttl, seconds; infinite = forever.
        fresh_for_s: a value older than this is STALE: its tag `fresh_for_s`, else its ttl; infinite = any age is fresh.
    """

    view: FeatureView
    layout: Layout
    key_layout: KeyLayout
    keys: tuple[tuple[str, str], ...]
    names: tuple[str, ...]
    ttl_s: float
    fresh_for_s: float


@dataclass(frozen=True)
class ServicePlan:
    """What a service needs and gives: read from the registry once a minute, because that takes longer than the features."""

    service: FeatureService
    views: tuple[ViewPlan, ...]
    view_of: dict[str, int]

    @property
    def request_keys(self) -> set[str]:
        """Keys that every entity row must have."""
        return {asked for view in self.views for _, asked in view.keys}


@dataclass(frozen=True)
class OnlineFeatures:
    """The features of a service for N entity rows, as the online store held them, of whatever age.

    Attributes:
        keys: request key -> its N values, in the order of the request.
        plan: which feature is of which view.
        unpacked: per view, the rows read: one per different key.
        index: per view, (N,) which of those rows an entity row got.
        event_us: (N, V) when each view's row became true, microseconds since 1970 UTC; 0 where no row is held.
        created_us: (N, V) when it became known, likewise.
    """

    keys: dict[str, list[Any]]
    plan: ServicePlan
    unpacked: tuple[Unpacked, ...]
    index: tuple[NDArray[np.int64], ...]
    event_us: NDArray[np.int64]
    created_us: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.event_us)

    @property
    def entity_rows(self) -> list[dict[str, Any]]:
        """(N) the keys of each row that the service used."""
        return [dict(zip(self.keys, values, strict=True)) for values in zip(*self.keys.values(), strict=True)]

    @property
    def names(self) -> tuple[str, ...]:
        """The service's features, in order."""
        return tuple(self.plan.view_of)

    @functools.cached_property
    def held(self) -> NDArray[np.bool_]:
        """(N, V) a row of the view is held for the key."""
        return np.stack([rows.present[index] for rows, index in zip(self.unpacked, self.index, strict=True)], axis=1)

    def values(self, name: str) -> list[Any]:
        """(N,) Python values of one feature as `get_online_features(...).to_dict()` gives them; None where nothing is known."""
        view = self.plan.view_of[name]
        column, rows = self.unpacked[view].column(name), self._rows[view]
        return column if rows is None else [column[row] for row in rows]

    @functools.cached_property
    def _rows(self) -> list[list[int] | None]:
        """`index` as lists; None where every entity row has a row of its own."""
        rows = [index.tolist() for index in self.index]
        return [None if one == list(range(len(read.present))) else one for one, read in zip(rows, self.unpacked, strict=True)]

    def columns(self, *, expired_at: datetime | pd.Timestamp | None = None) -> dict[str, NDArray[Any]]:
        """Feature -> (N,) float64 with NaN for missing (numbers), or object with None; arrays of numbers are numpy arrays.

        Args:
            expired_at: values older than their view's ttl at this moment are missing, as in a training row of that moment. Feast
                enforces ttl offline only; a model that never saw an expired value in training should not see one online.
        """
        held = self.held
        dropped = np.zeros_like(held)
        if expired_at is not None:
            limits_us = np.array([view.ttl_s for view in self.plan.views]) * 1e6
            dropped = held & (_micros(expired_at) - self.event_us > limits_us)
        found: dict[str, NDArray[Any]] = {}
        for position, (view, rows, index) in enumerate(zip(self.plan.views, self.unpacked, self.index, strict=True)):
            numbers = rows.numbers[index]
            if dropped[:, position].any():
                numbers[dropped[:, position]] = np.nan
            at = view.layout.number_at
            for name in view.names:
                if name in at:
                    found[name] = numbers[:, at[name]]
                else:
                    field = view.layout.field(name)
                    held_values = rows.arrays(name) if field.is_list and field.kind == "number" else rows.column(name)
                    found[name] = _objects([held_values[row] for row in index.tolist()], dropped[:, position])
        return found

    def ages_s(self, now: datetime | pd.Timestamp) -> NDArray[np.float64]:
        """(N, V) seconds from each row's event to `now`; NaN where no row is held."""
        return np.where(self.held, (_micros(now) - self.event_us) / 1e6, np.nan)

    def statuses(
        self, now: datetime | pd.Timestamp, values: Mapping[str, Sequence[Any]] | None = None
    ) -> dict[str, list[Status]]:
        """Per feature (N,): MISSING (no row, or no value in it), STALE (older than its view allows) or FRESH.

        Args:
            now: the clock.
            values: feature -> `self.values(feature)`, where a caller has them already.
        """
        stale = self.ages_s(now) > np.array([view.fresh_for_s for view in self.plan.views])
        of_present: list[list[Status]] = [["STALE" if old else "FRESH" for old in column] for column in stale.T.tolist()]
        found = {}
        for name, view in self.plan.view_of.items():
            column = self.values(name) if values is None else values[name]
            found[name] = of_present[view]
            if any(value is None for value in column):
                found[name] = ["MISSING" if value is None else status for value, status in zip(column, found[name], strict=True)]
        return found

    def to_dict(self, include_event_timestamps: bool = False) -> dict[str, list[Any]]:
        """Exactly what `get_online_features(...).to_dict(...)` gives: entity keys, then features; times in whole seconds."""
        answer: dict[str, list[Any]] = {}
        for key, values in self.keys.items():
            answer[key] = values
            if include_event_timestamps:
                answer[f"{key}__ts"] = [0] * len(self)
        seconds = self.event_us // 1_000_000
        for name, view in self.plan.view_of.items():
            answer[name] = self.values(name)
            if include_event_timestamps:
                answer[f"{name}__ts"] = seconds[:, view].tolist()
        return answer

    def to_df(self, include_event_timestamps: bool = False) -> pd.DataFrame:
        """`to_dict` as a frame."""
        return pd.DataFrame(self.to_dict(include_event_timestamps))


def lookup_rows(store: FeatureStore, service: str, entity_rows: Sequence[Mapping[str, Any]]) -> OnlineFeatures:
    """The online features of a service for some entity rows, in one read.

    Args:
        store: an open store, kept between calls; safe to share between threads.
        service: feature service.
        entity_rows: each has every join key of the service; other keys are ignored, as Feast does.
    Raises:
        UnknownServiceError: no such service.
        NotServedOnlineError: it holds a view that is never materialized.
        FeatureRegistryUnavailableError: the registry does not answer, and never did for this service.
        OnlineStoreUnavailableError: the online store does not answer.
        UnsupportedStoreError: the online store is not one of packed rows.
        EntityRowError: no rows, more than 10,000, a key is missing or null, or rows differ in their keys.
    """
    online = packed_store(store)
    plan = plan_of(store, service)
    keys = _request_columns(plan, service, entity_rows)
    requests, index = [], []
    distinct: dict[tuple[str, ...], tuple[dict[str, list[Any]], NDArray[np.int64]]] = {}
    for view in plan.views:
        asked = tuple(name for _, name in view.keys)
        if asked not in distinct:
            distinct[asked] = _distinct({name: keys[name] for name in asked}, len(entity_rows))
        different, where = distinct[asked]
        requests.append((view.view, view.key_layout.keys({key: different[name] for key, name in view.keys})))
        index.append(where)
    read = online.read_many(store.config, requests)
    unpacked = tuple(unpack(view.layout, rows) for view, rows in zip(plan.views, read, strict=True))
    event_us, created_us = (
        np.stack([stamps[where] for stamps, where in zip(column, index, strict=True)], axis=1)
        for column in ([rows.event_us for rows in unpacked], [rows.created_us for rows in unpacked])
    )
    return OnlineFeatures(keys, plan, unpacked, tuple(index), event_us, created_us)


def plan_of(store: FeatureStore, service: str) -> ServicePlan:
    """The plan of a service, kept between calls as `Plans` does.

    Raises:
        UnknownServiceError, NotServedOnlineError, FeatureRegistryUnavailableError: as in `lookup_rows`.
    """
    return _plans.of(store, service)


def _make_plan(store: FeatureStore, name: str) -> ServicePlan:
    service = get_service(store, name)
    projections = {projection.name: projection for projection in service.feature_view_projections}
    plans = []
    for view, names in views_of(store, service):
        if not view.online:
            raise NotServedOnlineError(f"service {name}: view {view.name} is never materialized; ask with a moment (`--as-of`)")
        renamed = projections[view.name].join_key_map
        ttl_s = view.ttl.total_seconds() if view.ttl else math.inf
        plans.append(
            ViewPlan(
                view=view,
                layout=Layout.of(view),
                key_layout=KeyLayout.of(view),
                keys=tuple((key, renamed.get(key, key)) for key in view.join_keys if key != DUMMY_ENTITY_ID),
                names=tuple(names),
                ttl_s=ttl_s,
                fresh_for_s=float(view.tags.get("fresh_for_s", ttl_s)),
            )
        )
    return ServicePlan(service, tuple(plans), {name: at for at, view in enumerate(plans) for name in view.names})


_plans = Plans(_make_plan)


def _request_columns(plan: ServicePlan, service: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    if not 1 <= len(rows) <= MAX_ROWS:
        raise EntityRowError(f"entity rows for {service}: got {len(rows)}, expected 1 to {MAX_ROWS}; ask in parts")
    needed = plan.request_keys
    columns: dict[str, list[Any]] = {}
    for key in rows[0]:
        if key in needed:
            columns[key] = [row.get(key) for row in rows]
    for key in sorted(needed):
        empty = next((i for i, value in enumerate(columns.get(key, [None])) if value is None), None)
        if empty is not None:
            raise EntityRowError(f"entity row {empty} for {service}: has no {key}; every row needs {', '.join(sorted(needed))}")
    return columns


def _distinct(columns: dict[str, list[Any]], n_rows: int) -> tuple[dict[str, list[Any]], NDArray[np.int64]]:
    """Each key once, and which of them every row has: twenty cars of a race share one race and ten constructors."""
    if not columns:  # a view without entities has one row for everybody
        return {}, np.zeros(n_rows, dtype=np.int64)
    at: dict[tuple[Any, ...], int] = {}
    index = np.array([at.setdefault(key, len(at)) for key in zip(*columns.values(), strict=True)], dtype=np.int64)
    return {name: list(values) for name, values in zip(columns, zip(*at, strict=True), strict=True)}, index


def _objects(values: list[Any], dropped: NDArray[np.bool_]) -> NDArray[Any]:
    column = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):  # one by one: numpy would take lists of equal length for a matrix
        column[row] = None if dropped[row] else value
    return column


def _micros(moment: datetime | pd.Timestamp) -> int:
    return int(as_utc(moment).value // 1000)
