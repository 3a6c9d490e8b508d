"""What tyres a car is on. One row per car and lap end, known at the lap's end; a car that stopped keeps its last row."""

from datetime import timedelta

from feast import FeatureView, Field
from feast.types import Float32, String

from feature_repo.entities import driver, race
from feature_repo.sources import tire_state_source

tire_state = FeatureView(
    name="tire_state",
    entities=[race, driver],
    # 1 day: the key names the race; the longest race day with red flags is well inside, and online an older lap is stale.
    ttl=timedelta(days=1),
    schema=[
        Field(
            name="tire_compound",
            dtype=String,
            description="Compound of the lap just ended: HYPERSOFT, ULTRASOFT, SUPERSOFT, SOFT, MEDIUM, HARD, INTERMEDIATE, "
            "WET; null unknown.",
        ),
        Field(
            name="tire_life_laps",
            dtype=Float32,
            description="Age of the set at the lap's end, laps (use before the race included).",
        ),
        Field(name="tire_stint", dtype=Float32, description="Stint number as the timing feed counts it, 1 = first."),
        Field(
            name="tire_stops",
            dtype=Float32,
            description="Pit-lane visits completed so far, count (a start from the pit lane is none).",
        ),
        Field(name="tire_is_fresh_set", dtype=Float32, description="1 when the set was new when it was fitted, else 0."),
        Field(
            name="tire_laps_since_stop",
            dtype=Float32,
            description="Laps ended since the car last left the pit lane, the out-lap included; since the start before the "
            "first stop, laps.",
        ),
        Field(
            name="tire_degradation_slope_s_per_lap",
            dtype=Float32,
            description="Theil-Sen slope of lap time over lap number on the stint's clean green laps so far (at least 3; fuel "
            "burn "
            "included), seconds per lap (> 0 = slowing).",
        ),
        Field(
            name="tire_wet_share",
            dtype=Float32,
            description="Share of the car's laps so far on INTERMEDIATE or WET, among those of known compound, 0-1.",
        ),
    ],
    source=tire_state_source,
    online=True,
    description="Tyres of one car during one race.",
    tags={"owner": "features", "tier": "1"},
)
