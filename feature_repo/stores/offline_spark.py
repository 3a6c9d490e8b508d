"""Feast's Spark offline store with the point-in-time rule exact, over the same file sources as the embedded stores.

A row is known from max(event, created) on, and of the rows known at a moment the newest (event, created) answers. So rows and
questions are put on one time line per key, and the answer to a question is the running maximum of (event, created) up to it:
one shuffle by key and one sort, spilled to disk by Spark where a key's history is long. Feast's own query joins every row of a
key with every question of the key, which is quadratic, and takes two keys for one where their texts run together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureView, Field, FileSource, OnDemandFeatureView, RepoConfig
from feast.data_source import DataSource
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.offline_stores.contrib.spark_offline_store.spark import (
    SparkOfflineStore,
    SparkOfflineStoreConfig,
    SparkRetrievalJob,
)
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.saved_dataset import SavedDatasetStorage
from feast.utils import _get_requested_feature_views_to_features_dict
from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from feature_repo.stores.errors import EntityRowsError, SourceError
from feature_repo.stores.offline import AsOfOfflineStore
from feature_repo.stores.spark_session import LOCAL_MASTER, spark_session, worker_errors

# Columns of our own beside those of the caller.
_ORDER, _AT, _MOMENT, _STAMP, _FOUND, _QUESTION = (
    f"pitwall__{name}" for name in ("order", "at", "moment", "stamp", "found", "is_question")
)
_FAR_FUTURE_US = 2**62
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SparkAsOfOfflineStoreConfig(SparkOfflineStoreConfig):
    """Configuration of `SparkAsOfOfflineStore`; `spark_conf` as in Feast's own Spark store."""

    type: str = "feature_repo.stores.offline_spark.SparkAsOfOfflineStore"
    """ Class path of the store. """

    spark_master: str = LOCAL_MASTER
    """ Spark master, such as `local[2]`, `spark://host:7077`, `yarn`. """


@dataclass(frozen=True)
class SourceTable:
    """A source read by Spark, its columns under the names that its view has for them.

    Attributes:
        rows: the rows that are visible at some moment: key, event and created time are known.
        keys: join keys.
        event: column of the event time.
        created: column of the created time; None if the source has none, then a row is known from its event on.
        unknown_since_when: the rows that are never visible because nobody recorded when they became known.
    """

    rows: DataFrame
    keys: tuple[str, ...]
    event: str
    created: str | None
    unknown_since_when: DataFrame

    @property
    def event_us(self) -> Column:
        return F.unix_micros(F.col(self.event).cast("timestamp"))

    @property
    def created_us(self) -> Column:
        return self.event_us if self.created is None else F.unix_micros(F.col(self.created).cast("timestamp"))

    @property
    def stamp(self) -> Column:
        """What is newest: the event, then the created time, then the place in the source."""
        place = [F.col("_metadata.file_path"), F.col("_metadata.row_index")] if _has_place(self.rows) else []
        return F.struct(self.event_us.alias("event"), self.created_us.alias("created"), *place)

    def repeated(self) -> DataFrame:
        """Key and times that more than one row has: none of those rows is the newest."""
        same = [*self.keys, self.event, *([self.created] if self.created else [])]
        return self.rows.groupBy(*map(_quoted, same)).count().where(F.col("count") > 1).select(*map(_quoted, same))


class SparkAsOfOfflineStore(SparkOfflineStore):
    """Feast's Spark store with Pitwall's rule: event and created time at most the moment, not older than ttl, newest first."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | DataFrame | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = True,  # noqa: ARG004 - the signature is Feast's
        **kwargs: Any,  # noqa: ARG004
    ) -> RetrievalJob:
        """What each feature was known to be at each entity row's moment; every row comes back, nulls where nothing was known.

        The created cutoff is always on, whatever `filter_by_created_timestamp` says.

        Args:
            entity_df: a frame, SQL for Spark, or a Spark frame, with join keys and moment. A pandas frame's order is kept; the
                other two have none.
        Raises:
            EntityRowsError: there are no entity rows, or a column is missing.
            SourceError: a source cannot be read.
        """
        spark = _session(config)
        if entity_df is None:
            raise EntityRowsError(
                "entity rows: got none, expected a frame with join keys and moments; a date range is not supported"
            )
        asked, moment = _uploaded(spark, entity_df)
        columns = [column for column in asked.columns if column != _ORDER]
        asked = asked.withColumn(_MOMENT, F.unix_micros(F.col(_quoted(moment)).cast("timestamp")))
        wanted, _ = _get_requested_feature_views_to_features_dict(
            feature_refs, feature_views, OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        )
        first, last = asked.select(F.min(_MOMENT), F.max(_MOMENT)).first() or (None, None)
        answered = asked
        names: list[str] = []
        for view, features in wanted.items():
            shown = {name: f"{view.projection.name_to_use()}__{name}" if full_feature_names else name for name in features}
            missing = [key for key in _left_keys(view) if key not in columns]
            if missing:
                raise EntityRowsError(f"entity rows for view {view.name}: lack {missing}; got {columns}")
            answered = _with_view(spark, answered, view, shown, (first or 0, last or 0))
            names += shown.values()
        frame = answered.select(*map(_quoted, [*columns, *names]), *([_ORDER] if _ORDER in asked.columns else []))
        keys = sorted({key for view in wanted for key in _left_keys(view)})
        return SparkAsOfRetrievalJob(
            frame,
            config,
            full_feature_names=full_feature_names,
            on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            metadata=RetrievalMetadata(feature_refs, keys, _as_time(first), _as_time(last)),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """The newest row (event, then created) of each key with start_date <= event <= end_date."""
        spark = _session(config)
        table = _table(spark, data_source, join_key_columns, timestamp_field, created_timestamp_column)
        newest = newest_rows(table, feature_name_columns, _as_us(start_date), _as_us(end_date))
        if not join_key_columns:
            newest = newest.withColumn(DUMMY_ENTITY_ID, F.lit(DUMMY_ENTITY_VAL))
        return SparkAsOfRetrievalJob(newest, config, full_feature_names=False)

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
        """Every row with start_date <= event <= end_date; an end that is None is open."""
        spark = _session(config)
        table = _table(spark, data_source, join_key_columns, timestamp_field, created_timestamp_column)
        stamps = [column for column in (timestamp_field, created_timestamp_column) if column]
        chosen = table.rows.where(_between(table, _as_us(start_date), _as_us(end_date)))
        frame = chosen.select(*map(_quoted, [*join_key_columns, *feature_name_columns, *stamps]))
        return SparkAsOfRetrievalJob(frame, config, full_feature_names=False)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:
        """Add rows to the view's source; a file source is written as the embedded store writes it."""
        if isinstance(feature_view.batch_source, FileSource):
            AsOfOfflineStore.offline_write_batch(config, feature_view, table, progress)
        else:
            SparkOfflineStore.offline_write_batch(config, feature_view, table, progress)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        """Add logged features to a file destination, as the embedded store does."""
        AsOfOfflineStore.write_logged_features(config, data, source, logging_config, registry)


class SparkAsOfRetrievalJob(SparkRetrievalJob):
    """A Spark frame that is computed when it is asked for."""

    def __init__(
        self,
        frame: DataFrame,
        config: RepoConfig,
        *,
        full_feature_names: bool,
        on_demand_feature_views: list[OnDemandFeatureView] | None = None,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        super().__init__(frame.sparkSession, "", full_feature_names, config, on_demand_feature_views, metadata)
        self._frame = frame

    def to_spark_df(self) -> DataFrame:
        """The answer, lazily; in no order."""
        return self._frame.drop(_ORDER)

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal(timeout).to_pandas()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002 - the signature is Feast's
        if self._should_use_staging_for_arrow():
            return self._to_arrow_via_staging()
        with worker_errors("retrieval"):
            found = self._frame.toArrow()
        if _ORDER in found.column_names:
            found = found.take(pa.array(np.argsort(found[_ORDER].to_numpy(), kind="stable"))).drop_columns([_ORDER])
        return found

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool | None = False, timeout: int | None = None) -> None:
        """Write the answer from the workers to a file storage's folder, or as Feast's Spark store does."""
        if not isinstance(storage, SavedDatasetFileStorage):
            super().persist(storage, allow_overwrite, timeout)
            return
        mode = "overwrite" if allow_overwrite else "error"
        self.to_spark_df().write.mode(mode).parquet(storage.file_options.uri)


def newest_rows(
    table: SourceTable, features: Sequence[str], since_us: int | None = None, until_us: int | None = None
) -> DataFrame:  # fmt: skip
    """The newest row of each key with since_us <= event <= until_us: keys, features, event and created time.

    Args:
        table: from `read_table`.
        features: columns kept.
        since_us: microseconds since 1970, None: from the beginning.
        until_us: None: to the end.
    """
    kept = [*table.keys, *features, table.event, *([table.created] if table.created else [])]
    window = table.rows.where(_between(table, since_us, until_us))
    best = F.max_by(F.struct(*map(_quoted, kept)), table.stamp).alias(_FOUND)
    groups = window.groupBy(*map(_quoted, table.keys)) if table.keys else window.groupBy()
    return groups.agg(best).where(F.col(_FOUND).isNotNull()).select(f"{_FOUND}.*")


def read_table(spark: SparkSession, view: FeatureView) -> SourceTable:
    """The source of a view under the view's names of its columns.

    Raises:
        SourceError: the source is of a kind that Spark cannot read here, is absent or lacks a column.
    """
    source = view.batch_source
    keys = [column.name for column in _entity_columns(view)]
    names = source.field_mapping
    event, created = source.timestamp_field, source.created_timestamp_column
    return _table(spark, source, keys, names.get(event, event), names.get(created, created) if created else None)


def _table(spark: SparkSession, source: DataSource, keys: Sequence[str], event: str, created: str | None) -> SourceTable:
    rows = _scan(spark, source)
    for original, name in (source.field_mapping or {}).items():
        rows = rows.withColumnRenamed(original, name)
    times = [event, *([created] if created else [])]
    needed = [*keys, *times]
    missing = [column for column in needed if column not in rows.columns]
    if missing:
        raise SourceError(f"source {source.name}: lacks {missing}; got {rows.columns}; write the table again")
    kinds = dict(rows.dtypes)
    for column in times:
        if kinds[column] == "bigint":  # Spark has no nanoseconds; it was told to give them as integers
            rows = rows.withColumn(
                column, F.expr(f"timestamp_micros(({_quoted(column)} - pmod({_quoted(column)}, 1000)) div 1000)")
            )
    known = rows
    for column in needed:
        known = known.where(F.col(_quoted(column)).isNotNull())
    unknown = rows.where(F.col(_quoted(created)).isNull()) if created else rows.limit(0)
    return SourceTable(known, tuple(keys), event, created, unknown)


def _scan(spark: SparkSession, source: DataSource) -> DataFrame:
    try:
        if isinstance(source, FileSource):
            return spark.read.parquet(source.path)
        if isinstance(source, SparkSource) and source.path:
            return spark.read.format(source.file_format or "parquet").load(source.path)
        return spark.sql(f"SELECT * FROM {source.get_table_query_string()}")
    except AnalysisException as error:
        raise SourceError(f"source {source.name}: got no table that Spark can read ({error}); run `pitwall features`") from error


def _with_view(
    spark: SparkSession, asked: DataFrame, view: FeatureView, shown: dict[str, str], moments: tuple[int, int]
) -> DataFrame:
    """`asked` with the features of one view; every row of it exactly once."""
    table = read_table(spark, view)
    missing = [name for name in shown if name not in table.rows.columns]
    if missing:
        raise SourceError(f"view {view.name}: its source lacks {missing}; got {table.rows.columns}; write the table again")
    ttl_us = _ttl_us(view)
    left = _left_keys(view)
    types = {field.name: field.dataType for field in table.rows.schema.fields}
    key = {
        f"pitwall__key_{i}": (of_row, of_question) for i, (of_row, of_question) in enumerate(zip(table.keys, left, strict=True))
    }
    known_us = F.greatest(table.event_us, table.created_us)
    rows = table.rows.where(_between(table, moments[0] - ttl_us if ttl_us else None, moments[1])).select(
        *(F.col(_quoted(of_row)).alias(name) for name, (of_row, _) in key.items()),
        known_us.alias(_AT),
        F.lit(0).alias(_QUESTION),
        table.stamp.alias(_STAMP),
        F.struct(*(F.col(_quoted(feature)).alias(name) for feature, name in shown.items())).alias(_FOUND),
    )
    # A key of another type than the source's is compared as the source's; one that cannot be is no key of it.
    as_asked = [F.col(_quoted(asked_key)).try_cast(types[of_row]).alias(name) for name, (of_row, asked_key) in key.items()]
    asked = asked.select("*", *as_asked)
    questions = asked.select(*key, F.col(_MOMENT).alias(_AT)).dropna().distinct().withColumn(_QUESTION, F.lit(1))
    line = rows.unionByName(questions, allowMissingColumns=True)
    # A row known at the very moment is known: rows sort before questions.
    until_now = Window.partitionBy(*key).orderBy(_AT, _QUESTION).rowsBetween(Window.unboundedPreceding, Window.currentRow)
    newest = F.max_by(F.struct(f"{_STAMP}.event", _FOUND), _STAMP).over(until_now).alias(_FOUND)
    answers = line.select(*key, _AT, _QUESTION, newest).where(F.col(_QUESTION) == 1)
    # The newest event is the youngest: if it has expired, every other has.
    if ttl_us:
        answers = answers.where(F.col(f"{_FOUND}.event") >= F.col(_AT) - ttl_us)
    answers = answers.select(*key, F.col(_AT).alias(_MOMENT), f"{_FOUND}.{_FOUND}.*")
    return asked.join(answers, [*key, _MOMENT], "left").drop(*key)


def _uploaded(spark: SparkSession, entity_df: pd.DataFrame | str | DataFrame) -> tuple[DataFrame, str]:
    """Entity rows in Spark, pandas rows with their order; the name of the moment's column."""
    if isinstance(entity_df, pd.DataFrame):
        moment = infer_event_timestamp_from_entity_df(dict(zip(entity_df.columns, entity_df.dtypes, strict=True)))
        if moment not in entity_df.columns:
            raise EntityRowsError(f"entity rows: lack {moment}; got {list(entity_df.columns)}")
        times = pd.to_datetime(entity_df[moment], utc=True).dt.floor("us").astype("datetime64[us, UTC]")
        table = pa.Table.from_pandas(entity_df.assign(**{moment: times, _ORDER: np.arange(len(entity_df))}), preserve_index=False)
        # A column of nothing but nulls has no type that Spark could compare.
        schema = pa.schema([pa.field(f.name, pa.string()) if pa.types.is_null(f.type) else f for f in table.schema])
        return spark.createDataFrame(table.cast(schema)), moment
    frame = spark.sql(entity_df) if isinstance(entity_df, str) else entity_df
    kinds = {
        name: np.dtype("datetime64[ns]") if kind.startswith("timestamp") else np.dtype(object) for name, kind in frame.dtypes
    }
    return frame, infer_event_timestamp_from_entity_df(kinds)


def _left_keys(view: FeatureView) -> list[str]:
    mapping = view.projection.join_key_map
    return [mapping.get(column.name, column.name) for column in _entity_columns(view)]


def _entity_columns(view: FeatureView) -> list[Field]:
    """The key of a view; none where Feast has put a dummy in the place of a view without entities."""
    return [column for column in view.entity_columns if column.name != DUMMY_ENTITY_ID]


def _between(table: SourceTable, since_us: int | None, until_us: int | None) -> Column:
    """Rows by event time, put so that Parquet's statistics can leave whole row groups out."""
    event = F.col(_quoted(table.event)).cast("timestamp")
    inside = F.lit(True)
    if since_us is not None:
        inside &= event >= F.timestamp_micros(F.lit(since_us))
    if until_us is not None:
        inside &= event <= F.timestamp_micros(F.lit(min(until_us, _FAR_FUTURE_US)))
    return inside


def _ttl_us(view: FeatureView) -> int:
    return view.ttl // timedelta(microseconds=1) if view.ttl else 0


def _as_us(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    known = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return (known - _EPOCH) // timedelta(microseconds=1)


def _as_time(moment_us: int | None) -> datetime | None:
    return None if moment_us is None else pd.Timestamp(moment_us, unit="us", tz="UTC").to_pydatetime()


def _has_place(rows: DataFrame) -> bool:
    """Whether Spark knows which file and row a row comes from; of a query it does not."""
    try:
        rows.select("_metadata.row_index")
    except AnalysisException:
        return False
    return True


def _quoted(column: str) -> str:
    return f"`{column.replace('`', '``')}`"


def _session(config: RepoConfig) -> SparkSession:
    store = config.offline_store
    return spark_session(getattr(store, "spark_master", LOCAL_MASTER), store.spark_conf)
