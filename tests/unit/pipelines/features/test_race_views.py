"""Views with a row per sample or lap end, by hand: weather, tires, running order, trace."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import theilslopes
from strategies import canonical

from feature_repo.visibility import CREATED, EVENT
from pipelines.features.race_state import compute_race_state
from pipelines.features.race_weather import compute_race_weather
from pipelines.features.spine import compute_entrants, compute_moments
from pipelines.features.tire_state import compute_tire_state, prefix_slopes
from pipelines.features.trace import compute_trace

LIGHTS = pd.Timestamp("2024-05-26T13:00:00Z")
RACE = "2024_08"


def lap(driver: str, number: int, end_s: float, **more: object) -> dict[str, object]:
    times = {EVENT: LIGHTS + pd.Timedelta(seconds=end_s), "lap_start": LIGHTS + pd.Timedelta(seconds=end_s - 90)}
    return {"race_id": RACE, "driver_id": driver, "lap": number, "lap_time_s": 90.0, **times, **more}


def races(**more: object) -> pd.DataFrame:
    row = {
        "race_id": RACE,
        "race_start": LIGHTS,
        "course_length_km": 5.0,
        "scheduled_laps": 78,
        EVENT: LIGHTS - pd.Timedelta(days=7),
    }
    return canonical("races", {**row, **more})


# weather


def weather(*samples: tuple[float, bool, float]) -> pd.DataFrame:
    rows = [
        {"race_id": RACE, "is_raining": rain, "track_temp_c": track, EVENT: LIGHTS + pd.Timedelta(minutes=minute)}
        for minute, rain, track in samples
    ]
    return compute_race_weather(canonical("weather", *rows))


def test_rain_share_and_temperature_change_look_back_half_an_hour() -> None:
    table = weather((-31, True, 40.0), (-30, True, 38.0), (-10, False, 36.0), (0, False, 35.0), (1, True, 30.0))
    assert table["weather_rain_share_30min"].tolist() == pytest.approx([1, 1, 2 / 3, 1 / 3, 1 / 3])
    assert table["weather_track_temp_change_30min_c"].tolist() == pytest.approx([0, -2, -4, -3, -6])
    assert table["weather_is_raining"].tolist() == [1, 1, 0, 0, 1]


def test_weather_of_another_race_is_not_in_the_window() -> None:
    rows = [{"race_id": race, "is_raining": race == "2024_07", EVENT: LIGHTS} for race in ("2024_07", RACE)]
    table = compute_race_weather(canonical("weather", *rows))
    assert table["weather_rain_share_30min"].tolist() == [1.0, 0.0]


# tires


def test_tire_state_over_a_stop() -> None:
    laps = canonical(
        "laps",
        lap("a", 1, 95, compound="SOFT", tyre_life_laps=3.0, is_fresh_tyre=False),
        lap("a", 2, 185, compound="SOFT", tyre_life_laps=4.0, is_fresh_tyre=False, pit_in=LIGHTS),
        lap("a", 3, 300, compound="INTERMEDIATE", tyre_life_laps=1.0, is_fresh_tyre=True, stint=2, pit_out=LIGHTS),
        lap("a", 4, 400, compound=None, stint=2),
    )
    table = compute_tire_state(laps)
    assert table["tire_compound"].tolist() == ["SOFT", "SOFT", "INTERMEDIATE", None]
    assert table["tire_stops"].tolist() == [0, 0, 1, 1]
    assert table["tire_laps_since_stop"].tolist() == [1, 2, 1, 2]
    assert table["tire_stint"].tolist() == [1, 1, 2, 2]
    np.testing.assert_array_equal(table["tire_is_fresh_set"], [0, 0, 1, np.nan])
    np.testing.assert_array_equal(table["tire_life_laps"], [3, 4, 1, np.nan])
    np.testing.assert_allclose(table["tire_wet_share"], [0, 0, 1 / 3, 1 / 3], rtol=1e-6)
    assert (table[EVENT] == table[CREATED]).all()


def test_a_start_from_the_pit_lane_is_no_stop() -> None:
    table = compute_tire_state(canonical("laps", lap("a", 1, 110, pit_out=LIGHTS), lap("a", 2, 200)))
    assert table["tire_stops"].tolist() == [0, 0]
    assert table["tire_laps_since_stop"].tolist() == [1, 2]


def test_wet_share_is_missing_until_a_compound_is_known() -> None:
    table = compute_tire_state(canonical("laps", lap("a", 1, 95, compound=None), lap("a", 2, 185, compound="WET")))
    np.testing.assert_array_equal(table["tire_wet_share"], [np.nan, 1.0])


def test_degradation_is_the_theil_sen_slope_of_clean_laps_so_far() -> None:
    times = [99.0, 90.0, 90.2, 95.0, 90.3, 90.7]  # lap 1 is not clean; lap 4 is traffic
    laps = canonical("laps", *[lap("a", n, 91 * n, lap_time_s=time) for n, time in enumerate(times, start=1)])
    slopes = compute_tire_state(laps)["tire_degradation_slope_s_per_lap"]
    assert slopes[:3].isna().all(), "two clean laps make no slope"
    for last in (4, 5, 6):
        expected = theilslopes(times[1:last], np.arange(2, last + 1)).slope
        assert slopes[last - 1] == pytest.approx(expected, rel=1e-5)


def test_degradation_starts_again_with_the_stint_and_skips_laps_that_are_not_clean() -> None:
    stint_1 = [lap("a", n, 91 * n, lap_time_s=90 + 0.1 * n) for n in (2, 3, 4)]
    yellow = [lap("a", 5, 500, lap_time_s=120.0, track_status="14")]
    stint_2 = [lap("a", n, 100 * n, lap_time_s=90.0, stint=2) for n in (6, 7)]
    slopes = compute_tire_state(canonical("laps", *stint_1, *yellow, *stint_2))["tire_degradation_slope_s_per_lap"]
    np.testing.assert_allclose(slopes, [np.nan, np.nan, 0.1, 0.1, np.nan, np.nan], rtol=1e-5)


def test_prefix_slopes_agree_with_scipy_on_many_groups() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(20), rng.integers(1, 12, 20))
    x = np.concatenate([np.cumsum(rng.integers(1, 3, size)) for size in np.bincount(group)]).astype(float)
    y = rng.normal(size=len(x))
    slopes = prefix_slopes(group, x, y)
    for number in np.unique(group):
        rows = np.flatnonzero(group == number)
        for k, row in enumerate(rows, start=1):
            expected = theilslopes(y[rows[:k]], x[rows[:k]]).slope if k >= 3 else np.nan
            assert slopes[row] == pytest.approx(expected, nan_ok=True)


# running order


def order_table(*rows: dict[str, object]) -> pd.DataFrame:
    return compute_race_state(canonical("laps", *rows), races()).set_index(["driver_id", "running_laps_completed"])


def test_running_order_and_gaps() -> None:
    table = order_table(
        *[lap("a", 1, 95), lap("a", 2, 185), lap("a", 3, 275)],
        *[lap("b", 1, 96), lap("b", 2, 184.5), lap("b", 3, 276)],
        *[lap("c", 1, 100), lap("c", 2, 280)],
    )
    assert table["running_position"].to_dict() == {
        ("a", 1): 1,
        ("a", 2): 2,
        ("a", 3): 1,
        ("b", 1): 2,
        ("b", 2): 1,
        ("b", 3): 2,
        ("c", 1): 3,
        ("c", 2): 3,
    }
    assert table.loc[("c", 2), "running_gap_to_leader_s"] == pytest.approx(95.5)
    assert table.loc[("c", 2), "running_gap_to_ahead_s"] == pytest.approx(95.0)
    assert table.loc[("c", 2), "running_laps_down"] == 1, "the leader had completed three"
    assert table.loc[("a", 3), "running_gap_to_leader_s"] == 0
    assert np.isnan(table.loc[("a", 3), "running_gap_to_ahead_s"])
    assert table.loc[("b", 3), "running_elapsed_s"] == pytest.approx(276.0)


def test_a_car_that_stopped_keeps_its_last_row_and_counts_until_passed() -> None:
    table = order_table(lap("a", 1, 95), lap("a", 2, 185), lap("b", 1, 96), lap("b", 2, 187), lap("b", 3, 277))
    assert table.loc[("a", 2), "running_position"] == 1
    assert table.loc[("b", 2), "running_position"] == 2
    assert table.loc[("b", 3), "running_position"] == 1
    assert len(table.loc["a"]) == 2


def test_a_lap_the_feed_lost_costs_no_place() -> None:
    table = order_table(lap("a", 1, 95), lap("a", 3, 275), lap("b", 1, 96), lap("b", 2, 190), lap("b", 3, 280))
    assert table.loc[("a", 3), "running_position"] == 1
    assert table.loc[("b", 2), "running_position"] == 1, "when b ended lap 2 nothing said that a was ahead"


# trace


def test_a_trace_row_holds_every_lap_so_far() -> None:
    laps = canonical(
        "laps",
        lap("a", 1, 100, lap_time_s=100.0),
        lap("a", 2, 190, lap_time_s=None),  # untimed: 90 s by the clock
        lap("a", 3, 370, lap_time_s=180.0),
        lap("b", 1, 101, lap_time_s=120.0),
    )
    table = compute_trace(laps, races())
    a = table[table["driver_id"] == "a"].reset_index(drop=True)
    assert [numbers.tolist() for numbers in a["lap_numbers"]] == [[1], [1, 2], [1, 2, 3]]
    np.testing.assert_allclose(a["lap_speeds_kph"][2], [180.0, 200.0, 100.0])
    np.testing.assert_allclose(table["lap_speeds_kph"].iloc[3], [150.0])
    assert table["scheduled_laps"].tolist() == [78] * 4
    assert a["lap_speeds_kph"][2].dtype == np.float32


def test_a_lap_without_a_positive_time_is_not_drawn_but_has_its_row() -> None:
    standing = lap("a", 2, 190, lap_time_s=None, lap_start=LIGHTS + pd.Timedelta(seconds=190))
    table = compute_trace(canonical("laps", lap("a", 1, 100), standing, lap("a", 3, 280)), races())
    assert [numbers.tolist() for numbers in table["lap_numbers"]] == [[1], [1], [1, 3]]


def test_a_trace_of_a_race_the_calendar_does_not_know_draws_nothing() -> None:
    table = compute_trace(canonical("laps", lap("a", 1, 100)), races(race_id="2024_09"))
    assert len(table["lap_numbers"].iloc[0]) == 0
    assert table["scheduled_laps"].isna().all()


# entrants and moments


def test_moments_are_when_the_first_car_had_completed_that_many_laps() -> None:
    laps = canonical("laps", lap("a", 1, 95), lap("a", 3, 275), lap("b", 1, 96), lap("b", 2, 290), lap("b", 3, 380))
    table = compute_moments(races(), laps)
    seconds = [(as_of - LIGHTS).total_seconds() for as_of in table["as_of"]]
    assert dict(zip(table["lap"], seconds, strict=True)) == {0: 0.0, 1: 95.0, 2: 275.0, 3: 275.0}
    assert table["as_of"].is_monotonic_increasing
    assert not table["is_simulated"].any()
    assert compute_moments(races(source="simulator"), laps)["is_simulated"].all()


def test_entrants_hold_everybody_with_ids_and_names() -> None:
    entries = canonical(
        "entries",
        *[
            {"race_id": RACE, "driver_id": driver, "constructor_id": "red", "position_order": 1, "code": code, EVENT: LIGHTS}
            for driver, code in (("ann", "ANN"), ("bob", "BOB"))
        ],
    )
    drivers = canonical("drivers", {"season": 2024, "driver_id": "ann", "given_name": "Ann", "family_name": "Ace", EVENT: LIGHTS})
    table = compute_entrants(entries, races(), drivers)
    assert table["driver_name"].tolist() == ["Ann Ace", "BOB"]
    assert table[["season", "round", "circuit_id"]].drop_duplicates().to_numpy().tolist() == [[2024, 8, "alpha"]]
