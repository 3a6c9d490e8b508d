"""The judgement of a single value: what is fresh, stale or missing, and what becomes of it in JSON."""

import math
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_home import START, at

from serving.lookup import FeatureValue, LookupResult, _judged, _plain, _same


class View:
    """The two facts about a view that decide freshness."""

    def __init__(self, ttl: timedelta | None, tags: dict[str, str] | None = None) -> None:
        self.ttl = ttl
        self.tags = tags or {}


@pytest.mark.parametrize(
    ("ttl", "tags", "age", "status"),
    [
        (timedelta(seconds=100), {}, 100.0, "FRESH"),
        (timedelta(seconds=100), {}, 100.5, "STALE"),
        (timedelta(0), {}, 1e9, "FRESH"),
        (None, {}, 1e9, "FRESH"),
        (timedelta(days=1), {"fresh_for_s": "60"}, 60.0, "FRESH"),
        (timedelta(days=1), {"fresh_for_s": "60"}, 61.0, "STALE"),
        (None, {"fresh_for_s": "60"}, 61.0, "STALE"),
    ],
)
def test_stale_is_older_than_the_tag_or_else_the_ttl(
    ttl: timedelta | None, tags: dict[str, str], age: float, status: str
) -> None:
    assert _judged(View(ttl, tags), 1.0, START, at(age)) == FeatureValue(1.0, START, age, status)


def test_missing_is_no_row_or_no_value_however_old_the_row_is() -> None:
    view = View(timedelta(seconds=10))
    assert _judged(view, None, None, START) == FeatureValue(None, None, None, "MISSING")
    assert _judged(view, math.nan, START, at(99)) == FeatureValue(None, START, 99.0, "MISSING")


@given(st.recursive(st.none() | st.floats() | st.integers() | st.text(max_size=3) | st.booleans(), st.lists, max_leaves=5))
def test_a_plain_value_is_json_and_equal_to_itself(value: Any) -> None:
    plain = _plain(value)
    result = LookupResult("2024_08", "norris", "s", START, "online", {"x": FeatureValue(plain, START, 0.0, "FRESH")})
    pd.io.json.ujson_dumps(result.to_json())
    assert _same(plain, _plain(plain))


def test_numpy_values_become_plain_ones() -> None:
    assert _plain(np.array([1.5, np.nan], dtype=np.float32)) == [1.5, None]
    assert _plain(np.int64(3)) == 3
    assert _plain(pd.NaT) is None
    assert type(_plain(np.bool_(True))) is bool
    assert _same(float(np.float32(0.1)), 0.1)
    assert not _same([1.0, 2.0], [1.0])
    assert not _same(None, 1.0)
