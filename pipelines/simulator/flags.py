"""The timeline of a race's track status, and the codes each lap saw."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.simulator.incidents import Control
from pipelines.simulator.race import RaceLog

MESSAGES = {"1": "AllClear", "2": "Yellow", "4": "SCDeployed", "5": "Red", "6": "VSCDeployed", "7": "VSCEnding"}
"""Status codes of the timing feed and their names."""

YELLOW_SHARE = 0.35
"""Part of a lap that an ordinary yellow lasts."""

VSC_ENDING_MS = 12_000
"""The feed announces the end of a VSC 10-15 s ahead."""

RESTART_LAPS = 1.3
"""Time from the restart after a red flag to the leader's next crossing of the line, in reference laps."""


@dataclass(frozen=True)
class Timeline:
    """Changes of the track status of one race.

    Attributes:
        at_ms: (K,) int, session clock of the change, ms, strictly increasing; the first is lights out.
        code: K status codes; `1` at lights out.
        lap: (K,) int, the leader's lap.
    """

    at_ms: NDArray[np.int64]
    code: tuple[str, ...]
    lap: NDArray[np.int64]

    def seen(self, start_ms: NDArray[np.int64], end_ms: NDArray[np.int64]) -> NDArray[np.object_]:
        """Codes in force from `start_ms` to `end_ms` (both (N,)), in order of appearance, each once: `1`, `12`, `124`."""
        first = np.searchsorted(self.at_ms, start_ms, side="right") - 1
        last = np.searchsorted(self.at_ms, end_ms, side="left") - 1
        first, last = np.maximum(first, 0), np.maximum(last, 0)
        pairs, inverse = np.unique(np.stack([first, last]), axis=1, return_inverse=True)
        texts = ["".join(dict.fromkeys(self.code[low : high + 1])) for low, high in pairs.T]
        return np.array(texts, dtype=object)[inverse.ravel()]


def timeline(log: RaceLog, race: int, leader_ms: NDArray[np.int64], reference_ms: float) -> Timeline:
    """The track status of one race.

    Args:
        log: the races.
        race: index of the race.
        leader_ms: (laps,) the leader's clock at the end of each lap, ms.
        reference_ms: reference lap of the circuit, ms.
    """
    starts = np.concatenate([[0], leader_ms[:-1]])
    changes: list[tuple[int, str, int]] = [(0, "1", 1)]
    lap = 0
    while lap < log.laps[race]:
        code = int(log.control[race, lap])
        if code == Control.GREEN:
            lap += 1
            continue
        begin = int(starts[lap] + log.since[race, lap] * (leader_ms[lap] - starts[lap]))
        last = lap
        while code != Control.YELLOW and _goes_on(log, race, last, code):
            last += 1
        changes.append((begin, str(code), lap + 1))
        finish = int(leader_ms[last])
        if code == Control.YELLOW:
            finish = int(begin + YELLOW_SHARE * (leader_ms[lap] - starts[lap]))
        elif code == Control.RED:
            finish = int(max(finish - RESTART_LAPS * reference_ms, begin + 2))
        elif code == Control.VSC:
            changes.append((max(finish - VSC_ENDING_MS, begin + 1), "7", last + 1))
            finish = max(finish, begin + 2)
        changes.append((finish, "1", last + 1))
        lap = last + 1
    kept = [changes[0]]
    for change in changes[1:]:
        kept.append((max(change[0], kept[-1][0] + 1), change[1], change[2]))
    return Timeline(
        at_ms=np.array([change[0] for change in kept], dtype=np.int64),
        code=tuple(change[1] for change in kept),
        lap=np.array([change[2] for change in kept], dtype=np.int64),
    )


def _goes_on(log: RaceLog, race: int, lap: int, code: int) -> bool:
    """What is in force in lap `lap` (counted from 0) is still in force in the next one, not called anew."""
    following = lap + 1
    return bool(following < log.laps[race] and log.control[race, following] == code and log.since[race, following] == 0)
