"""Generated feature tables for measuring point-in-time retrieval, and other ways to the same answers.

python tests/support/retrieval_tables.py FOLDER   retrieves by Feast's DuckDB store with limited memory; prints processor seconds
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float32

from feature_repo.visibility import CREATED, EVENT

N_KEYS, N_VIEWS, N_FEATURES = 30, 5, 4
TTL = timedelta(days=365)
SPAN_US = 2_000 * 86_400_000_000
DUCKDB_GIB = 8


@dataclass(frozen=True)
class Generated:
    """A folder with `view_<n>.parquet` files, and the entity rows: as numbers of keys and microseconds, and as a frame."""

    folder: Path
    codes: np.ndarray
    moments: np.ndarray
    entity_df: pd.DataFrame

    @property
    def features(self) -> list[str]:
        """`view:feature` of all features."""
        return [f"{view}:{name}" for view, names in view_features(self.folder).items() for name in names]


def view_features(folder: Path) -> dict[str, list[str]]:
    """The views of a folder and their features."""
    views = sorted(path.stem for path in folder.glob("view_*.parquet"))
    return {view: [f"{view}_f{number}" for number in range(N_FEATURES)] for view in views}


def generate(folder: Path, n_rows: int, n_views: int = N_VIEWS) -> Generated:
    """N feature rows a view, one in ten a correction of another, one in ten late, one in a hundred never known; N entity rows."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(7)
    names = np.array([f"driver_{number:02d}" for number in range(N_KEYS)], dtype=object)
    for view in range(n_views):
        codes, events = rng.integers(0, N_KEYS, n_rows), np.sort(rng.integers(0, SPAN_US, n_rows))
        created = events + np.where(rng.random(n_rows) < 0.1, rng.integers(0, 30 * 86_400_000_000, n_rows), 0)
        again = np.flatnonzero(rng.random(n_rows) < 0.1)
        codes[again], events[again] = codes[again - 1], events[again - 1]
        created[again] = created[again - 1] + 1 + rng.integers(0, 86_400_000_000, len(again))
        table = {"driver_id": pa.array(names).take(pa.array(codes)), EVENT: _times(events, events < 0)}
        table[CREATED] = _times(created, rng.random(n_rows) < 0.01)
        for number in range(N_FEATURES):
            table[f"view_{view}_f{number}"] = pa.array(rng.normal(size=n_rows).astype(np.float32))
        pq.write_table(pa.table(table), folder / f"view_{view}.parquet")
    codes, moments = rng.integers(0, N_KEYS, n_rows), rng.integers(0, SPAN_US, n_rows)
    entity_df = pd.DataFrame({"driver_id": names[codes], EVENT: _times(moments, moments < 0).to_pandas()})
    entity_df.to_parquet(folder / "entities.parquet")
    return Generated(folder, codes, moments, entity_df)


def reopen(folder: Path) -> Generated:
    """Tables that were generated before."""
    entity_df = pd.read_parquet(folder / "entities.parquet")
    return Generated(folder, entity_df["driver_id"].str[-2:].astype("int64").to_numpy(), _us(entity_df[EVENT]), entity_df)


def _us(times: pd.Series) -> np.ndarray:
    return times.astype("datetime64[us, UTC]").astype("int64").to_numpy()


def _times(values: np.ndarray, missing: np.ndarray) -> pa.Array:
    return pa.array(values, mask=missing).cast(pa.timestamp("us", "UTC"))


def feast_store(folder: Path, offline: str) -> FeatureStore:
    """A Feast store over the views of a folder with that offline store."""
    config = RepoConfig(
        project="bench",
        provider="local",
        repo_path=folder,
        registry={"registry_type": "file", "path": str(folder / f"{offline}.db")},
        offline_store={"type": offline},
        online_store=None,
        entity_key_serialization_version=3,
        data_quality_monitoring={"auto_baseline": False},
        coerce_tz_aware=offline == "duckdb",  # the as-of store does it itself
    )
    store = FeatureStore(config=config)
    driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.STRING)
    views = []
    for view, names in view_features(folder).items():
        path = str(folder / f"{view}.parquet")
        source = FileSource(name=f"{view}_source", path=path, timestamp_field=EVENT, created_timestamp_column=CREATED)
        fields = [Field(name=name, dtype=Float32) for name in names]
        views.append(FeatureView(name=view, entities=[driver], schema=fields, source=source, ttl=TTL))
    store.apply([driver, *views])
    return store


def by_polars(folder: Path) -> Any:
    """The answer of polars, reading the files: of each view the rows that can answer, then one `join_asof`."""
    import polars as pl

    asked = pl.read_parquet(folder / "entities.parquet").with_row_index("row").sort(EVENT)
    for view, names in view_features(folder).items():
        table = pl.read_parquet(folder / f"{view}.parquet").drop_nulls(CREATED)
        table = table.with_columns(visible=pl.max_horizontal(EVENT, CREATED)).sort("visible", EVENT, CREATED)
        table = table.filter(pl.col(EVENT) == pl.col(EVENT).cum_max().over("driver_id")).rename({EVENT: "event"}).drop(CREATED)
        asked = asked.join_asof(
            table, left_on=EVENT, right_on="visible", by="driver_id", strategy="backward", check_sortedness=False
        )
        expired = pl.col("event") < pl.col(EVENT) - TTL
        asked = asked.with_columns(pl.when(expired).then(None).otherwise(pl.col(name)).alias(name) for name in names)
        asked = asked.drop("event", "visible", strict=False)
    return asked.sort("row").drop("row")


def packed(tables: Generated) -> Callable[[], dict[str, np.ndarray]]:
    """The limit: everything that can be prepared is; what is left is one sort of the questions, and a search and takes a view."""
    ttl, span = int(TTL.total_seconds() * 1e6), SPAN_US + 32 * 86_400_000_000
    prepared = []
    for view, names in view_features(tables.folder).items():
        frame = pd.read_parquet(tables.folder / f"{view}.parquet").dropna(subset=[CREATED])
        keys = frame["driver_id"].str[-2:].astype("int64").to_numpy()
        event, created = _us(frame[EVENT]), _us(frame[CREATED])
        visible = np.maximum(event, created)
        order = np.lexsort([created, event, visible, keys])
        by_event = (keys * span + event)[order]
        order = order[by_event == np.maximum.accumulate(by_event)]
        prepared.append(((keys * span + visible)[order], event[order], {name: frame[name].to_numpy()[order] for name in names}))

    def answer() -> dict[str, np.ndarray]:
        asked = tables.codes * span + tables.moments
        order = np.argsort(asked)
        asked, first, oldest = asked[order], tables.codes[order] * span, tables.moments[order] - ttl
        result = {}
        for rows, event, columns in prepared:
            found = np.searchsorted(rows, asked, side="right") - 1
            missing = (found < 0) | (rows[found] < first) | (event[found] < oldest)
            for name, column in columns.items():
                taken = column[found]
                taken[missing] = np.nan
                result[name] = np.empty_like(taken)
                result[name][order] = taken
        return result

    return answer


def by_duckdb(folder: Path) -> None:
    """Retrieve by Feast's DuckDB store with limited memory, keep the answer, print the processor seconds."""
    resource.setrlimit(resource.RLIMIT_DATA, (DUCKDB_GIB << 30, DUCKDB_GIB << 30))
    store, tables = feast_store(folder, "duckdb"), reopen(folder)
    entity_df = tables.entity_df.assign(row=np.arange(len(tables.entity_df)))

    def retrieve(asked: pd.DataFrame) -> pd.DataFrame:
        job = store.get_historical_features(entity_df=asked, features=tables.features, filter_by_created_timestamp=True)
        return job.to_df()

    retrieve(entity_df.head(10))  # what only the first query of a process takes is not counted
    spent = time.process_time()
    answer = retrieve(entity_df)
    spent = time.process_time() - spent
    answer.sort_values("row", ignore_index=True).to_parquet(folder / "duckdb.parquet")
    sys.stdout.write(json.dumps({"seconds": spent}) + "\n")


if __name__ == "__main__":
    by_duckdb(Path(sys.argv[1]))
