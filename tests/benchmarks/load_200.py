"""Two hundred clients at once for a minute: does the service lose an answer?

    python tests/benchmarks/load_200.py --home DIR [--clients 200] [--seconds 60] [--workers 1]

A real `pitwall serve` is started over the home and asked for predictions at many laps, the features of a grid, races and the
model board, by clients that never pause. Prints what they saw as one JSON object; exits with 1 if an answer was lost, cut short
or a 5xx. Settings of the home come from the environment as always. No benchmark of speed: latencies are those of a queue of
200.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "support")]
from benchmarks.load import load, request
from serve_process import serving

from feature_repo.settings import Settings
from feature_repo.spine import load_entrants, load_moments


def run(
    environment: Mapping[str, str], *, clients: int = 200, seconds: float = 60.0, workers: int = 1
) -> dict[str, Any]:  # fmt: skip
    """What the clients saw.

    Args:
        environment: of the service, `PITWALL_HOME` included.
        clients: at once.
        seconds: how long they ask.
        workers: processes of the service.
    """
    questions = _questions(Settings(home=Path(environment["PITWALL_HOME"])))
    with serving(environment, workers=workers) as served:
        seen = load(served.port, questions, callers=clients, seconds=seconds)
        code = served.stop()
    return {
        "clients": clients,
        "seconds": round(seen.seconds, 2),
        "workers": workers,
        "answers": len(seen.latencies),
        "answers_per_s": round(seen.per_second, 1),
        "mib_read": round(seen.bytes_read / 2**20, 1),
        "statuses": {str(status): number for status, number in sorted(seen.statuses.items())},
        "lost": dict(seen.lost),
        "p50_ms": round(1e3 * seen.percentile(50), 1),
        "p99_ms": round(1e3 * seen.percentile(99), 1),
        "max_ms": round(1e3 * max(seen.latencies), 1),
        "exit_code": code,
    }


def kept_every_answer(report: Mapping[str, Any]) -> bool:
    """Every question had a whole answer, none a fault of the service, and it ended as it was told."""
    return not report["lost"] and set(report["statuses"]) == {"200"} and report["exit_code"] == 0


def _questions(settings: Settings) -> list[bytes]:
    entrants, moments = load_entrants(settings), load_moments(settings)
    race_id = str(moments["race_id"].max())
    laps = int(moments.loc[moments["race_id"] == race_id, "lap"].max())
    drivers = entrants.loc[entrants["race_id"] == race_id, "driver_id"]
    grid = [{"race_id": race_id, "driver_id": driver} for driver in drivers]
    return [
        *[request("POST", "/v1/predict", {"race_id": race_id, "lap": lap}) for lap in range(0, laps, 7)],
        *[request("POST", "/v1/features", {"entity_rows": grid})] * 3,
        request("GET", "/v1/races"),
        request("GET", f"/v1/races/{race_id}"),
        request("GET", "/healthz"),
        request("GET", "/v1/models"),
    ]


def main() -> int:
    """Ask, tell, and say whether nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    environment = {**os.environ, "PITWALL_HOME": str(asked.home.resolve()), "OMP_NUM_THREADS": "1"}
    report = run(environment, clients=asked.clients, seconds=asked.seconds, workers=asked.workers)
    print(json.dumps(report))
    return 0 if kept_every_answer(report) else 1


if __name__ == "__main__":
    sys.exit(main())
