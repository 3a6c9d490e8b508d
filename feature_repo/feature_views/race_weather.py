"""Weather at the track. One row per trackside sample of a race session, about one a minute, known when it was taken.

Windows look back from the sample and hold only samples known by then, those before the start included. No forecast is used.
"""

from datetime import timedelta

from feast import FeatureView, Field
from feast.types import Float32

from feature_repo.entities import race
from feature_repo.sources import race_weather_source

race_weather = FeatureView(
    name="race_weather",
    entities=[race],
    # 1 day: the key names the race; the longest race day with red flags is well inside, and online an older sample is stale.
    ttl=timedelta(days=1),
    schema=[
        Field(name="weather_air_temp_c", dtype=Float32, description="Air temperature at the sample, degrees Celsius."),
        Field(
            name="weather_track_temp_c", dtype=Float32, description="Track surface temperature at the sample, degrees Celsius."
        ),
        Field(name="weather_humidity_pct", dtype=Float32, description="Relative humidity at the sample, percent."),
        Field(name="weather_pressure_mbar", dtype=Float32, description="Air pressure at the sample, millibar."),
        Field(name="weather_wind_speed_mps", dtype=Float32, description="Wind speed at the sample, metres per second."),
        Field(
            name="weather_wind_direction_deg",
            dtype=Float32,
            description="Direction the wind comes from at the sample, degrees 0-360.",
        ),
        Field(name="weather_is_raining", dtype=Float32, description="1 when rain falls at the sample, else 0."),
        Field(
            name="weather_rain_share_30min", dtype=Float32, description="Share of samples with rain in the last 30 minutes, 0-1."
        ),
        Field(
            name="weather_track_temp_change_30min_c",
            dtype=Float32,
            description="Track temperature minus that of the oldest sample in the last 30 minutes, degrees Celsius.",
        ),
    ],
    source=race_weather_source,
    online=True,
    description="Trackside weather of one race, now and over the last half hour.",
    tags={"owner": "features", "tier": "1"},
)
