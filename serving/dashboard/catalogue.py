"""The feature catalogue as Feast knows it: entities, views, services, freshness, and how each feature is distributed."""

import functools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureView
from feast.feature_view import DUMMY_ENTITY_NAME
from numpy.typing import NDArray

from feature_repo.settings import Settings
from feature_repo.stores.errors import OnlineStoreUnavailableError
from feature_repo.stores.online import packed_store
from feature_repo.visibility import EVENT, as_utc
from serving.dashboard.tables import FileVersion, file_version
from serving.state import ServingState

SAMPLED_ROWS = 20_000
BINS = 24
_CATEGORIES = 8
_MOST_LIST_ITEMS = 40_000


def catalogue(state: ServingState, *, now: datetime | None = None) -> dict[str, Any]:
    """Entities, views with their features, and services of the home's Feast registry.

    Args:
        state: of the service.
        now: the clock that ages are counted to; default the current time.
    Returns:
        `as_of`; `online_problem` (why the online store does not answer, or None); `entities` (`name, join_key, description`);
        `services` (`name, description, features`); `views` (`name, description, entities, is_online, ttl_s, fresh_for_s, tags,
        services, rows, newest_offline, newest_online, age_s, status, features`). `age_s` is that of the newest row that lookups
        read: online where the view is served online, else in the table; `status` is FRESH, STALE, MISSING (no row), or UNKNOWN
        while the online store does not answer. A feature has `name, dtype, description` and `distribution` (None where the table
        does not exist), as `distributions` gives it.
    """
    clock = as_utc(now or datetime.now(UTC))
    store = state.store
    services = sorted(store.registry.list_feature_services(store.project, allow_cache=True), key=lambda service: service.name)
    used = {
        service.name: {projection.name: len(projection.features) for projection in service.feature_view_projections}
        for service in services
    }
    views = sorted(store.list_feature_views(allow_cache=True), key=lambda view: view.name)
    online, problem = _newest_online(state, [view for view in views if view.online])
    return {
        "as_of": clock.isoformat(timespec="seconds"),
        "entities": [
            {"name": entity.name, "join_key": entity.join_key, "description": entity.description}
            for entity in sorted(store.list_entities(allow_cache=True), key=lambda entity: entity.name)
            if entity.name != DUMMY_ENTITY_NAME
        ],
        "services": [
            {
                "name": service.name,
                "description": service.description,
                "features": sum(used[service.name].values()),
            }
            for service in services
        ],
        "online_problem": problem,
        "views": [
            _view(state.settings, view, [name for name, by_view in used.items() if view.name in by_view], online, clock)
            for view in views
        ],
    }


def distributions(settings: Settings, view: str) -> dict[str, dict[str, Any]]:
    """How the features of a view are distributed over its table, from at most 20,000 rows evenly spaced.

    Returns:
        Feature -> `sampled` (rows seen), `missing` (share), and either `counts` and `edges` (24 bins over the range; the items of
        lists) or `values` and `counts` (the most frequent 8 and `other`). Empty where there is no table.
    """
    path = settings.features_dir / f"{view}.parquet"
    return _distributions(file_version(path)) if path.exists() else {}


def _view(
    settings: Settings, view: FeatureView, services: list[str], online: dict[str, pd.Timestamp | None], clock: pd.Timestamp
) -> dict[str, Any]:
    ttl_s = view.ttl.total_seconds() if view.ttl else None
    fresh_for_s = float(view.tags["fresh_for_s"]) if "fresh_for_s" in view.tags else ttl_s
    path = settings.features_dir / f"{view.name}.parquet"
    rows, offline = _footer(file_version(path)) if path.exists() else (0, None)
    newest = online.get(view.name) if view.online else offline
    age_s = None if newest is None else (clock - newest).total_seconds()
    is_unknown = view.online and view.name not in online
    is_old = age_s is not None and fresh_for_s is not None and age_s > fresh_for_s
    shapes = distributions(settings, view.name)
    return {
        "name": view.name,
        "description": view.description,
        "entities": [name for name in view.entities if name != DUMMY_ENTITY_NAME],
        "is_online": bool(view.online),
        "ttl_s": ttl_s,
        "fresh_for_s": fresh_for_s,
        "tags": dict(view.tags),
        "services": services,
        "rows": rows,
        "newest_offline": None if offline is None else offline.isoformat(),
        "newest_online": newest.isoformat() if view.online and newest is not None else None,
        "age_s": age_s,
        "status": "UNKNOWN" if is_unknown else "MISSING" if age_s is None else "STALE" if is_old else "FRESH",
        "features": [
            {
                "name": field.name,
                "dtype": str(field.dtype),
                "description": field.description,
                "distribution": shapes.get(field.name),
            }
            for field in view.features
        ],
    }


def _newest_online(state: ServingState, views: Iterable[FeatureView]) -> tuple[dict[str, pd.Timestamp | None], str | None]:
    """The newest event time online of each view that has one, and what is wrong with the store: then no more is asked."""
    found: dict[str, pd.Timestamp | None] = {}
    for view in views:
        try:
            newest_us = packed_store(state.store).newest_event(state.store.config, view)
        except OnlineStoreUnavailableError as error:
            return {}, str(error)
        found[view.name] = None if newest_us is None else pd.Timestamp(newest_us, unit="us", tz="UTC")
    return found, None


@functools.lru_cache(maxsize=32)
def _footer(version: FileVersion) -> tuple[int, pd.Timestamp | None]:
    """Rows and newest event time, from the file's footer."""
    footer = pq.read_metadata(version[0])
    names = [footer.schema.column(column).path for column in range(footer.num_columns)]
    if EVENT not in names:
        return footer.num_rows, None
    found = [footer.row_group(group).column(names.index(EVENT)).statistics for group in range(footer.num_row_groups)]
    newest = [as_utc(statistics.max) for statistics in found if statistics is not None and statistics.has_min_max]
    return footer.num_rows, max(newest) if newest else None


@functools.lru_cache(maxsize=32)
def _distributions(version: FileVersion) -> dict[str, dict[str, Any]]:
    path = version[0]
    names = [name for name in pq.read_schema(path).names if not name.endswith(("_timestamp", "_id"))]
    return {name: _distribution(_sampled(path, name)) for name in names}


def _sampled(path: Path, column: str) -> pa.ChunkedArray:
    """Evenly spaced values of one column; a batch at a time is in memory."""
    file = pq.ParquetFile(path)
    step = max(math.ceil(file.metadata.num_rows / SAMPLED_ROWS), 1)

    def pieces() -> Iterator[pa.Array]:
        first = 0
        for batch in file.iter_batches(batch_size=16_384, columns=[column]):
            yield batch.column(0).take(pa.array(range(first, len(batch), step), pa.int64()))
            first = (first - len(batch)) % step

    return pa.chunked_array(list(pieces()), type=file.schema_arrow.field(column).type)


def _distribution(values: pa.ChunkedArray) -> dict[str, Any]:
    sampled, missing = len(values), values.null_count
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        parts = (chunk.flatten().to_numpy(zero_copy_only=False) for chunk in values.chunks)
        items = np.concatenate([np.zeros(0), *parts])
        items = items[:: max(math.ceil(len(items) / _MOST_LIST_ITEMS), 1)]
        return {"sampled": sampled, "missing": missing / max(sampled, 1), **_bins(items[np.isfinite(items)])}
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or pa.types.is_boolean(values.type):
        return {"sampled": sampled, "missing": missing / max(sampled, 1), **_categories(values.drop_null().to_pylist())}
    numbers = values.drop_null().to_numpy().astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    missing += len(numbers) - len(finite)
    return {"sampled": sampled, "missing": missing / max(sampled, 1), **_bins(finite)}


def _bins(numbers: NDArray[np.float64]) -> dict[str, list[Any]]:
    if not len(numbers):
        return {"counts": [], "edges": []}
    counts, edges = np.histogram(numbers, bins=BINS)
    return {"counts": counts.tolist(), "edges": [float(f"{edge:.6g}") for edge in edges]}


def _categories(values: list[Any]) -> dict[str, list[Any]]:
    tally = Counter(str(value) for value in values)
    most = sorted(tally.items(), key=lambda item: (-item[1], item[0]))[:_CATEGORIES]
    rest = sum(tally.values()) - sum(count for _, count in most)
    shown = [*most, *([("other", rest)] if rest else [])]
    return {"values": [name for name, _ in shown], "counts": [count for _, count in shown]}
