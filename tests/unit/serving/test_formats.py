"""Numbers, times and ids as the pages write them."""

import pytest

from serving.dashboard import formats


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0%"), (0.001, "<1%"), (0.453, "45%"), (0.9999, ">99%"), (1, "100%"), (0.005, "<1%"), (0.995, ">99%")],
)
def test_percent_keeps_small_chances_and_near_certainties_visible(value: float, shown: str) -> None:
    assert formats.percent(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "–"), (float("nan"), "–"), (0, "0 s"), (59.4, "59 s"), (60, "1 min"), (3720, "1 h 2 min"), (7200, "2 h"),
        (90_000, "1 d 1 h"), (400 * 86_400, "400 d"),
        (36_500 * 86_400, "100 y"), (823 * 86_400, "2 y 93 d"), (-61, "-1 min 1 s"),
    ],
)  # fmt: skip
def test_ages_have_two_units(seconds: float | None, shown: str) -> None:
    assert formats.age(seconds) == shown


@pytest.mark.parametrize(
    ("item", "shown"),
    [
        (None, "–"), (True, "yes"), (1.23456, "1.235"), (123456.7, "123457"), (3, "3"), ("HARD", "HARD"), ([1, 2], "[1, 2]"),
        ([1.0, 2.0, 3.0, 4.0, 5.5], "5 values, 1 … 5.5"), ([], "[]"),
    ],
)  # fmt: skip
def test_values_are_short(item: object, shown: str) -> None:
    assert formats.value(item) == shown


def test_ordinals_times_and_names() -> None:
    assert [formats.ordinal(place) for place in (1, 2, 3, 4, 11, 12, 13, 20, 21)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "20th", "21st",
    ]  # fmt: skip
    assert formats.when("2024-05-26T13:05:12+00:00") == "26 May 2024 13:05:12 UTC"
    assert formats.when(None) == "–"
    assert formats.day("2024-05-06T13:05:12+00:00") == "6 May 2024"
    assert formats.name_of("red_bull") == "Red Bull"


def test_names_break_after_underscores_and_backticks_are_code_but_text_stays_text() -> None:
    assert formats.breakable("driver_elo<") == "driver_<wbr>elo&lt;"
    assert formats.coded("run `pitwall <x>` & see") == "run <code>pitwall &lt;x&gt;</code> &amp; see"
