"""What must hold for every feature table whatever the lake: no row looks ahead, no order or repetition matters."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from strategies import Lake, instants, lake_number, lakes, shuffled

from feature_repo.visibility import CREATED, EVENT, visible
from pipelines.features.constructor_form import constructor_facts, form_of_constructor
from pipelines.features.driver_form import driver_facts, form_of_driver
from pipelines.features.tables import COMPUTE
from pipelines.leak.lake_at import scrambled, truncated

VIEWS = [name for name in COMPUTE if name not in ("entrants", "moments")]  # both are what is known now
# A lake is a function of its number, so there is nothing to shrink.
quick = settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def assert_same(left: pd.DataFrame, right: pd.DataFrame) -> None:
    """Equal frames, bit for bit, arrays in cells included."""
    pd.testing.assert_frame_equal(_plain(left), _plain(right), check_exact=True)


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.reset_index(drop=True)
    arrays = [name for name in frame if len(frame) and isinstance(frame[name].iloc[0], np.ndarray)]
    return frame.assign(**{name: frame[name].map(lambda cell: (str(cell.dtype), cell.tobytes())) for name in arrays})


def known_rows(view: str, lake: Lake, as_of: pd.Timestamp) -> pd.DataFrame:
    rows = COMPUTE[view](lake)
    return rows[visible(rows, as_of)]


@pytest.mark.parametrize("view", VIEWS)
@quick
@given(data=st.data(), seed=st.integers(0, 2**16))
def test_nothing_after_a_moment_changes_what_a_view_said_by_then(view: str, data: st.DataObject, seed: int) -> None:
    lake = data.draw(lakes())
    as_of = data.draw(instants(lake))
    expected = known_rows(view, lake, as_of)
    assert_same(known_rows(view, truncated(lake, as_of), as_of), expected)
    assert_same(known_rows(view, scrambled(lake, as_of, seed=seed), as_of), expected)


@pytest.mark.parametrize("view", list(COMPUTE))
@quick
@given(lake=lakes(), seed=st.integers(0, 2**16))
def test_row_order_and_repeated_rows_change_nothing_and_the_input_stays_as_it_was(view: str, lake: Lake, seed: int) -> None:
    before = {name: frame.copy(deep=True) for name, frame in lake.items()}
    first = COMPUTE[view](lake)
    for name, frame in lake.items():
        pd.testing.assert_frame_equal(frame, before[name], check_exact=True)
    assert_same(COMPUTE[view](shuffled(lake, seed)), first)


@pytest.mark.parametrize("view", VIEWS)
@quick
@given(lake=lakes())
def test_keys_are_unique_and_what_became_known_later_is_never_shadowed(view: str, lake: Lake) -> None:
    rows = COMPUTE[view](lake)
    keys = [name for name in ("race_id", "driver_id", "constructor_id", "circuit_id") if name in rows]
    assert (rows[CREATED] >= rows[EVENT]).all()
    assert not rows.duplicated([*keys, EVENT, CREATED]).any()
    by_created = rows.sort_values([*keys, CREATED], kind="stable")
    assert by_created.groupby(keys)[EVENT].is_monotonic_increasing.all()
    assert_same(COMPUTE[view](lake), rows)  # computed again: the same


@pytest.mark.parametrize("view", ["race_weather", "tire_state", "race_state", "trace", "race_result"])
@pytest.mark.parametrize("number", [5, 11])
@pytest.mark.parametrize("late", [False, True])
def test_each_race_on_its_own_gives_the_rows_of_all_together(view: str, number: int, late: bool) -> None:
    lake = lake_number(number, late)
    alone = [
        COMPUTE[view]({name: frame[frame["race_id"] == race_id] if "race_id" in frame else frame for name, frame in lake.items()})
        for race_id in lake["races"]["race_id"].unique()
    ]
    together = COMPUTE[view](lake)
    keys = [name for name in ("race_id", "driver_id") if name in together]
    apart = pd.concat([part for part in alone if len(part)], ignore_index=True)
    assert_same(apart.sort_values([*keys, EVENT, CREATED], kind="stable"), together)


@pytest.mark.parametrize("late", [False, True])
def test_each_key_on_its_own_gives_the_rows_of_all_together(late: bool) -> None:
    lake = lake_number(11, late)
    frames = (lake["entries"], lake["qualifying"], lake["laps"])
    drivers = [form_of_driver(starts) for _, starts in driver_facts(*frames).groupby("driver_id")]
    assert_same(pd.concat(drivers, ignore_index=True), COMPUTE["driver_form"](lake))
    facts = constructor_facts(*frames, lake["pit_stops"])
    teams = [form_of_constructor(races) for _, races in facts.groupby("constructor_id")]
    assert_same(pd.concat(teams, ignore_index=True), COMPUTE["constructor_form"](lake))


@quick
@given(data=st.data(), seed=st.integers(0, 2**16))
def test_moments_by_an_instant_do_not_depend_on_later_laps(data: st.DataObject, seed: int) -> None:
    lake = data.draw(lakes(late=False))
    as_of = data.draw(instants(lake))
    for other in (truncated(lake, as_of), scrambled(lake, as_of, seed=seed)):
        expected, got = (COMPUTE["moments"](frames) for frames in (lake, other))
        columns = ["race_id", "lap", "as_of"]
        known = expected["race_id"].isin(lake["races"].loc[visible(lake["races"], as_of), "race_id"])
        got = got[got["race_id"].isin(expected.loc[known, "race_id"])]
        assert_same(got.loc[got["as_of"] <= as_of, columns], expected.loc[known & (expected["as_of"] <= as_of), columns])


def test_the_experiment_catches_a_view_that_looks_ahead() -> None:
    lake = lake_number(5, late=False)
    as_of = lake["laps"][EVENT].median()

    def peeking(frames: Lake) -> pd.DataFrame:
        rows = COMPUTE["tire_state"](frames)
        of_car = rows.groupby(["race_id", "driver_id"])["tire_laps_since_stop"]
        return rows.assign(tire_laps_since_stop=of_car.transform("max"))

    expected = peeking(lake)
    expected = expected[visible(expected, as_of)]
    for other in (truncated(lake, as_of), scrambled(lake, as_of, seed=1)):
        got = peeking(other)
        with pytest.raises(AssertionError):
            assert_same(got[visible(got, as_of)], expected)
