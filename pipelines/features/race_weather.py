"""Race weather: the trackside sample and what the last half hour was like, one row a sample."""

import numpy as np
import pandas as pd

from feature_repo.visibility import CREATED, EVENT
from pipelines.features.knowledge import micros, replayed, table

ENTITY = ["race_id"]
DTYPES = dict.fromkeys(
    [
        "weather_air_temp_c",
        "weather_track_temp_c",
        "weather_humidity_pct",
        "weather_pressure_mbar",
        "weather_wind_speed_mps",
        "weather_wind_direction_deg",
        "weather_is_raining",
        "weather_rain_share_30min",
        "weather_track_temp_change_30min_c",
    ],
    "float32",
)
WINDOW_US = 30 * 60 * 1_000_000


def compute_race_weather(weather: pd.DataFrame) -> pd.DataFrame:
    """Feature table `race_weather`.

    Args:
        weather: canonical weather samples, those before the start included.
    Returns:
        Keyed by `race_id`, stamped with the sample's instant. The window of a sample at t is [t - 30 min, t].
    """
    return table(replayed(weather, ["race_id", EVENT], ENTITY, _in_order), ENTITY, DTYPES)


def _in_order(samples: pd.DataFrame) -> pd.DataFrame:
    samples = samples.sort_values(["race_id", EVENT], kind="stable", ignore_index=True)
    instant = micros(samples[EVENT])
    race = samples.groupby("race_id", sort=True).ngroup().to_numpy()
    # races one after another on one axis, further apart than any window, so that one search serves all of them
    span = int(instant.max() - instant.min()) + WINDOW_US + 1 if len(samples) else 1
    axis = race * span + (instant - (instant.min() if len(samples) else 0))
    oldest = np.searchsorted(axis, axis - WINDOW_US, side="left")
    rain = samples["is_raining"].to_numpy(dtype=np.int64)
    wet_before = np.concatenate(([0], np.cumsum(rain)))
    here = np.arange(len(samples))
    track = samples["track_temp_c"].to_numpy(dtype=np.float64)
    return samples[["race_id", EVENT]].assign(
        weather_air_temp_c=samples["air_temp_c"],
        weather_track_temp_c=track,
        weather_humidity_pct=samples["humidity_pct"],
        weather_pressure_mbar=samples["pressure_mbar"],
        weather_wind_speed_mps=samples["wind_speed_mps"],
        weather_wind_direction_deg=samples["wind_direction_deg"],
        weather_is_raining=rain.astype(np.float64),
        weather_rain_share_30min=(wet_before[here + 1] - wet_before[oldest]) / (here + 1 - oldest),
        weather_track_temp_change_30min_c=track - track[oldest] if len(samples) else track,
        **{CREATED: samples[EVENT]},
    )
