"""One race as it was known at an instant: who took part, how far the leader had got, and the result once there was one."""

from datetime import UTC, datetime
from typing import Any

import pandas as pd

from feature_repo.settings import Settings
from feature_repo.visibility import as_utc
from serving.races import cars_at, entrants_known_at, laps_of, race_known_at, result_at


def race_record(settings: Settings, race_id: str, as_of: pd.Timestamp | None = None) -> dict[str, Any]:
    """A race as JSON (see `serving.schemas.answers.RaceResponse`).

    Args:
        settings: which home.
        race_id: the race.
        as_of: UTC; None = now.
    Raises:
        InvalidIdError, UnknownEntityError: no such race.
        NotKnownYetError: it was not in the calendar then, or nobody was known to take part.
        FutureMomentError: `as_of` has not come yet.
    """
    instant = as_utc(datetime.now(UTC)) if as_of is None else as_of
    cars_at(settings, race_id, instant)  # says what is wrong with the race or the instant
    race = race_known_at(settings, race_id, instant)
    entrants = entrants_known_at(settings, race_id, instant)
    laps = laps_of(settings, race_id)
    known = laps[(laps["known_at"] <= instant) | (laps["lap"] == 0)]
    result = result_at(settings, race_id, instant)
    return {
        "race_id": race_id,
        "season": int(race["season"]),
        "round": int(race["round"]),
        "name": str(race["name"]),
        "circuit_id": str(race["circuit_id"]),
        "race_start": as_utc(race["race_start"]).isoformat(),
        "scheduled_laps": int(race["scheduled_laps"]),
        "simulated": bool(race["is_simulated"]),
        "as_of": instant.isoformat(),
        "entrants": [
            {key: str(row[key]) for key in ("driver_id", "driver_name", "constructor_id", "code")}
            for row in entrants.to_dict("records")
        ],
        "laps": [{"lap": int(row.lap), "as_of": row.as_of.isoformat()} for row in known.sort_values("lap").itertuples()],
        "result": None
        if result.empty
        else [
            {
                "driver_id": str(row.driver_id),
                "position": int(row.finish_position),
                "is_classified": bool(row.is_classified),
                "status": str(row.status),
            }
            for row in result.sort_values("finish_position").itertuples()
        ],
    }
