"""Hand-written cases of what is asked: entity rows, their order and number, and keys of all kinds."""

from datetime import timedelta
from typing import Any

from pipelines.conformance.model import Case, View, ask, row

DRIVER = {"driver": "string"}
PACE = {"pace_s": "float64"}


def _lap(event: str, pace_s: float, driver: str | None = "norris", created: str | None = "=") -> dict[str, Any]:
    return row(event, created, driver=driver, pace_s=pace_s)


def _paces(*paces: float | None) -> list[dict[str, Any]]:
    return [{"pace_s": pace} for pace in paces]


ROW_CASES = [
    Case(
        "unsorted_input",
        "The order of the feature rows means nothing.",
        [View("pace", DRIVER, PACE, [_lap(f"12:{m:02d}", float(m), d) for m in (30, 10, 50, 20, 40) for d in ("b", "a")])],
        [ask("12:25", driver="a"), ask("12:45", driver="b"), ask("12:05", driver="a")],
        _paces(20.0, 40.0, None),
    ),
    Case(
        "entity_rows_in_any_order",
        "The answer has the rows in the order in which they were asked for, however unsorted that was.",
        [View("pace", DRIVER, PACE, [_lap("12:00", 80.0), _lap("13:00", 81.0), _lap("12:30", 90.0, "hamilton")])],
        [
            ask("13:30", driver="norris"),
            ask("12:00", driver="norris"),
            ask("12:45", driver="hamilton"),
            ask("11:00", driver="norris"),
        ],
        _paces(81.0, 80.0, 90.0, None),
        ordered=True,
    ),
    Case(
        "duplicate_entity_rows",
        "Asked twice, answered twice: two rows with the same key and moment are two rows.",
        [View("pace", DRIVER, PACE, [_lap("12:00", 80.0)])],
        [
            ask("12:30", driver="norris"),
            ask("12:30", driver="norris"),
            ask("11:00", driver="norris"),
            ask("11:00", driver="norris"),
        ],
        _paces(80.0, 80.0, None, None),
        row_ids=False,
    ),
    Case(
        "same_question_with_other_columns",
        "Rows that differ only in a column that is passed through stay apart.",
        [View("pace", DRIVER, PACE, [_lap("12:00", 80.0)])],
        [ask("12:30", driver="norris"), ask("12:30", driver="norris"), ask("12:30", driver="norris")],
        _paces(80.0, 80.0, 80.0),
    ),
    Case(
        "one_view_has_nothing",
        "Where one view knows nothing, its features are null and the other view's stay; the row does not vanish.",
        [
            View("pace", DRIVER, PACE, [_lap("12:00", 80.0)]),
            View("grid", DRIVER, {"grid": "int64"}, [row("11:00", driver="hamilton", grid=1)]),
        ],
        [ask("12:30", driver="norris"), ask("12:30", driver="hamilton"), ask("09:00", driver="norris")],
        [{"pace_s": 80.0, "grid": None}, {"pace_s": None, "grid": 1}, {"pace_s": None, "grid": None}],
    ),
    Case(
        "one_view_expired",
        "An expired value in one view takes neither the row nor the other view's value with it.",
        [
            View("pace", DRIVER, PACE, [_lap("12:00", 80.0)], ttl=timedelta(minutes=10)),
            View("grid", DRIVER, {"grid": "int64"}, [row("11:00", driver="norris", grid=4)]),
        ],
        [ask("12:05", driver="norris"), ask("12:30", driver="norris")],
        [{"pace_s": 80.0, "grid": 4}, {"pace_s": None, "grid": 4}],
    ),
    Case(
        "empty_entity_frame",
        "No rows asked for, no rows answered, no error.",
        [View("pace", DRIVER, PACE, [_lap("12:00", 80.0)])],
        [],
        [],
    ),
    Case(
        "no_feature_rows",
        "An empty feature table knows nothing; every entity row comes back with nulls.",
        [View("pace", DRIVER, PACE, [])],
        [ask("12:30", driver="norris"), ask("13:30", driver="hamilton")],
        _paces(None, None),
    ),
]

_TWO_DRIVERS = [_lap("12:00", 80.0), _lap("12:00", 90.0, "hamilton")]

KEY_CASES = [
    Case(
        "unknown_key",
        "A key without rows comes back with nulls.",
        [View("pace", DRIVER, PACE, [_lap("12:00", 80.0)])],
        [ask("12:30", driver="nobody"), ask("12:30", driver="norris")],
        _paces(None, 80.0),
    ),
    Case(
        "null_key",
        "An entity row with a null key gets nulls, and never the values of feature rows whose key is null.",
        [View("pace", DRIVER, PACE, [_lap("12:00", 80.0), _lap("12:00", 99.0, None)])],
        [ask("12:30", driver=None), ask("12:30", driver="norris"), ask("12:40", driver=None)],
        _paces(None, 80.0, None),
    ),
    Case(
        "empty_string_key",
        "An empty string is a key like any other, and not a null.",
        [View("pace", DRIVER, PACE, [_lap("12:00", 80.0, ""), _lap("12:00", 81.0, " ")])],
        [ask("12:30", driver=""), ask("12:30", driver=" "), ask("12:30", driver=None)],
        _paces(80.0, 81.0, None),
    ),
    Case(
        "unicode_keys",
        "Keys are compared as they are: case, accents and composed forms differ.",
        [
            View(
                "pace",
                DRIVER,
                PACE,
                [_lap("12:00", 1.0, "pérez"), _lap("12:00", 2.0, "pe\u0301rez"), _lap("12:00", 3.0, "Pérez")],
            )
        ],
        [
            ask("12:30", driver="pérez"),
            ask("12:30", driver="pe\u0301rez"),
            ask("12:30", driver="Pérez"),
            ask("12:30", driver="perez"),
        ],
        _paces(1.0, 2.0, 3.0, None),
    ),
    Case(
        "large_int_keys",
        "64-bit keys keep all their digits: 2**53 and 2**53 + 1 are two keys; so are negative ones.",
        [
            View(
                "car",
                {"car": "int64"},
                PACE,
                [
                    row("12:00", car=key, pace_s=value)
                    for key, value in ((2**53, 1.0), (2**53 + 1, 2.0), (-7, 3.0), (2**63 - 1, 4.0))
                ],
            )
        ],
        [ask("12:30", car=key) for key in (2**53, 2**53 + 1, -7, 7, 2**63 - 1)],
        _paces(1.0, 2.0, 3.0, None, 4.0),
    ),
    Case(
        "composite_key_of_three",
        "All parts of a key must agree; parts that would join to the same text are different keys.",
        [
            View(
                "stint",
                {"race": "string", "driver": "string", "stint": "int64"},
                PACE,
                [
                    row("12:00", race="a", driver="bc", stint=1, pace_s=1.0),
                    row("12:00", race="ab", driver="c", stint=1, pace_s=2.0),
                    row("12:00", race="a", driver="bc", stint=11, pace_s=3.0),
                    row("12:10", race="a", driver="bc", stint=1, pace_s=4.0),
                ],
            )
        ],
        [
            ask("12:05", race="a", driver="bc", stint=1),
            ask("12:05", race="ab", driver="c", stint=1),
            ask("12:05", race="a", driver="bc", stint=11),
            ask("12:15", race="a", driver="bc", stint=1),
            ask("12:05", race="ab", driver="bc", stint=1),
        ],
        _paces(1.0, 2.0, 3.0, 4.0, None),
    ),
    Case(
        "composite_key_with_a_null_part",
        "A null in any part of the key knows nothing, even if a feature row has the same null.",
        [
            View(
                "stint",
                {"race": "string", "driver": "string"},
                PACE,
                [row("12:00", race="a", driver="b", pace_s=1.0), row("12:00", race="a", driver=None, pace_s=2.0)],
            )
        ],
        [ask("12:30", race="a", driver="b"), ask("12:30", race="a", driver=None), ask("12:30", race=None, driver="b")],
        _paces(1.0, None, None),
    ),
    Case(
        "two_views_with_different_keys",
        "Each view is joined by its own keys: one driver at two circuits at one moment is two rows.",
        [
            View("pace", DRIVER, PACE, [_lap("12:00", 80.0)]),
            View("circuit", {"circuit": "string"}, {"turns": "int64"}, [row("11:00", circuit="monza", turns=11)]),
        ],
        [ask("12:30", driver="norris", circuit="monza"), ask("12:30", driver="norris", circuit="spa")],
        [{"pace_s": 80.0, "turns": 11}, {"pace_s": 80.0, "turns": None}],
    ),
    Case(
        "join_key_map",
        "One view asked for twice, under other names and by other columns: driver and the car ahead.",
        [
            View("pace", DRIVER, PACE, _TWO_DRIVERS, alias="own"),
            View("pace", DRIVER, PACE, _TWO_DRIVERS, alias="ahead", asked_by={"driver": "driver_ahead"}),
        ],
        [ask("12:30", driver="norris", driver_ahead="hamilton"), ask("12:30", driver="hamilton", driver_ahead="nobody")],
        [{"own__pace_s": 80.0, "ahead__pace_s": 90.0}, {"own__pace_s": 90.0, "ahead__pace_s": None}],
        full_names=True,
    ),
    Case(
        "join_key_map_of_one_part",
        "Of a composite key, one part may be asked for under another name and the other under its own.",
        [
            View(
                "duel",
                {"race": "string", "driver": "string"},
                PACE,
                [row("12:00", race="a", driver="norris", pace_s=1.0), row("12:00", race="b", driver="norris", pace_s=2.0)],
                asked_by={"driver": "rival"},
                alias="rival_duel",
            )
        ],
        [ask("12:30", race="a", rival="norris"), ask("12:30", race="b", rival="norris"), ask("12:30", race="a", rival="x")],
        _paces(1.0, 2.0, None),
    ),
    Case(
        "view_without_entities",
        "A view without entities knows the same for everybody.",
        [View("track", {}, {"temp_c": "float64"}, [row("12:00", temp_c=30.0), row("13:00", temp_c=31.0)])],
        [ask("12:30", driver="norris"), ask("13:30", driver="hamilton"), ask("11:00", driver="norris")],
        [{"temp_c": 30.0}, {"temp_c": 31.0}, {"temp_c": None}],
    ),
]

SHAPE_CASES: tuple[Case, ...] = (*ROW_CASES, *KEY_CASES)
