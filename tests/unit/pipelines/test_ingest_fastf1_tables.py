"""Raw frames of what FastF1 parses, and the session clock that recordings bring along."""

import re
from pathlib import Path

import fastf1._api
import fastf1.events
import fastf1.req
import numpy as np
import pandas as pd
import pytest
from fastf1.exceptions import RateLimitExceededError
from fastf1.internals.f1account import LivetimingAuthAdapter, token_manager

from feature_repo.settings import Settings
from pipelines.ingest.base import IngestReport
from pipelines.ingest.canonical import conditions, timing
from pipelines.ingest.canonical.reading import FILE, ROW
from pipelines.ingest.canonical.sieve import Sieve
from pipelines.ingest.fastf1.library import ACCOUNT, Watch, fastf1_library, fastf1_log, when_again
from pipelines.ingest.fastf1.session import IncompleteError, load_race
from pipelines.ingest.fastf1.tables import (
    RawFrames,
    control_rows,
    lap_rows,
    no_laps,
    stints_of_laps,
    stints_of_tyres,
    weather_rows,
)

START = pd.Timestamp("2030-05-05 13:00", tz="UTC")


def seconds(*values: float | None) -> pd.Series:
    return pd.Series([pd.NaT if value is None else pd.Timedelta(seconds=value) for value in values], dtype="timedelta64[ns]")


def test_laps_come_in_our_names_seconds_and_nulls() -> None:
    laps = pd.DataFrame(
        {
            "Time": seconds(700.25, 790.5),
            "LapStartTime": seconds(600, 700.25),
            "LapTime": seconds(None, 90.25),
            "Driver": ["AAA", None],
            "LapNumber": [1.0, 2.0],
            "Compound": ["nan", "SOFT"],
            "FreshTyre": pd.Series([None, True], dtype=object),
            "Deleted": pd.Series([None, None], dtype=object),
            "IsAccurate": [False, True],
            "TrackStatus": ["12", "1"],
            "SpeedST": [np.nan, 310.0],
        }
    ).set_axis([7, 3])
    rows = lap_rows(laps, 2030, 3, "static/TimingData.jsonStream")
    assert set(no_laps().columns) == set(rows.columns) - {FILE, ROW}
    assert rows["end"].tolist() == [700.25, 790.5]
    assert rows["lap_time_s"].isna().tolist() == [True, False]
    assert rows["code"].tolist() == ["AAA", None]
    assert rows["compound"].tolist() == [None, "SOFT"]
    assert rows["is_fresh_tyre"].tolist() == [pd.NA, True]
    assert rows["is_deleted"].isna().all()
    assert rows["sector1_s"].isna().all()  # FastF1 did not have it
    assert rows[["season", "round", ROW]].to_numpy().tolist() == [[2030, 3, 1], [2030, 3, 2]]
    assert set(rows[FILE]) == {"static/TimingData.jsonStream"}


def test_no_laps_have_the_types_of_laps() -> None:
    rows = lap_rows(pd.DataFrame({"Driver": ["AAA"], "LapNumber": [1.0]}), 2030, 3, "f")
    kinds = {name: pd.api.types.infer_dtype(rows[name]) for name in no_laps()}
    assert {name: dtype for name, dtype in rows.dtypes.items() if name not in (FILE, ROW)} == dict(no_laps().dtypes), kinds


def test_race_control_has_numbers_instants_and_the_session_clock_where_known() -> None:
    messages = pd.DataFrame(
        {
            "Time": [pd.Timestamp("2030-05-05 13:07:00"), pd.NaT],
            "Category": ["Flag", "Other"],
            "Message": ["GO", "X"],
            "Flag": ["GREEN", None],
            "RacingNumber": [None, "22"],
            "Lap": [None, 2],
        }
    )
    rows = control_rows(messages, 2030, 3, "f", rows=[4, 9])
    assert rows["time"].tolist() == [pd.Timestamp("2030-05-05 13:07", tz="UTC"), pd.NaT]
    assert rows["car_number"].tolist()[1] == 22
    assert rows[ROW].tolist() == [4, 9]
    assert "session_time" not in rows
    assert control_rows(messages.assign(SessionTime=seconds(5.5, None)), 2030, 3, "f")["session_time"].iloc[0] == 5.5


def tyres(*messages: tuple[str, int, str | None, float | None, float | None]) -> pd.DataFrame:
    frame = pd.DataFrame(list(messages), columns=["Driver", "Stint", "Compound", "StartLaps", "TotalLaps"])
    return frame.assign(Time=seconds(*(100.0 * number for number in range(len(frame)))))


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        # used tyres: three laps when fitted
        ([("1", 0, "SOFT", 3, 3), ("1", 0, None, None, 14)], [("AAA", 1, "SOFT", 1, 11)]),
        # the compound is told late
        ([("1", 0, "UNKNOWN", 0, 0), ("1", 0, "HARD", None, 9)], [("AAA", 1, "HARD", 1, 9)]),
        # never told
        ([("1", 0, "UNKNOWN", 0, 8)], [("AAA", 1, None, 1, 8)]),
        # a set changed on the grid, and one fitted after the flag, are no stints
        (
            [("1", 0, "SOFT", 0, 0), ("1", 1, "WET", 0, 0), ("1", 1, None, None, 20), ("1", 2, "SOFT", 3, 3)],
            [("AAA", 1, "WET", 1, 20)],
        ),
        # one after the other, car by car
        (
            [("1", 0, "SOFT", 0, 10), ("2", 0, "HARD", 0, 25), ("1", 1, "HARD", 2, 17)],
            [("AAA", 1, "SOFT", 1, 10), ("AAA", 2, "HARD", 11, 25), ("2", 1, "HARD", 1, 25)],
        ),
    ],
)
def test_stints_follow_from_tyre_messages(
    messages: list[tuple[str, int, str | None, float | None, float | None]], expected: list[tuple[str, int, str | None, int, int]]
) -> None:
    stints = stints_of_tyres(tyres(*messages), {"1": "AAA"}, 2030, 3, "f")
    found = list(stints[["code", "stint", "compound", "start_lap", "end_lap"]].itertuples(index=False, name=None))
    assert sorted(found) == sorted(expected)
    assert (stints["length_laps"] == stints["end_lap"] - stints["start_lap"] + 1).all()


def test_a_stint_is_known_when_its_last_lap_was_counted_first() -> None:
    counts = tyres(("1", 0, "SOFT", 0, 0), ("1", 0, None, None, 1), ("1", 0, None, None, 2), ("1", 0, "SOFT", None, 2))
    stints = stints_of_tyres(counts, {"1": "AAA"}, 2030, 3, "f")
    assert stints["known"].tolist() == [200.0]
    clock = timing.SessionClock({3: START}, {3: 60.0})
    flags = {3: START + pd.Timedelta(hours=2)}
    no_end = pd.DataFrame({"round": [3.0], "driver_id": ["alpha"], "lap": [1.0], "event_timestamp": [START]})
    made = timing.make_stints(stints.assign(driver_id="alpha"), no_end, flags, clock)
    assert made["event_timestamp"].tolist() == [START + pd.Timedelta(seconds=140)]
    made = timing.make_stints(stints.assign(driver_id="alpha", known=np.nan), no_end, flags, clock)
    assert made["event_timestamp"].tolist() == [flags[3]]


def test_stints_of_laps_begin_on_lap_one() -> None:
    laps = pd.DataFrame(
        {
            "season": 2030.0,
            "round": 3.0,
            "code": "AAA",
            "lap": [1.0, 2.0, 3.0, 4.0],
            "stint": [np.nan, 1.0, 2.0, 2.0],
            "compound": [None, "SOFT", "HARD", "HARD"],
            FILE: "f",
        }
    )
    stints = stints_of_laps(laps)
    columns = ["code", "stint", "compound", "start_lap", "end_lap", "length_laps"]
    assert stints[columns].to_numpy().tolist() == [["AAA", 1, "SOFT", 1, 2, 2], ["AAA", 2, "HARD", 3, 4, 2]]


def test_frames_keep_each_row_once_and_the_books() -> None:
    report = IngestReport("livetiming", is_simulated=False, seasons=[2030])
    sieve, frames = Sieve(report, [2030]), RawFrames()
    reading = {"AirTemp": 20.0, "TrackTemp": 30.0, "Humidity": 50.0, "Pressure": 1000.0, "WindDirection": 9.0, "WindSpeed": 1.0}
    weather = pd.DataFrame([{**reading, "Rainfall": False}] * 3).assign(Time=seconds(10, 10, 70))
    weather.loc[2, "Pressure"] = 0.0
    frames.add("weather", weather_rows(weather, 2030, 3, "f"), sieve)
    assert len(frames.get("weather", sieve)) == 1
    account = report.table("weather")
    assert (account.rows_read, account.rows_duplicate, account.rows_quarantined) == (3, 1, 1)
    assert frames.get("laps", sieve).empty
    assert len(frames.get("laps", sieve).columns) > 20


def test_a_given_origin_is_used_where_there_is_no_lap_one() -> None:
    laps = pd.DataFrame({"round": [1.0, 2.0], "lap": [1.0, 2.0], "start": [50.0, 500.0]})
    clock = timing.make_clock(laps, {1: START, 2: START}, {1: 7.0, 2: 60.0})
    assert clock.origins == {1: 50.0, 2: 60.0}
    assert timing.make_clock(no_laps(), {1: START}, {1: 7.0}).origins == {1: 7.0}
    assert timing.make_clock(no_laps(), {1: START}).origins == {}


def test_race_control_with_a_session_time_is_not_guessed_from_laps() -> None:
    report = IngestReport("livetiming", is_simulated=False, seasons=[2030])
    raw = pd.DataFrame(
        {
            "season": 2030.0,
            "round": [1.0, 1.0, 2.0],
            "time": START + pd.to_timedelta([900, 960, 10], unit="s"),
            "lap": [2.0, 3.0, 2.0],
            "session_time": [130.0, np.nan, 130.0],
            FILE: "f",
            ROW: [1, 2, 3],
        }
    )
    laps = pd.DataFrame({"round": [1.0, 1.0], "lap": [2.0, 3.0], "lap_start": START + pd.to_timedelta([100, 190], unit="s")})
    clock = timing.SessionClock({1: START, 2: START}, {1: 60.0})
    control = conditions.make_race_control(raw, laps, clock, Sieve(report, [2030]))
    since = (control["event_timestamp"] - START).dt.total_seconds().tolist()
    # the second has no session time: 960 s less the delay that the laps let expect; race 2 has no clock
    assert since[0] == 70.0
    assert since[1] == pytest.approx(960 - (770 + 0.25 * 30 - 20), abs=1)
    assert since[2] == 10.0


def test_fastf1_is_as_it_was_after_use(settings: Settings) -> None:
    def state() -> list[object]:
        cache, session = fastf1.req.Cache, fastf1.req._SessionWithRateLimiting
        api, events = fastf1._api, fastf1.events
        return [
            *(api.base_url, api.base_url_mirror, events._SCHEDULE_BASE_URL, cache._CACHE_DIR, cache._requests_session_cached),
            *(session._RATE_LIMITS, list(fastf1.logger.LoggingManager._root_logger.handlers)),
        ]

    before = state()
    elsewhere = settings.model_copy(update={"livetiming_url": "http://127.0.0.1:9/", "schedule_url": "http://127.0.0.1:9"})
    with pytest.raises(KeyError), fastf1_library(elsewhere):
        assert fastf1._api.base_url == fastf1._api.base_url_mirror == "http://127.0.0.1:9"
        assert fastf1.events._SCHEDULE_BASE_URL == "http://127.0.0.1:9/"
        assert Path(fastf1.req.Cache._CACHE_DIR) == settings.cache_dir / "fastf1"
        raise KeyError
    assert state() == before
    with fastf1_library(settings):
        assert fastf1._api.base_url_mirror == before[1]  # the official archive keeps its mirror
    assert state() == before


@pytest.mark.parametrize("is_given", [False, True])
def test_nobody_is_asked_for_a_password(settings: Settings, monkeypatch: pytest.MonkeyPatch, is_given: bool) -> None:
    monkeypatch.setattr(token_manager, "get_stored", lambda: None)
    for name in ACCOUNT:
        monkeypatch.setenv(name, "someone" if is_given else "")
    with fastf1_library(settings):
        adapter = fastf1.req.Cache._requests_session_cached.get_adapter(settings.livetiming_url + "/static/")
        assert isinstance(adapter, LivetimingAuthAdapter) == is_given


def test_what_fastf1_says_is_logged_here_and_what_it_swallows_is_collected(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    @fastf1.logger.soft_exceptions("data", "Failed to load data!", fastf1.logger.get_logger("test"))
    def fail() -> None:
        raise OSError("no route")

    with caplog.at_level("DEBUG", "pipelines"), fastf1_log(["As always"]) as watch:
        fail()
        fastf1.logger.get_logger("test").warning("As always, nothing.")
        fastf1.logger.get_logger("test").info("Loading ...")
    assert [str(error) for error in watch.swallowed] == ["no route"]
    assert [(record.levelname, record.name) for record in caplog.records] == [
        (level, "pipelines.ingest.fastf1.library") for level in ("WARNING", "DEBUG", "DEBUG", "DEBUG")
    ]
    said = capfd.readouterr()
    assert "Failed to load" not in said.out + said.err


def test_the_window_of_fastf1s_own_limit_opens_when_its_oldest_call_is_an_hour_old(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = fastf1.req._CallsPerIntervalLimitRaise(3, 3600, "any API: 3 calls/h")
    now = pd.Timestamp.now("UTC").floor("s")
    limiter._timestamps.extend((now - pd.Timedelta(seconds=age)).timestamp() for age in (3000, 600))
    monkeypatch.setattr(fastf1.req._SessionWithRateLimiting, "_RATE_LIMITS", {re.compile("^http"): [limiter]})
    with pytest.raises(RateLimitExceededError) as reached:
        limiter.limit()
    assert when_again(reached.value) == now + pd.Timedelta(seconds=3000)
    monkeypatch.setattr(fastf1.req.time, "time", lambda: (now + pd.Timedelta(seconds=3001)).timestamp())
    limiter.limit()
    unknown = when_again(RateLimitExceededError("another service"))
    assert abs(unknown - now - pd.Timedelta(seconds=3001 + 3600)) < pd.Timedelta(minutes=1)


class Loaded:
    """A session that FastF1 has loaded, as far as it could."""

    f1_api_support = True
    api_path = "/static/2030/meeting/race/"

    def __init__(self, settings: Settings, watch: Watch, last_lap: int, *, fails: bool = False) -> None:
        self.laps = self._laps = pd.DataFrame({"LapNumber": [float(lap) for lap in range(1, last_lap + 1)]})
        self.watch, self.fails = watch, fails
        self.parsed = settings.cache_dir / "fastf1" / "2030" / "meeting" / "race" / "_extended_timing_data.ff1pkl"

    def load(self, **_: bool) -> None:
        """Download the timing, unless it is kept."""
        self.watch.forget()
        if not self.parsed.exists():
            self.watch.downloaded.append(f"{self.api_path}TimingData.jsonStream")
            self.parsed.parent.mkdir(parents=True, exist_ok=True)
            self.parsed.touch()
        if self.fails:
            raise TypeError("a stint without a tyre")


@pytest.mark.parametrize(("last_lap", "fails", "found"), [(0, False, 0), (44, False, 44), (50, True, 0)])
def test_timing_that_is_cut_off_is_asked_for_once_more_and_then_left_as_it_is(
    settings: Settings, last_lap: int, fails: bool, found: int
) -> None:
    with fastf1_library(settings) as watch:
        session = Loaded(settings, watch, last_lap, fails=fails)
        with pytest.raises(IncompleteError, match=f"timing of {found} of 50 laps"):
            load_race(session, watch, winner_laps=50, is_settled=True)
        assert not session.parsed.exists()
        for _ in range(2):
            said = load_race(session, watch, winner_laps=50, is_settled=True)
            assert said is not None
            assert f"FastF1 finds timing of {found} of 50 laps in the archive" in said
            assert ("TypeError: a stint without a tyre" in said) == fails
            assert session.parsed.exists()
        # a race of these days may be published whole tomorrow
        assert load_race(session, watch, winner_laps=50, is_settled=False) is not None
        assert not session.parsed.exists()


def test_the_end_of_a_race_may_be_missing(settings: Settings) -> None:
    """Real: three laps of 71."""
    with fastf1_library(settings) as watch:
        assert load_race(Loaded(settings, watch, 68), watch, winner_laps=71, is_settled=True) is None
