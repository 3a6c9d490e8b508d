"""How old a kept answer may be: as long as what it tells of can change, it is asked for again, and once more afterwards."""

import pandas as pd

SETTLED_AFTER_S = 14 * 86_400.0  # stewards' reviews, corrections, rows that were missing at first
CHECK_AGAIN_S, CHECK_OFTEN_S = 12 * 3600.0, 3600.0


def season_age_s(season: int, starts: "pd.Series[pd.Timestamp] | None", now_s: float) -> float:
    """How old a kept answer about a season may be, seconds.

    Until the end of January after it 12 hours, in the two weeks after a race one hour; later, any answer from after that.

    Args:
        season: championship year.
        starts: UTC starts of its races; None: not known.
        now_s: epoch seconds.
    """
    since_end_s = now_s - pd.Timestamp(year=season + 1, month=2, day=1, tz="UTC").timestamp()
    if since_end_s > 0:
        return since_end_s
    recent = starts is not None and any(0 <= now_s - start.timestamp() <= SETTLED_AFTER_S for start in starts.dropna())
    return CHECK_OFTEN_S if recent else CHECK_AGAIN_S


def race_age_s(season: int, start: pd.Timestamp, now_s: float) -> float:
    """How old a kept answer about one race may be, seconds: one hour for two weeks; later, any answer from after them.

    Args:
        season: championship year, whose rule holds where the start is not known.
        start: UTC start of the race, or NaT.
        now_s: epoch seconds.
    """
    if pd.isna(start):
        return season_age_s(season, None, now_s)
    settled_s = now_s - start.timestamp() - SETTLED_AFTER_S
    return settled_s if settled_s > 0 else CHECK_OFTEN_S
