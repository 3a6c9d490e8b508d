"""What timing measures: lap rows with sectors and speed traps, and the stints and pit stops that follow from them.

Instants travel as int64 microseconds since 1970; `NEVER_US` stands for none.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.simulator import race, tyres
from pipelines.simulator.event import SeasonEvent
from pipelines.simulator.flags import RESTART_LAPS, Timeline
from pipelines.simulator.incidents import Control

NEVER_US = np.iinfo(np.int64).min
"""The integer numpy reads as NaT."""

LANE_BEFORE_LINE_MS = 5_000
"""Time in the pit lane before the timing line, ms; the line crosses the pit lane too."""

SECTOR_NOISE = 0.004
"""Scatter of a sector's share of the lap."""

SPEED_NOISE = 0.012
"""Scatter of a speed trap reading (tow, engine mode, line), relative."""

TRAP_SHARE = np.array([0.84, 0.80, 0.88, 1.0])
"""Usual speed at intermediate 1, intermediate 2, finish line and speed trap, relative to the trap (2018-2024 medians)."""

SLOW_TRAP_POWER = 1.4
"""A lap x % slower than the reference shows about 1.4 x % less at the traps (rain, safety car)."""


def lap_columns(event: SeasonEvent, timelines: Sequence[Timeline], generators: Sequence[np.random.Generator]) -> dict[str, Any]:
    """Columns of the table `laps`; N rows, ordered by race, driver and lap.

    Args:
        event: the season.
        timelines: track status of each race.
        generators: one a race.
    """
    log, result = event.log, event.result
    # (R, D, L) order makes the rows of a car adjacent.
    has_lap = result.has_lap.transpose(0, 2, 1)
    race_no, driver, at = np.nonzero(has_lap)
    index = (race_no, at, driver)
    end_ms = result.clock_ms[index]
    begin_ms = np.where(at > 0, result.clock_ms[race_no, np.maximum(at - 1, 0), driver], 0)
    lap_ms = end_ms - begin_ms
    lane_ms = np.rint(log.lane_s[index] * 1000.0).astype(np.int64)
    start_us = event.start_us[race_no]
    lap_s = np.array([circuit.lap_s for circuit in event.circuits])[race_no]

    came_in = log.in_lap[index]
    first = at == 0
    previous_in = ~first & log.in_lap[race_no, np.maximum(at - 1, 0), driver]
    out_ms = np.roll(lane_ms, 1) - LANE_BEFORE_LINE_MS
    stopped = log.control[race_no, at] == Control.RED
    # After a red flag cars leave the pit lane at the restart, most of a lap before they next cross the line.
    restarts = stopped & previous_in
    out_ms = np.where(restarts, lap_ms - np.rint(RESTART_LAPS * lap_s * 1000.0).astype(np.int64), out_ms)
    out_ms = np.clip(out_ms, 1, lap_ms - 1000)
    pit_in = np.where(came_in, start_us + (end_ms - np.minimum(LANE_BEFORE_LINE_MS, lap_ms // 2)) * 1000, NEVER_US)
    pit_out = np.where(previous_in, start_us + (begin_ms + out_ms) * 1000, NEVER_US)

    status = np.empty(len(at), dtype=object)
    for number, line in enumerate(timelines):
        rows = race_no == number
        # A car waiting in the pit lane under a red flag starts its lap, as far as flags go, when it leaves.
        status[rows] = line.seen(np.where(restarts, begin_ms + out_ms, begin_ms)[rows], end_ms[rows])
    neutral = np.array([any(code in text for code in "4567") for text in status], dtype=bool)

    sectors = _sectors(event, generators, index, lap_ms, came_in=came_in, went_out=previous_in)
    speeds = _speeds(event, generators, index, lap_ms / 1000.0 / lap_s)
    speeds[2][came_in | previous_in] = np.nan
    compound = np.array(tyres.COMPOUNDS, dtype=object)[log.compound[index]]
    return {
        "race": race_no,
        "driver": driver,
        "lap": at + 1,
        "lap_start": start_us + begin_ms * 1000,
        "lap_time_s": np.where(restarts, np.nan, lap_ms / 1000.0),  # timing gives no time to the lap that waited for a restart
        "sector1_s": np.where(restarts, np.nan, sectors[0] / 1000.0),
        "sector2_s": sectors[1] / 1000.0,
        "sector3_s": sectors[2] / 1000.0,
        **{f"speed_{name}_kph": speeds[number] for number, name in enumerate(("i1", "i2", "fl", "st"))},
        "position": result.place[index],
        "stint": log.stint[index],
        "compound": compound,
        "tyre_life_laps": log.age_laps[index].astype(np.float64),
        "is_fresh_tyre": log.fresh[index],
        "pit_in": pit_in,
        "pit_out": pit_out,
        "track_status": status,
        "is_accurate": ~(first | came_in | previous_in | neutral),
        "is_deleted": np.zeros(len(at), dtype=bool),
        "event_timestamp": start_us + end_ms * 1000,
        "created_timestamp": start_us + end_ms * 1000,
    }


def stint_columns(laps: dict[str, Any]) -> dict[str, Any]:
    """Columns of the table `stints`, from the columns of `laps` (ordered by race, driver, lap)."""
    new = np.ones(len(laps["lap"]), dtype=bool)
    new[1:] = (np.diff(laps["stint"]) != 0) | (np.diff(laps["driver"]) != 0) | (np.diff(laps["race"]) != 0)
    start = np.flatnonzero(new)
    end = np.append(start[1:], len(new)) - 1
    return {
        **{name: laps[name][start] for name in ("race", "driver", "stint", "compound")},
        "start_lap": laps["lap"][start],
        "end_lap": laps["lap"][end],
        "length_laps": laps["lap"][end] - laps["lap"][start] + 1,
        "event_timestamp": laps["event_timestamp"][end],
        "created_timestamp": laps["event_timestamp"][end],
    }


def pit_stop_columns(laps: dict[str, Any]) -> dict[str, Any]:
    """Columns of the table `pit_stops`: a stop is an in-lap whose out-lap was completed too."""
    out_row = np.flatnonzero(laps["pit_out"] != NEVER_US)
    in_row = out_row - 1
    out_us, in_us = laps["pit_out"][out_row], laps["pit_in"][in_row]
    return {
        **{name: laps[name][in_row] for name in ("race", "driver", "lap", "stint")},
        "pit_in": in_us,
        "pit_out": out_us,
        "pit_lane_time_s": (out_us - in_us) / 1e6,
        "event_timestamp": out_us,
        "created_timestamp": out_us,
    }


def _sectors(
    event: SeasonEvent,
    generators: Sequence[np.random.Generator],
    index: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    lap_ms: NDArray[np.int64],
    *,
    came_in: NDArray[np.bool_],
    went_out: NDArray[np.bool_],
) -> list[NDArray[np.int64]]:
    """Three sector times a lap, ms; they add up to the lap. Pit stops fall into sector 1 (leaving) or 3 (coming in)."""
    _, drivers = event.qualified.position.shape
    scatter = np.stack([_by_lap(rng, event.log, 2, drivers, number) for number, rng in enumerate(generators)])
    noise = SECTOR_NOISE * scatter[index[0], index[1], :, index[2]]
    # A circuit's sectors have fixed lengths, here spread by its number of turns.
    split = np.array([(0.27 + 0.012 * (circuit.turns % 5), 0.34 + 0.015 * (circuit.turns % 4)) for circuit in event.circuits])
    shares = split[index[0]] * (1.0 + noise)
    pure = np.minimum(lap_ms, np.rint(event.log.free_s[index] * 1000.0).astype(np.int64))
    driven = np.where(came_in | went_out, pure, lap_ms)
    first = np.rint(driven * shares[:, 0]).astype(np.int64) + np.where(went_out & ~came_in, lap_ms - driven, 0)
    second = np.rint(driven * shares[:, 1]).astype(np.int64)
    return [first, second, lap_ms - first - second]


def _speeds(
    event: SeasonEvent,
    generators: Sequence[np.random.Generator],
    index: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    slowness: NDArray[np.float64],
) -> list[NDArray[np.float64]]:
    """Readings of the four speed traps, km/h."""
    _, drivers = event.qualified.position.shape
    scatter = np.stack([_by_lap(rng, event.log, 4, drivers, number) for number, rng in enumerate(generators)])
    noise = 1.0 + SPEED_NOISE * scatter[index[0], index[1], :, index[2]]
    trap = np.array([circuit.trap_kph for circuit in event.circuits])[index[0]]
    pace = np.maximum(slowness, 0.9) ** -SLOW_TRAP_POWER
    return [np.clip(np.round(trap * TRAP_SHARE[number] * pace * noise[:, number]), 20.0, 370.0) for number in range(4)]


def _by_lap(rng: np.random.Generator, log: race.RaceLog, channels: int, drivers: int, number: int) -> NDArray[np.float64]:
    """(L, channels, D) normal numbers; only the laps of this race are drawn, so a race never depends on its neighbours."""
    numbers = np.zeros((log.clock_s.shape[1], channels, drivers))
    count = int(log.laps[number])
    numbers[:count] = rng.standard_normal((count, channels, drivers))
    return numbers
