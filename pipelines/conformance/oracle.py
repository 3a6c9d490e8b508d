"""The brute-force reading of the point-in-time rule: what every store is compared with.

Slow and short on purpose. Times are `datetime`s with a time zone, rows are dicts; nothing here knows Feast, Arrow or pandas.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

Row = Mapping[str, Any]


def visible_row(rows: Sequence[Row], key: Mapping[str, Any], moment: datetime, ttl: timedelta | None) -> Row | None:
    """The row a store must answer with, or None.

    Args:
        rows: feature rows; each has the key columns, `event` and `created` (None: nobody recorded when it became known).
        key: the join keys asked for, by the column names of `rows`; a null key knows nothing.
        moment: the instant asked about.
        ttl: how long a row may be used, the edge included; None or zero is for ever.
    """
    if any(value is None for value in key.values()):
        return None
    of_key = [row for row in rows if all(row[column] == value for column, value in key.items())]
    true_by_then = [row for row in of_key if row["event"] <= moment]
    known_by_then = [row for row in true_by_then if row["created"] is not None and row["created"] <= moment]
    usable = [row for row in known_by_then if not ttl or row["event"] >= moment - ttl]
    return max(usable, key=lambda row: (row["event"], row["created"]), default=None)
