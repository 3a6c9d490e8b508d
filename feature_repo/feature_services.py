"""Which columns a model version reads: named, versioned sets of views.

A service is never edited once a model is registered against it; a changed column list is a new version. Training and serving both
ask for the service by name, so the list exists once.
"""

from feast import FeatureService

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

finish_position_v1 = FeatureService(
    name="finish_position_v1",
    features=[driver_form, constructor_form, driver_circuit, circuit_profile, grid, race_weather, tire_state],
    description="Inputs of the finishing-position models: everything but the running order.",
    tags={"owner": "features", "kind": "input"},
)
race_state_v1 = FeatureService(
    name="race_state_v1",
    features=[race_state],
    description="Running order and gaps, kept apart: with them a model mostly repeats the order of the moment.",
    tags={"owner": "features", "kind": "input"},
)
speed_trace_v1 = FeatureService(
    name="speed_trace_v1",
    features=[trace],
    description="Lap speeds so far, which the renderer draws.",
    tags={"owner": "features", "kind": "input"},
)
race_result_v1 = FeatureService(
    name="race_result_v1",
    features=[race_result],
    description="Labels, known after the race.",
    tags={"owner": "features", "kind": "label"},
)
