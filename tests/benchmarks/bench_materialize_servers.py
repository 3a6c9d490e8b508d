"""Materialization into Redis and PostgreSQL: against Feast's own stores there, and against writing rows that are packed already.

The measurement is that of `bench_materialize.py`. Each server is started for it in a folder of its own and does not wait for the
disk; a server whose program is not installed has no rows in the result. Work is done in two processes, ours and the server's, so
seconds are wall seconds. Ready rows go in by the plainest quick way there is, into an empty place and without looking at what is
held: pipelined `SET`, 10,000 at a time; binary `COPY`.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import redis

from feature_repo.settings import Settings
from pipelines.conformance.services import missing_programs, needed_server

sys.path += [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "support")]
from benchmarks.bench_materialize import StoreCase, _measure

_ROWS_IN_FLIGHT = 10_000


def run(*, quick: bool = False, n_keys: int = 50_000) -> list[dict[str, Any]]:
    """Two rows a server: against Feast's own store, and against ready rows."""
    rows = []
    for kind, case_of in (("redis", _redis), ("postgres", _postgres)):
        if missing_programs(kind):
            continue
        with ExitStack() as stack:
            server = stack.enter_context(needed_server(kind))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            case = case_of(server)
            rows += _measure(case, case.settings(folder / "home"), 500 if quick else n_keys, repeats=1 if quick else 3)
    return rows


def _redis(server: dict[str, Any]) -> StoreCase:
    address = server["connection_string"]

    def raw(_: Settings, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        with redis.Redis.from_url(f"redis://{address}/2") as client:
            client.flushdb()
            for start in range(0, len(keys), _ROWS_IN_FLIGHT):
                pipeline = client.pipeline(transaction=False)
                for key, value in zip(
                    keys[start : start + _ROWS_IN_FLIGHT], values[start : start + _ROWS_IN_FLIGHT], strict=True
                ):
                    pipeline.set(key, value)
                pipeline.execute()

    feasts = {"type": "redis", "connection_string": f"{address},db=1"}
    return StoreCase("Redis", _settings(f"redis://{address}/0"), lambda _: feasts, raw, time.perf_counter)


def _postgres(server: dict[str, Any]) -> StoreCase:
    url = server["connection_string"]

    def raw(_: Settings, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        with psycopg.connect(url) as connection:
            connection.execute("DROP TABLE IF EXISTS ready")
            connection.execute("CREATE TABLE ready (entity_key bytea PRIMARY KEY, value bytea NOT NULL)")
            with connection.cursor().copy("COPY ready FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["bytea", "bytea"])
                for row in zip(keys, values, strict=True):
                    copy.write_row(row)

    place = {name: server[name] for name in ("host", "port", "database", "user", "password", "sslmode")}
    feasts = {"type": "postgres", "db_schema": "by_feast", **place}
    return StoreCase("PostgreSQL", _settings(url), lambda _: feasts, raw, time.perf_counter)


def _settings(url: str) -> Callable[[Path], Settings]:
    return lambda home: Settings(home=home, online_url=url)


if __name__ == "__main__":
    for row in run(quick="--quick" in sys.argv):
        seconds = f"{row['ours_s']:.2f} s against {row['reference_s']:.2f} s ({row['ratio']:.2f}x)"
        print(f"{row['name']}: {seconds}, equal {row['equal']}; {row['detail']}")
