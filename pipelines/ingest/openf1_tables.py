"""OpenF1's answers about races become the raw frames of a season: one clock, codes for car numbers, the order on the road.

Pure. OpenF1 stamps everything with the true time of day; the session clock here counts seconds, `LIGHTS_OUT_S` at lights out.
Figures in comments were measured on the 46 races of 2023 and 2024 against FastF1's laps of the same races.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipelines.errors import SourceFormatError
from pipelines.ingest.identities import constructor_id, driver_ids
from pipelines.ingest.openf1_answers import RaceWeekend
from pipelines.ingest.reading import FILE, ROW

LIGHTS_OUT_S = 21_600.0  # weather and messages begin an hour before the scheduled start, and a start may be put off for hours
_PIT_EXIT = "GREEN LIGHT - PIT EXIT OPEN"
_AGREE_S = 1.5
_WHOLE_RACE_S = 600.0  # a winner's `duration` below that is a gap: 2024 round 14 after the disqualification of the first car
STATUS_NAMES = {"1": "AllClear", "2": "Yellow", "4": "SCDeployed", "5": "Red", "6": "VSCDeployed", "7": "VSCEnding"}
CLASSIFIED_SHARE = 0.9


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


def lights_out(race: RaceAnswers) -> pd.Timestamp:
    """Instant at which the race started, UTC.

    The official race time of a car, less its laps 2 to n, is its lap 1; counted back from where its lap 2 begins that is lights
    out, and the median over the cars is free of time penalties (0.2 s after FastF1's, the same in every race to 0.05 s). It is
    believed where race control opens the pit exit within 1.5 s of it; where not, that message counts, which is rounded to a
    second (-0.5 to 0.6 s; in round 13 of 2023, where FastF1's clock is late, -2.6 s).

    Raises:
        SourceFormatError: the answers have neither.
    """
    laps = race.laps.sort_values(["driver_number", "lap_number"], kind="stable")
    second = laps[laps["lap_number"] == 2].set_index("driver_number")["date_start"]
    control = race.race_control
    opened = control.loc[(control["message"] == _PIT_EXIT) & (control["date"] < second.min()), "date"].max()
    later = laps[laps["lap_number"] > 1].groupby("driver_number")["lap_duration"].agg(["sum", "count"])
    result = race.result.drop_duplicates("driver_number").set_index("driver_number")
    official = pd.to_numeric(result["duration"], errors="coerce").astype("float64")
    whole = later["count"].reindex(result.index) == result["number_of_laps"] - 1
    first_lap_s = (official - later["sum"].reindex(result.index))[whole & (official > _WHOLE_RACE_S)]
    counted = (second.reindex(first_lap_s.index) - pd.to_timedelta(first_lap_s, unit="s")).median()
    if pd.notna(counted) and (pd.isna(opened) or abs((counted - opened).total_seconds()) <= _AGREE_S):
        return counted.round("us")
    if pd.isna(opened):
        raise SourceFormatError(
            control[FILE].iloc[0] if len(control) else f"race_control?session_key={race.weekend.race_key}",
            got=f"no message {_PIT_EXIT!r} before lap 2, and no race times with all lap times",
            expected="one of them, to tell when the race started",
            next_step=f"leave round {race.round} of {race.season} out (--rounds) or take it from another source",
        )
    return opened


def session_clock(instants: "pd.Series[Any]", start: pd.Timestamp) -> "pd.Series[float]":
    """UTC instants as session clock, seconds, to the microsecond."""
    return ((instants - start).dt.total_seconds() + LIGHTS_OUT_S).round(6)


def make_people(races: Sequence[RaceAnswers]) -> pd.DataFrame:
    """Who drove which car: `season, round, driver_number, code, driver_id, constructor_id`, names of driver and team."""
    named = {"name_acronym": "code", "first_name": "given_name", "last_name": "family_name"}
    people = pd.concat([race.drivers.assign(season=race.season, round=race.round) for race in races], ignore_index=True).rename(
        columns=named
    )
    people = people.dropna(subset=["driver_number", "code"]).drop_duplicates(["season", "round", "driver_number"], keep="last")
    # the service leaves names and teams out in some sessions
    for column in ("given_name", "family_name", "team_name"):
        people[column] = people[column].fillna(people.groupby(["season", "code"])[column].transform("first"))
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
    of_driver = laps.groupby("driver_number")
    begins = session_clock(laps["date_start"], start)
    follows = of_driver["lap_number"].shift(-1) == laps["lap_number"] + 1
    next_begins = begins.groupby(laps["driver_number"]).shift(-1).where(follows)
    end = (begins + laps["lap_duration"]).fillna(next_begins).round(6)
    begins = begins.mask(laps["lap_number"] == 1, LIGHTS_OUT_S).fillna(end.groupby(laps["driver_number"]).shift(1))
    tyres = _tyres_of(laps, _stints_of(race))
    stops = _stops(race, start)
    car_and_lap = ["driver_number", "lap_number"]
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


def status_changes(control: pd.DataFrame) -> pd.DataFrame:
    """Changes of the track status (`date, status`, `FILE`, `ROW`) that follow from flags and safety cars.

    A safety car or a red flag holds until the whole track is declared clear, and hides yellow flags; several yellow sectors are
    yellow until the last one is clear. Against FastF1's status feed of 2023-2024, between lights out and the flag and within
    10 s: of its 340 changes 321 are here, 1 here is not there; the yellow and safety car of an incident that race control did
    not announce are missing.
    """
    status, yellow, found = "1", set[float](), []
    ordered = control.dropna(subset=["date"]).sort_values("date", kind="stable")
    for row in ordered.to_dict("records"):
        before, message, flag = status, row["message"] or "", row["flag"]
        if row["category"] == "SafetyCar" and message.startswith("VIRTUAL"):
            status = "7" if "ENDING" in message else "6" if "DEPLOYED" in message else status
        elif row["category"] == "SafetyCar":
            status = "4" if "DEPLOYED" in message else status
        elif row["scope"] == "Track" and flag == "RED":
            status = "5"
        elif row["scope"] == "Track" and flag == "CLEAR":
            status = "1"
            yellow.clear()
        elif row["scope"] == "Sector":
            (yellow.add if flag in ("YELLOW", "DOUBLE YELLOW") else yellow.discard)(row["sector"])
            if status in ("1", "2"):
                status = "2" if yellow else "1"
        if status != before:
            found.append({"date": row["date"], "status": status, FILE: row[FILE], ROW: row[ROW]})
    columns = {"date": control["date"].dtype, "status": "object", FILE: "object", ROW: "int64"}
    return pd.DataFrame(found, columns=list(columns)).astype(columns)


def status_of_laps(
    begins: "pd.Series[float]", ends: "pd.Series[float]", instants: "pd.Series[float]", statuses: "pd.Series[Any]"
) -> "pd.Series[Any]":
    """Every status code in force during each lap, in order of appearance; null for a lap without an end.

    Args:
        begins: start of each lap, seconds.
        ends: end of each lap, seconds.
        instants: changes of the status, ascending, on the same clock; before the first one the track is clear.
        statuses: the code that holds from each instant.
    """
    codes = ["1", *statuses]
    at = instants.to_numpy()
    first, last = np.searchsorted(at, begins.to_numpy(), side="right"), np.searchsorted(at, ends.to_numpy(), side="right")
    texts = ["".join(dict.fromkeys(codes[low : high + 1])) for low, high in zip(first, last, strict=True)]
    return pd.Series(texts, index=begins.index, dtype=object).where(ends.notna(), None)


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
