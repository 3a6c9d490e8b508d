"""What was known of races and entrants, from when: the tables that questions about the past start from."""

import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import Lake, canonical, instants, lakes

from feature_repo.visibility import CREATED, EVENT, latest_visible
from pipelines.features.spine import compute_entrants_known, compute_moments, compute_races_known
from pipelines.features.tables import COMPUTE

QUALIFYING, GRID, FLAG, RESULT = (pd.Timestamp(f"2024-05-{text}Z") for text in ("25T16:00", "26T12:00", "26T15:00", "26T18:00"))
CORRECTED = RESULT + pd.Timedelta(days=10)


def entry(driver: str, team: str = "mclaren", **other: object) -> dict[str, object]:
    return {"race_id": "2024_08", "driver_id": driver, "constructor_id": team, "code": driver[:3].upper(), "position_order": 1,
            "grid_timestamp": GRID, EVENT: FLAG, CREATED: RESULT, **other}  # fmt: skip


def in_session(driver: str, team: str = "mclaren") -> dict[str, object]:
    return {"race_id": "2024_08", "driver_id": driver, "constructor_id": team, "position": 1, EVENT: QUALIFYING}


def person(driver: str, name: str, known: pd.Timestamp) -> dict[str, object]:
    return {"season": 2024, "driver_id": driver, "given_name": name, "family_name": "Other", EVENT: GRID, CREATED: known}


def then(known: pd.DataFrame, instant: pd.Timestamp) -> dict[str, tuple[str, str]]:
    """driver_id -> team and name of who was known to take part."""
    rows = latest_visible(known, ["race_id", "driver_id"], instant)
    return {row.driver_id: (row.constructor_id, row.driver_name) for row in rows.itertuples() if row.is_entered}


def test_qualifying_tells_first_then_the_grid_alone_then_the_newest_result() -> None:
    entries = canonical("entries", entry("norris"), entry("late", "sauber"), entry("late", "haas", **{CREATED: CORRECTED}))
    session = canonical("qualifying", in_session("norris"), in_session("hurt"))
    known = compute_entrants_known(entries, session, canonical("drivers", person("norris", "Lando", GRID)))
    us = pd.Timedelta(microseconds=1)
    assert then(known, QUALIFYING - us) == {}
    assert then(known, GRID - us) == {"norris": ("mclaren", "norris"), "hurt": ("mclaren", "hurt")}
    assert then(known, GRID) == {"norris": ("mclaren", "Lando Other"), "late": ("sauber", "LAT")}, "hurt is not on the grid"
    assert then(known, CORRECTED - us)["late"] == ("sauber", "LAT")
    assert then(known, CORRECTED)["late"] == ("haas", "LAT")


def test_a_name_corrected_later_counts_from_then_on() -> None:
    people = canonical("drivers", person("norris", "Land", GRID), person("norris", "Lando", CORRECTED))
    known = compute_entrants_known(canonical("entries", entry("norris")), canonical("qualifying", in_session("norris")), people)
    assert then(known, CORRECTED - pd.Timedelta(microseconds=1))["norris"] == ("mclaren", "Land Other")
    assert then(known, CORRECTED)["norris"] == ("mclaren", "Lando Other")
    assert list(known[EVENT]) == [QUALIFYING, GRID, CORRECTED], "a row only where something changed"


def test_a_corrected_distance_counts_from_then_on() -> None:
    race = {"race_id": "2024_08", "race_start": GRID + pd.Timedelta(hours=1), EVENT: QUALIFYING - pd.Timedelta(days=6)}
    races = canonical("races", {**race, "scheduled_laps": 78}, {**race, "scheduled_laps": 70, CREATED: GRID},
                      {**race, "scheduled_laps": 70, "race_end": FLAG, CREATED: RESULT})  # fmt: skip
    known = compute_races_known(races)
    assert list(known["scheduled_laps"]) == [78, 70], "when it ended is no fact of the calendar"
    assert list(known[EVENT]) == [race[EVENT], GRID]


def test_a_lap_counts_once_any_car_is_known_to_have_ended_it_or_a_later_one() -> None:
    race = {"race_id": "2024_08", "race_start": GRID, EVENT: QUALIFYING}
    at = {lap: GRID + pd.Timedelta(minutes=2 * lap) for lap in range(1, 4)}
    late = at[3] + pd.Timedelta(minutes=30)
    lap = {"race_id": "2024_08", "driver_id": "norris"}
    laps = canonical("laps", {**lap, "lap": 1, EVENT: at[1]}, {**lap, "lap": 2, EVENT: at[2], CREATED: late},
                     {**lap, "lap": 3, EVENT: at[3]})  # fmt: skip
    moments = compute_moments(canonical("races", race), laps)
    assert list(moments["known_at"]) == [QUALIFYING, at[1], at[3], at[3]], "lap 2 arrived late, lap 3 told of it"
    assert list(moments["as_of"]) == [GRID, at[1], at[2], at[3]]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_long_after_everything_both_ways_of_asking_agree(data: st.DataObject) -> None:
    lake: Lake = data.draw(lakes(late=False))
    after = data.draw(instants(lake)) + pd.Timedelta(days=4000)
    rows = latest_visible(COMPUTE["entrants_known"](lake), ["race_id", "driver_id"], after)
    columns = ["race_id", "driver_id", "constructor_id", "code", "driver_name"]
    entered = rows.loc[rows["is_entered"].astype(bool), columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(entered, COMPUTE["entrants"](lake)[columns])
