"""Hand-written cases of what is stored: names, types, times before 1970, other zones, units and clock changes.

The rule itself never changes; what is tested is that a store applies it to whatever it is given.
"""

from datetime import timedelta
from typing import Any

from pipelines.conformance.model import Case, View, ask, row

DRIVER = {"driver": "string"}
PACE = {"pace_s": "float64"}
LONDON = "Europe/London"


def _lap(event: str, pace_s: float, created: str | None = "=") -> dict[str, Any]:
    return row(event, created, driver="norris", pace_s=pace_s)


def _paces(*paces: float | None) -> list[dict[str, Any]]:
    return [{"pace_s": pace} for pace in paces]


NAME_CASES = [
    Case(
        "full_feature_names",
        "Two views may have a feature of the same name; with full names both are answered.",
        [
            View("sprint", DRIVER, {"points": "float64"}, [row("12:00", driver="norris", points=8.0)]),
            View("race", DRIVER, {"points": "float64"}, [row("12:00", driver="norris", points=25.0)]),
        ],
        [ask("12:30", driver="norris"), ask("11:00", driver="norris")],
        [{"sprint__points": 8.0, "race__points": 25.0}, {"sprint__points": None, "race__points": None}],
        full_names=True,
    ),
    Case(
        "feature_ending_in_y",
        "A feature may be called position_y; no suffix of a join's own may collide with it.",
        [
            View(
                "where",
                DRIVER,
                {"position_y": "float64", "position_x": "float64"},
                [row("12:00", driver="n", position_y=2.0, position_x=1.0)],
            )
        ],
        [ask("12:30", driver="n")],
        [{"position_y": 2.0, "position_x": 1.0}],
    ),
    Case(
        "feature_named_rn",
        "Names that a store uses inside its query (`rn`) are names a feature may have.",
        [View("kit", DRIVER, {"rn": "int64"}, [row("12:00", driver="n", rn=7)])],
        [ask("12:30", driver="n"), ask("11:00", driver="n")],
        [{"rn": 7}, {"rn": None}],
    ),
    Case(
        "column_of_the_question_ending_in_y",
        "A column of the entity rows may end in _y and be a join key.",
        [View("pace", {"driver_y": "string"}, PACE, [row("12:00", driver_y="norris", pace_s=80.0)])],
        [ask("12:30", driver_y="norris"), ask("12:30", driver_y="nobody")],
        _paces(80.0, None),
    ),
    Case(
        "moment_column_of_another_name",
        "The only time column of the entity rows is the moment, whatever its name.",
        [View("pace", DRIVER, PACE, [_lap("12:00", 80.0)])],
        [ask("12:30", driver="norris"), ask("11:30", driver="norris")],
        _paces(80.0, None),
        moment_column="asked_at",
    ),
    Case(
        "time_columns_of_other_names",
        "The table's time columns may have any names.",
        [
            View(
                "pace",
                DRIVER,
                PACE,
                [_lap("12:00", 80.0), _lap("12:00", 79.0, created="13:00")],
                event_column="lap_end",
                created_column="seen",
            )
        ],
        [ask("12:30", driver="norris"), ask("13:30", driver="norris")],
        _paces(80.0, 79.0),
    ),
    Case(
        "field_mapping",
        "A feature may be stored under another column name.",
        [View("pace", DRIVER, PACE, [_lap("12:00", 80.0)], stored_as={"pace_s": "p"})],
        [ask("12:30", driver="norris")],
        _paces(80.0),
    ),
    Case(
        "no_created_column",
        "A table without a created column is known as it becomes true.",
        [View("pace", DRIVER, PACE, [_lap("12:00", 80.0), _lap("13:00", 81.0)], created_column=None)],
        [ask("12:30", driver="norris"), ask("13:00", driver="norris"), ask("11:00", driver="norris")],
        _paces(80.0, 81.0, None),
    ),
]

TYPE_CASES = [
    Case(
        "large_ints",
        "64-bit integers keep all their digits.",
        [
            View(
                "n",
                DRIVER,
                {"count": "int64"},
                [row("12:00", driver="a", count=2**53 + 1), row("12:00", driver="b", count=-(2**63))],
            )
        ],
        [ask("12:30", driver="a"), ask("12:30", driver="b")],
        [{"count": 2**53 + 1}, {"count": -(2**63)}],
    ),
    Case(
        "large_ints_beside_nulls",
        "Read as an Arrow table, integers keep all their digits beside nulls too.",
        [View("n", DRIVER, {"count": "int64"}, [row("12:00", driver="a", count=2**53 + 1)])],
        [ask("12:30", driver="a"), ask("12:30", driver="b")],
        [{"count": 2**53 + 1}, {"count": None}],
        through_arrow=True,
    ),
    Case(
        "strings_and_bools",
        "Strings (empty ones too) and booleans come back as they are, nulls as nulls.",
        [
            View(
                "tyre",
                DRIVER,
                {"compound": "string", "is_fresh": "bool"},
                [row("12:00", driver="a", compound="SOFT", is_fresh=True), row("12:00", driver="b", compound="", is_fresh=None)],
            )
        ],
        [ask("12:30", driver="a"), ask("12:30", driver="b"), ask("12:30", driver="c")],
        [{"compound": "SOFT", "is_fresh": True}, {"compound": "", "is_fresh": None}, {"compound": None, "is_fresh": None}],
    ),
    Case(
        "bytes",
        "Bytes come back as they are, zero bytes and empty ones included.",
        [
            View(
                "raw", DRIVER, {"blob": "bytes"}, [row("12:00", driver="a", blob=b"\x00\xff"), row("12:00", driver="b", blob=b"")]
            )
        ],
        [ask("12:30", driver="a"), ask("12:30", driver="b"), ask("12:30", driver="c")],
        [{"blob": b"\x00\xff"}, {"blob": b""}, {"blob": None}],
    ),
    Case(
        "arrays",
        "Arrays come back whole; an empty one is not a null.",
        [
            View(
                "trace",
                DRIVER,
                {"embedding": "float32[]", "tags": "string[]"},
                [row("12:00", driver="a", embedding=[0.5, 1.5], tags=["wet"]), row("12:00", driver="b", embedding=[], tags=[])],
            )
        ],
        [ask("12:30", driver="a"), ask("12:30", driver="b"), ask("12:30", driver="c")],
        [{"embedding": [0.5, 1.5], "tags": ["wet"]}, {"embedding": [], "tags": []}, {"embedding": None, "tags": None}],
    ),
]


def _zoned(name: str, why: str, **rest: Any) -> Case:
    """The same three laps, one of them late, stored or asked for in other ways."""
    stored = {key: rest.pop(key) for key in ("unit", "zone") if key in rest}
    rows = [_lap("12:00", 80.0), _lap("13:00", 81.0, created="14:00")]
    view = View("pace", DRIVER, PACE, rows, ttl=timedelta(hours=2), **stored)
    asked = [ask(moment, driver="norris") for moment in ("11:59", "12:00", "13:30", "14:00", "15:00", "15:01")]
    return Case(name, why, [view], asked, _paces(None, 80.0, 80.0, 81.0, 81.0, None), **rest)


def _clock_change(season: str, why: str, day: str, times: tuple[str, ...]) -> list[Case]:
    """Laps around a night in which London's clocks change, asked for naive (UTC) and in local time."""
    rows = [_lap(f"{day}T{time}", float(number)) for number, time in enumerate(times)]
    asked = [ask(f"{day}T{time}", driver="norris") for time in (*times, "03:40:00")]
    expected = _paces(*[float(number) for number in range(len(times))], None)
    return [
        Case(
            f"clock_change_{season}_{kind}",
            why,
            [View("pace", DRIVER, PACE, rows, ttl=timedelta(hours=1), zone=zone)],
            asked,
            expected,
            process_zone=LONDON,
            moment_zone=zone,
        )
        for kind, zone in (("naive", None), ("local", LONDON))
    ]


_FIRST_RACE = "1950-05-13T14:00:00"

TIME_CASES = [
    _zoned("stored_in_another_zone", "The table's times carry a zone of their own; instants count.", zone="America/New_York"),
    _zoned(
        "stored_in_another_zone_after_pyspark",
        "Importing pyspark.pandas sets PYARROW_IGNORE_TIMEZONE for the process; instants still count.",
        zone="America/New_York",
        after_pyspark=True,
    ),
    _zoned("stored_naive", "Naive times in a table are UTC.", zone=None),
    _zoned("asked_in_another_zone", "Moments in another zone are the same instants.", moment_zone="Asia/Tokyo"),
    _zoned("asked_naive", "Naive moments are UTC.", moment_zone=None),
    _zoned("asked_naive_stored_elsewhere", "Naive moments are UTC whatever zone the table has.", moment_zone=None, zone=LONDON),
    _zoned("stored_in_nanoseconds", "Tables written by pandas hold nanoseconds.", unit="ns"),
    _zoned("stored_in_milliseconds", "Tables may hold milliseconds.", unit="ms"),
    _zoned("asked_in_nanoseconds", "pandas asks in nanoseconds unless told otherwise.", moment_unit="ns"),
    _zoned("process_in_another_zone", "TZ of the process changes nothing.", process_zone=LONDON),
    _zoned(
        "naive_in_another_zone",
        "TZ of the process changes nothing for naive times.",
        process_zone=LONDON,
        zone=None,
        moment_zone=None,
    ),
    Case(
        "before_1970",
        "The first championship race was in 1950; times before the epoch order like all others.",
        [
            View(
                "pace",
                DRIVER,
                PACE,
                [
                    _lap(f"{_FIRST_RACE}.500000", 1.0),
                    _lap("1950-05-13T14:00:01", 2.0),
                    _lap("1969-12-31T23:59:59.999999", 3.0),
                ],
            )
        ],
        [
            ask(f"{_FIRST_RACE}.499999", driver="norris"),
            ask(f"{_FIRST_RACE}.500000", driver="norris"),
            ask("1950-05-13T15:00:00", driver="norris"),
            ask("1969-12-31T23:59:59.999999", driver="norris"),
            ask("1970-01-01T00:00:00", driver="norris"),
        ],
        _paces(None, 1.0, 2.0, 3.0, 3.0),
    ),
    *_clock_change(
        "spring",
        "01:00 to 02:00 local does not exist in London that night; the UTC instants do.",
        "2024-03-31",
        ("00:30:00", "01:00:00", "01:30:00", "02:30:00"),
    ),
    *_clock_change(
        "autumn",
        "01:30 local happens twice in London that night; the UTC instants differ.",
        "2024-10-27",
        ("00:00:00", "00:30:00", "01:00:00", "01:30:00"),
    ),
]

VALUE_CASES: tuple[Case, ...] = (*NAME_CASES, *TYPE_CASES, *TIME_CASES)
