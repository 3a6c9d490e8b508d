"""Driver form, constructor form and driver at circuit, by hand."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from strategies import canonical

from feature_repo.visibility import CREATED, EVENT, latest_visible
from pipelines.features.constructor_form import compute_constructor_form
from pipelines.features.driver_circuit import compute_driver_circuit
from pipelines.features.driver_form import compute_driver_form
from pipelines.features.race_result import compute_race_result

START = pd.Timestamp("2024-03-02T15:00:00Z")
# per race: (driver, team, grid, finish, points, status)
RACES: list[list[tuple[str, str, int, int, float, str]]] = [
    [("ann", "red", 1, 1, 25, "Finished"), ("bob", "red", 3, 2, 18, "Finished"), ("cid", "blue", 2, 3, 0, "Engine")],
    [("ann", "red", 2, 3, 0, "Engine"), ("bob", "red", 1, 1, 25, "Finished"), ("cid", "blue", 3, 2, 18, "Finished")],
    [("ann", "red", 4, 2, 18, "Finished"), ("bob", "red", 1, 3, 0, "Did not start"), ("cid", "blue", 2, 1, 25, "Finished")],
    [("ann", "red", 1, 1, 25, "Finished"), ("bob", "red", 2, 3, 15, "Finished"), ("cid", "blue", 3, 2, 18, "Finished")],
]


def race_id(number: int) -> str:
    return f"2024_{number:02d}"


def start(number: int) -> pd.Timestamp:
    return START + pd.Timedelta(days=7 * (number - 1))


def published(number: int) -> pd.Timestamp:
    return start(number) + pd.Timedelta(hours=4.5)


def entry_rows() -> list[dict[str, Any]]:
    return [
        {
            "race_id": race_id(number),
            "driver_id": driver,
            "constructor_id": team,
            "grid": grid,
            "position_order": finish,
            "points": points,
            "status": status,
            "is_classified": status == "Finished",
            "laps_completed": 0 if status == "Did not start" else 50,
            EVENT: start(number) + pd.Timedelta(hours=1.5),
            CREATED: published(number),
        }
        for number, cars in enumerate(RACES, start=1)
        for driver, team, grid, finish, points, status in cars
    ]


@pytest.fixture
def entries() -> pd.DataFrame:
    return canonical("entries", *entry_rows())


@pytest.fixture
def qualifying() -> pd.DataFrame:
    # pole 80 s, then 1 %, 2 % and 3 % slower
    return canonical(
        "qualifying",
        *[
            {
                "race_id": race_id(number),
                "driver_id": driver,
                "constructor_id": team,
                "position": grid if grid < 4 else 3,
                "q1_s": 80.0 * (1 + 0.01 * (grid - 1)),
                EVENT: start(number) - pd.Timedelta(hours=22),
            }
            for number, cars in enumerate(RACES, start=1)
            for driver, team, grid, _, _, _ in cars
        ],
    )


@pytest.fixture
def laps() -> pd.DataFrame:
    # clean laps 2..7; in race n cid is the quickest, ann 1 % and bob (n) % slower
    pace = {"ann": lambda _: 1.01, "bob": lambda number: 1 + 0.01 * number, "cid": lambda _: 1.0}
    return canonical(
        "laps",
        *[
            {
                "race_id": race_id(number),
                "driver_id": driver,
                "lap": lap,
                "lap_time_s": 90.0 * pace[driver](number),
                EVENT: start(number) + pd.Timedelta(seconds=91 * lap),
            }
            for number, cars in enumerate(RACES, start=1)
            for driver, _, _, _, _, status in cars
            if status != "Did not start"
            for lap in range(1, 8)
        ],
    )


@pytest.fixture
def races() -> pd.DataFrame:
    return canonical(
        "races",
        *[
            {
                "race_id": race_id(n),
                "circuit_id": "alpha" if n % 2 else "beta",
                "race_start": start(n),
                EVENT: start(n) - pd.Timedelta(days=7),
            }
            for n in range(1, 5)
        ],
    )


def row(table: pd.DataFrame, key: dict[str, str], as_of: pd.Timestamp) -> pd.Series:
    seen = latest_visible(table, list(key), as_of)
    for name, value in key.items():
        seen = seen[seen[name] == value]
    assert len(seen) == 1
    return seen.iloc[0]


def assert_features(got: pd.Series, expected: dict[str, float]) -> None:
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, rel=1e-6, nan_ok=True), name


def test_driver_form_after_four_races(entries: pd.DataFrame, qualifying: pd.DataFrame, laps: pd.DataFrame) -> None:
    ann = row(compute_driver_form(entries, qualifying, laps), {"driver_id": "ann"}, published(4))
    assert_features(
        ann,
        {
            "driver_finish_mean_3": 2.0,
            "driver_finish_mean_5": 7 / 4,
            "driver_finish_mean_10": 7 / 4,
            "driver_finish_std_10": np.std([1, 3, 2, 1]),
            "driver_grid_mean_5": 2.0,
            "driver_positions_gained_mean_5": (0 - 1 + 2 + 0) / 4,
            "driver_retirement_rate_10": 1 / 4,
            "driver_points_mean_5": 68 / 4,
            "driver_podium_rate_10": 3 / 4,
            "driver_win_rate_20": 2 / 4,
            "driver_qualifying_gap_to_pole_pct_mean_5": (0 + 1 + 3 + 0) / 4,
            "driver_beat_teammate_rate_10": 2 / 3,  # no starting teammate in race 3
            "driver_race_pace_gap_pct_median_5": 1.0,
            "driver_starts": 4,
        },
    )
    assert ann[EVENT] == ann[CREATED] == published(4)


def test_a_driver_that_did_not_start_gets_no_row_and_no_start(
    entries: pd.DataFrame, qualifying: pd.DataFrame, laps: pd.DataFrame
) -> None:
    table = compute_driver_form(entries, qualifying, laps)
    bob = row(table, {"driver_id": "bob"}, published(3))
    assert bob[EVENT] == published(2)
    bob = row(table, {"driver_id": "bob"}, published(4))
    # races 1, 2 and 4
    assert_features(bob, {"driver_starts": 3, "driver_finish_mean_3": 2.0, "driver_race_pace_gap_pct_median_5": 2.0})
    assert_features(bob, {"driver_grid_mean_5": 2.0, "driver_beat_teammate_rate_10": 1 / 3, "driver_win_rate_20": 1 / 3})


def test_one_start_has_no_spread_and_elo_follows_the_result(
    entries: pd.DataFrame, qualifying: pd.DataFrame, laps: pd.DataFrame
) -> None:
    table = compute_driver_form(entries, qualifying, laps)
    firsts = {name: row(table, {"driver_id": name}, published(1)) for name in ("ann", "bob", "cid")}
    assert np.isnan(firsts["ann"]["driver_finish_std_10"])
    assert {name: float(got["driver_elo"]) for name, got in firsts.items()} == {"ann": 1516.0, "bob": 1500.0, "cid": 1484.0}
    assert np.isnan(firsts["cid"]["driver_beat_teammate_rate_10"])


def test_windows_forget_what_is_further_back() -> None:
    rows = [
        {
            "race_id": f"2023_{number:02d}",
            "driver_id": "ann",
            "constructor_id": "red",
            "grid": 1,
            "position_order": number,
            "points": float(number),
            "is_classified": number % 2 == 0,
            "status": "Finished" if number % 2 == 0 else "Engine",
            EVENT: start(1) + pd.Timedelta(days=number),
        }
        for number in range(1, 13)
    ]
    entries = canonical("entries", *rows)
    nothing = canonical("laps", {"race_id": "2023_01", "driver_id": "x", "lap": 1, EVENT: START}).iloc[:0]
    session = canonical(
        "qualifying", {"race_id": "2023_01", "driver_id": "x", "constructor_id": "x", "position": 1, EVENT: START}
    ).iloc[:0]
    last = compute_driver_form(entries, session, nothing).iloc[-1]
    assert_features(
        last,
        {
            "driver_finish_mean_3": 11.0,
            "driver_finish_mean_5": 10.0,
            "driver_finish_mean_10": 7.5,
            "driver_finish_std_10": np.std(np.arange(3, 13)),
            "driver_retirement_rate_10": 0.5,
            "driver_points_mean_5": 10.0,
            "driver_podium_rate_10": 0.0,  # the podium of race 2 is eleven starts ago; race 3 was not classified
            "driver_starts": 12,
        },
    )
    assert np.isnan(last["driver_qualifying_gap_to_pole_pct_mean_5"])
    assert np.isnan(last["driver_race_pace_gap_pct_median_5"])


def test_constructor_form_after_four_races(entries: pd.DataFrame, qualifying: pd.DataFrame, laps: pd.DataFrame) -> None:
    stops = canonical(
        "pit_stops",
        *[
            {
                "race_id": race_id(number),
                "driver_id": driver,
                "lap": 3,
                "pit_lane_time_s": seconds,
                EVENT: start(number) + pd.Timedelta(minutes=5),
            }
            for number, driver, seconds in [
                (1, "ann", 22.0),
                (1, "bob", 24.0),
                (2, "ann", 26.0),
                (2, "bob", 900.0),
                (4, "cid", 30.0),
            ]
        ],
    )
    table = compute_constructor_form(entries, qualifying, laps, stops)
    red = row(table, {"constructor_id": "red"}, published(4))
    assert_features(
        red,
        {
            "constructor_standing": 1,
            "constructor_points_mean_5": (43 + 25 + 18 + 40) / 4,
            "constructor_finish_mean_5": (1.5 + 2 + 2 + 2) / 4,
            "constructor_retirement_rate_10": 1 / 7,
            "constructor_qualifying_gap_to_pole_pct_mean_5": (0 + 0 + 3 + 0) / 4,
            "constructor_pit_lane_time_median_5_s": (23.0 + 26.0) / 2,  # the 900 s of a red flag is no stop
        },
    )
    blue = row(table, {"constructor_id": "blue"}, published(1))
    assert_features(blue, {"constructor_standing": 2, "constructor_elo": 1484.0, "constructor_retirement_rate_10": 1.0})
    assert np.isnan(blue["constructor_pit_lane_time_median_5_s"])


def test_driver_at_circuit_counts_only_that_circuit(entries: pd.DataFrame, races: pd.DataFrame, laps: pd.DataFrame) -> None:
    table = compute_driver_circuit(entries, races, laps)
    ann = row(table, {"driver_id": "ann", "circuit_id": "beta"}, published(4))
    assert_features(
        ann,
        {
            "driver_circuit_starts": 2,
            "driver_circuit_wins": 1,
            "driver_circuit_finish_best": 1,
            "driver_circuit_finish_mean": 2.0,
            "driver_circuit_retirement_rate": 0.5,
        },
    )
    bob = row(table, {"driver_id": "bob", "circuit_id": "alpha"}, published(4))
    assert_features(bob, {"driver_circuit_starts": 1, "driver_circuit_wins": 0, "driver_circuit_finish_best": 2})


def test_a_disqualification_two_days_later_is_seen_from_then_on(
    qualifying: pd.DataFrame, races: pd.DataFrame, laps: pd.DataFrame
) -> None:
    later = published(4) + pd.Timedelta(days=2)
    corrections = [
        {**row_, "position_order": order, "status": status, "is_classified": order < 3, "points": points, CREATED: later}
        for row_ in entry_rows()
        if row_["race_id"] == race_id(4)
        for order, status, points in [
            {"ann": (3, "Disqualified", 0.0), "cid": (1, "Finished", 25.0), "bob": (2, "Finished", 18.0)}[row_["driver_id"]]
        ]
    ]
    entries = canonical("entries", *entry_rows(), *corrections)
    form = compute_driver_form(entries, qualifying, laps)
    before = row(form, {"driver_id": "ann"}, later - pd.Timedelta(microseconds=1))
    after = row(form, {"driver_id": "ann"}, later)
    assert_features(before, {"driver_win_rate_20": 0.5, "driver_retirement_rate_10": 0.25})
    assert_features(after, {"driver_win_rate_20": 0.25, "driver_retirement_rate_10": 0.25, "driver_finish_mean_3": 8 / 3})
    assert before[EVENT] == after[EVENT] == published(4)
    assert after[CREATED] == later
    assert after["driver_elo"] < before["driver_elo"]
    record = compute_driver_circuit(entries, races, laps)
    key = {"driver_id": "ann", "circuit_id": "beta"}
    assert row(record, key, later)["driver_circuit_wins"] == 0
    assert row(record, key, published(4))["driver_circuit_wins"] == 1
    label = compute_race_result(entries)
    key = {"race_id": race_id(4), "driver_id": "ann"}
    assert row(label, key, published(4))["finish_position"] == 1
    assert row(label, key, later)[["finish_position", "is_classified", "status"]].tolist() == [3, False, "Disqualified"]
    assert row(label, key, later)[EVENT] == published(4)


def test_a_label_is_not_visible_before_it_is_published(entries: pd.DataFrame) -> None:
    table = compute_race_result(entries)
    seen = latest_visible(table, ["race_id", "driver_id"], published(1) - pd.Timedelta(microseconds=1))
    assert seen.empty
    assert len(latest_visible(table, ["race_id", "driver_id"], published(1))) == 3
