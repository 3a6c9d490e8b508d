"""Grid and circuit profile, by hand."""

import numpy as np
import pandas as pd
import pytest
from strategies import canonical

from feature_repo.visibility import CREATED, EVENT, latest_visible
from pipelines.features.circuit_profile import compute_circuit_profile, overtaking_index, pit_loss
from pipelines.features.grid import compute_grid

LIGHTS = pd.Timestamp("2024-03-09T15:00:00Z")
LAST_LIGHTS = pd.Timestamp("2024-03-02T14:00:00Z")
SESSION = LIGHTS - pd.Timedelta(hours=21)
GRID_KNOWN = LIGHTS - pd.Timedelta(hours=1)


def entry(race_id: str, driver: str, lights: pd.Timestamp, **more: object) -> dict[str, object]:
    flag = lights + pd.Timedelta(hours=1.5)
    times = {"grid_timestamp": lights - pd.Timedelta(hours=1), EVENT: flag, CREATED: flag + pd.Timedelta(hours=3)}
    return {"race_id": race_id, "driver_id": driver, "constructor_id": "red", "position_order": 1, **times, **more}


def lap(driver: str, number: int, end_s: float, **more: object) -> dict[str, object]:
    end = LIGHTS + pd.Timedelta(seconds=end_s)
    return {"race_id": "2024_02", "driver_id": driver, "lap": number, "lap_time_s": 90.0, EVENT: end, **more}


NO_LAPS = canonical("laps", lap("a", 1, 90)).iloc[:0]


@pytest.fixture
def grid() -> pd.DataFrame:
    entries = canonical(
        "entries",
        entry("2024_01", "ann", LAST_LIGHTS),
        entry("2024_01", "bob", LAST_LIGHTS, status="Did not start", laps_completed=0),
        entry("2024_02", "ann", LIGHTS, grid=4),
        entry("2024_02", "bob", LIGHTS, grid=21, is_pit_lane_start=True),
        entry("2024_02", "cid", LIGHTS, grid=2, constructor_id="blue"),
    )
    session = [("ann", "red", 1, 80.0), ("bob", "red", 2, 80.8), ("dan", "blue", 3, None)]
    qualifying = canonical(
        "qualifying",
        *[
            {"race_id": "2024_02", "driver_id": d, "constructor_id": c, "position": p, "q1_s": q, EVENT: SESSION}
            for d, c, p, q in session
        ],
    )
    races = canonical(
        "races",
        {"race_id": "2024_01", "race_start": LAST_LIGHTS, EVENT: LAST_LIGHTS - pd.Timedelta(days=7)},
        {"race_id": "2024_02", "race_start": LIGHTS, EVENT: LIGHTS - pd.Timedelta(days=7)},
    )
    return compute_grid(entries, qualifying, races, NO_LAPS)


def at(table: pd.DataFrame, driver: str, as_of: pd.Timestamp) -> dict[str, float]:
    seen = latest_visible(table[table["race_id"] == "2024_02"], ["race_id", "driver_id"], as_of)
    return seen[seen["driver_id"] == driver].iloc[0].to_dict()


def test_after_qualifying_the_grid_is_still_open(grid: pd.DataFrame) -> None:
    bob = at(grid, "bob", SESSION)
    assert bob["grid_qualifying_position"] == 2
    assert bob["grid_qualifying_gap_to_pole_pct"] == pytest.approx(1.0)
    assert bob["grid_qualifying_gap_to_teammate_pct"] == pytest.approx(1.0)
    assert np.isnan([bob["grid_position"], bob["grid_is_pit_lane_start"], bob["grid_penalty_places"]]).all()
    assert bob[EVENT] == bob[CREATED] == SESSION


def test_an_hour_before_the_start_the_grid_is_final(grid: pd.DataFrame) -> None:
    ann, bob = at(grid, "ann", GRID_KNOWN), at(grid, "bob", GRID_KNOWN)
    assert [ann["grid_position"], ann["grid_penalty_places"], ann["grid_is_pit_lane_start"]] == [4, 3, 0]
    assert [bob["grid_position"], bob["grid_penalty_places"], bob["grid_is_pit_lane_start"]] == [21, 19, 1]
    assert ann["grid_qualifying_gap_to_teammate_pct"] == pytest.approx(100 * (80 / 80.8 - 1))
    assert ann[EVENT] == ann[CREATED] == GRID_KNOWN


def test_days_since_the_last_start_and_none_for_a_debut(grid: pd.DataFrame) -> None:
    assert at(grid, "ann", SESSION)["driver_days_since_last_race"] == pytest.approx(7 + 1 / 24)
    assert np.isnan(at(grid, "bob", GRID_KNOWN)["driver_days_since_last_race"]), "he did not start the race before"


def test_a_car_without_qualifying_or_without_a_time_has_nulls(grid: pd.DataFrame) -> None:
    cid, dan = at(grid, "cid", GRID_KNOWN), at(grid, "dan", SESSION)
    assert cid["grid_position"] == 2
    assert np.isnan([cid["grid_qualifying_position"], cid["grid_penalty_places"], dan["grid_qualifying_gap_to_pole_pct"]]).all()


def test_a_corrected_result_does_not_touch_the_grid() -> None:
    first = entry("2024_02", "ann", LIGHTS, grid=4)
    races = canonical("races", {"race_id": "2024_02", "race_start": LIGHTS, EVENT: LIGHTS - pd.Timedelta(days=7)})
    session = canonical(
        "qualifying", {"race_id": "2024_02", "driver_id": "x", "constructor_id": "x", "position": 1, EVENT: SESSION}
    ).iloc[:0]
    later = {**first, "status": "Disqualified", CREATED: LIGHTS + pd.Timedelta(days=3)}
    once = compute_grid(canonical("entries", first), session, races, NO_LAPS)
    twice = compute_grid(canonical("entries", first, later), session, races, NO_LAPS)
    pd.testing.assert_frame_equal(once, twice)


def test_overtakes_are_swaps_between_laps_away_from_the_pits() -> None:
    laps = canonical(
        "laps",
        *[lap("a", 1, 90), lap("a", 2, 180), lap("a", 3, 271), lap("a", 4, 361)],
        *[lap("b", 1, 91), lap("b", 2, 181), lap("b", 3, 270), lap("b", 4, 360)],  # passes a on lap 3
        *[lap("c", 1, 92), lap("c", 2, 182), lap("c", 3, 290, pit_in=LIGHTS), lap("c", 4, 400, pit_out=LIGHTS)],
    )
    assert overtaking_index(laps) == pytest.approx(1 / 3)


def test_overtakes_do_not_count_under_yellow_and_are_unknown_without_green_laps() -> None:
    rows = [lap("a", 1, 90), lap("a", 2, 181, track_status="12"), lap("b", 1, 91), lap("b", 2, 180, track_status="12")]
    assert np.isnan(overtaking_index(canonical("laps", *rows)))


def test_pit_loss_is_in_lap_plus_out_lap_minus_two_usual_laps() -> None:
    laps = canonical(
        "laps",
        *[lap("a", n, 90 * n) for n in (2, 3, 4)],
        lap("a", 5, 455, lap_time_s=95.0, pit_in=LIGHTS, is_accurate=False),
        lap("a", 6, 563, lap_time_s=108.0, pit_out=LIGHTS, is_accurate=False),
        lap("b", 2, 180),
        lap("b", 3, 290, lap_time_s=110.0, track_status="14", is_accurate=False),  # under the safety car it costs less
        lap("b", 4, 390, lap_time_s=100.0, pit_out=LIGHTS, is_accurate=False),
    )
    assert pit_loss(laps) == pytest.approx(95 + 108 - 180)


def profile_inputs() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Two races in a week at one circuit on two layouts, as at Sakhir in 2020; the second lights out later in the day."""
    second = LIGHTS + pd.Timedelta(days=7, hours=2)
    races = canonical(
        "races",
        {"race_id": "2024_02", "race_start": LIGHTS, "course_length_km": 5.4, "turns": 15, EVENT: LIGHTS - pd.Timedelta(days=7)},
        {"race_id": "2024_03", "race_start": second, "course_length_km": 3.5, "turns": 11, EVENT: second - pd.Timedelta(days=7)},
    )
    circuits = canonical(
        "circuits", {"season": 2024, "circuit_id": "alpha", "altitude_m": 7.0, EVENT: LIGHTS - pd.Timedelta(days=7)}
    )
    entries = canonical(
        "entries",
        entry("2024_02", "a", LIGHTS, grid=1),
        entry("2024_02", "b", LIGHTS, position_order=2, is_classified=False, status="Engine"),
        entry("2024_03", "a", second, grid=2),
    )
    laps = canonical(
        "laps", *[lap("a", n, 90 * n, speed_st_kph=300.0 + n, track_status="4" if n == 3 else "1") for n in (1, 2, 3, 4)]
    )
    return races, circuits, entries, laps


def test_laps_of_a_source_without_track_status_say_nothing_about_safety_cars() -> None:
    races, circuits, entries, laps = profile_inputs()
    table = compute_circuit_profile(races, circuits, entries, laps.assign(track_status=None))
    after = latest_visible(table, ["circuit_id"], LIGHTS + pd.Timedelta(hours=4.5)).iloc[0]
    assert np.isnan(after["circuit_safety_car_share_5"])


def test_the_profile_is_that_of_the_race_in_progress_until_its_result() -> None:
    races, circuits, entries, laps = profile_inputs()
    table = compute_circuit_profile(races, circuits, entries, laps)

    def seen(as_of: pd.Timestamp) -> pd.Series:
        return latest_visible(table, ["circuit_id"], as_of).iloc[0]

    mid_race = LIGHTS + pd.Timedelta(hours=2, minutes=30)  # the second race is in the calendar by now
    assert seen(mid_race)["circuit_length_km"] == pytest.approx(5.4)
    published = LIGHTS + pd.Timedelta(hours=4.5)
    assert seen(published)["circuit_length_km"] == pytest.approx(3.5)
    assert seen(published)["circuit_turns"] == 11


def test_the_profile_knows_nothing_of_a_race_before_its_result() -> None:
    races, circuits, entries, laps = profile_inputs()
    table = compute_circuit_profile(races, circuits, entries, laps)
    facts = [name for name in table if name.rsplit("_", 1)[-1] in ("3", "5", "s", "rate", "kph")]
    before = latest_visible(table, ["circuit_id"], LIGHTS + pd.Timedelta(hours=4)).iloc[0]
    assert before[facts].isna().all()
    assert before["circuit_altitude_m"] == 7
    after = latest_visible(table, ["circuit_id"], LIGHTS + pd.Timedelta(hours=4.5)).iloc[0]
    assert after["circuit_safety_car_share_5"] == 1
    assert after["circuit_retirement_rate_5"] == pytest.approx(0.5)
    assert after["circuit_pole_to_win_rate"] == 1
    assert after["circuit_speed_trap_median_3_kph"] == pytest.approx(303.0)
    both = latest_visible(table, ["circuit_id"], LIGHTS + pd.Timedelta(days=30)).iloc[0]
    assert both["circuit_pole_to_win_rate"] == 0.5
    assert both["circuit_safety_car_share_5"] == 1, "the second race has no laps, so nothing is known of it"
