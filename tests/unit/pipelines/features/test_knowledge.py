"""Instants of knowledge: versions, publications, histories, late rows."""

import numpy as np
import pandas as pd
import pytest
from strategies import canonical

from feature_repo.visibility import CREATED, EVENT
from pipelines.errors import ConflictingRowsError
from pipelines.features.knowledge import KNOWN, as_known_at, histories, micros, replayed, stamps, versions, with_race

T0 = pd.Timestamp("2024-03-02T15:00:00Z")


def at(seconds: float) -> pd.Timestamp:
    return T0 + pd.Timedelta(seconds=seconds)


def sample(seconds: float, track: float, known: float | None = None) -> dict[str, object]:
    created = at(seconds if known is None else known)
    return {"race_id": "2024_01", "track_temp_c": track, EVENT: at(seconds), CREATED: created}


def test_stamps_and_micros_are_inverse() -> None:
    instants = pd.Series([T0, at(1.5)]).astype("datetime64[us, UTC]")
    pd.testing.assert_series_equal(stamps(micros(instants)), instants)


def test_a_repeated_row_is_one_version() -> None:
    frame = canonical("weather", sample(0, 30.0), sample(0, 30.0), sample(60, 31.0))
    assert versions(frame, ["race_id", EVENT])["track_temp_c"].tolist() == [30.0, 31.0]


def test_two_different_rows_known_at_one_instant_are_refused() -> None:
    frame = canonical("weather", sample(0, 30.0), sample(0, 35.0))
    with pytest.raises(ConflictingRowsError, match="2024_01"):
        versions(frame, ["race_id", EVENT])


def test_as_known_at_takes_the_newest_version_known_by_each_moment() -> None:
    frame = canonical("weather", sample(0, 30.0), sample(0, 35.0, known=100))
    moments = pd.DataFrame({"race_id": "2024_01", KNOWN: micros(pd.Series([at(-1), at(50), at(100)]))})
    rows = as_known_at(versions(frame, ["race_id", EVENT]), moments, ["race_id", EVENT])
    assert rows["track_temp_c"].tolist() == [30.0, 35.0]
    assert rows[KNOWN].tolist() == moments[KNOWN].tolist()[1:]


def test_a_race_is_null_before_the_calendar_names_it_and_changes_when_it_is_corrected() -> None:
    races = canonical(
        "races",
        {"race_id": "2024_01", "race_start": T0, "scheduled_laps": 50, EVENT: at(10)},
        {"race_id": "2024_01", "race_start": T0, "scheduled_laps": 44, EVENT: at(10), CREATED: at(20)},
    )
    asked = pd.DataFrame({"race_id": "2024_01", KNOWN: micros(pd.Series([at(25), at(5), at(10)]))})
    laps = with_race(asked, races, ["scheduled_laps"])["scheduled_laps"]
    assert laps.isna().tolist() == [False, True, False]
    assert laps.dropna().tolist() == [44, 50]


def test_a_correction_keeps_the_event_of_the_newest_race() -> None:
    race = np.array([1, 2, 1, 3])
    known = np.array([10, 20, 25, 30])
    seen = [(instant, event, rows.tolist()) for instant, event, rows in histories(race, known)]
    assert seen == [(10, 10, [0]), (20, 20, [0, 1]), (25, 20, [2, 1]), (30, 30, [2, 1, 3])]


def test_a_race_published_after_a_later_one_takes_its_place_in_race_order() -> None:
    seen = [(event, rows.tolist()) for _, event, rows in histories(np.array([2, 1]), np.array([10, 20]))]
    assert seen == [(10, [0]), (20, [1, 0])]


def test_a_late_row_shows_from_when_it_arrived_and_what_was_said_before_stays() -> None:
    frame = canonical("weather", sample(0, 30.0), sample(60, 32.0, known=150), sample(120, 34.0), sample(180, 36.0))

    def running_sum(rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows.sort_values(EVENT)
        return rows[["race_id", EVENT]].assign(total=rows["track_temp_c"].cumsum(), **{CREATED: rows[EVENT]})

    rows = replayed(frame, ["race_id", EVENT], ["race_id"], running_sum).sort_values(CREATED)
    got = [((e - T0).total_seconds(), (c - T0).total_seconds(), t) for e, c, t in rows[[EVENT, CREATED, "total"]].to_numpy()]
    assert got == [(0, 0, 30.0), (120, 120, 64.0), (120, 150, 96.0), (180, 180, 132.0)]
