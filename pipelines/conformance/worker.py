"""The process in which a store is asked: `python -m pipelines.conformance.worker` reads one job and writes one line an outcome.

A process of its own, because stores print, keep global connections, read TZ once, run out of memory and sometimes hang.
"""

import json
import logging
import os
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from pipelines.conformance.outcome import Outcome

MEMORY_BYTES = 8 << 30


def main() -> None:
    """Run the job on stdin; outcomes go to the real stdout, everything a store prints goes to stderr."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    job = json.load(sys.stdin)
    if not job["is_spark"]:  # a JVM reserves far more address space than it uses
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for outcome in _RUNNERS[job["kind"]](job):
        channel.write(json.dumps(asdict(outcome)) + "\n")
        channel.flush()
    # Some stores leave threads and servers behind that would keep this process alive.
    channel.close()
    os._exit(0)


def _offline(job: dict[str, Any]) -> Iterator[Outcome]:
    from pipelines.conformance.cases import BY_NAME
    from pipelines.conformance.offline import run_case
    from pipelines.conformance.targets import offline_target

    target = offline_target(job["store"])
    for name, flagged in job["cases"]:
        if name == "generated":
            from pipelines.conformance.generated import run_generated

            yield run_generated(lambda case: run_case(target, case), examples=job["examples"]).outcome
        else:
            yield run_case(target, BY_NAME[name], flagged=flagged)


def _online(job: dict[str, Any]) -> Iterator[Outcome]:
    from pipelines.conformance.online import run_case
    from pipelines.conformance.targets import online_target

    target = online_target(job["store"])
    for name, _ in job["cases"]:
        yield run_case(target, name, job["options"])


_RUNNERS: dict[str, Callable[[dict[str, Any]], Iterator[Outcome]]] = {
    "offline": _offline,
    "online": _online,
}


if __name__ == "__main__":
    main()
