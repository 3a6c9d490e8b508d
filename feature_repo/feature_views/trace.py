"""What a car's speed trace shows. One row per car and lap end, holding every lap that ended by then, known at the lap's end."""

from datetime import timedelta

from feast import FeatureView, Field
from feast.types import Array, Float32, Int64

from feature_repo.entities import driver, race
from feature_repo.sources import trace_source

trace = FeatureView(
    name="trace",
    entities=[race, driver],
    # 1 day: the key names the race; the longest race day with red flags is well inside, and online an older lap is stale.
    ttl=timedelta(days=1),
    schema=[
        Field(
            name="lap_numbers",
            dtype=Array(Int64),
            description="Numbers of the laps drawn, ascending; laps without a possible time are left out.",
        ),
        Field(
            name="lap_speeds_kph",
            dtype=Array(Float32),
            description="Average speed of each of those laps, km/h: course length / lap time (official, else lap end minus "
            "lap start).",
        ),
        Field(name="scheduled_laps", dtype=Int64, description="Scheduled race distance, laps; the trace's x axis."),
    ],
    source=trace_source,
    online=True,
    description="Average lap speeds of one car so far.",
    tags={"owner": "features", "tier": "1"},
)
