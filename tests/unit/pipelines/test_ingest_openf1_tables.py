"""OpenF1's answers as raw frames, on a small invented season: what is missing, repeated, contradictory, or was decided later."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines.errors import SourceFormatError
from pipelines.ingest.openf1.answers import FIELDS, RaceWeekend, race_weekends, typed
from pipelines.ingest.openf1.counting import Standing, count_rounds
from pipelines.ingest.openf1.flags import LIGHTS_OUT_S, lights_out, session_clock, status_changes, status_of_laps
from pipelines.ingest.openf1.results import classification_at_flag, make_qualifying, make_results, with_provisional
from pipelines.ingest.openf1.tables import RaceAnswers, make_laps, make_people, make_pit_stops, make_stints

BOOK = Path(__file__).parents[2] / "data" / "http" / "openf1_2022.json"
START = pd.Timestamp("2022-03-06T15:03:30Z")
CARS = {"AAA": 7, "BBB": 8, "CCC": 9}
# the lap on which car 9 stopped: no instant of its end follows from it
STOPPED = {
    **dict.fromkeys(["lap_duration", "duration_sector_1", "duration_sector_2", "duration_sector_3", "i2_speed"]),
    **{"driver_number": 9, "lap_number": 3, "date_start": "2022-03-06T15:06:47+00:00", "i1_speed": 250, "st_speed": 310},
}


@cache
def book() -> dict[str, list[dict[str, Any]]]:
    return json.loads(BOOK.read_text(encoding="utf-8"))


def answer(endpoint: str, query: str) -> pd.DataFrame:
    return typed(endpoint, book().get(f"{endpoint}?{query}"), f"{endpoint}?{query}")


@pytest.fixture(scope="module")
def race() -> RaceAnswers:
    weekend = race_weekends(answer("meetings", "year=2022"), answer("sessions", "year=2022"))[0]
    lists = ("stints", "pit", "position", "weather", "race_control")
    return RaceAnswers(
        **{name: answer(name, "session_key=9102") for name in lists},
        laps=typed("laps", [*book()["laps?session_key=9102"], STOPPED], "laps?session_key=9102"),
        drivers=answer("drivers", "meeting_key=901"),
        season=2022,
        round=1,
        weekend=weekend,
        result=answer("session_result", "session_key=9102"),
        qualifying=answer("session_result", "session_key=9101"),
        starting_grid=answer("starting_grid", "session_key=9101"),
    )


def laps_of(race: RaceAnswers) -> pd.DataFrame:
    laps, _ = make_laps(race, make_people([race]), START)
    return laps.set_index(["code", "lap"])


def changed(frame: pd.DataFrame, car: int, **values: Any) -> pd.DataFrame:
    """`frame` with other values in the rows of one car."""
    return frame.assign(**{name: frame[name].mask(frame["driver_number"] == car, value) for name, value in values.items()})


class TestAnswers:
    def test_no_rows_are_a_frame_whether_the_service_says_404_or_an_empty_list(self) -> None:
        for rows in (None, []):
            frame = typed("laps", rows, "laps?session_key=1")
            assert frame.empty
            assert set(FIELDS["laps"]) <= set(frame.columns)

    def test_optional_fields_may_be_missing_and_unknown_ones_are_ignored(self) -> None:
        frame = typed("pit", [{"driver_number": 1, "lap_number": None, "date": "2022-03-06T15:00:00+00:00", "new": 1}], "pit")
        assert frame["lane_duration"].isna().all()
        assert "new" not in frame

    @pytest.mark.parametrize(
        ("rows", "told"),
        [
            ({"detail": "no"}, "expected a JSON array of objects"),
            ([1], "expected a JSON array of objects"),
            ([{"driver_number": 1}], "column 'date': got no such field"),
            (
                [{"driver_number": "1", "date": None, "position": 1}],
                "row 1, column 'driver_number': got '1', expected",
            ),
            ([{"driver_number": True, "date": None, "position": 1}], "expected a whole number"),
            ([{"driver_number": 1.5, "date": None, "position": 1}], "expected a whole number"),
            ([{"driver_number": 1, "date": "yesterday", "position": 1}], "expected an ISO-8601 instant"),
            ([{"driver_number": 1, "date": 7, "position": 1}], "expected an ISO-8601 instant"),
        ],
    )
    def test_what_is_not_documented_is_named(self, rows: Any, told: str) -> None:
        with pytest.raises(SourceFormatError) as caught:
            typed("position", rows, "position?session_key=1")
        assert "position?session_key=1" in str(caught.value)
        assert told in str(caught.value)

    def test_instants_with_and_without_fractions_are_read(self) -> None:
        rows = [
            {"driver_number": 1, "date": date, "position": 1}
            for date in ("2022-03-06T15:00:00+00:00", "2022-03-06T15:00:00.250000+00:00", None)
        ]
        dates = typed("position", rows, "position")["date"]
        assert dates.iloc[1] - dates.iloc[0] == pd.Timedelta(milliseconds=250)
        assert pd.isna(dates.iloc[2])


class TestWeekends:
    def test_testing_has_no_race_and_sprints_are_none(self) -> None:
        meetings = answer("meetings", "year=2022").assign(is_cancelled=pd.array([pd.NA] * 4, dtype="boolean"))
        weekends = race_weekends(meetings, answer("sessions", "year=2022"))
        assert [weekend.name for weekend in weekends] == ["First Grand Prix", "Second Grand Prix", "Third Grand Prix"]
        assert [weekend.race_key for weekend in weekends] == [9102, 9202, 9304]
        assert [weekend.qualifying_key for weekend in weekends] == [9101, 9201, 9301]

    def test_a_meeting_or_session_marked_as_cancelled_is_left_out(self) -> None:
        meetings, sessions = answer("meetings", "year=2022"), answer("sessions", "year=2022")
        assert meetings.loc[meetings["is_cancelled"], "meeting_key"].tolist() == [902]
        assert [weekend.meeting_key for weekend in race_weekends(meetings, sessions)] == [901, 903]
        off = sessions.assign(is_cancelled=pd.array(sessions["session_key"] == 9304, dtype="boolean"))
        assert [weekend.meeting_key for weekend in race_weekends(meetings, off)] == [901]

    def test_races_come_in_order_of_date_whatever_the_order_of_the_answer(self) -> None:
        meetings, sessions = answer("meetings", "year=2022"), answer("sessions", "year=2022")
        assert race_weekends(meetings[::-1], sessions[::-1]) == race_weekends(meetings, sessions)


class TestLightsOut:
    def test_it_follows_from_race_times_free_of_penalties(self, race: RaceAnswers) -> None:
        # car 7 was given 5 s, so its lap 1 seems 5 s longer; a third car makes the median
        third = race.laps[race.laps["driver_number"] == 8].assign(driver_number=10)
        result = pd.concat([race.result, race.result[race.result["driver_number"] == 8].assign(driver_number=10)])
        assert lights_out(pd.concat([race.laps, third]), result, race.race_control) == START

    def test_the_pit_exit_opening_counts_where_race_times_contradict_it(self, race: RaceAnswers) -> None:
        wrong = race.result.assign(duration=[4000.0, 4000.0, None])
        assert lights_out(race.laps, wrong, race.race_control) == START
        late = race.race_control.assign(date=race.race_control["date"] + pd.Timedelta(milliseconds=600))
        assert lights_out(race.laps, wrong, late) == START + pd.Timedelta(milliseconds=600)

    def test_a_gap_instead_of_a_race_time_is_not_believed(self, race: RaceAnswers) -> None:
        gaps = race.result.assign(duration=[1.6, 375.25 - 5, None])
        assert lights_out(race.laps, gaps, race.race_control) == START

    def test_a_restart_on_lap_1_is_not_taken_for_the_start(self, race: RaceAnswers) -> None:
        again = race.race_control.iloc[[1]].assign(date=START + pd.Timedelta(seconds=90))
        result = changed(race.result, 7, duration=None)
        assert lights_out(race.laps, result, pd.concat([race.race_control, again])) == START

    def test_without_either_it_says_what_is_missing(self, race: RaceAnswers) -> None:
        with pytest.raises(SourceFormatError, match=r"got no message 'GREEN LIGHT .* before lap 2.*\(--rounds\)"):
            lights_out(race.laps, race.result.assign(duration=None), race.race_control.iloc[2:])


class TestLaps:
    def test_lap_1_runs_from_lights_out_to_where_lap_2_begins(self, race: RaceAnswers) -> None:
        laps = laps_of(race)
        assert (laps.xs(1, level="lap")["start"] == LIGHTS_OUT_S).all()
        assert laps.at[("AAA", 1), "end"] == LIGHTS_OUT_S + 100
        assert np.isnan(laps.at[("AAA", 1), "lap_time_s"])

    def test_a_lap_ends_after_its_time_even_where_the_next_one_begins_elsewhere(self, race: RaceAnswers) -> None:
        late = race.laps["date_start"].mask(race.laps["lap_number"] == 3, race.laps["date_start"] + pd.Timedelta(minutes=6))
        laps = laps_of(replace(race, laps=race.laps.assign(date_start=late)))
        assert laps.at[("AAA", 2), "end"] == LIGHTS_OUT_S + 190

    def test_a_lap_without_a_beginning_begins_where_the_last_one_ended(self, race: RaceAnswers) -> None:
        gone = race.laps["date_start"].mask(race.laps["lap_number"] == 3)
        laps = laps_of(replace(race, laps=race.laps.assign(date_start=gone)))
        assert laps.at[("AAA", 3), "start"] == laps.at[("AAA", 2), "end"]

    def test_a_lap_begun_after_the_flag_is_left_out_and_counted(self, race: RaceAnswers) -> None:
        laps, after_flag = make_laps(race, make_people([race]), START)
        assert after_flag == 1
        assert laps.groupby("code")["lap"].max().to_dict() == {"AAA": 4, "BBB": 4, "CCC": 3}

    def test_the_lap_on_which_a_car_stopped_has_no_end(self, race: RaceAnswers) -> None:
        laps = laps_of(race)
        assert np.isnan(laps.at[("CCC", 3), "end"])
        assert laps.at[("CCC", 3), "track_status"] is None

    def test_the_order_of_rows_does_not_matter(self, race: RaceAnswers) -> None:
        upside_down = {name: getattr(race, name)[::-1].reset_index(drop=True) for name in ("laps", "stints", "position", "pit")}
        pd.testing.assert_frame_equal(laps_of(replace(race, **upside_down)), laps_of(race))

    def test_rows_that_come_twice_say_the_same_twice(self, race: RaceAnswers) -> None:
        once, _ = make_laps(race, make_people([race]), START)
        twice, _ = make_laps(replace(race, laps=pd.concat([race.laps, race.laps])), make_people([race]), START)
        pd.testing.assert_frame_equal(twice.drop_duplicates(["code", "lap"], ignore_index=True), once)
        pd.testing.assert_frame_equal(twice.drop_duplicates(["code", "lap"], keep="last", ignore_index=True), once)

    def test_a_pit_stop_is_on_the_lap_of_entry_and_the_next_one(self, race: RaceAnswers) -> None:
        laps = laps_of(race)
        assert laps.at[("CCC", 1), "pit_in"] == LIGHTS_OUT_S + 120.0 - 20.5
        assert laps.at[("CCC", 2), "pit_out"] == LIGHTS_OUT_S + 120.0
        assert laps["pit_in"].notna().sum() == laps["pit_out"].notna().sum() == 1

    @pytest.mark.parametrize("field", ["lane_duration", "pit_lane_time", "pit_duration"])
    def test_the_time_in_the_pit_lane_goes_by_several_names(self, race: RaceAnswers, field: str) -> None:
        pit = race.pit.assign(lane_duration=np.nan, pit_lane_time=np.nan, pit_duration=np.nan)
        pit[field] = 21.5
        stops, of_no_lap = make_pit_stops(replace(race, pit=pit), make_people([race]), START)
        assert (stops["pit_out"] - stops["pit_in"]).tolist() == [21.5]
        assert of_no_lap == 0

    def test_position_is_the_last_one_known_when_the_lap_ends(self, race: RaceAnswers) -> None:
        at_end = START + pd.Timedelta(seconds=100)
        rows = [
            {"driver_number": 7, "date": str(at_end + pd.Timedelta(seconds=s)), "position": p} for s, p in ((0, 2), (0.01, 3))
        ]
        laps = laps_of(replace(race, position=typed("position", rows, "position")))
        assert laps["position"].loc["AAA"].tolist() == [2, 3, 3, 3]
        assert laps["position"].loc["BBB"].isna().all()

    def test_tyres_age_from_lap_to_lap(self, race: RaceAnswers) -> None:
        laps = laps_of(race)
        assert laps["tyre_life_laps"].loc["BBB"].tolist() == [3, 4, 5, 6]
        assert not laps.at[("BBB", 1), "is_fresh_tyre"]
        assert laps.at[("AAA", 1), "is_fresh_tyre"]

    def test_a_stint_does_not_begin_before_the_last_one_has_ended(self, race: RaceAnswers) -> None:
        stints, _ = make_stints(race, make_people([race]))
        mine = stints[stints["code"] == "CCC"]
        assert mine[["start_lap", "end_lap", "length_laps"]].to_numpy().tolist() == [[1, 1, 1], [2, 2, 1]]
        assert laps_of(race)["compound"].loc["CCC"].tolist()[:2] == ["SOFT", "HARD"]

    def test_a_stint_of_a_car_without_a_lap_is_left_out_and_counted(self, race: RaceAnswers) -> None:
        none = changed(race.stints, 8, lap_start=np.nan, lap_end=np.nan)
        stints, left_out = make_stints(replace(race, stints=none), make_people([race]))
        assert left_out == 1
        assert sorted(stints["code"].unique()) == ["AAA", "CCC"]

    def test_a_car_that_nobody_drove_has_no_code(self, race: RaceAnswers) -> None:
        laps, _ = make_laps(replace(race, laps=race.laps.assign(driver_number=99.0)), make_people([race]), START)
        assert laps["code"].isna().all()

    def test_names_left_out_in_one_session_are_known_from_another(self, race: RaceAnswers) -> None:
        nameless = race.drivers.assign(first_name=None, last_name=None, team_name=None)
        people = make_people([race, replace(race, round=2, drivers=nameless)])
        assert people["driver_id"].tolist() == ["alder", "birch", "cedar"] * 2
        assert people["constructor_id"].tolist() == ["north", "north", "south"] * 2


class TestTrackStatus:
    def control(self, *rows: tuple[float, str, str | None, str | None, int | None]) -> pd.DataFrame:
        return typed(
            "race_control",
            [
                {
                    "date": str(START + pd.Timedelta(seconds=seconds)),
                    "category": "SafetyCar" if flag is None else "Flag",
                    "message": message,
                    "flag": flag,
                    "scope": scope,
                    "sector": sector,
                    "driver_number": None,
                    "lap_number": 2,
                }
                for seconds, message, flag, scope, sector in rows
            ],
            "race_control",
        )

    def statuses(self, control: pd.DataFrame) -> list[tuple[float, str]]:
        found = status_changes(control)
        return list(zip(session_clock(found["date"], START) - LIGHTS_OUT_S, found["status"], strict=True))

    def test_yellow_ends_with_the_last_sector(self) -> None:
        control = self.control(
            (10, "YELLOW", "YELLOW", "Sector", 3),
            (12, "DOUBLE YELLOW", "DOUBLE YELLOW", "Sector", 4),
            (20, "CLEAR", "CLEAR", "Sector", 3),
            (25, "CLEAR", "CLEAR", "Sector", 4),
        )
        assert self.statuses(control) == [(10, "2"), (25, "1")]

    def test_a_safety_car_hides_yellow_and_holds_until_the_track_is_clear(self) -> None:
        control = self.control(
            (10, "YELLOW", "YELLOW", "Sector", 3),
            (12, "SAFETY CAR DEPLOYED", None, None, None),
            (20, "CLEAR", "CLEAR", "Sector", 3),
            (25, "YELLOW", "YELLOW", "Sector", 5),
            (30, "SAFETY CAR IN THIS LAP", None, None, None),
            (60, "TRACK CLEAR", "CLEAR", "Track", None),
            (61, "CLEAR", "CLEAR", "Sector", 5),
        )
        assert self.statuses(control) == [(10, "2"), (12, "4"), (60, "1")]

    def test_a_virtual_safety_car_ends_in_two_steps_and_red_is_red(self) -> None:
        control = self.control(
            (10, "VIRTUAL SAFETY CAR DEPLOYED", None, None, None),
            (50, "VIRTUAL SAFETY CAR ENDING", None, None, None),
            (60, "TRACK CLEAR", "CLEAR", "Track", None),
            (70, "RED FLAG", "RED", "Track", None),
            (99, "WAVED BLUE FLAG", "BLUE", "Driver", None),
        )
        assert self.statuses(control) == [(10, "6"), (50, "7"), (60, "1"), (70, "5")]

    def test_no_messages_are_no_changes(self) -> None:
        assert status_changes(self.control()).empty

    def test_a_lap_lists_every_status_once_in_order(self) -> None:
        begins, ends = pd.Series([0.0, 10.0, 20.0, 40.0]), pd.Series([10.0, 20.0, 40.0, np.nan])
        found = status_of_laps(begins, ends, pd.Series([10.0, 25.0, 30.0, 35.0]), pd.Series(["2", "4", "1", "4"]))
        assert found.tolist() == ["12", "2", "241", None]


class TestResults:
    def results(self, race: RaceAnswers) -> pd.DataFrame:
        return make_results(race, make_people([race])).set_index("code")

    def test_words_and_order(self, race: RaceAnswers) -> None:
        results = self.results(race)
        assert results["status"].to_dict() == {"BBB": "Finished", "AAA": "Finished", "CCC": "Retired"}
        assert results["position_order"].to_dict() == {"BBB": 1, "AAA": 2, "CCC": 3}
        assert results["position_text"].to_dict() == {"BBB": "1", "AAA": "2", "CCC": "R"}

    def test_a_starter_who_is_not_on_the_grid_came_from_the_pit_lane(self, race: RaceAnswers) -> None:
        assert self.results(race)["grid"].to_dict() == {"BBB": 2, "AAA": 1, "CCC": 0}
        absent = changed(race.result, 9, dns=True, dnf=False)
        assert np.isnan(self.results(replace(race, result=absent)).at["CCC", "grid"])

    def test_without_a_grid_nobody_is_said_to_start_from_the_pit_lane(self, race: RaceAnswers) -> None:
        assert self.results(replace(race, starting_grid=race.starting_grid.iloc[:0]))["grid"].isna().all()

    def test_a_finisher_without_a_position_was_disqualified(self, race: RaceAnswers) -> None:
        results = self.results(replace(race, result=changed(race.result, 7, position=np.nan)))
        assert results.loc["AAA", ["status", "position_text", "position_order"]].tolist() == ["Disqualified", "D", 3]

    def test_a_lapped_car_is_lapped_and_a_car_that_did_not_start_stands_behind_the_retired(self, race: RaceAnswers) -> None:
        lapped = changed(race.result, 7, number_of_laps=3.0)
        assert self.results(replace(race, result=lapped)).at["AAA", "status"] == "Lapped"
        absent = changed(race.result, 8, position=np.nan, dns=True, number_of_laps=np.nan)
        results = self.results(replace(race, result=absent))
        assert results.loc["BBB", ["status", "position_order", "laps_completed"]].tolist() == ["Did not start", 3, 0]

    def test_no_points_for_a_place_that_scores_are_not_believed(self, race: RaceAnswers) -> None:
        results = self.results(replace(race, result=race.result.assign(points=0.0)))
        assert np.isnan(results.at["BBB", "points"])
        assert results.at["CCC", "points"] == 0

    def test_qualifying_without_a_position_comes_last(self, race: RaceAnswers) -> None:
        rows = make_qualifying(race, make_people([race])).set_index("driver_id")
        assert rows["position"].to_dict() == {"alder": 1, "birch": 2, "cedar": 3}
        assert rows.loc["alder", ["q1_s", "q2_s", "q3_s"]].tolist() == [89.0, 88.5, 88.0]
        assert rows.loc["cedar", ["q1_s", "q2_s", "q3_s"]].isna().all()


class TestFlag:
    def order(self, laps: pd.DataFrame, result: pd.DataFrame) -> list[int]:
        return classification_at_flag(laps, result)["driver_number"].astype(int).tolist()

    def test_a_time_penalty_is_not_in_it(self, race: RaceAnswers) -> None:
        found = classification_at_flag(race.laps, race.result)
        assert found["driver_number"].tolist() == [7, 8]
        assert found["finish"].tolist() == [START + pd.Timedelta(seconds=s) for s in (370.25, 372.5)]

    def test_a_disqualified_car_is_in_it_and_a_retired_one_is_not(self, race: RaceAnswers) -> None:
        assert self.order(race.laps, changed(race.result, 7, position=np.nan)) == [7, 8]
        assert self.order(race.laps, changed(race.result, 7, position=np.nan, dsq=True)) == [7, 8]
        assert self.order(race.laps, changed(race.result, 7, position=np.nan, dnf=True)) == [8]

    def test_a_lapped_car_is_behind_even_if_it_crosses_the_line_first(self, race: RaceAnswers) -> None:
        assert self.order(race.laps, changed(race.result, 7, number_of_laps=3.0)) == [8, 7]

    def test_one_wrong_beginning_of_a_lap_does_not_change_it(self, race: RaceAnswers) -> None:
        is_it = (race.laps["driver_number"] == 7) & (race.laps["lap_number"] == 4)
        late = race.laps.assign(date_start=race.laps["date_start"].mask(is_it, race.laps["date_start"] + pd.Timedelta(seconds=9)))
        assert self.order(late, race.result) == [7, 8]

    def test_rows_that_are_repeated_change_nothing(self, race: RaceAnswers) -> None:
        laps, result = pd.concat([race.laps, race.laps]), pd.concat([race.result, race.result])
        assert self.order(laps, result) == [7, 8]
        assert lights_out(laps, changed(result, 7, duration=None), race.race_control) == START

    def test_nothing_is_said_where_a_car_lacks_its_last_laps(self, race: RaceAnswers) -> None:
        is_last = (race.laps["driver_number"] == 8) & (race.laps["lap_number"] == 4)
        assert classification_at_flag(race.laps[~is_last], race.result).empty
        assert classification_at_flag(race.laps.iloc[:0], race.result.iloc[:0]).empty

    def entries(self) -> pd.DataFrame:
        end = START + pd.Timedelta(seconds=372.5)
        return pd.DataFrame(
            {
                "round": 1,
                "code": ["BBB", "AAA", "CCC"],
                "position": [1.0, np.nan, np.nan],
                "position_order": [1, 3, 2],
                "is_classified": [True, False, False],
                "status": ["Finished", "Disqualified", "Retired"],
                "points": [25.0, 0.0, 0.0],
                "laps_completed": [4, 4, 2],
                "event_timestamp": end,
                "created_timestamp": end + pd.Timedelta(hours=3),
            }
        ).astype({"event_timestamp": "datetime64[us, UTC]", "created_timestamp": "datetime64[us, UTC]"})

    def road(self, *codes: str) -> pd.DataFrame:
        known = pd.Series([START + pd.Timedelta(seconds=370 + 10 * n) for n, _ in enumerate(codes)])
        return pd.DataFrame({"round": 1, "code": codes, "position": range(1, len(codes) + 1), "known": known})

    def test_a_race_that_was_corrected_has_every_entry_twice(self) -> None:
        every = with_provisional(self.entries(), self.road("AAA", "BBB"))
        first = every[every["created_timestamp"] < self.entries()["created_timestamp"].iloc[0]].set_index("code")
        assert len(every) == 6
        assert first["position"].to_dict() == pytest.approx({"AAA": 1, "BBB": 2, "CCC": np.nan}, nan_ok=True)
        assert first["position_order"].to_dict() == {"AAA": 1, "BBB": 2, "CCC": 3}
        assert first["status"].to_dict() == {"AAA": "Finished", "BBB": "Finished", "CCC": "Retired"}
        assert first["is_classified"].to_dict() == {"AAA": True, "BBB": True, "CCC": False}
        assert first["points"].isna().all()

    def test_it_is_known_when_the_last_car_has_finished_and_never_before_the_flag(self) -> None:
        every = with_provisional(self.entries(), self.road("AAA", "BBB"))
        assert every["created_timestamp"].min() == START + pd.Timedelta(seconds=380)
        early = with_provisional(self.entries(), self.road("AAA", "BBB").assign(known=START))
        assert (early["created_timestamp"] >= early["event_timestamp"]).all()

    def test_a_race_that_was_not_corrected_or_is_not_told_has_every_entry_once(self) -> None:
        official = self.entries().assign(position=[1.0, 2.0, np.nan])
        pd.testing.assert_frame_equal(with_provisional(official, self.road("BBB", "AAA")), official)
        pd.testing.assert_frame_equal(with_provisional(official, self.road()), official)


def weekends(count: int) -> list[RaceWeekend]:
    """Races a week apart from 5 March 2023; their keys are 1, 2, and so on."""
    start = pd.Timestamp("2023-03-05T15:00Z")
    dates = [start + pd.Timedelta(days=7 * number) for number in range(count)]
    return [
        RaceWeekend(key, key, None, f"Race {key}", "Sakhir", date, date + pd.Timedelta(hours=2), pd.NaT, "sessions", key)
        for key, date in enumerate(dates, start=1)
    ]


# what has a result (h), is over without one (s), or ahead (a); round -> key of the race in the calendar; rounds -> keys; the rest
COUNTS: dict[str, tuple[str, dict[int, int], dict[int, int], list[int], int | None]] = {
    "all held": ("hhh", {}, {1: 1, 2: 2, 3: 3}, [], None),
    "none": ("", {1: 1}, {}, [], None),
    "some ahead": ("hhaa", {}, {1: 1, 2: 2, 3: 3, 4: 4}, [], None),
    "the last result is not out": ("hhsa", {}, {1: 1, 2: 2, 3: 3, 4: 4}, [], None),
    "no result and no calendar": ("hshh", {}, {1: 1}, [], 2),
    "the first has no result": ("sh", {}, {}, [], 1),
    "cancelled, says the calendar": ("hshh", {1: 1, 2: 3, 3: 4}, {1: 1, 2: 3, 3: 4}, [], None),
    "a result is missing, says the calendar": ("hshh", {1: 1, 2: 2, 3: 3, 4: 4}, {1: 1, 2: 2, 3: 3, 4: 4}, [], None),
    "a round missing in the calendar": ("hshh", {1: 1, 3: 3, 4: 4}, {1: 1, 2: 2, 3: 3, 4: 4}, [], None),
    "the one with a result has the free round": ("hshh", {1: 1, 3: 4}, {1: 1, 2: 3, 3: 4}, [], None),
    "nobody knows which has the free round": ("hssh", {1: 1, 3: 4}, {1: 1, 3: 4}, [2, 3], None),
    "a race that the calendar has no room for": ("hhh", {1: 1, 2: 3}, {1: 1, 2: 3}, [2], None),
    "after the calendar it is counted on": ("hshhh", {1: 1, 2: 3}, {1: 1, 2: 3, 3: 4, 4: 5}, [], None),
    "after the calendar a result is missing": ("hhsh", {1: 1, 2: 2}, {1: 1, 2: 2}, [], 3),
    "races before the service begins": ("hh", {4: 1, 5: 2}, {4: 1, 5: 2}, [], None),
}


class TestCounting:
    @pytest.mark.parametrize(("standings", "calendar", "rounds", "unplaced", "doubtful"), COUNTS.values(), ids=COUNTS)
    @pytest.mark.parametrize("days", [0, 1, -3])
    def test_a_round_is_told_by_its_date_or_counted(
        self,
        standings: str,
        calendar: dict[int, int],
        rounds: dict[int, int],
        unplaced: list[int],
        doubtful: int | None,
        days: int,
    ) -> None:
        names: dict[str, Standing] = {"h": "held", "s": "silent", "a": "ahead"}
        races = weekends(len(standings))
        starts = {race.race_key: race.race_start + pd.Timedelta(days=days) for race in races}
        known = {round_: starts[key] for round_, key in calendar.items() if key in starts}
        found = count_rounds(races, known, lambda race: names[standings[race.race_key - 1]])
        assert {round_: race.race_key for round_, race in found.rounds.items()} == rounds
        assert [race.race_key for race in found.unplaced] == unplaced
        left_out = [race.race_key for race in [*found.cancelled, *found.unplaced]]
        assert found.doubtful or sorted([*left_out, *rounds.values()]) == [race.race_key for race in races]
        assert (found.doubtful.race_key if found.doubtful else None) == doubtful

    def test_nothing_is_asked_about_races_of_the_calendar_or_beyond_the_last_round_wanted(self) -> None:
        asked: list[int] = []

        def standing(race: RaceWeekend) -> Standing:
            asked.append(race.race_key)
            return "held"

        races = weekends(9)
        found = count_rounds(races, {1: races[0].race_start, 2: races[1].race_start}, standing, last=4)
        assert asked == [3, 4]
        assert sorted(found.rounds) == [1, 2, 3, 4]
