"""All benchmarks, one process each, as one table: ours, the reference measured in the same run, their ratio, the goal.

    python tests/benchmarks/run.py [--only prediction] [--json]

A result whose equality check failed counts for nothing: its ratio is not shown and the command exits with 1. A goal that is
missed is said, and is no error: other machines have other ratios.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = {
    "traces": "bench_traces",
    "embedding": "bench_embedding",
    "training": "bench_training",
    "prediction": "bench_prediction",
    "serving": "bench_serving",
    "retrieval": "bench_retrieval",
    "materialize": "bench_materialize",
    "materialize-servers": "bench_materialize_servers",
    "lookup": "bench_lookup",
    "leak": "bench_leak",
}
_ONE = "--in-this-process"


def met(row: dict[str, Any]) -> bool | None:
    """Whether a row reached its goal (a ratio, or seconds in `goal_s`); None where there is no goal. Unequal results never do."""
    if not row["equal"]:
        return False
    if row.get("goal_s") is not None:
        return bool(row["ours_s"] < row["goal_s"])
    return None if row.get("goal") is None else bool(row["ratio"] >= row["goal"])


def judged(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row as it is reported: whose it is, whether the goal was met, and no ratio where the results differ."""
    goals = {"goal": row.get("goal"), "goal_s": row.get("goal_s")}
    ratio = row["ratio"] if row["equal"] else None
    return {"benchmark": name, **row, **goals, "ratio": ratio, "met": met(row), "detail": row.get("detail", "")}


def measure(name: str) -> list[dict[str, Any]]:
    """The rows of one benchmark, run in a process of its own: nothing of another one is in its memory or its settings.

    Raises:
        RuntimeError: it ended without a result; the message has the end of what it said.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TZ": "UTC"}
    command = [sys.executable, str(Path(__file__).resolve()), _ONE, "--only", name]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if run.returncode != 0:
        raise RuntimeError(f"benchmark {name}: exit code {run.returncode}: {(run.stderr or run.stdout).strip()[-2000:]}")
    return [judged(name, row) for row in json.loads(run.stdout.strip().splitlines()[-1])]


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table, and below it what each benchmark says about itself."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Speed against a reference measured in the same run")
    for heading in ("benchmark", "ours", "reference", "ratio", "goal", "met", "equal"):
        table.add_column(heading, justify="left" if heading == "benchmark" else "right")
    for row in rows:
        goal = (
            f"{row['goal']:g}x" if row["goal"] is not None else f"< {_time(row['goal_s'])}" if row["goal_s"] is not None else ""
        )
        ratio = "not counted" if row["ratio"] is None else f"{row['ratio']:.2f}x"
        said = {None: "", True: "yes", False: "no"}[row["met"]]
        equal = "yes" if row["equal"] else "NO"
        table.add_row(row["name"], _time(row["ours_s"]), _time(row["reference_s"]), ratio, goal, said, equal)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for row in rows:
        if row["detail"]:
            console.print(f"{row['benchmark']}: {row['detail']}", highlight=False, markup=False)


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for and report it; 1 if any equality check failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=sorted(BENCHMARKS), action="append", help="Only this benchmark (repeat it).")
    parser.add_argument("--json", action="store_true", help="One JSON list on stdout.")
    parser.add_argument(_ONE, action="store_true", dest="here", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    names = asked.only or list(BENCHMARKS)
    if asked.here:
        print(json.dumps(importlib.import_module(BENCHMARKS[names[0]]).run()))
        return 0
    rows = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += measure(name)
    if asked.json:
        print(json.dumps(rows, indent=1))
    else:
        show(rows)
    return 0 if all(row["equal"] for row in rows) else 1


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.2f} ms" if seconds < 0.1 else f"{1e3 * seconds:.0f} ms"


if __name__ == "__main__":
    sys.exit(main())
