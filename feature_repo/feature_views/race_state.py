"""Where a car runs. One row per car and lap end, known at the lap's end; a car that stopped keeps its last row.

At a moment the cars' last rows were written at different instants; the running order of the field is
`running_laps_completed` downwards, then `running_elapsed_s` upwards.
"""

from datetime import timedelta

from feast import FeatureView, Field
from feast.types import Float32

from feature_repo.entities import driver, race
from feature_repo.sources import race_state_source

race_state = FeatureView(
    name="race_state",
    entities=[race, driver],
    # 1 day: the key names the race; the longest race day with red flags is well inside, and online an older lap is stale.
    ttl=timedelta(days=1),
    schema=[
        Field(
            name="running_position",
            dtype=Float32,
            description="Place by laps completed and then time when the car ended this lap, 1 = leader; cars that stopped "
            "count until passed.",
        ),
        Field(name="running_laps_completed", dtype=Float32, description="Laps the car has completed, laps."),
        Field(
            name="running_gap_to_leader_s",
            dtype=Float32,
            description="Time behind the first car to end the same lap number, seconds; 0 for that car.",
        ),
        Field(
            name="running_gap_to_ahead_s",
            dtype=Float32,
            description="Time behind the previous car to end the same lap number, seconds; null for the first.",
        ),
        Field(
            name="running_laps_down",
            dtype=Float32,
            description="Most laps completed by any car at this instant minus the own, laps.",
        ),
        Field(name="running_elapsed_s", dtype=Float32, description="Time from scheduled lights out to this lap's end, seconds."),
    ],
    source=race_state_source,
    online=True,
    description="Running order and gaps of one car during one race.",
    tags={"owner": "features", "tier": "1"},
)
