"""The 26 fictional circuits: what a lap there costs, how hard it is on tyres and how hard it is to pass.

The places do not exist. Each number is of the size of a real circuit of that kind (ranges are given with each field), so that the
mix of street and race circuits, of long and short laps and of dry and wet places is that of a real calendar.
"""

import math
from dataclasses import dataclass

RACE_DISTANCE_KM = 305.0
"""Sporting regulations: the least number of laps that exceeds 305 km."""

TIGHT_RACE_DISTANCE_KM = 260.0
"""The exception the regulations make for Monaco; used here for circuits where a race of 305 km would pass two hours."""


@dataclass(frozen=True)
class Circuit:
    """One circuit.

    Attributes:
        circuit_id: reference, `[a-z0-9_]+`.
        name: name of the circuit.
        locality: town (fictional).
        country: country the climate and the time zone are taken from.
        lat_deg: latitude, degrees north.
        lng_deg: longitude, degrees east.
        altitude_m: height above the sea, m.
        length_km: length of a lap, km (real calendar: 3.3 to 7.0).
        turns: corners (real: 10 to 27).
        circuit_type: race, street or road.
        direction: clockwise or anti_clockwise.
        lap_s: dry race lap of the fastest car on fresh medium tyres with empty tanks, s (real averages: 160-250 km/h).
        passing_pct: pace advantage at which half the attempts to pass in a lap succeed, % of the lap. Simulation studies of
            overtaking put it at 0.2-0.5 s a lap where passing is easy, and above 1.5 s at Monaco.
        pit_loss_s: time a stop costs against staying out under green, s (real: 18 to 26).
        tyre_severity: wear relative to the average circuit (Pirelli's 1-5 tyre stress, rescaled to a mean of 1).
        rain_chance: chance that any rain falls from an hour before the start to the flag (real 2018-2024: 0.25 on average).
        hazard: chance of accidents relative to the average circuit (walls close to the track: above 1).
        air_c: usual air temperature at race time, deg C.
        humidity_pct: usual relative humidity, %.
        trap_kph: speed at the trap on the longest straight, km/h.
        power_share: how much of the lap is straights, 0 (corners only) to 1; decides which cars like the place.
        start_utc_h: hour of lights out, UTC.
    """

    circuit_id: str
    name: str
    locality: str
    country: str
    lat_deg: float
    lng_deg: float
    altitude_m: float
    length_km: float
    turns: int
    circuit_type: str
    direction: str
    lap_s: float
    passing_pct: float
    pit_loss_s: float
    tyre_severity: float
    rain_chance: float
    hazard: float
    air_c: float
    humidity_pct: float
    trap_kph: float
    power_share: float
    start_utc_h: int

    @property
    def laps(self) -> int:
        """Scheduled laps of a race here."""
        distance = TIGHT_RACE_DISTANCE_KM if self.lap_s / self.length_km > TIGHT_S_PER_KM else RACE_DISTANCE_KM
        return math.ceil(distance / self.length_km)


TIGHT_S_PER_KM = 22.0
"""Slower than this (under 164 km/h), 305 km would come close to the two-hour limit."""

_CW, _ACW = "clockwise", "anti_clockwise"

# fmt: off
CIRCUITS: tuple[Circuit, ...] = (
    # circuit_id, name, locality, country,
    # lat_deg, lng_deg, altitude_m, length_km, turns, circuit_type, direction,
    # lap_s, passing_pct, pit_loss_s, tyre_severity, rain_chance, hazard, air_c, humidity_pct, trap_kph, power_share, start_utc_h
    Circuit(
        "alder_ring", "Alder Ring", "Alderhausen", "Germany",
        50.61, 7.93, 420, 5.148, 16, "race", _CW,
        90.5, 0.75, 20.5, 1.05, 0.42, 0.9, 19, 62, 318, 0.55, 13,
    ),
    Circuit(
        "almenara", "Circuito de Almenara", "Almenara", "Spain",
        39.75, -0.23, 60, 4.657, 14, "race", _CW,
        80.0, 0.95, 21.5, 1.25, 0.12, 0.7, 25, 50, 322, 0.45, 13,
    ),
    Circuit(
        "aurel_bay", "Aurel Bay Street Circuit", "Port Aurel", "Singapore",
        1.27, 103.83, 5, 4.940, 19, "street", _ACW,
        97.0, 1.55, 25.5, 0.90, 0.40, 1.7, 29, 80, 300, 0.30, 12,
    ),
    Circuit(
        "belmarsh", "Belmarsh Park", "Belmarsh", "United Kingdom",
        52.20, -1.10, 150, 5.891, 18, "race", _CW,
        90.0, 0.65, 20.0, 1.25, 0.38, 1.0, 20, 64, 325, 0.50, 14,
    ),
    Circuit(
        "cala_dorata", "Circuito Cala Dorata", "Cala Dorata", "Italy",
        43.95, 12.60, 40, 4.909, 19, "race", _ACW,
        79.5, 1.25, 26.0, 0.90, 0.28, 1.0, 19, 65, 305, 0.45, 13,
    ),
    Circuit(
        "copper_mesa", "Copper Mesa Raceway", "Copper Mesa", "United States",
        31.20, -100.50, 520, 5.513, 20, "race", _ACW,
        98.0, 0.65, 20.0, 1.15, 0.18, 0.9, 26, 45, 326, 0.50, 19,
    ),
    Circuit(
        "costa_verde", "Autodromo Costa Verde", "Sao Elias", "Brazil",
        -23.40, -46.90, 780, 4.309, 15, "race", _ACW,
        72.0, 0.55, 20.0, 1.05, 0.48, 1.2, 23, 68, 328, 0.55, 17,
    ),
    Circuit(
        "dune_gate", "Dune Gate International Circuit", "Al Rimal", "Bahrain",
        26.03, 50.51, 7, 5.412, 15, "race", _CW,
        93.0, 0.45, 22.5, 1.35, 0.02, 0.8, 25, 50, 322, 0.50, 15,
    ),
    Circuit(
        "eastmoor", "Eastmoor Road Course", "Eastmoor", "Belgium",
        50.40, 5.60, 400, 7.004, 19, "race", _CW,
        108.0, 0.45, 18.5, 1.10, 0.50, 1.0, 18, 70, 335, 0.70, 13,
    ),
    Circuit(
        "ferrel", "Ferrel Hills", "Ferrel", "Portugal",
        37.23, -8.63, 100, 4.653, 15, "race", _CW,
        80.5, 0.65, 24.5, 0.85, 0.20, 0.7, 21, 62, 320, 0.50, 13,
    ),
    Circuit(
        "glenora", "Glenora Park", "Glenora", "Australia",
        -37.80, 145.00, 10, 5.278, 14, "road", _CW,
        82.5, 0.95, 20.0, 0.90, 0.22, 1.4, 22, 55, 322, 0.55, 5,
    ),
    Circuit(
        "granite_falls", "Granite Falls Circuit", "Granite Falls", "Canada",
        45.50, -73.60, 13, 4.361, 14, "street", _CW,
        75.0, 0.60, 18.5, 0.80, 0.36, 1.3, 21, 60, 330, 0.65, 18,
    ),
    Circuit(
        "hoshino", "Hoshino Circuit", "Hoshino", "Japan",
        34.90, 136.60, 45, 5.807, 18, "race", _CW,
        93.5, 0.90, 22.5, 1.35, 0.38, 1.0, 20, 60, 316, 0.45, 5,
    ),
    Circuit(
        "kestrel_heights", "Kestrel Heights", "Kestrel", "Austria",
        47.20, 14.70, 678, 4.318, 10, "race", _CW,
        67.0, 0.45, 20.5, 0.95, 0.30, 0.9, 23, 52, 320, 0.65, 13,
    ),
    Circuit(
        "lake_sorrow", "Lake Sorrow Speedway", "Lake Sorrow", "United States",
        28.50, -81.00, 20, 5.412, 19, "street", _ACW,
        91.5, 0.70, 20.0, 0.85, 0.22, 1.2, 28, 62, 335, 0.60, 20,
    ),
    Circuit(
        "monte_salina", "Circuit de Monte Salina", "Monte Salina", "Monaco",
        43.73, 7.42, 12, 3.337, 19, "street", _CW,
        75.0, 3.00, 20.5, 0.65, 0.25, 1.6, 22, 62, 288, 0.10, 13,
    ),
    Circuit(
        "nizhna", "Nizhna Autodrom", "Nizhna", "Hungary",
        47.60, 19.20, 240, 4.381, 14, "race", _CW,
        79.5, 1.30, 21.0, 1.10, 0.24, 0.8, 28, 48, 312, 0.30, 13,
    ),
    Circuit(
        "oak_harbour", "Oak Harbour Circuit", "Zandwijk", "Netherlands",
        52.40, 4.55, 6, 4.259, 14, "race", _CW,
        73.0, 1.15, 20.0, 1.05, 0.34, 1.0, 19, 68, 318, 0.40, 13,
    ),
    Circuit(
        "pearl_corniche", "Pearl Corniche Circuit", "Jazira", "Saudi Arabia",
        21.60, 39.10, 15, 6.174, 27, "street", _ACW,
        91.5, 0.75, 20.0, 0.85, 0.02, 1.8, 26, 58, 330, 0.65, 17,
    ),
    Circuit(
        "plateau", "Autodromo del Altiplano", "San Mateo", "Mexico",
        19.40, -99.10, 2227, 4.304, 17, "race", _CW,
        79.0, 0.80, 22.5, 0.85, 0.16, 0.9, 21, 42, 345, 0.55, 20,
    ),
    Circuit(
        "red_lagoon", "Red Lagoon Circuit", "Yas Ahmar", "United Arab Emirates",
        24.47, 54.60, 3, 5.281, 16, "race", _ACW,
        87.0, 0.70, 21.5, 0.95, 0.02, 0.8, 26, 56, 328, 0.55, 13,
    ),
    Circuit(
        "shanyang", "Shanyang International Circuit", "Shanyang", "China",
        31.30, 121.20, 5, 5.451, 16, "race", _CW,
        96.5, 0.50, 22.5, 1.15, 0.26, 0.8, 19, 60, 328, 0.55, 7,
    ),
    Circuit(
        "stone_harbor", "Stone Harbor Street Circuit", "Stone Harbor", "Azerbaijan",
        40.37, 49.85, -7, 6.003, 20, "street", _ACW,
        105.0, 0.50, 20.5, 0.75, 0.08, 1.9, 23, 52, 340, 0.75, 11,
    ),
    Circuit(
        "valmonte", "Autodromo di Valmonte", "Valmonte", "Italy",
        45.60, 9.30, 162, 5.793, 11, "race", _CW,
        83.5, 0.60, 24.0, 0.90, 0.20, 0.9, 26, 50, 345, 0.90, 13,
    ),
    Circuit(
        "vieux_moulin", "Circuit du Vieux Moulin", "Vieux-Moulin", "France",
        43.25, 5.80, 430, 5.842, 15, "race", _CW,
        95.5, 0.75, 21.5, 1.10, 0.14, 0.7, 26, 48, 325, 0.50, 13,
    ),
    Circuit(
        "white_cape", "White Cape International Circuit", "White Cape", "Qatar",
        25.49, 51.45, 12, 5.419, 16, "race", _CW,
        85.5, 0.90, 24.5, 1.40, 0.02, 0.8, 28, 60, 325, 0.45, 15,
    ),
)
# fmt: on
