"""Everything Feast is told about: the one module that names every definition.

`feast apply` imports each module of a repo as a top-level module and would meet every definition twice; this module is the only
one that `.feastignore` leaves to it. From Python, `bound_to(home)` gives copies whose sources point into a home.
"""

import copy
from pathlib import Path
from typing import TypeAlias

from feast import Entity, FeatureService, FeatureView, FileSource

from feature_repo.entities import circuit, constructor, driver, race
from feature_repo.feature_services import finish_position_v1, race_result_v1, race_state_v1, speed_trace_v1
from feature_repo.feature_views.circuit_profile import circuit_profile
from feature_repo.feature_views.constructor_form import constructor_form
from feature_repo.feature_views.driver_circuit import driver_circuit
from feature_repo.feature_views.driver_form import driver_form
from feature_repo.feature_views.grid import grid
from feature_repo.feature_views.race_result import race_result
from feature_repo.feature_views.race_state import race_state
from feature_repo.feature_views.race_weather import race_weather
from feature_repo.feature_views.tire_state import tire_state
from feature_repo.feature_views.trace import trace

Definition: TypeAlias = Entity | FeatureView | FeatureService

ENTITIES: tuple[Entity, ...] = (race, driver, constructor, circuit)
VIEWS: tuple[FeatureView, ...] = (
    driver_form,
    constructor_form,
    driver_circuit,
    circuit_profile,
    grid,
    race_weather,
    tire_state,
    race_state,
    trace,
    race_result,
)
SERVICES: tuple[FeatureService, ...] = (finish_position_v1, race_state_v1, speed_trace_v1, race_result_v1)


def bound_to(home: Path) -> list[Definition]:
    """Copies of every definition with sources at absolute paths below `home`.

    Absolute paths mean the same to every Feast client and offline store, in whatever directory it runs. The module's own objects
    stay untouched, so two homes can be open in one process.

    Args:
        home: the Pitwall home that holds `features/`.
    Returns:
        Entities, then views, then services, ready for `FeatureStore.apply`.
    """
    entities, views, services = copy.deepcopy((ENTITIES, VIEWS, SERVICES))
    for view in views:
        source = view.batch_source
        if not isinstance(source, FileSource):
            raise TypeError(f"{view.name}: source is {type(source).__name__}, expected FileSource")
        source.file_options.uri = str(home.resolve() / source.path)
    return [*entities, *views, *services]
