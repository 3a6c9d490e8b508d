"""Moments of prediction: how they are written, which lap they mean, and which instant that was."""

from datetime import timedelta, timezone
from fractions import Fraction

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_home import DRIVERS, RACES, START, at, write_all

from feature_repo.errors import (
    FutureMomentError,
    InvalidIdError,
    InvalidMomentError,
    MissingInputError,
    NotKnownYetError,
    UnknownEntityError,
)
from feature_repo.files import write_parquet
from feature_repo.settings import Settings
from feature_repo.spine import (
    SPINE_COLUMNS,
    Moment,
    entity_frame,
    find_entrant,
    find_entrant_at,
    load_entrants,
    load_entrants_known,
    load_moments,
    newest_known,
    refuse_future,
    resolve_moment,
)


def moments(n_laps: int, scheduled: int, race_id: str = "2021_12") -> pd.DataFrame:
    """A race in which the leader takes 100.25 s a lap and is stopped after `n_laps`."""
    return pd.DataFrame(
        {
            "race_id": race_id,
            "lap": range(n_laps + 1),
            "as_of": [at(100.25 * lap) for lap in range(n_laps + 1)],
            "scheduled_laps": scheduled,
            "race_start": START,
        }
    )


@pytest.mark.parametrize("text", ["pre_race", "lap:0", "lap:22", "fraction:0.5", "fraction:0.1", "fraction:1.0", "fraction:1/3"])
def test_written_and_read_back(text: str) -> None:
    assert str(Moment.parse(text)) == text
    assert Moment.parse(str(Moment.parse(text))) == Moment.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "lap", "lap:", "lap:-1", "lap:2.5", "lap:٣", "lap:99999", "pre_race:1", "fraction:", "fraction:-0.1", "fraction:1.01",
     "fraction:nan", "fraction:inf", "fraction:1/0", "half", "lap:1; drop table"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidMomentError, match="expected pre_race"):
        Moment.parse(text)


@given(percent=st.integers(0, 100), scheduled=st.integers(1, 100))
def test_a_fraction_is_the_first_lap_that_covers_it(percent: int, scheduled: int) -> None:
    lap = Moment.parse(f"fraction:{percent / 100}").lap_of(scheduled)
    assert 100 * lap >= percent * scheduled > 100 * (lap - 1)


def test_a_tenth_of_seventy_laps_is_lap_seven() -> None:
    assert Moment.parse("fraction:0.1").lap_of(70) == 7  # in binary floating point 0.1 * 70 is above 7
    assert Moment("fraction", fraction=Fraction(1, 2)).lap_of(51) == 26


def test_the_instant_is_when_the_leader_completes_the_lap() -> None:
    point = resolve_moment(moments(44, 44), "2021_12", Moment.parse("fraction:0.5"))
    assert (point.lap, point.as_of, point.truncated) == (22, at(2205.5), False)
    start = resolve_moment(moments(44, 44), "2021_12", Moment.parse("pre_race"))
    assert (start.lap, start.as_of, start.truncated) == (0, START, False)


def test_belgium_2021_was_stopped_before_the_lap_asked_for() -> None:
    point = resolve_moment(moments(3, 44), "2021_12", Moment.parse("lap:22"))
    assert (point.lap, point.as_of, point.truncated) == (3, at(300.75), True)
    nothing_driven = resolve_moment(moments(0, 44), "2021_12", Moment.parse("fraction:0.5"))
    assert (nothing_driven.lap, nothing_driven.as_of, nothing_driven.truncated) == (0, START, True)


def test_a_lap_beyond_the_schedule_is_an_error_that_says_the_distance() -> None:
    with pytest.raises(InvalidMomentError, match="scheduled over 44 laps"):
        resolve_moment(moments(44, 44), "2021_12", Moment.parse("lap:45"))


def test_an_unknown_race_suggests_near_ones() -> None:
    with pytest.raises(UnknownEntityError, match="did you mean 2021_12"):
        resolve_moment(moments(3, 44), "2021_13", Moment.parse("pre_race"))
    with pytest.raises(InvalidIdError):
        resolve_moment(moments(3, 44), "../../etc", Moment.parse("pre_race"))


def test_entity_frame_has_one_sorted_row_per_entrant_at_the_moment_of_its_race(settings: Settings) -> None:
    write_all(settings, n_laps=4)
    spine = entity_frame(settings, Moment.parse("fraction:0.25"))
    assert tuple(spine.columns) == SPINE_COLUMNS
    assert list(zip(spine["race_id"], spine["driver_id"], strict=True)) == [
        (race, driver) for race in RACES for driver in DRIVERS
    ]
    assert str(spine["event_timestamp"].dtype) == "datetime64[us, UTC]"
    for race_id, of_race in spine.groupby("race_id"):
        point = resolve_moment(load_moments(settings), str(race_id), Moment.parse("fraction:0.25"))
        assert set(of_race["event_timestamp"]) == {point.as_of}
        assert set(of_race["lap"]) == {2}
    only = entity_frame(settings, Moment.parse("pre_race"), ["2024_09"])
    assert set(only["race_id"]) == {"2024_09"}
    assert len(only) == 3


def test_entity_frame_refuses_unknown_races_and_races_without_moments(settings: Settings) -> None:
    write_all(settings)
    with pytest.raises(UnknownEntityError, match="2024_10"):
        entity_frame(settings, Moment.parse("pre_race"), ["2024_08", "2024_10"])
    known = load_moments(settings)
    write_parquet(settings.features_dir / "moments.parquet", known[known["race_id"] == "2024_08"])
    with pytest.raises(UnknownEntityError, match=r"2024_09: .*entrants but no moments"):
        entity_frame(settings, Moment.parse("pre_race"))


def test_find_entrant_suggests_near_drivers_of_that_race(settings: Settings) -> None:
    write_all(settings)
    entrants = load_entrants(settings)
    assert find_entrant(entrants, "2024_08", "norris")["constructor_id"] == "mclaren"
    with pytest.raises(UnknownEntityError, match="in race 2024_08; did you mean max_verstappen"):
        find_entrant(entrants, "2024_08", "verstappen")
    with pytest.raises(InvalidIdError):
        find_entrant(entrants, "2024_08", "VER")


def test_without_feature_tables_the_error_says_what_to_run(settings: Settings) -> None:
    with pytest.raises(MissingInputError, match="run the step that writes it first"):
        load_entrants(settings)


@pytest.mark.parametrize(
    "text",
    ["at:2024-10-27T00:30:00Z", "at:2024-10-27T02:30:00+02:00", "at:2024-10-27T01:30:00+01:00", "at:2024-10-27T00:30:00",
     "at:2024-10-26T20:30:00-04:00", " at:2024-10-27 00:30 ", "at:20241027T003000Z"],
)  # fmt: skip
def test_an_instant_may_be_written_in_any_offset_and_is_utc_without_one(text: str) -> None:
    """The hour from 02:00 came twice in central Europe that night: an offset says which one is meant."""
    moment = Moment.parse(text)
    assert moment == Moment.at(pd.Timestamp("2024-10-27T00:30:00Z"))
    assert str(moment) == "at:2024-10-27T00:30:00Z"
    assert Moment.parse(str(moment)) == moment


def test_the_hour_that_comes_twice_is_two_instants() -> None:
    summer, winter = Moment.parse("at:2024-10-27T02:30:00+02:00"), Moment.parse("at:2024-10-27T02:30:00+01:00")
    assert summer.instant is not None
    assert winter.instant == summer.instant + pd.Timedelta(hours=1)


@given(st.integers(-(10**15), 4 * 10**15), st.integers(-14 * 60, 14 * 60))
def test_every_instant_is_read_back_to_the_microsecond(us: int, offset_min: int) -> None:
    written = pd.Timestamp(us, unit="us", tz="UTC").tz_convert(timezone(timedelta(minutes=offset_min)))
    moment = Moment.parse(f"at:{written.isoformat()}")
    assert moment.instant == pd.Timestamp(written)
    assert Moment.parse(str(moment)) == moment


@pytest.mark.parametrize(
    "text",
    ["at:", "at:now", "at:today", "at:12", "at:2024-05-26T14:00 CEST", "at:2024-05-26T14:00 Europe/Monaco", "at:2024-13-01"],
)
def test_zones_by_name_and_words_for_instants_are_refused(text: str) -> None:
    with pytest.raises(InvalidMomentError, match="at:<UTC instant>"):
        Moment.parse(text)


def test_an_instant_of_a_race_is_itself_with_the_lap_known_then(settings: Settings) -> None:
    write_all(settings, n_laps=3)
    for seconds, lap in ((-3600, 0), (0, 0), (91.4, 0), (91.5, 1), (200, 2), (9999, 3)):
        point = resolve_moment(load_moments(settings), "2024_08", Moment.at(at(seconds)))
        assert (point.lap, point.as_of, point.truncated) == (lap, at(seconds), False)
    with pytest.raises(FutureMomentError, match="expected an instant in the past"):
        resolve_moment(load_moments(settings), "2024_08", Moment.at(pd.Timestamp.now("UTC") + pd.Timedelta(minutes=1)))


def test_who_takes_part_is_what_was_known_then(settings: Settings) -> None:
    write_all(settings)
    history = load_entrants_known(settings)
    norris = history[(history["race_id"] == "2024_08") & (history["driver_id"] == "norris")]
    moved = norris.assign(constructor_id="red_bull", event_timestamp=at(-60), created_timestamp=at(-60))
    gone = norris.assign(is_entered=False, event_timestamp=at(60), created_timestamp=at(60))
    write_parquet(settings.features_dir / "entrants_known.parquet", pd.concat([history, moved, gone]))
    teams = {}
    for seconds in (-61, -60, 59, 60):
        spine = entity_frame(settings, Moment.at(at(seconds)), ["2024_08"])
        teams[seconds] = dict(zip(spine["driver_id"], spine["constructor_id"], strict=True)).get("norris")
    assert teams == {-61: "mclaren", -60: "red_bull", 59: "red_bull", 60: None}
    assert find_entrant_at(settings, "2024_08", "norris", at(0))["constructor_id"] == "red_bull"
    with pytest.raises(NotKnownYetError, match=r"2024_08, as of .*: norris was not known to take part"):
        find_entrant_at(settings, "2024_08", "norris", at(61))
    with pytest.raises(NotKnownYetError, match=r"no driver was known to take part; that was known from 2024-05-19T13:00:00"):
        entity_frame(settings, Moment.at(at(-8 * 86_400)), ["2024_08"])
    with pytest.raises(UnknownEntityError, match="did you mean"):
        find_entrant_at(settings, "2024_08", "verstappen", at(0))


def test_an_instant_long_after_the_newest_row_is_refused(settings: Settings) -> None:
    write_all(settings)
    newest = newest_known(settings)
    assert newest == at(14 * 86_400 + 18_000)
    refuse_future(newest + pd.Timedelta(days=1), newest=newest)
    with pytest.raises(FutureMomentError, match="ingest newer races"):
        refuse_future(newest + pd.Timedelta(days=1, microseconds=1), newest=newest)
