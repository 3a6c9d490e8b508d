"""How the cost of each step grows with rows, for both engines: the tables of docs/scale.md, as Markdown.

    python tests/benchmarks/scale.py [--part join ...] [--engine embedded spark] [--rows 3000 10000 ...] [--limit-s 120]

Each figure is one call in a process of its own that has warmed up on a tiny input: libraries, Spark and its workers are there,
the data are not. Sizes grow until a call would take longer than the limit. `equal`: both engines gave the same answer at that
size. Below each table is the line of least relative error, seconds = fixed + rows x per row, with which docs/scale.md
extrapolates. Wall seconds: run it on an idle machine.

`join`: N entity rows against N feature rows of 30 drivers, four features, ties, corrections and late rows. `materialize`: N rows
of N / 50 keys, 16 features. `features`: all tables from a lake with N laps. `pictures`, `embeddings`: N pictures.
"""

import argparse
import gc
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

_TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TESTS / "support"), str(Path(__file__).resolve().parent)]

from bench_materialize import view_of, write_table  # noqa: E402  # found only now
from retrieval_tables import feast_store, generate  # noqa: E402

from feature_repo.settings import Settings  # noqa: E402
from feature_repo.store import OFFLINE_STORE, apply, open_store  # noqa: E402
from feature_repo.stores.online import packed_store  # noqa: E402
from feature_repo.stores.spark_session import session_of, spark_offline_store  # noqa: E402
from pipelines import schemas  # noqa: E402
from pipelines.lake import Lake  # noqa: E402

ROWS = (3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 5_000_000)
PICTURES = (100, 300, 1_000, 3_000)
WARM_UP = {"pictures": 40, "embeddings": 40}
ENGINES = ("embedded", "spark")
_ROWS_PER_KEY = 50
_WORKERS = (2, 8, 32)
_FIRST_YEAR, _LAST_YEAR = 1950, 2099  # of a race id

Work = tuple[int, Callable[[], str]]
"""How many rows there are, and the step: done once, it answers a hash of what came out."""


def join(settings: Settings, n_rows: int) -> Work:
    """Point-in-time join through Feast: the newest row known at each of N moments."""
    tables = generate(settings.home / "tables", n_rows, n_views=1)
    offline = spark_offline_store(settings)["type"] if settings.engine == "spark" else OFFLINE_STORE
    store = feast_store(tables.folder, offline)

    def work() -> str:
        answer = store.get_historical_features(entity_df=tables.entity_df, features=tables.features).to_df()
        return _hash(answer[[name.split(":")[1] for name in tables.features]].to_numpy(dtype=np.float32).tobytes())

    return n_rows, work


def materialization(settings: Settings, n_rows: int) -> Work:
    """The newest row of each key into a SQLite online store."""
    from pipelines.materialize import materialize

    write_table(settings, max(1, n_rows // _ROWS_PER_KEY), _ROWS_PER_KEY)
    apply(settings, view_of(settings))

    def work() -> str:
        report = materialize(settings).views[0]
        store = open_store(settings)
        view = store.list_feature_views()[0]
        return _hash(json.dumps([report.written, packed_store(store).newest_event(store.config, view)]).encode())

    return n_rows, work


def features(settings: Settings, n_rows: int) -> Work:
    """Every feature table from a lake with about N laps."""
    from pipelines.features.build import build_features

    n_laps = _write_lake(settings, n_rows)
    return n_laps, lambda: _hash(json.dumps(build_features(settings).sha256, sort_keys=True).encode())


def pictures(settings: Settings, n_rows: int) -> Work:
    """N pictures of 20 cars a race."""
    from trace_home import even_race, write_home

    from pipelines.traces import render_traces

    n_races = max(1, n_rows // 20)
    races = {f"{2000 + number // 20}_{number % 20 + 1:02d}": even_race(20, 30, number) for number in range(n_races)}
    write_home(settings, races, scheduled_laps=30)

    def work() -> str:
        render_traces(settings, processes=1)
        folder = settings.multimodal_dir / "speed_traces"
        return _hash(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in sorted(folder.rglob("*.png"))))

    return n_rows, work


def embeddings(settings: Settings, n_rows: int) -> Work:
    """N pictures through an untaught ResNet-18, which costs what a taught one does."""
    from safetensors.numpy import load_file

    from ml.encoders.weights import resolve_weights
    from pipelines.embeddings import embed_traces

    _, draw = pictures(settings.model_copy(update={"engine": "embedded"}), n_rows)
    draw()
    resolve_weights("random", weights_dir=settings.weights_dir, seed=settings.seed)

    def work() -> str:
        embed_traces(settings)
        (path,) = settings.embeddings_dir.glob("*.safetensors")
        return _hash(load_file(path)["embeddings"].tobytes())

    return n_rows, work


PARTS: dict[str, Callable[[Settings, int], Work]] = {
    "join": join,
    "materialize": materialization,
    "features": features,
    "pictures": pictures,
    "embeddings": embeddings,
}


def one(part: str, engine: str, n_rows: int) -> dict[str, Any]:
    """One figure, measured in this process."""
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        base = {"engine": engine, "encoder": "random", "threads": 2, "moment": "fraction:0.5"}
        started = time.perf_counter()
        warm = Settings(home=Path(folder) / "warm", **base)
        if engine == "spark":
            session_of(warm)
        _, work = PARTS[part](warm, WARM_UP.get(part, 1_000))
        work()
        warm_up_s = time.perf_counter() - started
        n_rows, work = PARTS[part](Settings(home=Path(folder) / "home", **base), n_rows)
        gc.collect()
        started = time.perf_counter()
        answer = work()
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"part": part, "engine": engine, "rows": n_rows, "seconds": seconds, "warm_up_s": warm_up_s, "peak_mib": peak,
            "answer": answer}  # fmt: skip


def measured(part: str, engine: str, sizes: Sequence[int], limit_s: float) -> list[dict[str, Any]]:
    """Figures of growing sizes, each in a process of its own, until the next would take longer than the limit."""
    rows: list[dict[str, Any]] = []
    for n_rows in sizes:
        if rows and expected_s(rows, n_rows) > limit_s:
            break
        command = [sys.executable, str(Path(__file__).resolve()), "--one", part, engine, str(n_rows)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TZ": "UTC"}, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{part} {engine} {n_rows}: exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
        rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
    return rows


def expected_s(rows: Sequence[dict[str, Any]], n_rows: int) -> float:
    """Seconds that a call is expected to take; one figure alone says nothing of what its rows cost."""
    if len(rows) == 1:
        return float(rows[0]["seconds"])
    fixed, per_row = line_of(rows)
    return fixed + n_rows * per_row


def line_of(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """(fixed seconds, seconds a row) with the least relative error, neither negative."""
    n, seconds = (np.array([row[name] for row in rows], dtype=np.float64) for name in ("rows", "seconds"))
    if len(rows) < 2:
        return 0.0, float(seconds[0] / n[0])
    fixed, per_row = np.linalg.lstsq(np.column_stack([1 / seconds, n / seconds]), np.ones(len(n)), rcond=None)[0]
    if fixed < 0:
        return 0.0, float(((n / seconds) @ np.ones(len(n))) / ((n / seconds) @ (n / seconds)))
    return (float(fixed), float(per_row)) if per_row > 0 else (float(seconds.mean()), 0.0)


def as_markdown(part: str, found: dict[str, list[dict[str, Any]]]) -> str:
    """One table and its lines."""
    cells = {(row["engine"], row["rows"]): row for rows in found.values() for row in rows}
    lines = [f"### {part}", "", "| rows | " + " | ".join(f"{engine} s | rows/s | peak MiB" for engine in found) + " | equal |"]
    lines.append("|---:" * (2 + 3 * len(found) - 1) + "|---|")
    for n_rows in sorted({row["rows"] for rows in found.values() for row in rows}):
        shown, answers = [], set()
        for engine in found:
            row = cells.get((engine, n_rows))
            shown.append(
                "– | – | –" if row is None else f"{row['seconds']:.2f} | {n_rows / row['seconds']:,.0f} | {row['peak_mib']:,.0f}"
            )
            answers |= set() if row is None else {row["answer"]}
        both = sum((engine, n_rows) in cells for engine in found) > 1
        lines.append(f"| {n_rows:,} | {' | '.join(shown)} | {('yes' if len(answers) == 1 else 'NO') if both else '–'} |")
    lines.append("")
    for engine, rows in found.items():
        fixed, per_row = line_of(rows)
        cores = "" if engine == "embedded" or len(rows) < 3 else _on_workers(fixed, per_row)
        lines.append(f"{engine}: {fixed:.2f} s + {per_row * 1e6:.2f} µs a row{cores}  ")
    return "\n".join(lines) + "\n"


def _on_workers(fixed: float, per_row: float) -> str:
    """What the line says of 5 M rows on more cores: the fixed part stays, the rest is shared."""
    share = ", ".join(f"{cores}: {fixed + 5e6 * per_row * 2 / cores:.0f} s" for cores in _WORKERS)
    return f" on 2 cores; 5 M rows by cores, extrapolated: {share}"


def _write_lake(settings: Settings, n_laps: int) -> int:
    """Races of one simulated season, again and again in other seasons, until there are N laps or no more years; how many laps."""
    from pipelines.ingest.run import ingest
    from pipelines.ingest.simulator import SimulatorSource

    n_races = min(24, max(1, round(n_laps / 1_000)))
    source = SimulatorSource(seasons=1, races=n_races, seed=7)
    ingest(settings, source, source.years)
    lake, (year,) = Lake(settings.lake_dir), source.years
    tables = {name: lake.read(name) for name in schemas.TABLES}
    others = sorted({*range(_FIRST_YEAR, _LAST_YEAR + 1)} - {year}, key=lambda other: abs(other - year))
    wanted = others[: max(0, round(n_laps / len(tables["laps"])) - 1)]
    for other in wanted:
        for name, frame in tables.items():
            if len(frame):
                lake.write(name, other, _moved(frame, other - year))
    return len(tables["laps"]) * (1 + len(wanted))


def _moved(frame: pd.DataFrame, years: int) -> pd.DataFrame:
    """The rows that many seasons later or earlier (of 364 days, so that ids and times go together)."""
    season = int(frame["season"].iloc[0])
    changed: dict[str, Any] = {"season": frame["season"] + years}
    if "race_id" in frame:
        changed["race_id"] = frame["race_id"].str.replace(f"{season}_", f"{season + years}_", regex=False)
    times = frame.select_dtypes("datetimetz").columns
    return frame.assign(**changed, **{name: frame[name] + pd.Timedelta(days=364 * years) for name in times})


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; 1 if the engines disagree anywhere."""
    parser = argparse.ArgumentParser(description="How the cost of each step grows with rows.")
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--engine", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--rows", nargs="+", type=int, help=f"default {ROWS}; pictures {PICTURES}")
    parser.add_argument("--limit-s", type=float, default=120.0, help="longest call")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.one:
        part, engine, n_rows = asked.one
        sys.stdout.write(json.dumps(one(part, engine, int(n_rows))) + "\n")
        return 0
    agree = True
    for part in asked.part:
        sizes = asked.rows or (PICTURES if part in WARM_UP else ROWS)
        found = {engine: measured(part, engine, sorted(sizes), asked.limit_s) for engine in asked.engine}
        text = as_markdown(part, found)
        agree = agree and "| NO |" not in text
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
