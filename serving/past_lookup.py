"""Features of a service as they were known at past moments, straight from the home's Parquet files kept in memory.

Values are exactly those of `feature_repo.store.historical` (a test holds them together): the same as-of kernel, asked without
Feast's registry and frames, which take 100 ms a race. What Feast does not say is added: event times, and what had expired.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureStore, FeatureView
from feast.feature_view import DUMMY_ENTITY_ID
from numpy.typing import NDArray

from feature_repo.store import get_service, views_of
from feature_repo.stores.asof import Factorized, factorize, to_us
from feature_repo.stores.offline_columns import Column
from feature_repo.stores.offline_job import ViewRequest
from feature_repo.stores.offline_read import Answer, Limits, Wanted, look_up
from feature_repo.stores.offline_source import Source
from serving.errors import EntityRowError
from serving.online_lookup import MAX_ROWS, Status
from serving.plans import Plans

_MEMORY = Limits(memory_bytes=2 << 30, cache_bytes=2 << 30)


@dataclass(frozen=True)
class PastView:
    """What a service takes from one view, and how its history is read.

    Attributes:
        view: the view.
        names: features taken, in order.
        opened: opens the view's files as they are now.
        wanted: keys, times and features in the files; no ttl, so that an expired row is found and called so.
        join_keys: keys of a request, in the order of `wanted.keys`.
        ttl_us: age at which a value expires; infinite = never.
        fresh_for_s: a value older than this is STALE.
    """

    view: FeatureView
    names: tuple[str, ...]
    opened: Callable[[], Source]
    wanted: Wanted
    join_keys: tuple[str, ...]
    ttl_us: float
    fresh_for_s: float


@dataclass(frozen=True)
class PastFeatures:
    """The features of a service for N entity rows, each as known at its moment.

    Attributes:
        views: of the service, V of them.
        moments_us: (N,) moments, microseconds since 1970 UTC.
        rows: per view (N,) position in its columns of the row that answers; -1 where nothing was known or it had expired.
        columns: per view, the columns of its file.
        event_us: (N, V) when the newest known row became true; 0 where there is none.
        held: (N, V) a row was known, expired or not.
        expired: (N, V) it was older than its view's ttl: its values are missing, as in training.
    """

    views: tuple[PastView, ...]
    moments_us: NDArray[np.int64]
    rows: tuple[NDArray[np.int64], ...]
    columns: tuple[Mapping[str, Column], ...]
    event_us: NDArray[np.int64]
    held: NDArray[np.bool_]
    expired: NDArray[np.bool_]

    @property
    def names(self) -> tuple[str, ...]:
        """The service's features, in order."""
        return tuple(name for view in self.views for name in view.names)

    @property
    def view_of(self) -> dict[str, int]:
        """Feature -> number of its view."""
        return {name: at for at, view in enumerate(self.views) for name in view.names}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Feature -> (N,) as the columns of `historical`: numbers with NaN, or objects with None."""
        found: dict[str, NDArray[Any]] = {}
        for view, rows, columns in zip(self.views, self.rows, self.columns, strict=True):
            missing = np.flatnonzero(rows < 0)
            for name, inside in zip(view.names, view.wanted.features, strict=False):
                found[name] = np.asarray(columns[inside].pandas(rows, missing))
        return found

    def values(self, name: str) -> list[Any]:
        """(N,) Python values of a feature, None where nothing is known or it is not finite."""
        at = self.view_of[name]
        view = self.views[at]
        inside = view.wanted.features[view.names.index(name)]
        return [_finite(value) for value in self.columns[at][inside].arrow(self.rows[at]).to_pylist()]

    def ages_s(self) -> NDArray[np.float64]:
        """(N, V) seconds from the event of each newest known row to the moment; NaN where there is none."""
        return np.where(self.held, (self.moments_us[:, None] - self.event_us) / 1e6, np.nan)

    def is_stale(self) -> NDArray[np.bool_]:
        """(N, V) older than the view allows, and not expired."""
        return ~self.expired & (self.ages_s() > np.array([view.fresh_for_s for view in self.views]))

    def statuses(self, name: str) -> list[Status]:
        """(N,) MISSING (no row, no value in it, or expired: `values` has None), STALE (older than its view allows) or FRESH."""
        stale = self.is_stale()[:, self.view_of[name]].tolist()
        return [
            "MISSING" if value is None else "STALE" if old else "FRESH"
            for value, old in zip(self.values(name), stale, strict=True)
        ]


def lookup_past(
    store: FeatureStore, service: str, keys: Mapping[str, Sequence[Any]], moments_us: NDArray[np.int64]
) -> PastFeatures:
    """The features of a service for some entity rows, each as known at its moment.

    Args:
        store: an open store, kept between calls; any number of threads.
        service: feature service; one of labels too.
        keys: join key -> its N values; further columns are ignored.
        moments_us: (N,) moments, microseconds since 1970 UTC.
    Raises:
        UnknownServiceError, FeatureRegistryUnavailableError: as in `past_views`.
        EntityRowError: no rows, more than 10,000, or a key is missing or null.
    """
    views = past_views(store, service)
    _check(service, views, keys, len(moments_us))
    factorized = {
        name: factorize(pa.array(list(keys[name]), pa.string()), name)
        for name in sorted({key for view in views for key in view.join_keys})
    }
    found = [_answer(view, factorized, moments_us) for view in views]
    rows, events, expired = [], [], []
    for view, answer in zip(views, found, strict=True):
        held = answer.rows >= 0
        event_us = np.where(held, to_us(answer.columns[view.wanted.event].arrow(answer.rows)), 0)
        gone = held & (moments_us - event_us > view.ttl_us)
        rows.append(np.where(gone, -1, answer.rows))
        events.append(event_us)
        expired.append(gone)
    return PastFeatures(
        views=views,
        moments_us=moments_us,
        rows=tuple(rows),
        columns=tuple(answer.columns for answer in found),
        event_us=np.stack(events, axis=1),
        held=np.stack([answer.rows >= 0 for answer in found], axis=1),
        expired=np.stack(expired, axis=1),
    )


def past_views(store: FeatureStore, service: str) -> tuple[PastView, ...]:
    """What a service takes from each view, kept between calls as `Plans` does.

    Raises:
        UnknownServiceError: no such service.
        FeatureRegistryUnavailableError: the registry does not answer, and never did for this service.
    """
    return _plans.of(store, service)


def _make_views(store: FeatureStore, service: str) -> tuple[PastView, ...]:
    return tuple(_past_view(store, view, names) for view, names in _views(store, service))


_plans = Plans(_make_views)


def _views(store: FeatureStore, service: str) -> list[tuple[FeatureView, list[str]]]:
    found = get_service(store, service)
    projections = {projection.name: projection for projection in found.feature_view_projections}
    return [(view.with_projection(projections[view.name]), names) for view, names in views_of(store, found)]


def _past_view(store: FeatureStore, view: FeatureView, names: list[str]) -> PastView:
    refs = [f"{view.projection.name_to_use()}:{name}" for name in names]
    request = ViewRequest.of(view, refs, store.config, full_feature_names=False)
    wanted = request.wanted
    ttl_s = view.ttl.total_seconds() if view.ttl else math.inf
    read = Wanted(wanted.keys, wanted.event, wanted.created, (*wanted.features, wanted.event))
    return PastView(
        view=view,
        names=tuple(names),
        opened=request.opened().again,
        wanted=read,
        join_keys=tuple(key for key in request.join_keys if key != DUMMY_ENTITY_ID),
        ttl_us=ttl_s * 1e6,
        fresh_for_s=float(view.tags.get("fresh_for_s", ttl_s)),
    )


def _answer(view: PastView, keys: Mapping[str, Factorized], moments_us: NDArray[np.int64]) -> Answer:
    return look_up(view.opened, view.wanted, [keys[name] for name in view.join_keys], moments_us, _MEMORY)


def _check(service: str, views: Sequence[PastView], keys: Mapping[str, Sequence[Any]], n_rows: int) -> None:
    if not 1 <= n_rows <= MAX_ROWS:
        raise EntityRowError(f"entity rows for {service}: got {n_rows}, expected 1 to {MAX_ROWS}; ask in parts")
    needed = sorted({key for view in views for key in view.join_keys})
    for key in needed:
        empty = next((row for row, value in enumerate(keys.get(key, [None])) if value is None), None)
        if empty is not None:
            raise EntityRowError(f"entity row {empty} for {service}: has no {key}; every row needs {', '.join(needed)}")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [_finite(item) for item in value] if isinstance(value, list) else value
