"""A lake without its future, and one with another: what was knowable stays, nothing else does."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Lake, instants, lake_number, lakes, small_lake

from feature_repo.visibility import CREATED, EVENT, visible
from pipelines import schemas
from pipelines.leak.lake_at import GRID_HALF, scrambled, truncated


@pytest.fixture(scope="module")
def lake() -> Lake:
    return small_lake(3)


@pytest.fixture(scope="module")
def mid_race(lake: Lake) -> pd.Timestamp:
    """The middle of the third race: its grid is known, its result is not."""
    laps = lake["laps"]
    return laps.loc[laps["race_id"] == "2023_01", EVENT].median()


@settings(max_examples=5, deadline=None)
@given(data=st.data(), seed=st.integers(0, 99))
def test_what_was_knowable_is_kept_bit_for_bit(data: st.DataObject, seed: int) -> None:
    lake = data.draw(lakes())
    as_of = data.draw(instants(lake))
    for name in schemas.TABLES:
        columns = [column for column in lake[name].columns if column != "race_end"]
        known = lake[name].loc[visible(lake[name], as_of), columns].reset_index(drop=True)
        for other in (truncated(lake, as_of), scrambled(lake, as_of, seed=seed)):
            kept = other[name].loc[visible(other[name], as_of), columns].reset_index(drop=True)
            pd.testing.assert_frame_equal(kept, known, check_exact=True)


def test_nothing_later_is_left_when_the_future_is_deleted(lake: Lake, mid_race: pd.Timestamp) -> None:
    left = truncated(lake, mid_race)
    for name, frame in left.items():
        if name != "entries":
            assert visible(frame, mid_race).all(), name
    assert "2023_02" not in set(left["entries"]["race_id"])
    races = left["races"]
    assert ((races["race_end"] <= mid_race) | (races["race_end"] == races["race_start"])).all()


def test_of_a_race_under_way_the_grid_is_known_and_nothing_of_the_result(lake: Lake, mid_race: pd.Timestamp) -> None:
    of_race = truncated(lake, mid_race)["entries"].query("race_id == '2023_01'")
    whole = lake["entries"].query("race_id == '2023_01'")
    columns = ["driver_id", *GRID_HALF]
    pd.testing.assert_frame_equal(of_race[columns].reset_index(drop=True), whole[columns].reset_index(drop=True))
    told = of_race.drop(columns=[*columns, "car_number"])
    assert (told.nunique(dropna=False) == 1).all(), "every car's result is the same"
    assert of_race["position"].isna().all()
    assert (of_race[CREATED] > mid_race + pd.Timedelta(days=3000)).all(), "when the race ended is not told either"


def test_a_correction_of_a_result_tells_nothing_new_about_the_grid(lake: Lake) -> None:
    entries = lake["entries"]
    late = entries.assign(grid=99, **{CREATED: entries[CREATED] + pd.Timedelta(days=1)})
    as_of = entries[CREATED].max() + pd.Timedelta(hours=1)
    kept = truncated({**lake, "entries": pd.concat([entries, late], ignore_index=True)}, as_of)["entries"]
    assert len(kept) == len(entries) + (late[CREATED] <= as_of).sum()
    last = kept[kept["race_id"] == entries["race_id"].max()]
    assert 99 not in set(last["grid"])


def test_another_future_differs_in_every_table_and_corrects_the_past(lake: Lake, mid_race: pd.Timestamp) -> None:
    other = scrambled(lake, mid_race, seed=1)
    for name in ("laps", "weather", "qualifying", "entries", "stints"):
        frame = other[name]
        later, before = frame[~visible(frame, mid_race)], lake[name][~visible(lake[name], mid_race)]
        assert len(later)
        assert not later.reset_index(drop=True).equals(before.reset_index(drop=True)), name
    for name in ("laps", "stints", "weather"):
        frame = other[name]
        corrections = frame[(frame[EVENT] <= mid_race) & (frame[CREATED] == mid_race + pd.Timedelta(hours=1))]
        assert len(corrections), f"{name}: nothing that was known is corrected later"
    longer = (
        other["laps"].groupby(["race_id", "driver_id"])["lap"].max() > lake["laps"].groupby(["race_id", "driver_id"])["lap"].max()
    )
    assert longer.any(), "cars drive laps they never drove"


def test_another_future_depends_on_the_seed_only() -> None:
    lake = lake_number(5, False)
    as_of = lake["laps"][EVENT].median()
    one, two, three = (scrambled(lake, as_of, seed=seed)["laps"] for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one, two)
    assert not np.array_equal(one["lap_time_s"].to_numpy(), three["lap_time_s"].to_numpy(), equal_nan=True)
