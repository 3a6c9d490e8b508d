"""A tiny home whose every answer can be probed for leaks in seconds: four races of four cars, from lake to applied tables."""

from pathlib import Path

import pandas as pd
from strategies import Lake as Frames
from strategies import small_lake

from feature_repo.settings import Settings
from feature_repo.store import apply
from feature_repo.visibility import CREATED
from pipelines.features.build import build_features
from pipelines.lake import Lake

RACE, NEXT_RACE = "2023_01", "2023_02"


def leak_home(home: Path, frames: Frames | None = None) -> Settings:
    """A home with features computed by whatever builders are registered now, and applied.

    Args:
        home: where.
        frames: canonical frames; default two seasons of two races, eight laps each.
    """
    settings = Settings(home=home, threads=1, moment="fraction:0.5")
    lake = Lake(settings.lake_dir)
    for name, frame in (frames or small_lake(3)).items():
        for season, rows in frame.groupby("season"):
            lake.write(name, int(str(season)), rows)
    build_features(settings)
    apply(settings)
    return settings


def corrected_result(frames: Frames, race_id: str, driver_id: str, after: pd.Timedelta) -> Frames:
    """The lake with one driver disqualified, that long after the result was published; everybody behind moves up."""
    entries = frames["entries"]
    now = entries[entries["race_id"] == race_id].copy()
    place = now.set_index("driver_id")["position_order"]
    behind = now["position_order"] > place[driver_id]
    out = now["driver_id"] == driver_id
    now["position_order"] = (now["position_order"] - behind).where(~out, len(now))
    now["position"] = (now["position"] - behind).where(~out)
    now["is_classified"] = now["is_classified"] & ~out
    now["status"] = now["status"].where(~out, "Disqualified")
    now["points"] = now["points"].where(~out, 0.0)
    now[CREATED] = (now[CREATED] + after).astype(entries[CREATED].dtype)
    return {**frames, "entries": pd.concat([entries, now.astype(entries.dtypes)], ignore_index=True)}
