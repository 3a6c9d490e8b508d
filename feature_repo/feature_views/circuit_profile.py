"""What a circuit is like. One row when a race there becomes known from the calendar, one per result; again on corrections.

Layout figures are those of the race in progress or next known at the circuit, never of a later one (two races in eight days on
two layouts, Sakhir 2020). A window of N is the last N races there in the lake.
"""

from datetime import timedelta

from feast import FeatureView, Field
from feast.types import Float32, String

from feature_repo.entities import circuit
from feature_repo.sources import circuit_profile_source

circuit_profile = FeatureView(
    name="circuit_profile",
    entities=[circuit],
    # 10 years: what a circuit is like changes with its layout, not with the calendar; gaps of several years are usual.
    ttl=timedelta(days=10 * 365),
    schema=[
        Field(name="circuit_length_km", dtype=Float32, description="Length of one lap of the race's layout, kilometres."),
        Field(name="circuit_scheduled_laps", dtype=Float32, description="Scheduled race distance, laps."),
        Field(name="circuit_turns", dtype=Float32, description="Turns of the race's layout, count."),
        Field(name="circuit_type", dtype=String, description="race (permanent), street or road."),
        Field(name="circuit_direction", dtype=String, description="clockwise or anti_clockwise."),
        Field(name="circuit_altitude_m", dtype=Float32, description="Height above sea level, metres."),
        Field(
            name="circuit_overtaking_index_3",
            dtype=Float32,
            description="Mean over the last 3 races there of changes of order between two cars, both away from the pits, per "
            "green lap, "
            "count.",
        ),
        Field(
            name="circuit_safety_car_share_5",
            dtype=Float32,
            description="Share of the last 5 races there with a safety car (status 4; virtual ones not), 0-1.",
        ),
        Field(
            name="circuit_retirement_rate_5",
            dtype=Float32,
            description="Mean over the last 5 races there of the share of starters not classified (disqualifications "
            "excepted), 0-1.",
        ),
        Field(
            name="circuit_pit_loss_mean_3_s",
            dtype=Float32,
            description="Mean over the last 3 races there of the median green-flag stop's cost: in-lap plus out-lap minus two "
            "of the "
            "car's median clean laps, seconds.",
        ),
        Field(
            name="circuit_pole_to_win_rate",
            dtype=Float32,
            description="Share of all races there in the lake won from grid place 1, 0-1.",
        ),
        Field(
            name="circuit_speed_trap_median_3_kph",
            dtype=Float32,
            description="Median over the last 3 races there of the race's median speed-trap speed on clean laps, km/h.",
        ),
    ],
    source=circuit_profile_source,
    online=True,
    description="Layout of a circuit and how races there go.",
    # 400 days: a circuit is visited once a year.
    tags={"owner": "features", "tier": "1", "fresh_for_s": "34560000"},
)
