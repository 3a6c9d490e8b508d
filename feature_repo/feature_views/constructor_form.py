"""How a constructor has been doing lately. One row per constructor and race result, 3 h after the flag; again on corrections.

A window of N is the constructor's last N races in the lake. Both cars count; a renamed team starts afresh.
"""

from datetime import timedelta

from feast import FeatureView, Field
from feast.types import Float32

from feature_repo.entities import constructor
from feature_repo.sources import constructor_form_source

constructor_form = FeatureView(
    name="constructor_form",
    entities=[constructor],
    # 3 years, as for drivers: a winter is about 100 days, and a team that returns under its name after longer is another team.
    ttl=timedelta(days=3 * 365),
    schema=[
        Field(
            name="constructor_standing",
            dtype=Float32,
            description="Place in the championship of the latest season by Grand Prix points (no sprints) after this result, "
            "places; "
            "ties go to the best single finish.",
        ),
        Field(
            name="constructor_points_mean_5",
            dtype=Float32,
            description="Mean points of both cars over the last 5 races, points a race.",
        ),
        Field(
            name="constructor_finish_mean_5",
            dtype=Float32,
            description="Mean official finishing order of the cars over the last 5 races (mean per race first), places.",
        ),
        Field(
            name="constructor_retirement_rate_10",
            dtype=Float32,
            description="Share of car starts of the last 10 races that ended unclassified (disqualifications excepted), 0-1.",
        ),
        Field(
            name="constructor_qualifying_gap_to_pole_pct_mean_5",
            dtype=Float32,
            description="Mean gap of the better car's best qualifying lap to the pole sitter's best over the last 5 races, "
            "percent.",
        ),
        Field(
            name="constructor_pit_lane_time_median_5_s",
            dtype=Float32,
            description="Median over the last 5 races of the race's median time in the pit lane, stops above 120 s left out, "
            "seconds.",
        ),
        Field(
            name="constructor_elo",
            dtype=Float32,
            description="Elo rating of the mean finishing order of the cars after this result: start 1500, K 32 a race, points.",
        ),
    ],
    source=constructor_form_source,
    online=True,
    description="Results, qualifying and pit work of a constructor's last races.",
    # 150 days: longer than any winter break, so older means that races are missing.
    tags={"owner": "features", "tier": "1", "fresh_for_s": "12960000"},
)
