"""OpenF1's answers about races become the raw frames of a season: one clock, codes for car numbers, tyres and stops of each lap.

Pure. Figures in comments were measured on the 46 races of 2023 and 2024 against FastF1's laps of the same races.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipelines.ingest.canonical.identities import constructor_id, driver_ids
from pipelines.ingest.canonical.reading import FILE, ROW
from pipelines.ingest.openf1.answers import RaceWeekend
from pipelines.ingest.openf1.flags import LIGHTS_OUT_S, STATUS_NAMES, session_clock, status_changes, status_of_laps


@dataclass(frozen=True)
class RaceAnswers:
    """What was answered about one race: the frames that `openf1_answers.typed` makes of the endpoints of the same names.

    `result` is the race's `session_result`, `qualifying` that of the session before it.
    """

    season: int
    round: int
    weekend: RaceWeekend
    drivers: pd.DataFrame
    laps: pd.DataFrame
    stints: pd.DataFrame
    pit: pd.DataFrame
    position: pd.DataFrame
    weather: pd.DataFrame
    race_control: pd.DataFrame
    result: pd.DataFrame
    qualifying: pd.DataFrame
    starting_grid: pd.DataFrame


def make_people(races: Sequence[RaceAnswers]) -> pd.DataFrame:
    """Who drove which car: `season, round, driver_number, code, driver_id, constructor_id`, names of driver and team."""
    named = {"name_acronym": "code", "first_name": "given_name", "last_name": "family_name"}
    people = pd.concat([race.drivers.assign(season=race.season, round=race.round) for race in races], ignore_index=True).rename(
        columns=named
    )
    people = people.dropna(subset=["driver_number", "code"])
    # the service leaves names and teams out in some sessions
    for column in ("given_name", "family_name", "team_name"):
        people[column] = people[column].fillna(people.groupby(["season", "code"])[column].transform("first"))
    people = people.drop_duplicates(["season", "round", "driver_number"], keep="last")
    people["driver_id"] = driver_ids(people)
    people["constructor_id"] = [
        constructor_id(team, season) if isinstance(team, str) else None
        for team, season in zip(people["team_name"], people["season"], strict=True)
    ]
    return people.reset_index(drop=True)


def make_laps(race: RaceAnswers, people: pd.DataFrame, start: pd.Timestamp) -> tuple[pd.DataFrame, int]:
    """Raw laps (`timing.LAP_COLUMNS`, session clock) and how many rows were laps after the flag, which are left out.

    A lap ends after its duration; lap 1, which has none, where lap 2 begins (both 0.03 s from FastF1's end in the median). The
    lap on which a car stopped has neither, and no end.
    """
    given = race.laps.sort_values(["driver_number", "lap_number"], kind="stable", ignore_index=True)
    result = race.result.drop_duplicates("driver_number").set_index("driver_number")
    finished = result.loc[~(result["dnf"].fillna(False) | result["dns"].fillna(False)).astype(bool), "number_of_laps"]
    is_after_flag = given["lap_duration"].isna() & (given["lap_number"] > given["driver_number"].map(finished.dropna()))
    laps = given[~is_after_flag].reset_index(drop=True)
    car_and_lap = ["driver_number", "lap_number"]
    is_first = ~laps.duplicated(car_and_lap)  # rows that come twice stay: they are counted where rows are checked

    def of_lap(values: "pd.Series[float]", laps_on: int) -> "pd.Series[float]":
        """The value that each car has on the lap so many further on."""
        known = laps.loc[is_first, car_and_lap].assign(value=values)
        return laps[car_and_lap].assign(lap_number=laps["lap_number"] + laps_on).merge(known, how="left", on=car_and_lap)["value"]

    begins = session_clock(laps["date_start"], start)
    end = (begins + laps["lap_duration"]).fillna(of_lap(begins, 1)).round(6)
    begins = begins.mask(laps["lap_number"] == 1, LIGHTS_OUT_S).fillna(of_lap(end, -1))
    tyres = _tyres_of(laps, _stints_of(race))
    stops = _stops(race, start)
    stops = stops.dropna(subset=car_and_lap).drop_duplicates(car_and_lap, keep="last")
    entered = laps[car_and_lap].merge(stops, how="left", on=car_and_lap)
    left = laps[car_and_lap].assign(lap_number=laps["lap_number"] - 1).merge(stops, how="left", on=car_and_lap)
    changes = status_changes(race.race_control)
    frame = pd.DataFrame(
        {
            "lap": laps["lap_number"],
            "start": begins,
            "end": end,
            "lap_time_s": laps["lap_duration"],
            **{f"sector{number}_s": laps[f"duration_sector_{number}"] for number in (1, 2, 3)},
            "speed_i1_kph": laps["i1_speed"],
            "speed_i2_kph": laps["i2_speed"],
            "speed_fl_kph": np.nan,
            "speed_st_kph": laps["st_speed"],
            "position": _position_at(race.position, laps["driver_number"], end, start),
            "stint": tyres["stint_number"],
            "compound": tyres["compound"],
            "tyre_life_laps": tyres["tyre_age_at_start"] + laps["lap_number"] - tyres["lap_start"] + 1,
            "is_fresh_tyre": (tyres["tyre_age_at_start"] == 0).astype("boolean").mask(tyres["tyre_age_at_start"].isna()),
            "pit_in": entered["pit_in"],
            "pit_out": left["pit_out"],
            "track_status": status_of_laps(begins, end, session_clock(changes["date"], start), changes["status"]),
            "is_accurate": False,
            "is_deleted": pd.Series(pd.NA, index=laps.index, dtype="boolean"),
            "is_generated": False,
        }
    )
    return _of_race(frame, laps, race, people), int(is_after_flag.sum())


def make_stints(race: RaceAnswers, people: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Raw stints (`timing.STINT_COLUMNS`) and how many rows were of cars that completed no lap, which are left out."""
    every = _stints_of(race)
    stints = every.dropna(subset=["lap_start", "lap_end"], how="all").reset_index(drop=True)
    frame = pd.DataFrame(
        {
            "stint": stints["stint_number"],
            "compound": stints["compound"],
            "start_lap": stints["lap_start"],
            "end_lap": stints["lap_end"],
            "length_laps": stints["lap_end"] - stints["lap_start"] + 1,
        }
    )
    return _of_race(frame, stints, race, people), len(every) - len(stints)


def make_pit_stops(race: RaceAnswers, people: pd.DataFrame, start: pd.Timestamp) -> tuple[pd.DataFrame, int]:
    """Raw pit stops (`timing.PIT_COLUMNS`, session clock) and how many rows were of no lap (after the race), which are left out.

    OpenF1 has no row of a car that never left the pit lane.
    """
    every = _stops(race, start)
    stops = every.dropna(subset=["lap_number"]).reset_index(drop=True)
    stint = _tyres_of(stops, _stints_of(race))["stint_number"]
    frame = stops[["pit_in", "pit_out"]].assign(lap=stops["lap_number"], stint=stint)
    return _of_race(frame, stops, race, people), len(every) - len(stops)


def make_weather(race: RaceAnswers, start: pd.Timestamp) -> pd.DataFrame:
    """Raw weather (`conditions.WEATHER_COLUMNS`, session clock)."""
    weather = race.weather
    frame = pd.DataFrame(
        {
            "time": session_clock(weather["date"], start),
            "air_temp_c": weather["air_temperature"],
            "track_temp_c": weather["track_temperature"],
            "humidity_pct": weather["humidity"],
            "pressure_mbar": weather["pressure"],
            "is_raining": (weather["rainfall"] > 0).astype("boolean").mask(weather["rainfall"].isna()),
            "wind_direction_deg": weather["wind_direction"],
            "wind_speed_mps": weather["wind_speed"],
        }
    )
    return _of_race(frame, weather, race, None)


def make_race_control(race: RaceAnswers, start: pd.Timestamp) -> pd.DataFrame:
    """Raw race control messages (`conditions.CONTROL_CONTENT`, and `session_time` on the clock of the laps)."""
    renamed = race.race_control.rename(columns={"date": "time", "driver_number": "car_number", "lap_number": "lap"})
    frame = renamed.drop(columns=[FILE, ROW]).assign(session_time=session_clock(renamed["time"], start))
    return _of_race(frame, race.race_control, race, None)


def make_track_status(race: RaceAnswers, start: pd.Timestamp) -> pd.DataFrame:
    """Raw track status (`conditions.STATUS_COLUMNS`, session clock), as far as messages of race control tell it."""
    changes = status_changes(race.race_control)
    frame = pd.DataFrame(
        {
            "time": session_clock(changes["date"], start),
            "status": changes["status"],
            "message": changes["status"].map(STATUS_NAMES),
        }
    )
    return _of_race(frame, changes, race, None)


def _position_at(
    position: pd.DataFrame, drivers: "pd.Series[float]", ends: "pd.Series[float]", start: pd.Timestamp
) -> "pd.Series[float]":
    """The last position reported of a car at or before each lap's end (equal to FastF1's on 99.6 % of laps)."""
    known = pd.DataFrame(
        {
            "driver_number": position["driver_number"],
            "at": session_clock(position["date"], start),
            "position": position["position"],
        }
    )
    asked = pd.DataFrame({"driver_number": drivers, "at": ends}).dropna().reset_index().sort_values("at", kind="stable")
    joined = pd.merge_asof(asked, known.dropna().sort_values("at", kind="stable"), on="at", by="driver_number")
    return joined.set_index("index")["position"].reindex(drivers.index)


def _stints_of(race: RaceAnswers) -> pd.DataFrame:
    """The answered stints in order, none beginning before the one before it has ended.

    In 6 of the 46 races every stint but the first begins on the last lap of the one before; FastF1 and the tyres' age say that it
    begins on the next.
    """
    stints = race.stints.sort_values(["driver_number", "stint_number"], kind="stable", ignore_index=True)
    after = stints.groupby("driver_number")["lap_end"].shift(1) + 1
    return stints.assign(lap_start=stints["lap_start"].mask(after > stints["lap_start"], after))


def _tyres_of(rows: pd.DataFrame, stints: pd.DataFrame) -> pd.DataFrame:
    """The stint of each row's lap (`stint_number, compound, tyre_age_at_start, lap_start`): the last one begun, on its index."""
    known = stints.dropna(subset=["driver_number", "lap_start"]).sort_values(["lap_start", "stint_number"], kind="stable")
    wanted = ["stint_number", "compound", "tyre_age_at_start", "lap_start"]
    asked = rows[["driver_number", "lap_number"]].dropna().reset_index().sort_values("lap_number", kind="stable")
    joined = pd.merge_asof(
        asked, known[["driver_number", *wanted]], left_on="lap_number", right_on="lap_start", by="driver_number"
    )
    return joined.set_index("index")[wanted].reindex(rows.index)


def _stops(race: RaceAnswers, start: pd.Timestamp) -> pd.DataFrame:
    """Passages through the pit lane: `driver_number, lap_number, pit_in, pit_out`, session clock, a row for each row answered.

    `date` is when the car leaves the pit lane (0.1 s before FastF1's) and the duration counts from entering it (0.04 s shorter);
    later versions of the service call the duration `lane_duration`.
    """
    pit = race.pit
    lane_s = pit["lane_duration"].fillna(pit["pit_lane_time"]).fillna(pit["pit_duration"])
    left = session_clock(pit["date"], start)
    return pit[["driver_number", "lap_number", FILE, ROW]].assign(pit_in=(left - lane_s).round(6), pit_out=left)


def _of_race(frame: pd.DataFrame, rows: pd.DataFrame, race: RaceAnswers, people: pd.DataFrame | None) -> pd.DataFrame:
    """`frame` with `season, round`, where its rows came from and, where people are asked for, the `code` of each car."""
    named = frame.assign(season=race.season, round=race.round, **{FILE: rows[FILE], ROW: rows[ROW]})
    if people is not None:
        known = people[(people["season"] == race.season) & (people["round"] == race.round)]
        named["code"] = rows["driver_number"].map(known.set_index("driver_number")["code"])
    return named.reset_index(drop=True)
