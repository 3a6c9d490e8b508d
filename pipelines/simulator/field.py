"""The fictional field: ten constructors, twenty seats, and how cars and drivers change within and between seasons.

The world begins in `FIRST_SEASON` and is replayed from there for any season asked for, so season 2023 of a seed is the same field
whether one season is simulated or forty. Pace is in % of a lap above an ideal car and driver: smaller is faster.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.simulator.streams import Stream, generator

FIRST_SEASON = 1975
N_TEAMS = 10
N_DRIVERS = 2 * N_TEAMS

CAR_SPREAD_PCT = 0.76
"""Standard deviation of car pace between constructors. Real median race laps differ by 1.0 % (std) between cars of a race; car,
driver, strategy and traffic share that."""

DOMINANCE_PCT = 0.15
"""Further advantage of the best car of a season: one team dominated in each of 2018-2024, more than a normal spread gives."""

CAR_MEMORY = 0.72
"""Share of a car's advantage that survives the winter (standings of successive real seasons correlate at about 0.7)."""

CAR_DRIFT_PCT = 0.07
"""Random walk of a car between two rounds (upgrades), % of a lap."""

POWER_SPREAD_PCT = 0.45
"""How differently cars take to straights and to corners, % of a lap between power_share 0 and 1."""

DRIVER_SPREAD_PCT = 0.33
"""Standard deviation of race pace between drivers; team-mates differ by 0.1-0.4 % in real qualifying."""

DRIVER_DRIFT_PCT = 0.03
"""Random walk of a driver between two rounds."""

CIRCUIT_TASTE_PCT = 0.10
"""Lasting liking of a driver for a circuit, % of a lap."""

MECHANICAL_PER_LAP = 0.00100
"""Mean hazard of a mechanical retirement by the lap: 6 % of starts in 60 laps (real 2018-2024: 5 to 6 %)."""

CONSTRUCTORS: tuple[tuple[str, str, str], ...] = (
    ("apex_union", "Apex Union", "British"),
    ("borealis", "Borealis Racing", "Finnish"),
    ("cardinal", "Cardinal Grand Prix", "Italian"),
    ("deltawerk", "Deltawerk", "German"),
    ("estrela", "Equipe Estrela", "Brazilian"),
    ("fairmont", "Fairmont Engineering", "British"),
    ("halcyon", "Halcyon Motorsport", "American"),
    ("kaminari", "Kaminari", "Japanese"),
    ("lumiere", "Ecurie Lumiere", "French"),
    ("vantgard", "Vantgard F1 Team", "Swiss"),
)

# fmt: off
_GIVEN = (
    "Avery", "Bruno", "Caspar", "Dario", "Elias", "Felix", "Gael", "Hugo", "Ivo", "Jonas", "Kenji", "Luca", "Marek", "Nils",
    "Otto", "Pablo", "Quinn", "Rafael", "Soren", "Teo", "Ulrik", "Viktor", "Wes", "Xavi", "Yuri", "Zane", "Aino", "Bea", "Carla",
    "Dana", "Emil", "Freya", "Gino", "Hana", "Ines", "Jun", "Kaia", "Leon", "Mira", "Noel",
)
_FAMILY = (
    "Lane", "Moreau", "Castell", "Okafor", "Lindqvist", "Bauer", "Ferro", "Tanaka", "Silveira", "Novak", "Harrow",
    "Dubois", "Vance", "Ricci", "Keller", "Santoro", "Wexler", "Ibarra", "Jansen", "Koskela", "Laurent", "Mbeki", "Nakata",
    "Orsini", "Pereira", "Quist", "Rowe", "Sato", "Thorne", "Urban", "Varga", "Winter", "Yamada", "Zeller", "Almeida", "Brandt",
    "Coste", "Drake", "Engel", "Falk", "Grieve", "Holt", "Ishii", "Jarvis", "Kowal", "Lopes", "Marsh", "Nyberg", "Olsen", "Pratt",
)
_NATIONS = (
    "British", "French", "Spanish", "German", "Italian", "Finnish", "Dutch", "Japanese", "Brazilian", "Australian", "Mexican",
    "Canadian", "American", "Danish", "Swiss", "Argentine",
)
# fmt: on


@dataclass(frozen=True)
class Driver:
    """One driver and what makes that driver quick, careful or lucky at the start.

    Attributes:
        number: order of arrival in the world, 0...; names the driver's own random streams.
        driver_id: reference such as `avery_lane`.
        code: three letters, unique among the drivers of a season.
        car_number: 2-99, unique among the drivers of a season.
        given_name: first name.
        family_name: surname.
        born: year and day of the year of birth.
        nationality: demonym, as in the Ergast tables.
        pace_pct: race pace above the ideal driver, % of a lap.
        qualifying_pct: further % of a lap in qualifying (negative: a qualifier).
        wet_pct: further % of a lap on a fully wet track.
        noise: lap-time noise relative to the average driver.
        start_s: seconds gained (negative) or lost in the first lap.
        tyre_care: wear relative to the average driver.
        crash: accident hazard relative to the average driver.
    """

    number: int
    driver_id: str
    code: str
    car_number: int
    given_name: str
    family_name: str
    born: tuple[int, int]
    nationality: str
    pace_pct: float
    qualifying_pct: float
    wet_pct: float
    noise: float
    start_s: float
    tyre_care: float
    crash: float


@dataclass(frozen=True)
class Field:
    """The field of one season.

    Attributes:
        season: year.
        drivers: the 20 drivers; drivers 2k and 2k+1 drive for constructor k.
        car_pct: (10,) race pace of the cars before the first round, % of a lap above the ideal car.
        qualifying_pct: (10,) further % of a lap in qualifying trim.
        power_pct: (10,) % of a lap lost on a circuit of straights against one of corners (negative: a car for straights).
        mechanical: (10,) hazard of a mechanical retirement by the lap.
        pit_crew_s: (10,) mean seconds a stop is slower than the average crew's.
    """

    season: int
    drivers: tuple[Driver, ...]
    car_pct: NDArray[np.float64]
    qualifying_pct: NDArray[np.float64]
    power_pct: NDArray[np.float64]
    mechanical: NDArray[np.float64]
    pit_crew_s: NDArray[np.float64]

    @property
    def team(self) -> NDArray[np.int64]:
        """(20,) index into `CONSTRUCTORS` of each driver."""
        return np.arange(N_DRIVERS, dtype=np.int64) // 2

    def trait(self, name: str) -> NDArray[np.float64]:
        """(20,) one numeric attribute of the drivers."""
        return np.array([getattr(driver, name) for driver in self.drivers], dtype=np.float64)


def fields(seed: int) -> Iterator[Field]:
    """The field of every season from `FIRST_SEASON` on, without end."""
    names = generator(seed, Stream.NAMES).permutation(len(_GIVEN) * len(_FAMILY)).tolist()
    rng = generator(seed, Stream.FIELD, FIRST_SEASON)
    drivers: list[Driver] = []
    for number in range(N_DRIVERS):
        drivers.append(_rookie(rng, _free_name(names, drivers), number, FIRST_SEASON, drivers, age=(20, 36)))
    hired = N_DRIVERS - 1
    season = FIRST_SEASON
    cars = rng.standard_normal((5, N_TEAMS))
    while True:
        yield _field(season, tuple(drivers), cars)
        season += 1
        rng = generator(seed, Stream.FIELD, season)
        # Stationary in all five traits: the spread between cars neither grows nor shrinks over decades.
        cars = CAR_MEMORY * cars + np.sqrt(1.0 - CAR_MEMORY**2) * rng.standard_normal((5, N_TEAMS))
        leaving = rng.uniform(size=N_DRIVERS) < [_leaving_chance(driver, season) for driver in drivers]
        growth = 0.12 * rng.standard_normal(N_DRIVERS)
        drivers = [
            replace(d, pace_pct=max(0.0, 0.9 * d.pace_pct + 0.1 * 0.5 + float(g))) for d, g in zip(drivers, growth, strict=True)
        ]
        _swap_seats(drivers, rng)
        for seat in np.flatnonzero(leaving):
            others = [driver for index, driver in enumerate(drivers) if index != seat]
            hired += 1
            drivers[seat] = _rookie(rng, _free_name(names, others), hired, season, others, age=(18, 25))


def round_pace(field: Field, seed: int, rounds: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How cars and drivers have drifted by each round of the season.

    Args:
        field: the season's field.
        seed: seed of the simulation.
        rounds: R rounds; the first rounds of a longer season are the same.
    Returns:
        (R, 10) pace of the cars and (R, 20) of the drivers, % of a lap above the ideal.
    """
    streams = [generator(seed, Stream.WEEKEND, field.season, number, 0) for number in range(rounds)]
    walk = np.cumsum(np.stack([rng.standard_normal(N_TEAMS + N_DRIVERS) for rng in streams]), axis=0)
    cars = field.car_pct + CAR_DRIFT_PCT * walk[:, :N_TEAMS]
    drivers = field.trait("pace_pct") + DRIVER_DRIFT_PCT * walk[:, N_TEAMS:]
    return cars, drivers


def circuit_taste(field: Field, seed: int, circuit_number: int) -> NDArray[np.float64]:
    """(20,) what each driver loses at this circuit every year, % of a lap (negative: likes it)."""
    draws = [generator(seed, Stream.AFFINITY, driver.number, circuit_number).standard_normal() for driver in field.drivers]
    return CIRCUIT_TASTE_PCT * np.array(draws)


def _field(season: int, drivers: tuple[Driver, ...], cars: NDArray[np.float64]) -> Field:
    pace = CAR_SPREAD_PCT * cars[0]
    pace[np.argmin(pace)] -= DOMINANCE_PCT
    return Field(
        season=season,
        drivers=drivers,
        car_pct=pace - pace.min(),
        qualifying_pct=0.15 * cars[1],
        power_pct=POWER_SPREAD_PCT * cars[2],
        mechanical=MECHANICAL_PER_LAP * np.exp(0.45 * cars[3] - 0.1),
        pit_crew_s=0.25 * cars[4],
    )


def _leaving_chance(driver: Driver, season: int) -> float:
    """Chance that a driver has no seat this season: the old and the slow go (about 15 % a year)."""
    age = season - driver.born[0]
    return float(np.clip(0.05 + 0.03 * max(age - 33, 0) + 0.30 * max(driver.pace_pct - 0.5, 0.0), 0.0, 0.9))


def _swap_seats(drivers: list[Driver], rng: np.random.Generator) -> None:
    """Two pairs of drivers change places; money and merit both move, so any two may."""
    seats = rng.permutation(N_DRIVERS)[:4]
    for left, right in ((seats[0], seats[1]), (seats[2], seats[3])):
        drivers[left], drivers[right] = drivers[right], drivers[left]


def _rookie(
    rng: np.random.Generator, name: int, number: int, season: int, others: list[Driver], *, age: tuple[int, int]
) -> Driver:
    given, family = _GIVEN[name % len(_GIVEN)], _FAMILY[name // len(_GIVEN)]
    traits = rng.standard_normal(7)
    years, day, nation = int(rng.integers(*age)), int(rng.integers(1, 366)), int(rng.integers(len(_NATIONS)))
    free = sorted(set(range(2, 100)) - {driver.car_number for driver in others})
    return Driver(
        number=number,
        driver_id=f"{given}_{family}".lower(),
        code=_code(given, family, {driver.code for driver in others}),
        car_number=free[int(rng.integers(len(free)))],
        given_name=given,
        family_name=family,
        born=(season - years, day),
        nationality=_NATIONS[nation],
        pace_pct=max(0.0, 0.45 + DRIVER_SPREAD_PCT * float(traits[0])),
        qualifying_pct=0.10 * float(traits[1]),
        wet_pct=0.7 * float(traits[2]),
        noise=float(np.exp(0.18 * traits[3])),
        start_s=0.25 * float(traits[4]),
        tyre_care=float(np.exp(0.08 * traits[5])),
        crash=float(np.exp(0.45 * traits[6] - 0.1)),
    )


def _free_name(names: list[int], others: list[Driver]) -> int:
    """Take from `names` the first one whose given and family name nobody else in the field has; a name is never used twice."""
    given, family = {driver.given_name for driver in others}, {driver.family_name for driver in others}
    index = next(
        i
        for i, name in enumerate(names)
        if _GIVEN[name % len(_GIVEN)] not in given and _FAMILY[name // len(_GIVEN)] not in family
    )
    return names.pop(index)


def _code(given: str, family: str, taken: set[str]) -> str:
    """Three letters of the name that nobody else in the field has."""
    letters = (family + given).upper()
    options = [letters[:3], (given[0] + family[:2]).upper(), (given[:2] + family[0]).upper()]
    options += [letters[0] + letters[i] + letters[j] for i in range(1, len(letters)) for j in range(i + 1, len(letters))]
    return next(option for option in options if option not in taken)
