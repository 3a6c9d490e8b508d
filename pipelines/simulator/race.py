"""The race engine: lap by lap, all races of a season at once, from lights out to the flag.

A lap takes the reference lap times (1 + car + driver + tyres + fuel + water + noise), in % of the lap; then traffic, pit stops
and race control act on the session clock, and the running order is the order of the clocks. Arrays are (R, D): R races of a
season and D cars. Every random number of a race comes from that race's own generator and is drawn before the first lap, so a race
is the same whichever races run beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.simulator import incidents, pace, strategy, traffic, tyres
from pipelines.simulator.circuits import Circuit
from pipelines.simulator.control import LAST_RED_LAPS, RaceControl, line_clock, neutralise
from pipelines.simulator.incidents import Control
from pipelines.simulator.weather import Weather

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

ENTRY_S = 4.0
"""Part of the pit loss that falls into the in-lap, s (real in-laps are 4.4 s slower than the median lap)."""

LANE_EXTRA_S = 2.2
"""Time in the pit lane beyond the loss: driving past it on the track also takes time, s."""

CREW_SIGMA_S, SLOW_STOP, SLOW_STOP_S = 0.45, 0.06, 6.0
"""Stationary time: scatter, chance of a bad stop and its mean extra, s."""

CHEAP_STOP = 0.55
"""Pit loss behind a safety car or under VSC against green."""

DAMAGE_LAP1, DAMAGE, DAMAGE_S = 0.040, 0.0011, 14.0
"""Chance of damage that forces a stop in lap 1 (average circuit) and in any other lap, and its cost, s."""


HURT_LAPS, HURT_FAILURE, HURT_STOP = 3, 0.07, 0.10
"""Laps that a damaged car stays fragile, and its chances in each of retiring and of another stop for repairs."""


@dataclass(frozen=True)
class Setup:
    """What is settled before lights out for R races and D cars. Pace is in % of a lap above the ideal.

    Attributes:
        circuits: R circuits.
        pace_pct: (R, D) race pace of car, driver and weekend together.
        wet_pct: (R, D) further loss on a fully wet track.
        noise: (R, D) lap noise relative to the average driver.
        start_s: (R, D) usual gain (negative) or loss in lap 1.
        tyre_care: (R, D) wear relative to the average driver.
        crash: (R, D) accident hazard relative to the average driver.
        failure: (R, D) mechanical hazard by the lap.
        crew_s: (R, D) mean seconds a stop is slower than the average crew's.
        grid: (R, D) int, 1..D.
        pit_lane: (R, D) bool.
        starts: (R, D) bool, False for a car that does not take the start.
        weather: weather of the R races.
    """

    circuits: Sequence[Circuit]
    pace_pct: Floats
    wet_pct: Floats
    noise: Floats
    start_s: Floats
    tyre_care: Floats
    crash: Floats
    failure: Floats
    crew_s: Floats
    grid: Ints
    pit_lane: Bools
    starts: Bools
    weather: Weather

    def of_circuits(self, name: str) -> Floats:
        """(R,) one numeric attribute of the circuits."""
        return np.array([getattr(circuit, name) for circuit in self.circuits], dtype=np.float64)


@dataclass(frozen=True)
class RaceLog:
    """What happened, lap by lap; L is the longest race of the season and laps beyond a race's flag mean nothing.

    Attributes:
        laps: (R,) scheduled laps.
        clock_s: (R, L, D) session clock at the end of the lap, s after lights out; `traffic.OUT` for a car that is out.
        compound, age_laps, fresh, stint: (R, L, D) tyres during the lap; age counts this lap.
        in_lap: (R, L, D) bool, the lap ended in the pit lane.
        lane_s: (R, L, D) time in the pit lane of the stop that began in this lap, s.
        free_s: (R, L, D) the lap on a free track (pace), s.
        control: (R, L) int `Control` in force in the lap.
        since: (R, L) share of the lap after which it came into force (0: from the line).
        wetness: (R, L) water on the track for the leader.
        out_lap: (R, D) int, lap in which the car ended its race; 0 did not start; `strategy.NEVER` when it did not.
        out_kind: (R, D) int, 0 none, 1 failure, 2 accident.
        out_detail: (R, D) uniform numbers that choose the words.
    """

    laps: Ints
    clock_s: Floats
    compound: Ints
    age_laps: Ints
    fresh: Bools
    stint: Ints
    in_lap: Bools
    lane_s: Floats
    free_s: Floats
    control: Ints
    since: Floats
    wetness: Floats
    out_lap: Ints
    out_kind: Ints
    out_detail: Floats


@dataclass(frozen=True)
class _Luck:
    """All random numbers of the races.

    Attributes:
        uniform: (R, L, 10, D) in (0, 1).
        normal: (R, L, 2, D) standard normal.
        lap: (R, L, 5) in (0, 1), shared by the cars of a race.
        car: (R, 6, D) in (0, 1), one a race.
    """

    uniform: Floats
    normal: Floats
    lap: Floats
    car: Floats

    @classmethod
    def draw(cls, generators: Sequence[np.random.Generator], laps: Ints, drivers: int) -> "_Luck":
        longest = int(laps.max())
        shapes = {"uniform": (10, drivers), "normal": (2, drivers), "lap": (5,)}
        parts: dict[str, list[Floats]] = {name: [] for name in shapes}
        cars = []
        for rng, count in zip(generators, laps, strict=True):
            for name, shape in shapes.items():
                numbers = np.full((longest, *shape), 0.5)
                size = (int(count), *shape)
                numbers[:count] = rng.standard_normal(size) if name == "normal" else _open_uniform(rng, size)
                parts[name].append(numbers)
            cars.append(_open_uniform(rng, (6, drivers)))
        return cls(car=np.stack(cars), **{name: np.stack(numbers) for name, numbers in parts.items()})


def simulate_races(setup: Setup, generators: Sequence[np.random.Generator]) -> RaceLog:
    """Run R races.

    Args:
        setup: what is settled before the start.
        generators: R generators, one a race.
    """
    races, drivers = setup.grid.shape
    laps = np.array([circuit.laps for circuit in setup.circuits], dtype=np.int64)
    luck = _Luck.draw(generators, laps, drivers)
    lap_s, km = setup.of_circuits("lap_s"), setup.of_circuits("length_km")
    pit_loss, passing = setup.of_circuits("pit_loss_s"), setup.of_circuits("passing_pct")
    hazard = setup.of_circuits("hazard")[:, None]
    severity = setup.of_circuits("tyre_severity")[:, None] * setup.tyre_care
    log = _empty_log(laps, drivers, luck)

    clock = np.zeros((races, drivers))
    log.out_lap[~setup.starts] = 0
    running = setup.starts.copy()
    slots = np.argsort(np.where(running, setup.grid, 100), axis=1, kind="stable").astype(np.int64)
    plans = strategy.plan_races(laps=laps, severity=severity, wetness=setup.weather.wetness_at(clock), luck=luck.car[:, :4])
    control = RaceControl(races)
    phase = np.zeros((races, drivers))
    out_loss = np.zeros((races, drivers))
    came_in = np.zeros((races, drivers), dtype=bool)
    hurt = np.zeros((races, drivers), dtype=np.int64)
    ahead = np.full((races, drivers), np.inf)

    for lap in range(1, int(laps.max()) + 1):
        here = luck.uniform[:, lap - 1]
        normal = luck.normal[:, lap - 1]
        shared = luck.lap[:, lap - 1]
        wet = setup.weather.wetness_at(np.minimum(clock, 1e6))
        sc, vsc, red = (control.in_force(code) for code in (Control.SAFETY_CAR, Control.VSC, Control.RED))
        slow = sc | vsc | red

        # 1. What goes wrong, and what race control makes of it.
        times = np.where(slow, 0.25, np.where(control.was_neutral, incidents.RESTART_ACCIDENT, 1.0))[:, None]
        times = times * (incidents.FIRST_LAP_ACCIDENT if lap == 1 else 1.0) * (1.0 + incidents.WET_ACCIDENT * wet)
        found = incidents.lap_incidents(
            running=running,
            accident_hazard=incidents.ACCIDENT_PER_LAP * hazard * setup.crash * times,
            failure_hazard=setup.failure * (2.0 if lap == 1 else 1.0) + np.where(hurt > 0, HURT_FAILURE, 0.0),
            luck_accident=here[:, 0],
            luck_failure=here[:, 1],
            luck_answer=shared[:, 0],
            luck_spin=shared[:, 1] / hazard[:, 0],
        )
        is_too_late = (found.answer == Control.RED) & (laps - lap < LAST_RED_LAPS)
        answer = np.where(is_too_late, Control.SAFETY_CAR, found.answer)
        fresh_call = ~slow & (answer != Control.GREEN)
        control.call(answer, shared)
        since = np.where(fresh_call, 0.1 + 0.8 * shared[:, 3], 0.0)
        now = np.where(slow | fresh_call, control.code, Control.GREEN)
        left = found.accident | found.failure
        log.out_lap[left] = lap
        log.out_kind[left] = np.where(found.accident, 2, 1)[left]
        running &= ~left

        # 2. The lap on a free track.
        phase = np.where(came_in | (lap == 1), pace.PACE_PHASE_PCT * normal[:, 1], phase)
        rubber = tyres.lap_effect_pct(plans.compound, plans.age * km[:, None], severity, wet)
        own = pace.base_pct(
            lap=lap, laps=laps, noise=setup.noise, wetness=wet, normal=normal[:, 0], luck=here[:, 2], size=here[:, 3]
        )
        alone = lap_s[:, None] * (1.0 + (setup.pace_pct + setup.wet_pct * wet + rubber + phase + own) / 100.0)
        behind = traffic.gap_behind(slots, clock)
        free = alone * (1.0 + pace.company_pct(ahead_s=ahead, behind_s=behind, passing_pct=passing) / 100.0)
        if lap == 1:
            free = free + pace.start_s(grid=setup.grid, pit_lane=setup.pit_lane, usual_s=setup.start_s, normal=normal[:, 1])
        free = neutralise(free, lap_s, now=now, since=since, fresh_call=fresh_call)
        free = free + np.where(came_in, out_loss, 0.0)

        # 3. Who stops at the end of this lap.
        chance = strategy.stop_chance(
            plans,
            lap=lap,
            laps=laps,
            km=km,
            severity=severity,
            wetness=wet,
            is_slow=(now == Control.SAFETY_CAR) | (now == Control.VSC),
            gap_behind_s=behind,
            pit_loss_s=pit_loss,
        )
        damage_chance = (DAMAGE_LAP1 * hazard if lap == 1 else DAMAGE) + np.where(hurt > 0, HURT_STOP, 0.0)
        damaged = running & (here[:, 4] < damage_chance) & ~red[:, None]
        hurt = np.where(damaged & (hurt == 0), HURT_LAPS, np.maximum(hurt - 1, 0))
        stopping = running & ((here[:, 5] < chance) | damaged) & (lap < laps)[:, None] & ~red[:, None]
        is_red_lap = fresh_call & (now == Control.RED)
        stopping &= ~is_red_lap[:, None]
        free = free + np.where(stopping, ENTRY_S, 0.0) + np.where(damaged, DAMAGE_S * (0.5 + here[:, 6]), 0.0)

        # 4. Order and clocks at the line.
        leader = np.take_along_axis(clock, slots[:, :1], axis=1)[:, 0]
        line = line_clock(leader_s=leader, lap_s=lap_s, sc=sc, red=red, luck=shared[:, 4])
        ends = np.where(red[:, None], line[:, None], clock + free)
        ends = np.where(running, ends, traffic.OUT)
        can_pass = ~slow & ~(fresh_call & (now != Control.YELLOW) & (since < 0.5))
        slots, ends = traffic.settle_order(
            slots=slots,
            clock=ends,
            lap_s=free,
            need_s=np.where(lap == 1, -np.inf, traffic.pass_threshold(passing * lap_s / 100.0, here[:, 7], can_pass)),
            is_free=((stopping | came_in | damaged) & ~red[:, None]) | ~running,
            gap_s=np.where(sc | red, traffic.QUEUE_GAP_S, traffic.FOLLOW_GAP_S)[:, None] * (0.6 + 0.8 * here[:, 9]),
            line_s=line,
        )
        clock = np.where(running, ends, traffic.OUT)
        ahead = np.where(slow[:, None], np.inf, traffic.gap_ahead(slots, clock))

        # 5. Record the lap, then change tyres for the next one.
        into_pits = stopping | (is_red_lap[:, None] & running & (lap < laps)[:, None])
        bad = np.where(here[:, 8] < SLOW_STOP, -SLOW_STOP_S * np.log(here[:, 9]), 0.0)
        service = setup.crew_s + CREW_SIGMA_S * normal[:, 0] + bad
        cheap = np.where((now == Control.SAFETY_CAR) | (now == Control.VSC), CHEAP_STOP, 1.0)[:, None]
        loss = np.maximum((pit_loss[:, None] - ENTRY_S) * cheap, 6.0) + np.maximum(service, -1.0)
        out_loss = np.where(stopping, loss + tyres.WARM_UP_PCT[plans.compound] * lap_s[:, None] / 100.0, 0.0)
        at = lap - 1
        log.clock_s[:, at], log.free_s[:, at], log.wetness[:, at] = clock, alone, wet[np.arange(races), slots[:, 0]]
        log.compound[:, at], log.fresh[:, at], log.stint[:, at] = plans.compound, plans.fresh, plans.stint
        log.control[:, at], log.since[:, at], log.in_lap[:, at] = now, since, into_pits
        log.lane_s[:, at] = pit_loss[:, None] + LANE_EXTRA_S + np.maximum(service, -1.0)
        plans.age = plans.age + 1
        log.age_laps[:, at] = plans.age
        wet_now = setup.weather.wetness_at(np.minimum(clock, 1e6))
        strategy.fit_tyres(plans, into_pits, lap=lap, laps=laps, km=km, severity=severity, wetness=wet_now, luck=here[:, 6])
        came_in = stopping
        control.end_of_lap()
    return log


def _open_uniform(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    """Uniform numbers strictly between 0 and 1, so that their logarithms are finite."""
    return np.clip(rng.uniform(size=size), 1e-9, 1.0 - 1e-9)


def _empty_log(laps: Ints, drivers: int, luck: _Luck) -> RaceLog:
    races, longest = len(laps), int(laps.max())
    shape = (races, longest, drivers)
    return RaceLog(
        laps=laps,
        clock_s=np.full(shape, traffic.OUT),
        compound=np.zeros(shape, dtype=np.int64),
        age_laps=np.zeros(shape, dtype=np.int64),
        fresh=np.zeros(shape, dtype=bool),
        stint=np.ones(shape, dtype=np.int64),
        in_lap=np.zeros(shape, dtype=bool),
        lane_s=np.zeros(shape),
        free_s=np.zeros(shape),
        control=np.full((races, longest), Control.GREEN, dtype=np.int64),
        since=np.zeros((races, longest)),
        wetness=np.zeros((races, longest)),
        out_lap=np.full((races, drivers), strategy.NEVER, dtype=np.int64),
        out_kind=np.zeros((races, drivers), dtype=np.int64),
        out_detail=luck.car[:, 4],
    )
