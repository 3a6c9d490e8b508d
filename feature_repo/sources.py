"""Where each feature view's rows lie: one Parquet file a view, below the home.

Paths here are relative to the home (`features/<view>.parquet`), so that the catalogue names no machine; `catalog.bound_to(home)`
makes them absolute. Every source has both times: `event_timestamp` (when a row became true) and `created_timestamp` (when it
became known), because the created cutoff is always on.
"""

from feast import FileSource

from feature_repo.visibility import CREATED, EVENT


def _table(view: str, description: str) -> FileSource:
    return FileSource(
        name=f"{view}_source",
        path=f"features/{view}.parquet",
        timestamp_field=EVENT,
        created_timestamp_column=CREATED,
        description=description,
    )


driver_form_source = _table("driver_form", "One row per driver and published (or corrected) race result.")
constructor_form_source = _table("constructor_form", "One row per constructor and published (or corrected) race result.")
driver_circuit_source = _table("driver_circuit", "One row per driver, circuit and published (or corrected) result there.")
circuit_profile_source = _table("circuit_profile", "One row per circuit and calendar entry or published result there.")
grid_source = _table("grid", "One row per car after qualifying (provisional) and one when the grid is final.")
race_weather_source = _table("race_weather", "One row per race and trackside weather sample, about one a minute.")
tire_state_source = _table("tire_state", "One row per car and lap end.")
race_state_source = _table("race_state", "One row per car and lap end.")
trace_source = _table("trace", "One row per car and lap end, holding every lap so far.")
race_result_source = _table("race_result", "One row per car and published (or corrected) race result.")
