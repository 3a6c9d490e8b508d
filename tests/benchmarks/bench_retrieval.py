"""Point-in-time retrieval through Feast, against pandas, polars, Feast's DuckDB store and the least that any code could do.

First the training set: every entrant of the real races 2018-2024 at half distance (2,979 rows), where those are found
(`PITWALL_TEST_DATA`, or `shared/data` beside the checkout), otherwise as many entrants of simulated races; against one plain
`pandas.merge_asof` per view. Then generated tables of 30 keys, five views of four features, with ties, corrections, late and
missing created times and a ttl: N entity rows x N feature rows a view. `equal`: every cell of every feature agrees.

Ours is `store.get_historical_features(...).to_df()`, warm (indexes in memory) unless it says cold (first call, files just
written). Others: `tests/support/retrieval_tables.py`. DuckDB runs in a process of its own with limited memory, at the
largest of some sizes that it survives. Seconds are processor seconds of all threads; wall time is in `detail`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from feast import FeatureStore

from feature_repo.settings import Settings
from feature_repo.spine import Moment, entity_frame
from feature_repo.store import OFFLINE_STORE, get_service, historical, open_store, views_of
from feature_repo.stores.offline_read import CACHE
from feature_repo.visibility import CREATED, EVENT
from pipelines.flows import run_step
from pipelines.ingest.base import Source
from pipelines.ingest.files.source import FilesSource
from pipelines.ingest.run import ingest
from pipelines.ingest.simulator import SimulatorSource

_TESTS = Path(__file__).resolve().parents[1]
sys.path.append(str(_TESTS / "support"))

from retrieval_tables import (  # noqa: E402  # found only now
    DUCKDB_GIB,
    N_KEYS,
    N_VIEWS,
    Generated,
    by_polars,
    feast_store,
    generate,
    packed,
    reopen,
)

SERVICE = "finish_position_v1"
SEASONS = range(2018, 2025)
DUCKDB_TIMEOUT_S = 120


def run(*, quick: bool = False) -> list[dict[str, Any]]:
    """The training set; each size against polars and the limit; two sizes against DuckDB; growth with the number of rows."""
    sizes, growth = (4_000, 100_000, 1_000_000), (100_000, 1_000_000, 5_000_000)
    duckdb_sizes = (4_000, 20_000, 40_000, 100_000)
    if quick:
        sizes, growth, duckdb_sizes = (300, 2_000), (1_000, 5_000), (300,)
    repeats = 1 if quick else 5
    rows = _training_set(quick=quick, repeats=repeats)
    with tempfile.TemporaryDirectory() as folder:
        ours = {size: _compared(Path(folder) / str(size), size, repeats) for size in sizes}
        rows += [row for _, compared in ours.values() for row in compared]
        rows += _against_duckdb(Path(folder), {size: ours[size][0] for size in sizes[:2]}, duckdb_sizes)
        rows.append(_growth(Path(folder), growth, repeats))
    return rows


def _training_set(*, quick: bool, repeats: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder), seed=7)
        source, years, what = _races(quick=quick)
        ingest(settings, source, years)
        for step in ("features", "apply"):
            run_step(step, settings)
        return _measure(settings, what, repeats=repeats)


def _races(*, quick: bool) -> tuple[Source, list[int], str]:
    real = Path(os.environ.get("PITWALL_TEST_DATA", _TESTS.parent.parent / "shared" / "data"))
    if not quick and (real / "fastf1").is_dir():
        return FilesSource([real]), list(SEASONS), "real races 2018-2024"
    simulator = SimulatorSource(seasons=1 if quick else 7, races=2 if quick else 21, seed=7)
    return simulator, list(simulator.years), "simulated races"


def _measure(settings: Settings, what: str, *, repeats: int) -> list[dict[str, Any]]:
    store = open_store(settings)
    spine = entity_frame(settings, Moment.parse("fraction:0.5"))
    found = historical(store, SERVICE, spine)
    expected = by_merge_asof(store, SERVICE, spine)
    features = [name for name in found.columns if name not in spine.columns]
    unequal = [name for name in features if not _same(found[name], expected[name])]
    ours, reference = [], []
    for _ in range(repeats):
        ours.append(_seconds(lambda: historical(store, SERVICE, spine)))
        reference.append(_seconds(lambda: by_merge_asof(store, SERVICE, spine)))
    (ours_s, ours_wall_s), (reference_s, reference_wall_s) = np.median(ours, axis=0), np.median(reference, axis=0)
    return [
        {
            "name": f"retrieve {len(spine):,} rows of {len(features)} features point in time, against pandas.merge_asof per view",
            "ours_s": float(ours_s),
            "reference_s": float(reference_s),
            "ratio": float(reference_s / ours_s),
            "goal": None,
            "equal": not unequal and len(found) == len(expected) == len(spine),
            "detail": (
                f"{what}; wall {ours_wall_s:.2f} s = {len(spine) / ours_wall_s:,.0f} rows/s, pandas {reference_wall_s:.2f} s = "
                f"{len(spine) / reference_wall_s:,.0f} rows/s; {len(spine) * len(features):,} cells compared"
                + (f", unequal: {', '.join(unequal)}" if unequal else "")
            ),
        }
    ]


def by_merge_asof(store: FeatureStore, service: str, spine: pd.DataFrame) -> pd.DataFrame:
    """What `historical` answers, by pandas alone: per view the newest event among the rows visible at each row's moment."""
    asked = spine.assign(row=np.arange(len(spine))).sort_values(EVENT, kind="stable")
    for view, names in views_of(store, get_service(store, service)):
        keys = list(view.join_keys)
        table = pd.read_parquet(view.batch_source.path, columns=[*keys, *names, EVENT, CREATED]).dropna(subset=[CREATED])
        # A row can be seen from the later of its two times on. One that comes when a newer event is visible is never the answer.
        table["visible"] = table[[EVENT, CREATED]].max(axis=1)
        table = table.sort_values(["visible", EVENT, CREATED], kind="stable")
        table = table[table[EVENT] == table.groupby(keys, sort=False)[EVENT].cummax()]
        table = table.drop(columns=CREATED).rename(columns={EVENT: "event"})
        asked = pd.merge_asof(asked, table, left_on=EVENT, right_on="visible", by=keys)
        if view.ttl:
            asked.loc[asked["event"] < asked[EVENT] - view.ttl, names] = None
        asked = asked.drop(columns=["event", "visible"])
    return asked.sort_values("row", ignore_index=True).drop(columns="row")


def _same(ours: pd.Series, reference: pd.Series) -> bool:
    """Equal cell by cell, missing where the other is missing."""
    missing = ours.isna().to_numpy()
    if not np.array_equal(missing, reference.isna().to_numpy()):
        return False
    return bool((ours.to_numpy(dtype=object)[~missing] == reference.to_numpy(dtype=object)[~missing]).all())


def _seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """Processor seconds of all threads and wall seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - processor, time.perf_counter() - wall


def _compared(folder: Path, size: int, repeats: int) -> tuple[float, list[dict[str, Any]]]:
    """Seconds of ours, warm, and the rows of one size: against polars and against the limit."""
    tables = generate(folder, size)
    store = feast_store(folder, OFFLINE_STORE)
    sides: dict[str, Callable[[], Any]] = {"ours": lambda: _ours(store, tables), "polars": lambda: by_polars(folder)}
    sides["limit"] = packed(tables)
    cold = _seconds(sides["ours"])
    found, frame, arrays = (side() for side in sides.values())
    spent = {name: np.median([_seconds(side) for _ in range(repeats)], axis=0) for name, side in sides.items()}
    names = [ref.partition(":")[2] for ref in tables.features]
    said = (
        f"{size:,} x {size:,} rows, {N_KEYS} keys, {N_VIEWS} views; wall, ms: ours {1e3 * spent['ours'][1]:.0f} "
        f"(cold {1e3 * cold[1]:.0f}, cold processor {1e3 * cold[0]:.0f}), polars {1e3 * spent['polars'][1]:.0f}, "
        f"limit {1e3 * spent['limit'][1]:.0f}"
    )
    equal = {
        "polars": all(_alike(found[name].to_numpy(), frame[name].to_numpy()) for name in names) and len(frame) == len(found),
        "limit": all(_alike(found[name].to_numpy(), arrays[name]) for name in names),
    }
    # Below 100,000 rows what Feast itself takes for a call decides; the goals are for sizes from there on.
    goals = {"polars": 1.0, "limit": 1 / 3} if size >= 100_000 else {}
    shown = {"polars": "polars join_asof", "limit": "searching and taking from sorted, packed arrays"}
    return float(spent["ours"][0]), [
        _row(f"{size:,} x {size:,} point in time, against {shown[side]}", spent["ours"][0], spent[side][0], equal[side], said,
             goals.get(side))
        for side in ("polars", "limit")
    ]  # fmt: skip


def _against_duckdb(folder: Path, ours: dict[int, float], sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Ours at the smallest and at the largest size against DuckDB at the smallest and at the largest that it survives."""
    survived: dict[int, float] = {}
    equal, ended = True, ""
    for size in sizes:
        here = folder / str(size)
        if not here.exists():
            generate(here, size)
        command = [sys.executable, str(_TESTS / "support" / "retrieval_tables.py"), str(here)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=DUCKDB_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            ended = f"{size:,} rows: stopped after {DUCKDB_TIMEOUT_S} s"
            break
        if done.returncode != 0:
            ended = f"{size:,} rows: died of more than {DUCKDB_GIB} GiB (exit code {done.returncode})"
            break
        survived[size] = json.loads(done.stdout.strip().splitlines()[-1])["seconds"]
        theirs = pd.read_parquet(here / "duckdb.parquet")
        tables = reopen(here)
        found = _ours(feast_store(here, OFFLINE_STORE), tables)
        names = [ref.partition(":")[2] for ref in tables.features]
        equal &= len(theirs) == len(found) and all(_alike(found[name].to_numpy(), theirs[name].to_numpy()) for name in names)
    if not survived:
        raise RuntimeError(f"DuckDB survived no size of {sizes}: {ended}")
    said = "DuckDB, processor seconds: " + ", ".join(f"{size:,} rows {seconds:.2f}" for size, seconds in survived.items())
    said += f"; {ended}" if ended else ""
    first, last = min(ours), max(ours)
    largest = max(survived)
    return [
        _row(f"{first:,} x {first:,} point in time, against Feast's DuckDB store",
             ours[first], survived[first], equal, said, None),
        _row(f"{last:,} x {last:,} point in time, against Feast's DuckDB store at {largest:,} x {largest:,}, its largest",
             ours[last], survived[largest], equal, said, 100.0),
    ]  # fmt: skip


def _growth(folder: Path, sizes: tuple[int, ...], repeats: int) -> dict[str, Any]:
    """Ours at the largest size against what the smallest would take if cost were exactly in proportion to rows; one view."""
    warm, cold, equal = {}, {}, True
    for size in sizes:
        tables = generate(folder / f"growth_{size}", size, n_views=1)
        store = feast_store(tables.folder, OFFLINE_STORE)
        cold[size] = _seconds(lambda store=store, tables=tables: _ours(store, tables))
        warm[size] = np.median([_seconds(lambda: _ours(store, tables)) for _ in range(min(repeats, 3))], axis=0)  # noqa: B023
        found, arrays = _ours(store, tables), packed(tables)()
        equal &= all(_alike(found[name].to_numpy(), values) for name, values in arrays.items())
        CACHE.clear()
    first, last = min(sizes), max(sizes)
    said = "; ".join(
        f"{n:,}: {1e6 * warm[n][0] / n:.2f} us a row warm, {1e6 * cold[n][0] / n:.2f} cold, wall {warm[n][1]:.2f} s"
        for n in sizes
    )
    expected = float(warm[first][0]) * last / first
    name = f"{last:,} x {last:,} point in time, one view, against {last // first} times the cost of {first:,} x {first:,}"
    return _row(name, warm[last][0], expected, equal, said, 0.5)


def _ours(store: FeatureStore, tables: Generated) -> pd.DataFrame:
    return store.get_historical_features(entity_df=tables.entity_df, features=tables.features).to_df()


def _alike(ours: np.ndarray, reference: np.ndarray) -> bool:
    """Equal cell by cell; null and NaN are one."""
    return bool(np.array_equal(ours.astype(np.float64), reference.astype(np.float64), equal_nan=True))


def _row(name: str, ours_s: float, reference_s: float, equal: bool, detail: str, goal: float | None) -> dict[str, Any]:
    return {
        "name": name,
        "ours_s": float(ours_s),
        "reference_s": float(reference_s),
        "ratio": float(reference_s / ours_s),
        "goal": goal,
        "equal": bool(equal),
        "detail": detail,
    }


if __name__ == "__main__":
    for row in run(quick="--quick" in sys.argv):
        print(
            f"{row['name']}: {row['ours_s']:.4f} s against {row['reference_s']:.4f} s, {row['ratio']:.2f}x, equal {row['equal']}"
        )
        print(f"    {row['detail']}")
