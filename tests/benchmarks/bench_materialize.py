"""Materialization: Parquet to packed online rows, against Feast's own store of the same kind and against the bare database.

100,000 keys of 16 float features. Feast's side runs `FeatureStore.materialize` with the same offline store as ours, so that only
the way into the online store differs. The bare pipeline gets keys and values that are packed already and only has to write them.
`equal`: every row read back through Feast's SDK is the same in both stores and in the table. Memory is the peak of a process that
does nothing else, for ten times the rows of the same keys; `equal` there says that each key holds its newest row.

Another store is another `StoreCase` in `CASES`.
"""

import json
import math
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float32

from feature_repo.settings import Settings
from feature_repo.store import apply, online_path, open_store
from feature_repo.stores.online import packed_store
from feature_repo.stores.packed import Layout, entity_keys, pack
from feature_repo.visibility import CREATED, EVENT
from pipelines.materialize import materialize

N_FEATURES = 16
FEATURES = [f"feature_{number:02}" for number in range(N_FEATURES)]
VIEW = "car_state"
START_US = 1_716_728_400_000_000  # whole seconds, which is all that Feast's SQLite store keeps
_KEYS_PER_READ = 5_000
_PEAK = "--peak-of"


@dataclass(frozen=True)
class StoreCase:
    """One kind of online store.

    Attributes:
        name: as the table of results shows it.
        settings: of a home that uses our store.
        feasts: configuration of Feast's own store beside it.
        raw: write prepared keys and values the shortest way there is, into an empty place.
        clock: processor seconds where all work is in this process, else wall seconds.
    """

    name: str
    settings: Callable[[Path], Settings]
    feasts: Callable[[Settings], dict[str, Any]]
    raw: Callable[[Settings, Sequence[bytes], Sequence[bytes]], None]
    clock: Callable[[], float]


def _raw_sqlite(settings: Settings, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
    path = settings.home / "raw.db"
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("CREATE TABLE held (entity_key BLOB PRIMARY KEY, value BLOB NOT NULL)")
    connection.execute("BEGIN")
    connection.executemany("INSERT OR REPLACE INTO held VALUES (?, ?)", zip(keys, values, strict=True))
    connection.execute("COMMIT")
    connection.close()


CASES = [
    StoreCase(
        name="SQLite",
        settings=lambda home: Settings(home=home),
        feasts=lambda settings: {"type": "sqlite", "path": str(settings.home / "by_feast.db")},
        raw=_raw_sqlite,
        clock=time.process_time,
    )
]


def run(*, quick: bool = False, n_keys: int = 100_000) -> list[dict[str, Any]]:
    """Two rows a store, against Feast and against the bare database; one row for growth and memory."""
    n_keys = 500 if quick else n_keys
    rows = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            rows += _measure(case, case.settings(Path(folder) / "home"), n_keys, repeats=1 if quick else 3)
    return [*rows, _growth(n_keys)]


def write_table(settings: Settings, n_keys: int, rows_per_key: int) -> pa.Table:
    """A feature table on disk, its keys in no order; the last `n_keys` rows, which are returned, are the newest."""
    random = np.random.default_rng(7)
    path = settings.features_dir / f"{VIEW}.parquet"
    path.parent.mkdir(parents=True)
    ids = pa.array([f"car_{number:07}" for number in random.permutation(n_keys)])
    micros = pa.timestamp("us", tz="UTC")
    features = [(name, pa.float32()) for name in FEATURES]
    schema = pa.schema([("driver_id", pa.string()), *features, (EVENT, micros), (CREATED, micros)])
    with pq.ParquetWriter(path, schema) as writer:
        for lap in range(rows_per_key):
            event = np.full(n_keys, START_US + 90_000_000 * lap)
            numbers = random.random((N_FEATURES, n_keys), np.float32)
            numbers[:, random.random(n_keys) < 0.05] = np.nan
            columns = [pa.array(event, micros), pa.array(event + 1_000_000, micros)]
            rows = pa.table([ids, *map(pa.array, numbers), *columns], schema=schema)
            writer.write_table(rows)
    return rows


def view_of(settings: Settings) -> list[Any]:
    """The entity and the view of the benchmark's table."""
    driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.STRING)
    source = FileSource(
        name=f"{VIEW}_source",
        path=str(settings.features_dir / f"{VIEW}.parquet"),
        timestamp_field=EVENT,
        created_timestamp_column=CREATED,
    )
    schema = [Field(name=name, dtype=Float32) for name in FEATURES]
    return [driver, FeatureView(name=VIEW, entities=[driver], schema=schema, source=source)]


def _measure(case: StoreCase, settings: Settings, n_keys: int, *, repeats: int) -> list[dict[str, Any]]:
    table = write_table(settings, n_keys, rows_per_key=1)
    apply(settings, view_of(settings))
    store, feasts = open_store(settings), _feasts_store(case, settings)
    view, online = store.get_feature_view(VIEW), packed_store(store)
    times = table[EVENT].cast(pa.int64()).to_numpy(), table[CREATED].cast(pa.int64()).to_numpy()
    keys, values = entity_keys(view, table), pack(Layout.of(view), table, *times)
    ours, raw, walls = [], [], []
    for _ in range(repeats):
        online.clear(store.config, view)
        wall = time.perf_counter()
        ours.append(_seconds(case, lambda: materialize(settings)))
        walls.append(time.perf_counter() - wall)
        raw.append(_seconds(case, lambda: case.raw(settings, keys, values)))
    end = table[EVENT][-1].as_py()
    feast_s = _seconds(case, lambda: feasts.materialize(start_date=end.replace(year=2000), end_date=end))
    equal = _all_equal(store, feasts, table)
    feasts.teardown()
    ours_s, raw_s = float(np.median(ours)), float(np.median(raw))
    what = f"materialize {n_keys:,} rows of {N_FEATURES} features to {case.name}"
    rates = f"{n_keys / ours_s:,.0f} rows/s (wall {n_keys / np.median(walls):,.0f})"
    return [
        {
            "name": f"{what}, against Feast's own store",
            "ours_s": ours_s,
            "reference_s": feast_s,
            "ratio": feast_s / ours_s,
            "goal": 5,
            "equal": equal,
            "detail": f"{rates}, Feast {n_keys / feast_s:,.0f} rows/s; every row compared through the SDK",
        },
        {
            "name": f"{what}, against writing packed rows that are ready",
            "ours_s": ours_s,
            "reference_s": raw_s,
            "ratio": raw_s / ours_s,
            "goal": 0.333,
            "equal": equal and online.read_rows(store.config, view, keys) == values,
            "detail": f"{rates}, ready rows {n_keys / raw_s:,.0f} rows/s; the goal is at most 3 times slower",
        },
    ]


def _feasts_store(case: StoreCase, settings: Settings) -> FeatureStore:
    """A store with the configuration of the home, but Feast's own online store and another registry."""
    config = yaml.safe_load((settings.home / "feature_store.yaml").read_text(encoding="utf-8"))
    config |= {"online_store": case.feasts(settings), "project": "by_feast"}
    config["registry"] = {"registry_type": "sql", "path": f"sqlite:///{settings.home / 'by_feast_registry.db'}"}
    store = FeatureStore(config=RepoConfig(repo_path=settings.home, **config))
    store.apply(view_of(settings))
    return store


def _all_equal(ours: FeatureStore, feasts: FeatureStore, table: pa.Table) -> bool:
    """Whether both stores serve every row of the table, values and times."""
    features = [f"{VIEW}:{name}" for name in FEATURES]
    for start in range(0, table.num_rows, _KEYS_PER_READ):
        part = table.slice(start, _KEYS_PER_READ)
        entities = {"driver_id": part["driver_id"].to_pylist()}
        left, right = (
            store.get_online_features(features=features, entity_rows=entities).to_dict(include_event_timestamps=True)
            for store in (ours, feasts)
        )
        if left != right:
            return False
        for name in FEATURES:
            stored = [None if math.isnan(value) else value for value in part[name].to_pylist()]
            if left[name] != stored or left[f"{name}__ts"] != [int(moment.timestamp()) for moment in part[EVENT].to_pylist()]:
                return False
    return True


def _growth(n_keys: int) -> dict[str, Any]:
    """Ten times the rows of as many keys, in processes of their own: seconds against ten times those of one row a key, peaks."""
    one, ten = (_in_a_process(n_keys, rows_per_key) for rows_per_key in (1, 10))
    return {
        "name": f"materialize {10 * n_keys:,} rows of {n_keys:,} keys, against ten times {n_keys:,} rows",
        "ours_s": ten["seconds"],
        "reference_s": 10 * one["seconds"],
        "ratio": 10 * one["seconds"] / ten["seconds"],
        "goal": 1,
        "equal": one["equal"] and ten["equal"],
        "detail": (
            f"peak memory {one['peak_mib']:.0f} MiB with {n_keys:,} rows, {ten['peak_mib']:.0f} MiB with {10 * n_keys:,}, "
            f"of which {ten['start_mib']:.0f} MiB before the first row"
        ),
    }


def _in_a_process(n_keys: int, rows_per_key: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        command = [sys.executable, str(Path(__file__).resolve()), _PEAK, str(home)]
        table = write_table(Settings(home=home), n_keys, rows_per_key)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        with sqlite3.connect(online_path(Settings(home=home))) as connection:
            held = dict(connection.execute(f'SELECT entity_key, value FROM "pitwall_{VIEW}"').fetchall())
        view = view_of(Settings(home=home))[1]
        times = table[EVENT].cast(pa.int64()).to_numpy(), table[CREATED].cast(pa.int64()).to_numpy()
        store_view = open_store(Settings(home=home)).get_feature_view(view.name)
        newest = dict(zip(entity_keys(store_view, table), pack(Layout.of(store_view), table, *times), strict=True))
        return found | {"equal": held == newest}


def _peak(home: Path) -> None:
    """What the child does: materialize, and say how much memory it took at most."""
    settings = Settings(home=home)
    apply(settings, view_of(settings))
    before, started = _high_water_mib(), time.process_time()
    materialize(settings)
    print(json.dumps({"seconds": time.process_time() - started, "peak_mib": _high_water_mib(), "start_mib": before}))


def _high_water_mib() -> float:
    """The largest resident size of this process so far (Linux), MiB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def _seconds(case: StoreCase, work: Callable[[], Any]) -> float:
    started = case.clock()
    work()
    return case.clock() - started


if __name__ == "__main__":
    if sys.argv[1:2] == [_PEAK]:
        _peak(Path(sys.argv[2]))
    else:
        for row in run(quick="--quick" in sys.argv):
            seconds = f"{row['ours_s']:.2f} s against {row['reference_s']:.2f} s ({row['ratio']:.2f}x)"
            print(f"{row['name']}: {seconds}, equal {row['equal']}; {row['detail']}")
