"""Peak memory of one retrieval that is larger than its budget: entity rows x feature rows, by default 1 M x 5 M.

    python tests/benchmarks/asof_memory.py --entity-rows 10000000 --feature-rows 50000000 --limit-gib 8

No benchmark of speed, so not part of `run.py`. The source is written in parts by a process of its own, so that its memory is not
counted. A sample of the answers is compared with the rule read over all rows: a feature value is the number of its row, which
decides key and times. Prints one JSON object; exits with 1 if an answer is wrong or the limit was passed.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.repo_config import RepoConfig
from feast.types import Float64

KEYS = 1000
SPAN_US = 7 * 365 * 86_400 * 1_000_000
N_FEATURES = 4
_PART = 1_000_000
_MIX = 0x9E3779B97F4A7C15


def rows_of(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Key, event and created time of feature rows, from nothing but their numbers: one row in 20 is known up to a day late."""
    mixed = numbers.astype(np.uint64) * np.uint64(_MIX)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(_MIX)
    keys = ((mixed >> np.uint64(40)) % np.uint64(KEYS)).astype(np.int64)
    events = (mixed >> np.uint64(3)).astype(np.int64) % SPAN_US
    late = np.where((mixed >> np.uint64(20)) % np.uint64(20) == 0, (mixed % np.uint64(86_400_000_000)).astype(np.int64), 0)
    return keys, events, events + late


def write(path: Path, n_rows: int) -> None:
    """The source: `n_rows` rows in no order, row groups of a million."""
    schema = pa.schema(
        [("key", pa.int64()), *[(f"f{n}", pa.float64()) for n in range(N_FEATURES)]]
        + [(name, pa.timestamp("us", "UTC")) for name in ("event_timestamp", "created_timestamp")]
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, n_rows, _PART):
            numbers = np.arange(start, min(start + _PART, n_rows))
            keys, events, created = rows_of(numbers)
            features = [pa.array(numbers + n / 10) for n in range(N_FEATURES)]
            times = [pa.array(values).cast(pa.timestamp("us", "UTC")) for values in (events, created)]
            writer.write_table(pa.table([pa.array(keys), *features, *times], schema=schema), row_group_size=_PART)


def entity_rows(n_rows: int) -> pd.DataFrame:
    """Questions in no order."""
    rng = np.random.default_rng(7)
    moments = pd.to_datetime(rng.integers(0, SPAN_US, n_rows), unit="us", utc=True)
    return pd.DataFrame({"key": rng.integers(0, KEYS, n_rows), "event_timestamp": moments.astype("datetime64[us, UTC]")})


def open_store(folder: Path, memory_budget_gib: float) -> FeatureStore:
    """A store with one view over `folder/rows.parquet` that keeps nothing between retrievals."""
    offline = {
        "type": "feature_repo.stores.offline.AsOfOfflineStore",
        "memory_budget_gib": memory_budget_gib,
        "cache_gib": 0.0,
    }
    config = RepoConfig(
        project="memory",
        provider="local",
        repo_path=folder,
        registry={"registry_type": "file", "path": str(folder / "registry.db")},
        offline_store=offline,
        online_store=None,
        entity_key_serialization_version=3,
        data_quality_monitoring={"auto_baseline": False},
    )
    store = FeatureStore(config=config)
    source = FileSource(path="rows.parquet", timestamp_field="event_timestamp", created_timestamp_column="created_timestamp")
    entity = Entity(name="key", join_keys=["key"], value_type=ValueType.INT64)
    fields = [Field(name=f"f{n}", dtype=Float64) for n in range(N_FEATURES)]
    store.apply([entity, FeatureView(name="rows", entities=[entity], schema=fields, source=source, ttl=timedelta(days=30))])
    return store


def n_wrong(answer: pd.DataFrame, n_rows: int, sample: int = 50) -> int:
    """How many of a sample of answers are not those of the rule read over all rows, part by part."""
    places = np.random.default_rng(1).choice(len(answer), min(sample, len(answer)), replace=False)
    best = [(-1, -1, -1)] * len(places)
    keys = answer["key"].to_numpy()[places]
    moments = answer["event_timestamp"].astype("int64").to_numpy()[places]
    for start in range(0, n_rows, _PART):
        numbers = np.arange(start, min(start + _PART, n_rows))
        held, events, created = rows_of(numbers)
        for place, (key, moment) in enumerate(zip(keys, moments, strict=True)):
            seen = np.flatnonzero((held == key) & (events <= moment) & (created <= moment))
            seen = seen[events[seen] >= moment - 30 * 86_400_000_000]
            candidates = [(int(events[row]), int(created[row]), int(numbers[row])) for row in seen]
            best[place] = max([best[place], *candidates])
    wrong = 0
    for place, (*_, number) in zip(places, best, strict=True):
        values = answer.iloc[place][[f"f{n}" for n in range(N_FEATURES)]].to_numpy(dtype=float)
        expected = [np.nan if number < 0 else number + n / 10 for n in range(N_FEATURES)]
        wrong += not np.array_equal(values, expected, equal_nan=True)
    return wrong


def main() -> int:
    """Write, retrieve, check, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entity-rows", type=int, default=1_000_000)
    parser.add_argument("--feature-rows", type=int, default=5_000_000)
    parser.add_argument("--memory-budget-gib", type=float, default=2.0)
    parser.add_argument("--limit-gib", type=float, default=8.0)
    parser.add_argument("--write-to", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.write_to:
        write(asked.write_to, asked.feature_rows)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [
            sys.executable,
            __file__,
            "--feature-rows",
            str(asked.feature_rows),
            "--write-to",
            str(folder / "rows.parquet"),
        ]
        subprocess.run(command, check=True)
        store, entities = open_store(folder, asked.memory_budget_gib), entity_rows(asked.entity_rows)
        before, started = _peak_gib(), time.perf_counter()
        answer = store.get_historical_features(entity_df=entities, features=[f"rows:f{n}" for n in range(N_FEATURES)]).to_df()
        seconds, peak = time.perf_counter() - started, _peak_gib()
        wrong = n_wrong(answer, asked.feature_rows)
    report = {
        "entity_rows": asked.entity_rows,
        "feature_rows": asked.feature_rows,
        "memory_budget_gib": asked.memory_budget_gib,
        "seconds": round(seconds, 2),
        "peak_gib_before": round(before, 2),
        "peak_gib": round(peak, 2),
        "answered": int(answer["f0"].notna().sum()),
        "wrong_of_50": wrong,
    }
    print(json.dumps(report))
    return int(bool(wrong) or peak > asked.limit_gib or len(answer) != asked.entity_rows)


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


if __name__ == "__main__":
    sys.exit(main())
