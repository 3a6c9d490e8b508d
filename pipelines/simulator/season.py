"""One simulated season: calendar, field, weekends and races, as canonical tables.

Seasons end in `LAST_SEASON`: `--seasons 3` are the years 2022, 2023 and 2024. A season depends on the seed and its year only, and
a race on the seed, its year and its round only: asking for more seasons or more races changes nothing that was there before.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.errors import SimulationRequestError
from pipelines.simulator import field as field_module
from pipelines.simulator import tables
from pipelines.simulator.circuits import CIRCUITS
from pipelines.simulator.classification import classify
from pipelines.simulator.event import SeasonEvent
from pipelines.simulator.qualifying import simulate_qualifying
from pipelines.simulator.race import Setup, simulate_races
from pipelines.simulator.streams import Stream, generator
from pipelines.simulator.weather import simulate_weather

logger = logging.getLogger(__name__)

LAST_SEASON = 2024
MAX_SEASONS = LAST_SEASON - field_module.FIRST_SEASON + 1
MAX_RACES = len(CIRCUITS)

TEAM_WEEKEND_PCT, DRIVER_WEEKEND_PCT = 0.20, 0.12
"""How far a car's set-up and a driver hit or miss a weekend, % of a lap (standard deviation)."""

RACE_TRIM_PCT = 0.10
"""Race pace that qualifying does not show, % of a lap (standard deviation by car)."""

DID_NOT_START = 0.003
"""Chance that a qualified car does not take the start (real 2018-2024: 14 of 2,979 entries)."""

QUALIFYING_BEFORE = timedelta(hours=23)
"""Qualifying starts on Saturday, 23 hours before lights out."""


@dataclass(frozen=True)
class Weekend:
    """When and where a race is held.

    Attributes:
        round: from 1.
        circuit_number: index into `CIRCUITS`.
        race_start: lights out, UTC, a Sunday.
    """

    round: int
    circuit_number: int
    race_start: datetime


def season_years(seasons: int) -> list[int]:
    """The years of a run of `seasons` seasons, ending in `LAST_SEASON`.

    Raises:
        SimulationRequestError: fewer than 1 or more than `MAX_SEASONS`.
    """
    if not 1 <= seasons <= MAX_SEASONS:
        raise SimulationRequestError(f"simulator: got {seasons} seasons, expected 1 to {MAX_SEASONS}")
    return list(range(LAST_SEASON - seasons + 1, LAST_SEASON + 1))


def calendar(seed: int, season: int, races: int) -> list[Weekend]:
    """The first `races` weekends of a season: a seeded order of the circuits, two Sundays in three from March on.

    Raises:
        SimulationRequestError: fewer than 1 or more than `MAX_RACES` races, or a negative seed.
    """
    if not 1 <= races <= MAX_RACES:
        raise SimulationRequestError(f"simulator: got {races} races a season, expected 1 to {MAX_RACES}")
    if seed < 0:
        raise SimulationRequestError(f"simulator: got seed {seed}, expected 0 or more")
    order = generator(seed, Stream.CALENDAR, season).permutation(MAX_RACES)
    march = datetime(season, 3, 1, tzinfo=UTC)
    sunday = march + timedelta(days=(6 - march.weekday()) % 7)
    weekends = []
    for index in range(races):
        weeks = (3 * index) // 2 + (2 if index >= MAX_RACES // 2 else 0)  # two free weeks in summer
        number = int(order[index])
        start = sunday + timedelta(weeks=weeks, hours=CIRCUITS[number].start_utc_h)
        weekends.append(Weekend(round=index + 1, circuit_number=number, race_start=start))
    return weekends


def simulate_seasons(years: list[int], races: int, seed: int) -> Iterator[tuple[int, dict[str, pd.DataFrame]]]:
    """Canonical tables of each year in turn; only one season is held in memory.

    Args:
        years: ascending, between `field.FIRST_SEASON` and `LAST_SEASON`.
        races: races a season.
        seed: non-negative seed.
    Raises:
        SimulationRequestError: a year, the number of races or the seed is out of range.
    """
    wrong = [year for year in years if not field_module.FIRST_SEASON <= year <= LAST_SEASON]
    if wrong or seed < 0:
        raise SimulationRequestError(
            f"simulator: got seasons {wrong or years} and seed {seed}, expected {field_module.FIRST_SEASON}-{LAST_SEASON} "
            "and a seed of 0 or more"
        )
    wanted = set(years)
    for field in field_module.fields(seed):
        if field.season in wanted:
            yield field.season, simulate_season(field, races, seed)
        if field.season >= max(wanted, default=0):
            return


def simulate_season(field: field_module.Field, races: int, seed: int) -> dict[str, pd.DataFrame]:
    """Canonical table -> rows of one season.

    Args:
        field: the season's field.
        races: races in the season.
        seed: seed of the simulation.
    """
    weekends = calendar(seed, field.season, races)
    circuits = [CIRCUITS[weekend.circuit_number] for weekend in weekends]

    def streams(stream: Stream, *extra: int) -> list[np.random.Generator]:
        return [generator(seed, stream, field.season, weekend.round, *extra) for weekend in weekends]

    race_pct, qualifying_pct = _weekend_pace(field, weekends, seed, streams(Stream.WEEKEND, 1))
    lap_s = np.array([circuit.lap_s for circuit in circuits])
    noise = np.broadcast_to(field.trait("noise"), race_pct.shape)
    qualified = simulate_qualifying(lap_s, qualifying_pct, noise, streams(Stream.QUALIFYING))
    absent = np.stack([rng.uniform(size=field_module.N_DRIVERS) < DID_NOT_START for rng in streams(Stream.WEEKEND, 2)])
    weather = simulate_weather(circuits, streams(Stream.WEATHER))
    setup = Setup(
        circuits=circuits,
        pace_pct=race_pct,
        wet_pct=np.broadcast_to(field.trait("wet_pct"), race_pct.shape),
        noise=noise,
        start_s=np.broadcast_to(field.trait("start_s"), race_pct.shape),
        tyre_care=np.broadcast_to(field.trait("tyre_care"), race_pct.shape),
        crash=np.broadcast_to(field.trait("crash"), race_pct.shape),
        failure=np.broadcast_to(field.mechanical[field.team], race_pct.shape),
        crew_s=np.broadcast_to(field.pit_crew_s[field.team], race_pct.shape),
        grid=qualified.grid,
        pit_lane=qualified.pit_lane,
        starts=~absent,
        weather=weather,
    )
    log = simulate_races(setup, streams(Stream.RACE))
    event = SeasonEvent(
        field=field,
        circuits=circuits,
        rounds=np.array([weekend.round for weekend in weekends], dtype=np.int64),
        race_start=[weekend.race_start for weekend in weekends],
        qualifying_start=[weekend.race_start - QUALIFYING_BEFORE for weekend in weekends],
        qualified=qualified,
        weather=weather,
        log=log,
        result=classify(log),
    )
    frames = tables.season_tables(event, streams(Stream.TIMING))
    logger.info("season simulated", extra={"season": field.season, "races": races, "laps": len(frames["laps"])})
    return frames


def _weekend_pace(
    field: field_module.Field, weekends: list[Weekend], seed: int, generators: list[np.random.Generator]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(R, 20) race and qualifying pace of each weekend, % of a lap above the ideal."""
    cars, drivers = field_module.round_pace(field, seed, len(weekends))
    teams, seats = field_module.N_TEAMS, field_module.N_DRIVERS
    form = np.stack([rng.standard_normal(2 * teams + seats) for rng in generators])
    power = np.array([CIRCUITS[weekend.circuit_number].power_share - 0.5 for weekend in weekends])[:, None]
    car = cars + field.power_pct * power + TEAM_WEEKEND_PCT * form[:, :teams]
    taste = np.stack([field_module.circuit_taste(field, seed, weekend.circuit_number) for weekend in weekends])
    together = car[:, field.team] + drivers + taste + DRIVER_WEEKEND_PCT * form[:, 2 * teams :]
    hidden = RACE_TRIM_PCT * form[:, teams : 2 * teams]
    qualifying = together + field.qualifying_pct[field.team] + field.trait("qualifying_pct")
    return together + hidden[:, field.team], qualifying
