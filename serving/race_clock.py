"""Whether a race is under way by the wall clock, and for how long nothing new of it has come online."""

import pandas as pd

from feature_repo.settings import Settings
from feature_repo.visibility import as_utc
from serving.races import laps_of, result_known

NEWS_WITHIN_S = 300.0
"""A race gives news at least this often: the leader's laps, and the weather also while it is stopped."""

LONGEST_RACE = pd.Timedelta(hours=4)
"""From the scheduled start to the end at the latest, stops included: FIA sporting regulations until 2020, an hour less since."""


def wall_clock() -> pd.Timestamp:
    """Now, UTC."""
    return pd.Timestamp.now("UTC")


def seconds_without_news(settings: Settings, race_id: str, newest: pd.Timestamp) -> float | None:
    """Seconds since the newest row of a race that goes on, or since its start if that was later; None while it does not go on.

    A race goes on from its scheduled start until its last scheduled lap was driven, its result is known or four hours are over.

    Args:
        settings: which home.
        race_id: the race.
        newest: event time of the newest row of the race that is online.
    Raises:
        UnknownEntityError: no such race.
    """
    clock, laps = wall_clock(), laps_of(settings, race_id)
    start = laps["race_start"].iloc[-1]
    if pd.isna(start) or not as_utc(start) <= clock <= as_utc(start) + LONGEST_RACE:
        return None
    last = laps.loc[laps["lap"] == laps["scheduled_laps"], "as_of"]
    if bool((last <= clock).any()) or result_known(settings, race_id, clock):
        return None
    return float((clock - max(newest, as_utc(start))).total_seconds())
