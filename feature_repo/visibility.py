"""The one rule about time: nothing is read that was not knowable at the moment asked about.

Every row, picture and label carries `event_timestamp` (when it became true) and `created_timestamp` (when it became known).
This is the one comparator; tables and pictures both go through it, and Feast's point-in-time join applies the same rule
(`event_timestamp <= as_of` and `created_timestamp <= as_of`).
"""

from datetime import UTC, datetime

import pandas as pd

EVENT = "event_timestamp"
CREATED = "created_timestamp"


def as_utc(moment: datetime | str | pd.Timestamp) -> pd.Timestamp:
    """`moment` as a tz-aware UTC timestamp with microseconds; a naive time is taken as UTC, as Feast does.

    Raises:
        ValueError: it is not a time, or is NaT.
    """
    stamp = pd.Timestamp(moment)
    if stamp is pd.NaT:
        raise ValueError(f"moment: got {moment!r}, expected a time such as '2024-05-26T14:00:00Z'")
    if stamp.tzinfo is not UTC:
        stamp = stamp.tz_localize(UTC) if stamp.tzinfo is None else stamp.tz_convert(UTC)
    return stamp.floor("us") if stamp.nanosecond else stamp  # flooring takes thirty times as long as all the rest


def parse_instant(text: str) -> pd.Timestamp:
    """A written instant as UTC: ISO 8601 with `Z` or an offset (`2024-05-26T16:00:00+02:00`); without either it is UTC.

    Names of zones are refused: `CEST` means nothing to a computer, and a local time in an hour that a clock change repeats names
    two instants.

    Raises:
        ValueError: any other form, or a year outside 1900-2200.
    """
    written = datetime.fromisoformat(text.strip())
    if not 1900 <= written.year <= 2200:  # nanoseconds since 1970, which pandas counts in places, end in 1677 and 2262
        raise ValueError(f"instant: got the year {written.year}, expected 1900 to 2200")
    return as_utc(written)


def visible(frame: pd.DataFrame, as_of: datetime | str | pd.Timestamp) -> "pd.Series[bool]":
    """Which rows of `frame` were knowable at `as_of` (equal times included).

    Args:
        frame: has tz-aware `event_timestamp` and `created_timestamp`.
        as_of: the moment asked about.
    Returns:
        Boolean series on the frame's index. A row whose created time is null is never visible: nobody recorded when it became
        known.
    """
    moment = as_utc(as_of)
    return (frame[EVENT] <= moment) & (frame[CREATED] <= moment)


def latest_visible(frame: pd.DataFrame, keys: list[str], as_of: datetime | str | pd.Timestamp) -> pd.DataFrame:
    """Per key, the newest row knowable at `as_of`: newest event, ties to the newest created; at most one row a key.

    The same answer as a point-in-time join of one moment, for frames that are not (yet) behind Feast.
    """
    known = frame[visible(frame, as_of)].sort_values([*keys, EVENT, CREATED], kind="stable")
    return known.drop_duplicates(keys, keep="last")
