"""Where a car starts. One provisional row after qualifying (no grid yet), one final row 1 h before lights out.

Days since the driver's last race are here and not in the driver's form: they are a property of a driver and the race asked about,
and this view is the one that knows both before the start (the calendar's lights out minus the last start known by the row).
"""

from datetime import timedelta

from feast import FeatureView, Field
from feast.types import Float32

from feature_repo.entities import driver, race
from feature_repo.sources import grid_source

grid = FeatureView(
    name="grid",
    entities=[race, driver],
    # 7 days: the key names the race, so a row cannot leak into another; a week covers a postponed race, older means stale online.
    ttl=timedelta(days=7),
    schema=[
        Field(
            name="grid_position",
            dtype=Float32,
            description="Starting place, 1 = pole; pit-lane starters take the places behind the grid; null until 1 h before "
            "the start.",
        ),
        Field(name="grid_qualifying_position", dtype=Float32, description="Place in qualifying before penalties, places."),
        Field(
            name="grid_qualifying_gap_to_pole_pct",
            dtype=Float32,
            description="Own best qualifying lap against the pole sitter's best of the session, percent (> 0 = slower).",
        ),
        Field(
            name="grid_qualifying_gap_to_teammate_pct",
            dtype=Float32,
            description="Own best qualifying lap against the teammate's (the quickest of them), percent (> 0 = slower).",
        ),
        Field(
            name="grid_is_pit_lane_start",
            dtype=Float32,
            description="1 when the car starts from the pit lane, else 0; null until 1 h before the start.",
        ),
        Field(
            name="grid_penalty_places",
            dtype=Float32,
            description="Starting place minus qualifying place, places (> 0 = moved back, < 0 = moved up by others' penalties).",
        ),
        Field(
            name="driver_days_since_last_race",
            dtype=Float32,
            description="Scheduled lights out minus that of the driver's last start with a known result, days; null for a debut.",
        ),
    ],
    source=grid_source,
    online=True,
    description="Qualifying, starting grid and rest before one race.",
    tags={"owner": "features", "tier": "1"},
)
