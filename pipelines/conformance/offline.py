"""Run a case on an offline store: a temporary Feast repository, one `get_historical_features`, one verdict."""

import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.data_source import DataSource
from feast.types import Array, Bool, Bytes, FeastType, Float32, Float64, Int32, Int64, String

from pipelines.conformance.model import Case, View
from pipelines.conformance.outcome import Outcome, difference
from pipelines.conformance.targets import Target

FEAST_TYPES: dict[str, FeastType] = {
    "float64": Float64,
    "int64": Int64,
    "int32": Int32,
    "bool": Bool,
    "string": String,
    "bytes": Bytes,
    "float32[]": Array(Float32),
    "string[]": Array(String),
}
_ARROW_TYPES = {
    "float64": pa.float64(),
    "int64": pa.int64(),
    "int32": pa.int32(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "bytes": pa.binary(),
    "float32[]": pa.list_(pa.float32()),
    "string[]": pa.list_(pa.string()),
}
VALUE_TYPES = {"string": ValueType.STRING, "int64": ValueType.INT64, "int32": ValueType.INT32, "bytes": ValueType.BYTES}
_NUMPY_TYPES = {"int64": "int64", "int32": "int32"}
ROW_ID = "row_id"
IGNORE_ZONES = "PYARROW_IGNORE_TIMEZONE"


def run_case(target: Target, case: Case, *, flagged: bool = True) -> Outcome:
    """Ask `target` and judge its answer; whatever the store raises is an outcome, not an error of the kit.

    Args:
        target: the store.
        case: the question.
        flagged: ask with `filter_by_created_timestamp=True`; without it, Feast's default is judged by the same answer.
    """
    suite = "offline" if flagged else "offline default"
    started = time.perf_counter()
    try:
        with _forgetful_arrow() if case.after_pyspark else nullcontext():
            answer = _answer(target, case, flagged=flagged)
    except Exception as error:  # noqa: BLE001  a store may fail in any way; that it does is the finding
        return Outcome(
            target.name,
            suite,
            case.name,
            "not supported" if _says_unsupported(error) else "error",
            got=f"{type(error).__name__}: {' '.join(str(error).split())}"[:400],
            expected=str([dict(row) for row in case.expected])[:400],
            seconds=time.perf_counter() - started,
        )
    seconds = time.perf_counter() - started
    rows = entity_frame(case).to_dict("records")
    found = difference(rows, answer, case.expected, ordered=case.ordered, row_ids=case.row_ids)
    if found is None:
        return Outcome(target.name, suite, case.name, "right", seconds=seconds)
    return Outcome(target.name, suite, case.name, "wrong", found.got, found.expected, seconds)


def entity_frame(case: Case) -> pd.DataFrame:
    """The entity rows of a case as the pandas frame that a store is given."""
    moments = pd.Series([row["moment"] for row in case.asked], dtype="datetime64[us, UTC]")
    zoned = moments.dt.tz_convert(case.moment_zone) if case.moment_zone else moments.dt.tz_localize(None)
    columns: dict[str, Any] = {ROW_ID: range(len(case.asked))} if case.row_ids else {}
    for view in case.views:
        for key, kind in view.keys.items():
            asked_by = view.asked_by.get(key, key)
            values = [row[asked_by] for row in case.asked]
            columns[asked_by] = pd.Series(values, dtype="object" if None in values else _NUMPY_TYPES.get(kind, "object"))
    for extra in sorted({name for row in case.asked for name in row} - {"moment", *columns}):
        columns[extra] = pd.Series([row[extra] for row in case.asked], dtype="object")
    return pd.DataFrame({**columns, case.moment_column: zoned.dt.as_unit(case.moment_unit)})


def feature_table(view: View) -> pa.Table:
    """The rows of a view as the Arrow table that is stored."""
    stamp = pa.timestamp(view.unit, tz=view.zone)
    columns = {view.stored_as.get(name, name): _column(view, name, kind) for name, kind in {**view.keys, **view.features}.items()}
    columns[view.event_column] = _stamps([row["event"] for row in view.rows], stamp)
    if view.created_column:
        columns[view.created_column] = _stamps([row["created"] for row in view.rows], stamp)
    return pa.table(columns)


def _column(view: View, name: str, kind: str) -> pa.Array:
    return pa.array([row[name] for row in view.rows], type=_ARROW_TYPES[kind])


def _stamps(times: Sequence[datetime | None], kind: pa.TimestampType) -> pa.Array:
    """Instants in the unit and zone of `kind`; naive ones hold the UTC wall clock."""
    utc = pa.array(times, type=pa.timestamp("us", tz="UTC"))
    return utc.cast(pa.timestamp(kind.unit, tz="UTC")).cast(pa.int64()).cast(kind)


def _answer(target: Target, case: Case, *, flagged: bool) -> list[Mapping[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store, service = _open(target, case, Path(folder))
        cutoff = {"filter_by_created_timestamp": True} if flagged else {}
        job = store.get_historical_features(
            entity_df=entity_frame(case), features=service, full_feature_names=case.full_names, **cutoff
        )
        if case.through_arrow:
            return job.to_arrow().to_pylist()
        return job.to_df().to_dict("records")


def _open(target: Target, case: Case, folder: Path) -> tuple[FeatureStore, FeatureService]:
    """A Feast repository in `folder` that holds the case's tables and a service with all their features."""
    config = RepoConfig(
        repo_path=folder,
        project="conformance",
        provider="local",
        registry={"registry_type": "file", "path": str(folder / "registry.db")},
        offline_store={"type": target.type, **target.options},
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        entity_key_serialization_version=3,
        data_quality_monitoring={"auto_baseline": False},
    )
    store = FeatureStore(config=config)
    entities: dict[str, Entity] = {}
    declared: dict[str, FeatureView] = {}
    asked = []
    for view in case.views:
        if view.name not in declared:
            for key, kind in view.keys.items():
                entities.setdefault(key, Entity(name=key, join_keys=[key], value_type=VALUE_TYPES[kind]))
            path = folder / f"{view.name}.parquet"
            pq.write_table(feature_table(view), path)
            declared[view.name] = _declared(view, [entities[key] for key in view.keys], _source(target, view, path))
        asked.append(_asked(view, declared[view.name]))
    service = FeatureService(name="asked", features=asked)
    store.apply([*entities.values(), *declared.values(), service])
    return store, service


def _source(target: Target, view: View, path: Path) -> DataSource:
    common: dict[str, Any] = {
        "name": f"{view.name}_source",
        "timestamp_field": view.event_column,
        "created_timestamp_column": view.created_column or "",
        "field_mapping": {stored: name for name, stored in view.stored_as.items()},
    }
    if target.is_spark:
        from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

        return SparkSource(path=str(path), file_format="parquet", **common)
    return FileSource(path=str(path), **common)


def _declared(view: View, entities: list[Entity], source: DataSource) -> FeatureView:
    return FeatureView(
        name=view.name,
        entities=entities,
        ttl=view.ttl if view.ttl is not None else timedelta(0),
        schema=[Field(name=name, dtype=FEAST_TYPES[kind]) for name, kind in {**view.keys, **view.features}.items()],
        source=source,
        online=False,
    )


def _asked(view: View, declared: FeatureView) -> FeatureView:
    asked = declared[list(view.features)]
    if view.alias:
        asked = asked.with_name(view.alias)
    return asked.with_join_key_map(dict(view.asked_by)) if view.asked_by else asked


@contextmanager
def _forgetful_arrow() -> Iterator[None]:
    """The environment variable that pyspark.pandas leaves behind; pyarrow looks at it on every conversion."""
    os.environ[IGNORE_ZONES] = "1"
    try:
        yield
    finally:
        del os.environ[IGNORE_ZONES]


def _says_unsupported(error: Exception) -> bool:
    return isinstance(error, NotImplementedError) or "filter_by_created_timestamp" in str(error)
