"""Facts of a published result, Elo and standings, by hand."""

import numpy as np
import pandas as pd
import pytest
from strategies import canonical

from feature_repo.visibility import CREATED, EVENT
from pipelines.features.knowledge import KNOWN
from pipelines.features.ratings import elo, played, standings
from pipelines.features.results import best_of_others, pace_gaps, publications, qualifying_gaps, starter_facts, team_facts

NO_LAPS = canonical("laps", {"race_id": "2024_01", "driver_id": "a", "lap": 1, EVENT: "2024-01-01T00:00:00Z"}).iloc[:0]
FLAG = "2024-03-02T16:30:00Z"
PUBLISHED = "2024-03-02T19:30:00Z"


def entry(driver: str, order: int, **more: object) -> dict[str, object]:
    row = {
        "race_id": "2024_01",
        "driver_id": driver,
        "constructor_id": "team",
        "position_order": order,
        EVENT: FLAG,
        CREATED: PUBLISHED,
    }
    return {**row, **more}


def lap(driver: str) -> dict[str, object]:
    return {"race_id": "2024_01", "driver_id": driver, "lap": 1, EVENT: "2024-03-02T15:02:00Z"}


def test_who_started() -> None:
    entries = canonical(
        "entries",
        entry("finished", 1),
        entry("withdrew_in_the_race", 2, status="Withdrew", laps_completed=40, is_classified=False),
        entry("crashed_on_lap_1", 3, status="Collision", laps_completed=0, is_classified=False),
        entry("crashed_on_the_way", 4, status="Withdrew", laps_completed=0, is_classified=False),
        entry("never_left", 5, status="Power Unit", laps_completed=0, is_classified=False),
        entry("thrown_out", 6, status="Disqualified", is_classified=False),
    )
    drove = ["finished", "withdrew_in_the_race", "crashed_on_lap_1", "crashed_on_the_way", "thrown_out"]
    rows = publications(entries, canonical("laps", *[lap(name) for name in drove])).set_index("driver_id")
    assert set(rows.index[rows["started"]]) == {"finished", "withdrew_in_the_race", "crashed_on_lap_1", "thrown_out"}
    assert set(rows.index[rows["is_retired"]]) == {"withdrew_in_the_race", "crashed_on_lap_1"}


def test_without_any_timed_lap_the_status_decides_who_started() -> None:
    entries = canonical("entries", entry("a", 1, laps_completed=0), entry("b", 2, laps_completed=0, status="Did not start"))
    assert publications(entries, NO_LAPS)["started"].tolist() == [True, False]


def test_a_correction_publishes_the_whole_race_again() -> None:
    later = "2024-03-05T10:00:00Z"
    entries = canonical("entries", entry("a", 1), entry("b", 2), entry("b", 3, status="Disqualified", **{CREATED: later}))
    rows = publications(entries, NO_LAPS)
    assert rows[["driver_id", "position_order"]].to_numpy().tolist() == [["a", 1], ["b", 2], ["a", 1], ["b", 3]]
    assert rows[KNOWN].nunique() == 2


def test_best_of_others_is_per_group_and_skips_missing() -> None:
    frame = pd.DataFrame({"team": ["x", "x", "y", "z", "z", "z", "w", "w"]})
    values = np.array([3.0, 5.0, 7.0, 2.0, 2.0, 9.0, np.nan, 4.0])
    np.testing.assert_array_equal(best_of_others(values, frame, ["team"]), [5.0, 3.0, np.nan, 2.0, 2.0, 2.0, 4.0, np.nan])


def test_best_of_others_of_nothing_is_nothing() -> None:
    assert best_of_others(np.empty(0), pd.DataFrame({"team": []}), ["team"]).tolist() == []


def test_qualifying_gaps_compare_bests_of_the_session() -> None:
    session = pd.DataFrame(
        {
            "race_id": "2024_01",
            KNOWN: 1,
            "driver_id": ["pole", "mate", "out", "silent"],
            "constructor_id": ["x", "x", "y", "y"],
            "position": [1, 2, 3, 4],
            "q1_s": [82.0, 81.6, 84.0, np.nan],
            "q2_s": [81.0, 81.2, np.nan, np.nan],
            "q3_s": [80.0, 81.0, np.nan, np.nan],
        }
    )
    rows = qualifying_gaps(session)
    np.testing.assert_allclose(rows["qualifying_gap_pct"], [0.0, 1.25, 5.0, np.nan])
    np.testing.assert_allclose(rows["teammate_gap_pct"], [100 * (80 / 81 - 1), 1.25, np.nan, np.nan])


def test_pace_gap_is_between_medians_and_needs_five_clean_laps() -> None:
    laps = pd.DataFrame(
        {
            "race_id": "2024_01",
            KNOWN: 1,
            "driver_id": ["a"] * 5 + ["b"] * 5 + ["c"] * 4,
            "lap_time_s": [90, 91, 92, 93, 200, 92, 92, 93.84, 95, 95, 80, 80, 80, 80],
        }
    )
    rows = pace_gaps(laps).set_index("driver_id")["pace_gap_pct"]
    assert rows.to_dict() == pytest.approx({"a": 0.0, "b": 2.0})


def test_elo_of_two_equals_gains_half_of_k() -> None:
    assert played({}, ["a", "b"], np.array([1.0, 2.0])) == {"a": 1516.0, "b": 1484.0}


def test_elo_of_a_favourite_and_a_tie() -> None:
    after = played({"a": 1900.0, "b": 1500.0}, ["a", "b"], np.array([1.0, 1.0]))
    assert after["a"] == pytest.approx(1900 + 32 * (0.5 - 10 / 11))
    assert after["a"] + after["b"] == pytest.approx(3400.0)


def test_elo_of_three_averages_over_opponents() -> None:
    assert played({}, ["a", "b", "c"], np.array([1.0, 2.0, 3.0])) == pytest.approx({"a": 1516.0, "b": 1500.0, "c": 1484.0})


def facts(*rows: tuple[int, int, str, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=[KNOWN, "race", "driver_id", "finish"])


def test_a_corrected_race_is_replayed_with_all_after_it() -> None:
    first = [(10, 1, "a", 1.0), (10, 1, "b", 2.0), (20, 2, "a", 1.0), (20, 2, "b", 2.0)]
    corrected = elo(facts(*first, (30, 1, "a", 2.0), (30, 1, "b", 1.0)), "driver_id").set_index([KNOWN, "driver_id"])["elo"]
    afresh = elo(facts((10, 1, "a", 2.0), (10, 1, "b", 1.0), (20, 2, "a", 1.0), (20, 2, "b", 2.0)), "driver_id")
    assert corrected[(10, "a")] == 1516.0
    assert corrected[(30, "a")] == pytest.approx(afresh.set_index([KNOWN, "driver_id"])["elo"][(20, "a")])


def teams(*rows: tuple[int, int, int, str, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=[KNOWN, "season", "race", "constructor_id", "points", "finish_best"])


def test_standings_count_the_latest_season_and_break_ties_by_the_best_finish() -> None:
    table = standings(
        teams(
            (10, 2023, 202301, "x", 25.0, 1.0),
            (10, 2023, 202301, "y", 18.0, 2.0),
            (20, 2024, 202401, "x", 0.0, 12.0),
            (20, 2024, 202401, "y", 0.0, 11.0),
            (20, 2024, 202401, "z", 18.0, 2.0),
            (20, 2024, 202401, "v", 0.0, 12.0),
        )
    ).set_index([KNOWN, "constructor_id"])["standing"]
    assert table[10].to_dict() == {"x": 1.0, "y": 2.0}
    assert table[20].to_dict() == {"z": 1.0, "y": 2.0, "x": 3.0, "v": 3.0}


def test_unknown_points_of_a_team_are_not_zero_points() -> None:
    entries = canonical(
        "entries",
        entry("a", 1, constructor_id="known", points=25.0),
        entry("b", 2, constructor_id="known", points=18.0),
        entry("c", 3, constructor_id="none", points=0.0),
        entry("d", 4, constructor_id="unknown", points=np.nan),
        entry("e", 5, constructor_id="unknown", points=np.nan),
    )
    starters = starter_facts(
        entries, canonical("qualifying", {"race_id": "2024_01", "driver_id": "a", "position": 1, EVENT: FLAG}).iloc[:0], NO_LAPS
    )
    stops = canonical("pit_stops", {"race_id": "2024_01", "driver_id": "a", "lap": 1, EVENT: FLAG}).iloc[:0]
    points = team_facts(starters, stops).set_index("constructor_id")["points"]
    np.testing.assert_array_equal(points[["known", "none", "unknown"]], [43.0, 0.0, np.nan])


def test_without_points_there_is_no_standing() -> None:
    unknown = (float("nan"), 1.0)
    table = standings(teams((10, 2024, 202401, "x", *unknown), (10, 2024, 202401, "y", float("nan"), 2.0)))
    assert table["standing"].isna().all()
    mixed = standings(
        teams(
            (10, 2024, 202401, "x", *unknown),
            (10, 2024, 202401, "y", 0.0, 11.0),
            (10, 2024, 202401, "z", 18.0, 2.0),
            (20, 2024, 202402, "y", float("nan"), 1.0),
        )
    ).set_index([KNOWN, "constructor_id"])["standing"]
    assert mixed[10].fillna(-1).to_dict() == {"z": 1.0, "y": 2.0, "x": -1.0}
    assert mixed[20].fillna(-1).to_dict() == {"z": 1.0, "y": 2.0, "x": -1.0}
