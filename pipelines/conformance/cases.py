"""Hand-written cases of the rule itself: what is visible at a moment, and which visible row wins.

Each says why its answer is right. A pit wall asks for the pace of a driver; the rule is the one in `docs/point-in-time.md`.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pipelines.conformance.cases_shape import SHAPE_CASES
from pipelines.conformance.cases_values import VALUE_CASES
from pipelines.conformance.model import Case, View, ask, row

HOUR = timedelta(hours=1)
DRIVER = {"driver": "string"}


def _pace(name: str, why: str, rows: Sequence[Any], moments: Sequence[str], paces: Sequence[float | None], **rest: Any) -> Case:
    """A case of one view: the pace of one driver at some moments. `ttl` goes to the view, all else to the case."""
    view = View("pace", DRIVER, {"pace_s": "float64"}, rows, ttl=rest.pop("ttl", None))
    asked = [ask(moment, driver="norris") for moment in moments]
    return Case(name, why, [view], asked, [{"pace_s": pace} for pace in paces], **rest)


def _lap(event: str, created: str | None, pace_s: float | None) -> dict[str, Any]:
    return row(event, created, driver="norris", pace_s=pace_s)


EVENT_CASES = [
    _pace(
        "event_edge",
        "A row is true from its event time on, that instant included; a microsecond before, it is not.",
        [_lap("12:00", "12:00", 80.0)],
        ["12:00", "11:59:59.999999", "12:00:00.000001"],
        [80.0, None, 80.0],
    ),
    _pace(
        "future_event",
        "Of an earlier and a later row, a moment between them sees the earlier one; before both there is nothing.",
        [_lap("12:00", "12:00", 80.0), _lap("13:00", "13:00", 81.0)],
        ["11:00", "12:30", "13:30"],
        [None, 80.0, 81.0],
    ),
    _pace(
        "microsecond_neighbours",
        "Rows a microsecond apart are different rows: neither event nor moment may be cut to milliseconds or seconds.",
        [_lap("12:00:00.000001", "12:00:00.000001", 1.0), _lap("12:00:00.000002", "12:00:00.000002", 2.0)],
        ["12:00:00", "12:00:00.000001", "12:00:00.000002", "12:00:00.000003"],
        [None, 1.0, 2.0, 2.0],
    ),
    _pace(
        "nothing_known_keeps_the_row",
        "An entity row that nothing is known about comes back with nulls.",
        [_lap("12:00", "12:00", 80.0)],
        ["09:00", "10:00", "12:00"],
        [None, None, 80.0],
    ),
]

CREATED_CASES = [
    _pace(
        "late_correction",
        "A correction of the same event is invisible until it is known, that instant included; until then the old value stands.",
        [_lap("12:00", "12:00", 80.0), _lap("12:00", "15:00", 79.0)],
        ["12:00", "14:59:59.999999", "15:00", "16:00"],
        [80.0, 80.0, 79.0, 79.0],
        unflagged=True,
    ),
    _pace(
        "late_row",
        "A row that became known late is invisible before, and its older neighbour is answered.",
        [_lap("12:00", "12:00", 80.0), _lap("13:00", "18:00", 81.0)],
        ["14:00", "17:59:59.999999", "18:00"],
        [80.0, 80.0, 81.0],
        unflagged=True,
    ),
    _pace(
        "correction_of_an_older_event",
        "What becomes known last is not what is newest: a late correction of 12:00 never comes back over the row of 13:00.",
        [_lap("12:00", "12:00", 80.0), _lap("13:00", "13:00", 81.0), _lap("12:00", "14:00", 79.0)],
        ["12:30", "13:30", "14:00", "15:00"],
        [80.0, 81.0, 81.0, 81.0],
        unflagged=True,
    ),
    _pace(
        "correction_before_the_newer_is_known",
        "The row of 13:00 is known at 16:00 only; from 14:00 to 16:00 the correction of 12:00 is the newest that is known.",
        [_lap("12:00", "12:00", 80.0), _lap("13:00", "16:00", 81.0), _lap("12:00", "14:00", 79.0)],
        ["13:30", "14:00", "15:59:59.999999", "16:00"],
        [80.0, 79.0, 79.0, 81.0],
        unflagged=True,
    ),
    _pace(
        "known_before_true",
        "A row may be known before it is true (a penalty announced for later); it counts from its event on.",
        [_lap("13:00", "12:00", 81.0), _lap("12:00", "12:00", 80.0)],
        ["12:30", "13:00"],
        [80.0, 81.0],
    ),
    _pace(
        "null_created",
        "Nobody recorded when the row became known, so it never was; the older row with a created time is answered.",
        [_lap("12:00", "12:00", 80.0), _lap("13:00", None, 81.0)],
        ["13:30", "20:00"],
        [80.0, 80.0],
        unflagged=True,
    ),
    _pace(
        "only_null_created",
        "If no row has a created time, nothing is known and the entity row comes back with nulls.",
        [_lap("12:00", None, 80.0), _lap("13:00", None, 81.0)],
        ["13:30", "20:00"],
        [None, None],
    ),
]

TTL_CASES = [
    _pace(
        "ttl_edge",
        "A value that is exactly ttl old may be used; a microsecond older it may not.",
        [_lap("12:00", "12:00", 80.0)],
        ["12:30", "13:00", "13:00:00.000001"],
        [80.0, 80.0, None],
        ttl=HOUR,
    ),
    _pace(
        "ttl_counts_from_the_event",
        "A row's age counts from its event, not from when it became known: known at 12:50, it is gone after 13:00.",
        [_lap("12:00", "12:50", 80.0)],
        ["12:49", "12:50", "13:00", "13:01"],
        [None, 80.0, 80.0, None],
        ttl=HOUR,
    ),
    _pace(
        "ttl_looks_behind_the_unknown",
        "The newest row is not known yet and the one before it is expired: nothing, though both rows exist.",
        [_lap("12:00", "12:00", 80.0), _lap("13:30", "15:00", 81.0)],
        ["13:00", "14:00", "14:30", "15:00"],
        [80.0, None, None, None],
        ttl=HOUR,
        unflagged=True,
    ),
    _pace(
        "ttl_of_days",
        "A ttl of two weeks works like one of an hour, edges included.",
        [_lap("2024-05-01T12:00:00", "2024-05-01T12:00:00", 80.0)],
        ["2024-05-15T12:00:00", "2024-05-15T12:00:00.000001"],
        [80.0, None],
        ttl=timedelta(days=14),
    ),
    _pace(
        "ttl_zero_is_for_ever",
        "A ttl of zero, as Feast writes it, is no ttl.",
        [_lap("1999-01-01T00:00:00", "1999-01-01T00:00:00", 80.0)],
        ["12:00"],
        [80.0],
        ttl=timedelta(0),
    ),
]

TIE_CASES = [
    _pace(
        "tie_newest_created",
        "Of equal events the one with the newest created time wins, whatever the order of the rows.",
        [_lap("12:00", "12:02", 82.0), _lap("12:00", "12:03", 83.0), _lap("12:00", "12:01", 81.0)],
        ["12:01", "12:02", "12:30"],
        [81.0, 82.0, 83.0],
        unflagged=True,
    ),
    _pace(
        "tie_later_not_known_yet",
        "Of equal events only those count that are known by then.",
        [_lap("12:00", "12:00", 80.0), _lap("12:00", "12:00:00.000001", 81.0)],
        ["12:00", "12:00:00.000001"],
        [80.0, 81.0],
        unflagged=True,
    ),
    _pace(
        "many_ties",
        "Twenty corrections of one event, shuffled: the last one known wins.",
        [_lap("12:00", f"12:{minute:02d}", float(minute)) for minute in (7 * n % 20 for n in range(20))],
        ["12:00", "12:07", "12:19", "13:00"],
        [0.0, 7.0, 19.0, 19.0],
    ),
    _pace(
        "null_in_the_winning_row",
        "A null in the newest row is its answer; an older row is not searched for a value.",
        [_lap("12:00", "12:00", 80.0), _lap("13:00", "13:00", None)],
        ["12:30", "13:30"],
        [80.0, None],
    ),
]

CASES: tuple[Case, ...] = (*EVENT_CASES, *CREATED_CASES, *TTL_CASES, *TIE_CASES, *SHAPE_CASES, *VALUE_CASES)
BY_NAME = {case.name: case for case in CASES}
