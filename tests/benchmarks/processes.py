"""Processor time of a service with all its processes, as Linux accounts it: what an answer costs, however busy the machine is."""

import os
import time
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> dict[int, float]:
    """Process -> processor seconds it has used so far, of a process and of all that descend from it.

    Args:
        pid: the first process.
    """
    parents, used = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        number = int(path.parent.name)
        parents[number], used[number] = int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    found, added = {pid}, {pid}
    while added:
        added = {number for number, parent in parents.items() if parent in added} - found
        found |= added
    return {number: used[number] for number in sorted(found) if number in used}


def wait_until_idle(pid: int, *, share: float = 0.1, timeout_s: float = 60.0) -> None:
    """Return when a process and its descendants have taken less than `share` of a core for a second: all have started.

    Raises:
        TimeoutError: they go on working.
    """
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        before = cpu_seconds(pid)
        time.sleep(1.0)
        after = cpu_seconds(pid)
        if before.keys() == after.keys() and sum(used_between(before, after)) < share:
            return
    raise TimeoutError(f"process {pid}: still working after {timeout_s:g} s")


def used_between(before: dict[int, float], after: dict[int, float]) -> list[float]:
    """Processor seconds that each process used between two readings, the busiest first."""
    return sorted((seconds - before.get(number, 0.0) for number, seconds in after.items()), reverse=True)
