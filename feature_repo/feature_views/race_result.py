"""Labels: how a race ended for a car. One row per car and published result, 3 h after the flag; again when it is corrected.

Never part of a service that a model reads as input.
"""

from datetime import timedelta

from feast import FeatureView, Field
from feast.types import Bool, Int64, String

from feature_repo.entities import driver, race
from feature_repo.sources import race_result_source

race_result = FeatureView(
    name="race_result",
    entities=[race, driver],
    # 100 years: a result holds until it is corrected; labels are asked for long after the race.
    ttl=timedelta(days=100 * 365),
    schema=[
        Field(
            name="finish_position",
            dtype=Int64,
            description="Official finishing order, 1 = winner; retirements ranked as the stewards' result ranks them, places.",
        ),
        Field(name="is_classified", dtype=Bool, description="The car was classified (completed 90 % of the winner's distance)."),
        Field(name="status", dtype=String, description="Official status text: Finished, +1 Lap, Collision, Disqualified, ..."),
    ],
    source=race_result_source,
    online=False,
    description="Finishing order, classification and status of one car.",
    tags={"owner": "features", "tier": "label"},
)
