"""The feature tables: which there are, and how each is computed from the canonical tables of the lake."""

from collections.abc import Callable, Iterator

import pandas as pd

from pipelines.features.circuit_profile import compute_circuit_profile
from pipelines.features.constructor_form import compute_constructor_form
from pipelines.features.driver_circuit import compute_driver_circuit
from pipelines.features.driver_form import compute_driver_form
from pipelines.features.grid import compute_grid
from pipelines.features.race_result import compute_race_result
from pipelines.features.race_state import compute_race_state
from pipelines.features.race_weather import compute_race_weather
from pipelines.features.spine import compute_entrants, compute_entrants_known, compute_moments, compute_races_known
from pipelines.features.tire_state import compute_tire_state
from pipelines.features.trace import compute_trace

Frames = dict[str, pd.DataFrame]
LAKE_TABLES = ("circuits", "races", "drivers", "entries", "qualifying", "laps", "pit_stops", "weather")
"""Canonical tables that features are computed from."""

# Feature view (or spine table) -> how it is computed from the canonical frames of those names.
COMPUTE: dict[str, Callable[[Frames], pd.DataFrame]] = {
    "entrants": lambda lake: compute_entrants(lake["entries"], lake["races"], lake["drivers"]),
    "moments": lambda lake: compute_moments(lake["races"], lake["laps"]),
    "entrants_known": lambda lake: compute_entrants_known(lake["entries"], lake["qualifying"], lake["drivers"]),
    "races_known": lambda lake: compute_races_known(lake["races"]),
    "driver_form": lambda lake: compute_driver_form(lake["entries"], lake["qualifying"], lake["laps"]),
    "constructor_form": lambda lake: compute_constructor_form(
        lake["entries"], lake["qualifying"], lake["laps"], lake["pit_stops"]
    ),
    "driver_circuit": lambda lake: compute_driver_circuit(lake["entries"], lake["races"], lake["laps"]),
    "circuit_profile": lambda lake: compute_circuit_profile(lake["races"], lake["circuits"], lake["entries"], lake["laps"]),
    "grid": lambda lake: compute_grid(lake["entries"], lake["qualifying"], lake["races"], lake["laps"]),
    "race_weather": lambda lake: compute_race_weather(lake["weather"]),
    "tire_state": lambda lake: compute_tire_state(lake["laps"]),
    "race_state": lambda lake: compute_race_state(lake["laps"], lake["races"]),
    "trace": lambda lake: compute_trace(lake["laps"], lake["races"]),
    "race_result": lambda lake: compute_race_result(lake["entries"]),
}

SPINE_TABLES = ("entrants", "moments", "entrants_known", "races_known")
"""Of those, the ones that are no feature views: what a question about a race starts from."""


def compute_all(lake: Frames) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every table from the canonical frames `lake`, one after another so that only one is in memory."""
    for name, compute in COMPUTE.items():
        yield name, compute(lake)
