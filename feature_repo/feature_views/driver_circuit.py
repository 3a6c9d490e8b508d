"""How a driver has done at a circuit. One row per driver, circuit and result there, 3 h after the flag; again on corrections.

No row exists before the first start there: the features are then missing, which is itself information.
"""

from datetime import timedelta

from feast import FeatureView, Field
from feast.types import Float32

from feature_repo.entities import circuit, driver
from feature_repo.sources import driver_circuit_source

driver_circuit = FeatureView(
    name="driver_circuit",
    entities=[driver, circuit],
    # 10 years: circuits leave the calendar for years (Shanghai 2020-2023, Hockenheim since 2019); the record there still holds.
    ttl=timedelta(days=10 * 365),
    schema=[
        Field(name="driver_circuit_starts", dtype=Float32, description="Starts at this circuit in the lake, count."),
        Field(name="driver_circuit_wins", dtype=Float32, description="Wins at this circuit in the lake, count."),
        Field(
            name="driver_circuit_finish_best", dtype=Float32, description="Best official finishing order at this circuit, places."
        ),
        Field(
            name="driver_circuit_finish_mean", dtype=Float32, description="Mean official finishing order at this circuit, places."
        ),
        Field(
            name="driver_circuit_retirement_rate",
            dtype=Float32,
            description="Share of starts at this circuit that ended unclassified (disqualifications excepted), 0-1.",
        ),
    ],
    source=driver_circuit_source,
    online=True,
    description="A driver's record at one circuit.",
    # 400 days: a circuit is visited once a year.
    tags={"owner": "features", "tier": "2", "fresh_for_s": "34560000"},
)
