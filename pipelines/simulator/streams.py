"""Independent random streams, one for every (purpose, season, round), all children of one seed.

A stream depends on the seed and on its own key only. So a race does not change when more races or more seasons are asked for,
and two purposes (weather, qualifying, ...) never share numbers.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What random numbers are for. The values are part of the simulator's identity: never renumber one."""

    NAMES = 1
    FIELD = 2
    CALENDAR = 3
    WEEKEND = 4
    WEATHER = 5
    QUALIFYING = 6
    RACE = 7
    TIMING = 8
    AFFINITY = 9


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """The generator of `stream` for `key` (for instance season and round) under `seed`.

    Args:
        seed: non-negative seed of the whole simulation.
        stream: the purpose.
        key: non-negative integers that name the child.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(stream), *key)))
