"""How a driver has been doing lately. One row per driver and race result, 3 h after the flag; again when a result is corrected.

A window of N is the driver's last N starts that are in the lake (entries that did not start are no starts). Days since the last
race depend on the race asked about, so they are in the `grid` view.
"""

from datetime import timedelta

from feast import FeatureView, Field
from feast.types import Float32

from feature_repo.entities import driver
from feature_repo.sources import driver_form_source

driver_form = FeatureView(
    name="driver_form",
    entities=[driver],
    # 3 years: form must survive the winter and seasons a driver sits out (Alonso and Räikkönen missed two); beyond that it says
    # nothing about today.
    ttl=timedelta(days=3 * 365),
    schema=[
        Field(
            name="driver_finish_mean_3",
            dtype=Float32,
            description="Mean official finishing order over the last 3 starts, places (retirements as ranked officially).",
        ),
        Field(
            name="driver_finish_mean_5",
            dtype=Float32,
            description="Mean official finishing order over the last 5 starts, places.",
        ),
        Field(
            name="driver_finish_mean_10",
            dtype=Float32,
            description="Mean official finishing order over the last 10 starts, places.",
        ),
        Field(
            name="driver_finish_std_10",
            dtype=Float32,
            description="Population standard deviation of the finishing order over the last 10 starts, places; null before 2 "
            "starts.",
        ),
        Field(name="driver_grid_mean_5", dtype=Float32, description="Mean starting place over the last 5 starts, places."),
        Field(
            name="driver_positions_gained_mean_5",
            dtype=Float32,
            description="Mean of starting place minus finishing order over the last 5 starts, places (> 0 = gained).",
        ),
        Field(
            name="driver_retirement_rate_10",
            dtype=Float32,
            description="Share of the last 10 starts that ended unclassified (disqualifications excepted), 0-1.",
        ),
        Field(
            name="driver_points_mean_5",
            dtype=Float32,
            description="Mean championship points of the Grand Prix (no sprints) over the last 5 starts, points.",
        ),
        Field(
            name="driver_podium_rate_10", dtype=Float32, description="Share of the last 10 starts classified in the first 3, 0-1."
        ),
        Field(name="driver_win_rate_20", dtype=Float32, description="Share of the last 20 starts won, 0-1."),
        Field(
            name="driver_qualifying_gap_to_pole_pct_mean_5",
            dtype=Float32,
            description="Mean gap of the own best qualifying lap to the pole sitter's best over the last 5 starts with a "
            "time, percent.",
        ),
        Field(
            name="driver_beat_teammate_rate_10",
            dtype=Float32,
            description="Share of the last 10 starts, among those with a starting teammate, in which the driver finished "
            "ahead, 0-1.",
        ),
        Field(
            name="driver_race_pace_gap_pct_median_5",
            dtype=Float32,
            description="Median over the last 5 starts of the gap of the driver's median clean lap to the race's quickest "
            "such median, "
            "percent.",
        ),
        Field(name="driver_starts", dtype=Float32, description="Starts in the lake up to and including this result, count."),
        Field(
            name="driver_elo",
            dtype=Float32,
            description="Elo rating after this result: every other starter is an opponent, start 1500, K 32 for a whole race, "
            "points.",
        ),
    ],
    source=driver_form_source,
    online=True,
    description="Results, qualifying and pace of a driver's last races.",
    # 150 days: longer than any winter break, so older means that races are missing.
    tags={"owner": "features", "tier": "1", "fresh_for_s": "12960000"},
)
