"""How one cell, one row and one car are judged, against slow readings of the same rules."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureView
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st
from tiny_home import FORM_TTL, at, catalogue, form_row, rows, write_table

from feature_repo.settings import Settings
from feature_repo.store import apply, open_store
from feature_repo.stores.asof import NULL_US
from feature_repo.visibility import EVENT, latest_visible
from pipelines.skew_compare import (
    CLOSE,
    DIFFERENT,
    NULL_SERVED,
    SAME,
    TOLERANCE,
    VALUE_SERVED,
    OtherCar,
    ViewRows,
    canonical,
    compare,
    row_times,
    whose,
)
from pipelines.skew_tally import _pattern

NUMBERS = st.one_of(st.none(), st.floats(width=32, allow_nan=False), st.sampled_from([0.0, -0.0, 1.0, 1.0 + 1e-7, 1.1, 1e30]))


def slowly(mine: float | None, theirs: float | None) -> int:
    if mine is None and theirs is None:
        return SAME
    if mine is None or theirs is None:
        return NULL_SERVED if mine is None else VALUE_SERVED
    if mine == theirs:
        return SAME
    return CLOSE if math.isclose(mine, theirs, rel_tol=TOLERANCE) else DIFFERENT


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=30))
def test_numbers_are_compared_as_one_by_one(pairs: list[tuple[float | None, float | None]]) -> None:
    served = pa.chunked_array([pa.array([mine for mine, _ in pairs], pa.float64())])
    expected = [math.nan if theirs is None else theirs for _, theirs in pairs]
    assert compare(served, expected).tolist() == [slowly(*pair) for pair in pairs]


@given(st.lists(st.floats(width=64, allow_nan=False, allow_infinity=False, min_value=-1e30, max_value=1e30), min_size=1))
def test_what_only_passed_through_32_bits_is_never_a_mismatch(values: list[float]) -> None:
    kept = [value for value in values if value == 0 or abs(value) > 1e-30]
    assert (compare(pa.chunked_array([pa.array(np.array(kept, dtype=np.float32))]), kept) < DIFFERENT).all()


@pytest.mark.parametrize(
    ("served", "expected", "code"),
    [
        ("HARD", "HARD", SAME),
        ("HARD", "SOFT", DIFFERENT),
        (None, "SOFT", NULL_SERVED),
        ("HARD", None, VALUE_SERVED),
        (None, math.nan, SAME),
        ([1.0, 2.0], np.array([1.0, 2.0]), SAME),
        ([1.0, 2.0], [1.0, 2.0 + 1e-9], CLOSE),
        ([1.0, 2.0], [2.0, 1.0], DIFFERENT),
        ([1.0], [1.0, 2.0], DIFFERENT),
        ([], None, VALUE_SERVED),
        (2**53 + 1, 2**53, DIFFERENT),
        (True, False, DIFFERENT),
    ],
)
def test_other_types(served: object, expected: object, code: int) -> None:
    assert compare(pa.chunked_array([pa.array([served])]), [expected]).tolist() == [code]


def test_values_that_passed_through_32_bits_have_one_canonical_form() -> None:
    assert canonical(np.float64(0.1)) == canonical(float(np.float32(0.1)))
    assert canonical(np.array([0.1, np.nan])) == (float(np.float32(0.1)), None)
    assert canonical(pd.NaT) is None


def test_rows_are_judged_by_their_time() -> None:
    moment = np.full(6, 1_000_000_000)
    served = np.array([900_000_000, 900_000_000, NULL_US, 1_000_000_001, 1_000_000_000, NULL_US])
    expected = np.array([900_000_000, 960_000_000, 900_000_000, 900_000_000, 900_000_000, NULL_US])
    times = row_times(served, expected, moment, told=np.ones(6, dtype=bool), fresh_for_s=99.0)
    assert times.older.tolist() == [False, True, False, False, False, False]
    assert times.lag_s.tolist() == [0, 60, 0, 0, 0, 0]
    assert times.missing.tolist() == [False, False, True, False, False, False]
    assert times.future.tolist() == [False, False, False, True, False, False]
    assert times.newer.tolist() == [False, False, False, False, True, False]
    assert times.aged.tolist() == [True, True, False, False, False, False]
    silent = row_times(served, expected, moment, told=np.zeros(6, dtype=bool), fresh_for_s=None)
    assert not silent.missing.any()
    assert not silent.aged.any()


def test_a_vector_is_another_cars_only_on_evidence() -> None:
    other = {(1.0, 2.0, 3.0): [OtherCar("norris", ("norris",), 50)], (1.0, None, None): [OtherCar("norris", ("norris",), 50)]}
    told = {"keys": ("alonso",), "others": other}
    assert whose((1.0, 2.0, 3.0), served_us=50, own_us=40, **told) == "norris"
    assert whose((1.0, 2.0, 3.0), served_us=40, own_us=40, **told) == "norris", "the times are the own ones, three values are not"
    assert whose((1.0, None, None), served_us=40, own_us=40, **told) is None, "one value agrees by chance"
    assert whose((1.0, None, None), served_us=50, own_us=40, **told) == "norris"
    assert whose((1.0, 2.0, 3.0), served_us=30, own_us=40, **told) is None, "an older row of the own car may look like it"
    assert whose((9.0, 2.0, 3.0), served_us=50, own_us=40, **told) is None
    assert whose((1.0, 2.0, 3.0), keys=("norris",), served_us=50, own_us=40, others=other) is None, (
        "the same key has the same row"
    )


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(3.6, 1.0), (7.2, 2.0), (10.8, 3.0)], "times 3.6"),
        ([(274.15, 1.0), (275.15, 2.0), (276.15, 3.0)], "plus 273.15"),
        ([(1.0, 2.0), (5.0, 1.0), (2.0, 3.0)], ""),
        ([(3.6, 1.0), (7.2, 2.0)], ""),
        ([(3.6, 1.0), (3.6, 1.0), (3.6, 1.0)], ""),
        ([(math.inf, 1.0), (7.2, 2.0), (1.0, 4.0)], ""),
    ],
)
def test_a_wrong_unit_is_recognised(pairs: list[tuple[float, float]], expected: str) -> None:
    assert _pattern(pairs) == expected


@pytest.fixture(scope="module")
def form_home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, FeatureView]:
    settings = Settings(home=tmp_path_factory.mktemp("rows") / "home")
    write_table(settings, "driver_form", rows(form_row("alonso", 0)))
    apply(settings, catalogue(settings.home))
    return settings, open_store(settings).get_feature_view("driver_form")


@settings_of(max_examples=40, deadline=None)
@given(
    table=st.lists(
        st.tuples(st.sampled_from(["alonso", "norris"]), st.integers(0, 8), st.integers(0, 12), st.integers(0, 5)),
        min_size=1,
        max_size=12,
        unique_by=lambda row: (row[0], row[1], row[2]),
    ),
    asked=st.lists(st.tuples(st.sampled_from(["alonso", "norris", "nobody"]), st.integers(0, 50)), min_size=1, max_size=6),
)
def test_the_row_history_uses_is_the_newest_visible_one(
    form_home: tuple[Settings, FeatureView],
    table: list[tuple[str, int, int, int]],
    asked: list[tuple[str, int]],
) -> None:
    settings, view = form_home
    days = 86_400 * 5
    frame = rows(*[form_row(driver, event * days, finish, created=late * days) for driver, event, late, finish in table])
    write_table(settings, "driver_form", frame)
    keys = pd.DataFrame({"driver_id": [driver for driver, _ in asked]})
    moments = [at(day * 86_400) for _, day in asked]
    found = ViewRows(view, keys)
    moment_us = np.array([moment.value // 1000 for moment in moments])
    for ttl in (True, False):
        used = found.known_at(keys, moment_us, ttl=ttl)
        expected = []
        for driver, moment in zip(keys["driver_id"], moments, strict=True):
            known = latest_visible(frame[frame["driver_id"] == driver], ["driver_id"], moment)
            known = known[known[EVENT] >= moment - FORM_TTL] if ttl else known
            expected.append(None if known.empty else (known[EVENT].iloc[0].value // 1000, known["form_finish"].iloc[0]))
        events, values = found.events(used), found.values("form_finish", used)
        got = [None if event == NULL_US else (event, value) for event, value in zip(events, values, strict=True)]
        assert got == expected


def test_rows_of_other_keys_are_not_read(form_home: tuple[Settings, FeatureView], tmp_path: Path) -> None:
    settings, view = form_home
    write_table(settings, "driver_form", rows(form_row("alonso", 0), form_row("norris", 0)))
    assert len(ViewRows(view, pd.DataFrame({"driver_id": ["norris"]})).event_us) == 1
    assert len(ViewRows(view, pd.DataFrame({"driver_id": pd.Series([], dtype=object)})).event_us) == 0
