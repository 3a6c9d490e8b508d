"""Run the suite on stores: which cases in which process, with a time limit for each, and what is made of a process that dies."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from feature_repo.progress import Progress
from pipelines.conformance.cases import BY_NAME, CASES
from pipelines.conformance.offline import IGNORE_ZONES
from pipelines.conformance.outcome import Outcome
from pipelines.conformance.services import needed_server
from pipelines.conformance.targets import Target, offline_target, online_target

CASE_SECONDS = 60.0
# The first answer of a process waits for imports, of Spark also for the JVM; generated cases are answered as one.
START_SECONDS = 120.0
EXAMPLES = 50
GENERATED = "generated"
Plan = list[tuple[str, bool]]
"""Cases by name, and whether the created cutoff is asked for."""


def run_offline(
    store: str,
    *,
    examples: int = EXAMPLES,
    names: Sequence[str] | None = None,
    unflagged: bool = True,
    progress: Progress | None = None,
) -> list[Outcome]:
    """The offline suite on one store.

    Args:
        store: a short name or class path.
        examples: how many generated cases; 0 for none.
        names: only these hand-written cases.
        unflagged: also show what Feast answers by default, without the created cutoff, where that is worth knowing.
        progress: told after each case.
    Returns:
        An outcome for each case, in the order of the cases; generated cases are one outcome, `generated`.
    Raises:
        UnknownStoreError: no such store.
    """
    target = offline_target(store)
    chosen = [case for case in CASES if names is None or case.name in names]
    plan: Plan = [(case.name, True) for case in chosen]
    plan += [(case.name, False) for case in chosen if unflagged and case.unflagged]
    plan += [(GENERATED, True)] if examples else []
    zone_of = {name: BY_NAME[name].process_zone if name in BY_NAME else "UTC" for name, _ in plan}
    job = {"kind": "offline", "store": store, "is_spark": target.is_spark, "examples": examples}
    found: list[Outcome] = []
    for zone in dict.fromkeys(zone_of.values()):
        for outcome in _in_processes(job, [item for item in plan if zone_of[item[0]] == zone], zone):
            found.append(outcome)
            _tell(progress, store, len(found), len(plan))
    return sorted(found, key=lambda outcome: plan.index((outcome.case, outcome.suite == "offline")))


def run_online(store: str, *, names: Sequence[str] | None = None, progress: Progress | None = None) -> list[Outcome]:
    """The online suite on one store; a Redis or PostgreSQL server is started for it and stopped again.

    Args:
        store: a short name or class path.
        names: only these cases.
        progress: told after each case.
    Raises:
        UnknownStoreError: no such store.
        ServerNotAvailableError: the store needs a server that is not installed here.
    """
    from pipelines.conformance.online import ONLINE_CASES

    target = online_target(store)
    plan: Plan = [(case.name, True) for case in ONLINE_CASES if names is None or case.name in names]
    found: list[Outcome] = []
    with needed_server(target.needs) as options:
        job = {"kind": "online", "store": store, "is_spark": False, "options": options}
        for outcome in _in_processes(job, plan, "UTC"):
            found.append(outcome)
            _tell(progress, store, len(found), len(plan))
    advisory = {case.name for case in ONLINE_CASES if case.advisory}
    return [replace(outcome, advisory=outcome.case in advisory) for outcome in found]


def targets_of(offline: Iterable[str], online: Iterable[str]) -> list[Target]:
    """Every store asked for, validated before any of them is started.

    Raises:
        UnknownStoreError: no such store.
    """
    return [*(offline_target(name) for name in offline), *(online_target(name) for name in online)]


def _in_processes(job: dict[str, Any], plan: Plan, zone: str) -> Iterator[Outcome]:
    """The outcomes of `plan`; when a process dies or hangs, its case is an error and another process takes the rest."""
    left = list(plan)
    while left:
        with _Worker({**job, "cases": left}, zone) as worker:
            start = START_SECONDS
            while left:
                limit = start + CASE_SECONDS + (2 * job["examples"] if left[0][0] == GENERATED else 0)
                outcome = worker.next(limit)
                if outcome is None:
                    name, flagged = left[0]
                    suite = "online" if job["kind"] == "online" else "offline" if flagged else "offline default"
                    yield Outcome(job["store"], suite, name, "error", got=worker.obituary(limit))
                    left.pop(0)
                    break
                yield outcome
                left.pop(0)
                start = 0.0


class _Worker:
    """One process of `worker.py` and the lines it writes."""

    def __init__(self, job: dict[str, Any], zone: str) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._tail: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.conformance.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **{name: value for name, value in os.environ.items() if name != IGNORE_ZONES},
                "TZ": zone,
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "PYSPARK_PYTHON": sys.executable,
                "PYTHONWARNINGS": "ignore",
            },
        )
        assert self._process.stdin is not None
        json.dump(job, self._process.stdin)
        self._process.stdin.close()
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_out, self._read_err)]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(timeout=5)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def next(self, seconds: float) -> Outcome | None:
        """The next outcome; None when there is none within `seconds` or the process has ended."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            return None
        return None if line is None else Outcome(**json.loads(line))

    def obituary(self, seconds: float) -> str:
        """Why no outcome came."""
        if self._process.poll() is None and not self._ended():
            return f"no answer within {seconds:.0f} s; stopped"
        last = [line for line in self._tail if line.strip() and "leaked" not in line]
        return f"process ended with {self._process.wait()}: {last[-1] if last else 'said nothing'}"[:400]

    def _ended(self) -> bool:
        try:
            self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _read_out(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _read_err(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._tail = [*self._tail[-50:], line.strip()]


def _tell(progress: Progress | None, store: str, done: int, total: int) -> None:
    if progress is not None:
        progress(store, done, total)
