"""Online lookup of a grid of 20 cars, 40 numbers and a 512-float embedding, against Feast's SDK on Feast's own store.

The same rows of five views are written through Feast into four stores: Feast's SQLite and ours, Feast's Redis and ours (a
redis-server started for it). Ours is `serving.online_lookup.lookup_rows` and the columns a model takes, reference is
`FeatureStore.get_online_features(...).to_dict()`. Both take turns; seconds are wall seconds, medians. `equal`: our answer as a
dictionary is that of the SDK on our store and on Feast's, values, nulls and times. The last rows are 32 threads asking at once:
seconds are wall seconds per answer, `detail` has the latency of single answers, so that a convoy would show.

On Redis the floor is shown too: one `MGET` of the same packed rows under plain keys that are ready, nothing taken apart. There
`equal` says that it brings the bytes which our store reads.
"""

import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import redis
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Array, Float32, Float64, Int64

from feature_repo.stores.online import packed_store
from serving.online_lookup import lookup_rows, plan_of

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))
from own_redis import own_redis

CARS, TEAMS, EMBEDDING_DIM = 20, 10, 512
RACE = "2024_08"
GOAL, CALLERS = 5.0, 32
SERVICE = "grid_v1"
OURS = {
    "SQLite": "feature_repo.stores.online_sqlite.PackedSqliteOnlineStore",
    "Redis": "feature_repo.stores.online_redis.PackedRedisOnlineStore",
}


def run(*, quick: bool = False) -> list[dict[str, Any]]:
    """Two rows a store: one caller, 32 callers. Redis, with the floor, only where a redis-server is installed."""
    rows = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = {
            "SQLite": (
                {"type": OURS["SQLite"], "path": str(folder / "ours.db")},
                {"type": "sqlite", "path": str(folder / "feast.db")},
            ),
        }
        if shutil.which("redis-server"):
            address = stack.enter_context(own_redis(folder))
            sides["Redis"] = (
                {"type": OURS["Redis"], "connection_string": f"{address},db=0"},
                {"type": "redis", "connection_string": f"{address},db=1"},
            )
        for name, configs in sides.items():
            ours, feast = (_store(folder, f"side{i}_{name.lower()}", config) for i, config in enumerate(configs))
            rows += _compare(name, ours, feast, quick=quick)
            if name == "Redis":
                rows.append(_floor(ours, address, quick=quick))
    return rows


def _floor(ours: FeatureStore, address: str, *, quick: bool) -> dict[str, Any]:
    """Our lookup against one MGET of its packed rows."""
    entity_rows = _entity_rows()
    requests = []
    for plan in plan_of(ours, SERVICE).views:
        columns = {key: [row[asked] for row in entity_rows] for key, asked in plan.keys}
        requests.append((plan.view, list(dict.fromkeys(plan.key_layout.keys(columns)))))
    packed = packed_store(ours).read_many(ours.config, requests)
    named = {f"{view.name}:".encode() + key: value for (view, keys), held in zip(requests, packed, strict=True)
             for key, value in zip(keys, held, strict=True)}  # fmt: skip
    host, _, port = address.partition(":")
    with redis.Redis(host=host, port=int(port), db=2) as client:
        client.mset(named)
        keys = list(named)
        equal = None not in named.values() and client.mget(keys) == list(named.values())
        sides = _in_turns(
            lambda: lookup_rows(ours, SERVICE, entity_rows).columns(),
            lambda: client.execute_command("MGET", *keys),
            20 if quick else 400,
        )
    row = _row(f"online lookup of {CARS} cars on Redis, against a raw MGET of {len(keys)} packed rows", sides, None, equal)
    size = sum(len(value or b"") for value in named.values())
    return row | {"detail": f"MGET p50 {1e3 * np.median(sides[1]):.2f} ms of {size / 1024:.0f} KiB; ours beside it makes columns"}


def _entity_rows() -> list[dict[str, str]]:
    return [{"race_id": RACE, "driver_id": f"driver_{car:02d}", "team_id": f"team_{car % TEAMS}"} for car in range(CARS)]


def _compare(name: str, ours: FeatureStore, feast: FeatureStore, *, quick: bool) -> list[dict[str, Any]]:
    entity_rows = _entity_rows()
    said = lookup_rows(ours, SERVICE, entity_rows).to_dict(include_event_timestamps=True)
    equal = all(said == _sdk(store, entity_rows, include_event_timestamps=True) for store in (ours, feast))

    def fast() -> Any:
        return lookup_rows(ours, SERVICE, entity_rows).columns()

    def slow() -> Any:
        return _sdk(feast, entity_rows)

    repeats = 20 if quick else 400
    single = _in_turns(fast, slow, repeats)
    row = _row(f"online lookup of {CARS} cars, 40 features and embeddings: {name}", single, GOAL, equal)
    row["detail"] = (
        f"p50 {1e3 * np.median(single[0]):.2f} ms, p99 {1e3 * np.percentile(single[0], 99):.2f} ms; "
        f"Feast's SDK p50 {1e3 * np.median(single[1]):.2f} ms, p99 {1e3 * np.percentile(single[1], 99):.2f} ms"
    )
    many = _at_once(fast, repeats // 4), _at_once(slow, repeats // 20)
    crowd = _row(f"the same, {CALLERS} callers at once: {name}", tuple([seconds] for seconds, _ in many), GOAL, equal)
    said_of = [
        f"{who}: {1 / seconds:.0f} answers/s, p50 {1e3 * np.median(each):.1f} ms, p99 {1e3 * np.percentile(each, 99):.1f} ms"
        for who, (seconds, each) in zip(("ours", "Feast"), many, strict=True)
    ]
    crowd["detail"] = "; ".join([*said_of, f"one caller alone {1 / np.median(single[0]):.0f} answers/s"])
    return [row, crowd]


def _row(name: str, seconds: Sequence[Sequence[float]], goal: float | None, equal: bool) -> dict[str, Any]:
    ours, reference = (float(np.median(side)) for side in seconds)
    return {"name": name, "ours_s": ours, "reference_s": reference, "ratio": reference / ours, "goal": goal, "equal": equal}


def _sdk(store: FeatureStore, entity_rows: list[dict[str, str]], *, include_event_timestamps: bool = False) -> dict[str, Any]:
    service = store.get_feature_service(SERVICE, allow_cache=True)
    return store.get_online_features(service, entity_rows).to_dict(include_event_timestamps=include_event_timestamps)


def _in_turns(ours: Callable[[], Any], reference: Callable[[], Any], repeats: int) -> tuple[list[float], list[float]]:
    measured: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for times, call in zip(measured, (ours, reference), strict=True):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
    return measured


def _at_once(call: Callable[[], Any], each: int) -> tuple[float, list[float]]:
    """Wall seconds per answer of all callers together, and the seconds every answer took."""
    latencies: list[float] = []
    begin = threading.Barrier(CALLERS + 1)

    def ask() -> None:
        begin.wait()
        for _ in range(each):
            started = time.perf_counter()
            call()
            latencies.append(time.perf_counter() - started)

    threads = [threading.Thread(target=ask) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    begin.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - started) / (CALLERS * each), latencies


def _store(folder: Path, project: str, online: dict[str, str]) -> FeatureStore:
    """An applied store with the five views written through Feast."""
    config = {
        "project": project, "provider": "local", "online_store": online, "offline_store": {"type": "file"},
        "registry": {"registry_type": "sql", "path": f"sqlite:///{folder / project}.registry.db"},
        "entity_key_serialization_version": 3, "data_quality_monitoring": {"auto_baseline": False},
    }  # fmt: skip
    store = FeatureStore(config=RepoConfig(repo_path=folder, **config))
    race, driver, team = (Entity(name=n, join_keys=[f"{n}_id"], value_type=ValueType.STRING) for n in ("race", "driver", "team"))
    views = [
        _view(folder, "driver_form", [driver], 15),
        _view(folder, "team_form", [team], 8),
        _view(folder, "race_weather", [race], 5),
        _view(folder, "tire_state", [race, driver], 12),
        _view(folder, "trace_embedding", [race, driver], 0),
    ]
    store.apply([race, driver, team, *views, FeatureService(name=SERVICE, features=views)])
    for view in views:
        store.write_to_online_store(view.name, _rows(view))
    return store


def _view(folder: Path, name: str, entities: list[Entity], numbers: int) -> FeatureView:
    kinds = (Float64, Float32, Int64)
    schema = [Field(name=f"{name}_{i}", dtype=kinds[i % 3]) for i in range(numbers)]
    source = FileSource(
        name=f"{name}_source", path=str(folder / f"{name}.parquet"), timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )  # fmt: skip
    return FeatureView(
        name=name, entities=entities, ttl=timedelta(0), source=source,
        schema=schema or [Field(name="embedding", dtype=Array(Float32))],
    )  # fmt: skip


def _rows(view: FeatureView) -> pd.DataFrame:
    """One row a key, a tenth of the numbers missing; whole seconds, which is all that Feast's SQLite keeps."""
    random = np.random.default_rng(len(view.name))
    n_rows = {"race_weather": 1, "team_form": TEAMS}.get(view.name, CARS)
    frame = pd.DataFrame({"event_timestamp": pd.date_range("2024-05-26 13:00", periods=n_rows, freq="7s", tz="UTC")})
    frame["created_timestamp"] = frame["event_timestamp"]
    names = {
        "race_id": [RACE] * n_rows,
        "driver_id": [f"driver_{i:02d}" for i in range(n_rows)],
        "team_id": [f"team_{i}" for i in range(n_rows)],
    }
    for key in view.join_keys:
        frame[key] = names[key]
    for field in view.features:
        if field.dtype == Array(Float32):
            frame[field.name] = list(random.normal(size=(n_rows, EMBEDDING_DIM)).astype(np.float32))
        elif field.dtype == Int64:
            frame[field.name] = random.integers(-(10**9), 10**9, n_rows)
        else:
            frame[field.name] = np.where(random.random(n_rows) < 0.1, np.nan, random.normal(size=n_rows))
    return frame


if __name__ == "__main__":
    for row in run():
        print(f"{row['name']}: {row['ratio']:.1f}x, equal {row['equal']}; {row['detail']}")
