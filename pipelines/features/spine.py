"""Who entered which race, and when the leader completed each lap: what every question about a race starts from. Not features."""

import numpy as np
import pandas as pd

from feature_repo.visibility import EVENT
from pipelines.features.knowledge import versions
from pipelines.features.results import ENTRY_KEY, LAP_KEY
from pipelines.schemas import SIMULATOR

ENTRANT_COLUMNS = ["race_id", "driver_id", "constructor_id", "circuit_id", "season", "round", "code", "driver_name"]
MOMENT_COLUMNS = [
    "race_id",
    "season",
    "round",
    "name",
    "circuit_id",
    "lap",
    "as_of",
    "scheduled_laps",
    "race_start",
    "is_simulated",
]


def compute_entrants(entries: pd.DataFrame, races: pd.DataFrame, drivers: pd.DataFrame) -> pd.DataFrame:
    """One row per race and driver: `race_id, driver_id, constructor_id, circuit_id, season, round, code, driver_name`.

    Args:
        entries: canonical entries, non-starters included; the newest version of each counts.
        races: canonical races.
        drivers: canonical drivers by season; a driver without a row there goes by the code.
    """
    newest = versions(entries, ENTRY_KEY).drop_duplicates(ENTRY_KEY, keep="last")
    circuit = versions(races, ["race_id"]).drop_duplicates("race_id", keep="last")[["race_id", "circuit_id"]]
    person = versions(drivers, ["season", "driver_id"]).drop_duplicates(["season", "driver_id"], keep="last")
    person = person[["season", "driver_id"]].assign(driver_name=person["given_name"] + " " + person["family_name"])
    rows = newest.merge(circuit, on="race_id", how="inner").merge(person, on=["season", "driver_id"], how="left")
    rows = rows.assign(driver_name=rows["driver_name"].fillna(rows["code"]))
    return rows[ENTRANT_COLUMNS].sort_values(ENTRY_KEY, kind="stable", ignore_index=True)


def compute_moments(races: pd.DataFrame, laps: pd.DataFrame) -> pd.DataFrame:
    """One row per race and lap of the leader: `as_of` is when the first car had completed that many laps; lap 0 is lights out.

    Args:
        races: canonical races.
        laps: canonical laps.
    Returns:
        `race_id, season, round, name, circuit_id, lap, as_of, scheduled_laps, race_start, is_simulated`.
    """
    calendar = versions(races, ["race_id"]).drop_duplicates("race_id", keep="last")
    calendar = calendar.assign(is_simulated=calendar["source"] == SIMULATOR)
    driven = versions(laps, LAP_KEY).drop_duplicates(LAP_KEY, keep="last")
    first = driven.groupby(["race_id", "lap"], sort=True)[EVENT].min().rename("as_of").reset_index()
    first = first.iloc[::-1]
    # a car that completed lap 7 had completed lap 6, even where the feed lost it
    first = first.assign(as_of=first.groupby("race_id", sort=False)["as_of"].cummin()).iloc[::-1]
    lights_out = calendar[["race_id"]].assign(lap=np.int64(0), as_of=calendar["race_start"])
    moments = pd.concat([lights_out, first], ignore_index=True).merge(calendar, on="race_id", how="inner")
    return moments[MOMENT_COLUMNS].sort_values(["race_id", "lap"], kind="stable", ignore_index=True)
