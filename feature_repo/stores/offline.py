"""`AsOfOfflineStore`: a Feast offline store over Parquet that answers what was known at each row's moment, all of it and no more.

In `feature_store.yaml`: `offline_store: {type: feature_repo.stores.offline.AsOfOfflineStore}`. The rule is in
docs/point-in-time.md. Every entity row comes back, in its place; the created cutoff is always on, whether or not Feast's
`filter_by_created_timestamp` is given.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from feast.data_source import DataSource
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import DEFAULT_ENTITY_DF_EVENT_TIMESTAMP_COL
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.utils import compute_non_entity_date_range

from feature_repo.stores import offline_write
from feature_repo.stores.asof import NULL_US
from feature_repo.stores.errors import EntityRowsError
from feature_repo.stores.offline_job import AsOfRetrievalJob, AsOfTableJob, EntityRows, ViewRequest, limits_of
from feature_repo.stores.offline_read import Answer, Limits, Wanted, latest, look_up, whole
from feature_repo.stores.offline_source import Source

_FIRST, _LAST = NULL_US + 1, (1 << 63) - 1


class AsOfOfflineStoreConfig(FeastConfigBaseModel):
    """Settings of the store in `feature_store.yaml`.

    Attributes:
        type: the class path.
        memory_budget_gib: what is read of one source at once takes at most about this; larger sources are read in batches.
        cache_gib: what the process keeps of sources between retrievals; 0 keeps nothing.
    """

    type: Literal["feature_repo.stores.offline.AsOfOfflineStore"] = "feature_repo.stores.offline.AsOfOfflineStore"
    memory_budget_gib: float = 2.0
    cache_gib: float = 2.0


class AsOfOfflineStore(OfflineStore):
    """Point-in-time retrieval from Parquet `FileSource`s, by sorted and packed indexes that stay in memory."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = True,  # noqa: ARG004
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """What each feature was known to be at each entity row's moment; every row comes back, nulls where nothing was known.

        Args:
            config: of the store.
            feature_views: views to retrieve, with their projections.
            feature_refs: `view:feature`.
            entity_df: a frame with the join keys and a time. None: the newest known row at `end_date` of every key that has an
                event since `start_date`, one row a key.
            registry: for on-demand views.
            project: Feast project.
            full_feature_names: name features `view__feature`.
            filter_by_created_timestamp: taken and ignored: the created cutoff is always on.
            start_date: only without `entity_df`; default as Feast's.
            end_date: only without `entity_df`; default now.
        Raises:
            EntityRowsError: entity rows are SQL, lack a join key, or name two columns alike.
            SourceError: a source is no Parquet file, is not there or lacks a column.
            KeyTypeError: the types of a join key cannot be compared.
        """
        requests = [ViewRequest.of(view, feature_refs, config, full_feature_names=full_feature_names) for view in feature_views]
        if entity_df is None:
            start, end = compute_non_entity_date_range(feature_views, start_date=start_date, end_date=end_date)
            entity_df = _every_key(requests, start, end, limits_of(config, None))
        if not isinstance(entity_df, pd.DataFrame):
            raise EntityRowsError(
                f"entity rows: got {type(entity_df).__name__}, expected a pandas DataFrame; this store has no SQL"
            )
        entities = EntityRows.of(entity_df, requests)
        first, last = entities.bounds
        return AsOfRetrievalJob(
            config,
            lambda limits: (entities.frame, ((request, _answer(request, entities, limits)) for request in requests)),
            on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            full_feature_names=full_feature_names,
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in entities.frame.columns if name != entities.event_column],
                min_event_timestamp=first,
                max_event_timestamp=last,
            ),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """The newest row of each key with its event between two times, both included; rows that are never visible left out."""
        wanted = Wanted(tuple(join_key_columns), timestamp_field, created_timestamp_column or None, tuple(feature_name_columns))
        opened, window = partial(Source.open, data_source, config.repo_path), (_us(start_date, _FIRST), _us(end_date, _LAST))
        return AsOfTableJob(config, lambda limits: _with_entity(latest(opened, wanted, window, limits), join_key_columns))

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Every row with its event between two times, both included, in the files' order; all columns if no feature is named."""
        wanted = Wanted(tuple(join_key_columns), timestamp_field, created_timestamp_column or None, tuple(feature_name_columns))
        opened, window = partial(Source.open, data_source, config.repo_path), (_us(start_date, _FIRST), _us(end_date, _LAST))
        return AsOfTableJob(config, lambda limits: _with_entity(whole(opened, wanted, window, limits), join_key_columns))

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:
        """Append rows to a view's source: to its file, or as a new file of its folder. Columns as in the source."""
        offline_write.append(config, feature_view, table)
        if progress:
            progress(table.num_rows)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,  # noqa: ARG004
        logging_config: LoggingConfig,
        registry: BaseRegistry,  # noqa: ARG004
    ) -> None:
        """Add logged features as new files of a `FileLoggingDestination`."""
        offline_write.write_log(config, data, logging_config)


def _answer(request: ViewRequest, entities: EntityRows, limits: Limits) -> Answer:
    return look_up(request.opened, request.wanted, entities.keys(request.join_keys), entities.moments, limits)


def _every_key(requests: Sequence[ViewRequest], start: datetime, end: datetime, limits: Limits) -> pd.DataFrame:
    """One row at `end` for every key of the views with an event since `start` that was known by then."""
    keys = list(dict.fromkeys(key for request in requests for key in request.join_keys))
    telling = [request for request in requests if set(request.join_keys) == set(keys)]
    if not telling:
        raise EntityRowsError(f"no entity rows: no view has all join keys {keys}, so they cannot be listed; give an entity frame")
    seen = []
    for request in telling if keys else []:
        wanted = replace(request.wanted, features=())
        table = latest(request.opened, wanted, (_us(start, _FIRST), _us(end, _LAST)), limits, known_by_us=_us(end, _LAST))
        seen.append(table.select(wanted.keys).rename_columns(list(request.join_keys)).select(keys).to_pandas())
    frame = pd.concat(seen, ignore_index=True).drop_duplicates(ignore_index=True) if seen else pd.DataFrame(index=range(1))
    frame.insert(0, DEFAULT_ENTITY_DF_EVENT_TIMESTAMP_COL, pd.Timestamp(end).as_unit("us"))
    return frame


def _with_entity(table: pa.Table, join_keys: Sequence[str]) -> pa.Table:
    """Feast looks for its placeholder where a view has no key."""
    if join_keys or DUMMY_ENTITY_ID in table.column_names:
        return table
    return table.append_column(DUMMY_ENTITY_ID, pa.array([DUMMY_ENTITY_VAL] * table.num_rows, pa.string()))


def _us(moment: datetime | None, otherwise: int) -> int:
    if moment is None:
        return otherwise
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
