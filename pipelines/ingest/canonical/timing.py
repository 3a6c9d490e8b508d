"""Laps, stints and pit stops: from the session clock and three-letter codes to UTC instants and driver ids."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipelines import schemas
from pipelines.ingest.canonical.reading import Kind
from pipelines.ingest.canonical.sieve import Rule, Sieve, is_null, outside

LAP_KEY = ["season", "round", "code", "lap"]
STINT_KEY = ["season", "round", "code", "stint"]
PIT_KEY = ["season", "round", "code", "lap"]
_DAY_S = 86_400.0

# FastF1 name -> (our name, kind). Times are session clock, seconds.
LAP_COLUMNS: dict[str, tuple[str, Kind]] = {
    "Season": ("season", "int"),
    "RoundNumber": ("round", "int"),
    "Driver": ("code", "str"),
    "LapNumber": ("lap", "float"),
    "Time": ("end", "duration"),
    "LapStartTime": ("start", "duration"),
    "LapTime": ("lap_time_s", "duration"),
    "Sector1Time": ("sector1_s", "duration"),
    "Sector2Time": ("sector2_s", "duration"),
    "Sector3Time": ("sector3_s", "duration"),
    "SpeedI1": ("speed_i1_kph", "float"),
    "SpeedI2": ("speed_i2_kph", "float"),
    "SpeedFL": ("speed_fl_kph", "float"),
    "SpeedST": ("speed_st_kph", "float"),
    "Position": ("position", "float"),
    "Stint": ("stint", "float"),
    "Compound": ("compound", "str"),
    "TyreLife": ("tyre_life_laps", "float"),
    "FreshTyre": ("is_fresh_tyre", "bool"),
    "PitInTime": ("pit_in", "duration"),
    "PitOutTime": ("pit_out", "duration"),
    "TrackStatus": ("track_status", "str"),
    "IsAccurate": ("is_accurate", "bool"),
}
LAP_OPTIONAL: dict[str, tuple[str, Kind]] = {"Deleted": ("is_deleted", "bool"), "FastF1Generated": ("is_generated", "bool")}
STINT_COLUMNS: dict[str, tuple[str, Kind]] = {
    "Season": ("season", "int"),
    "Round": ("round", "int"),
    "Driver": ("code", "str"),
    "Stint": ("stint", "float"),
    "Compound": ("compound", "str"),
    "StartLap": ("start_lap", "float"),
    "EndLap": ("end_lap", "float"),
    "StintLength": ("length_laps", "float"),
}
PIT_COLUMNS: dict[str, tuple[str, Kind]] = {
    "Season": ("season", "int"),
    "Round": ("round", "int"),
    "Driver": ("code", "str"),
    "LapNumber": ("lap", "float"),
    "Stint": ("stint", "float"),
    "PitInTime": ("pit_in", "duration"),
    "PitOutTime": ("pit_out", "duration"),
}

_UNKNOWN_COMPOUNDS = ("UNKNOWN", "TEST_UNKNOWN")  # the feed says that it does not know; `nan` and `None` are read as nulls


def _bad_compound(frame: pd.DataFrame) -> "pd.Series[bool]":
    return frame["compound"].notna() & ~frame["compound"].isin([*schemas.COMPOUNDS, *_UNKNOWN_COMPOUNDS])


_SECTORS = ("sector1_s", "sector2_s", "sector3_s")
_SPEEDS = ("speed_i1_kph", "speed_i2_kph", "speed_fl_kph", "speed_st_kph")
LAP_RULES: list[Rule] = [
    ("no driver", is_null("code")),
    ("no lap number", is_null("lap")),
    ("impossible lap number", outside("lap", 1, 500, whole=True)),
    ("no instant of lap end", is_null("end")),
    ("no instant of lap start", is_null("start")),
    ("impossible session time", outside("end", 0, _DAY_S)),
    ("impossible session time", outside("start", 0, _DAY_S)),
    ("lap ends before it starts", lambda laps: laps["end"] < laps["start"]),
    ("impossible lap duration", lambda laps: laps["end"] - laps["start"] > schemas.MAX_LAP_TIME_S),
    ("impossible lap time", outside("lap_time_s", 0.001, schemas.MAX_LAP_TIME_S)),
    *[("impossible sector time", outside(column, 0.001, schemas.MAX_LAP_TIME_S)) for column in _SECTORS],
    *[("impossible speed", outside(column, 0, schemas.MAX_SPEED_KPH)) for column in _SPEEDS],
    ("impossible position", outside("position", 1, 60, whole=True)),
    ("impossible stint", outside("stint", 1, 60, whole=True)),
    ("impossible tyre life", outside("tyre_life_laps", 0, 200)),
    ("impossible session time", outside("pit_in", 0, _DAY_S)),
    ("impossible session time", outside("pit_out", 0, _DAY_S)),
    ("unknown compound", _bad_compound),
    ("malformed track status", lambda laps: ~laps["track_status"].fillna("").astype("string").str.fullmatch(r"\d*").astype(bool)),
]
STINT_RULES: list[Rule] = [
    ("no driver", is_null("code")),
    ("no stint number", is_null("stint")),
    ("impossible stint", outside("stint", 1, 60, whole=True)),
    ("no lap number", lambda stints: stints["start_lap"].isna() | stints["end_lap"].isna() | stints["length_laps"].isna()),
    ("impossible lap number", outside("start_lap", 1, 500, whole=True)),
    ("impossible lap number", outside("end_lap", 1, 500, whole=True)),
    ("impossible stint length", outside("length_laps", 1, 500, whole=True)),
    ("stint ends before it starts", lambda stints: stints["end_lap"] < stints["start_lap"]),
    ("unknown compound", _bad_compound),
]
PIT_RULES: list[Rule] = [
    ("no driver", is_null("code")),
    ("no lap number", is_null("lap")),
    ("impossible lap number", outside("lap", 1, 500, whole=True)),
    ("no instant of pit entry", is_null("pit_in")),
    ("impossible stint", outside("stint", 1, 60, whole=True)),
    ("impossible session time", outside("pit_in", 0, _DAY_S)),
    ("impossible session time", outside("pit_out", 0, _DAY_S)),
    ("leaves the pit lane before entering it", lambda stops: stops["pit_out"] <= stops["pit_in"]),
]


@dataclass(frozen=True)
class SessionClock:
    """Turns the session clock of a season's races into UTC.

    The feed's clock starts at an arbitrary moment before the race. Lap 1 starts for everybody at lights out, and lights out is
    taken to be the scheduled start: an instant t of the session is race_start + (t - start of lap 1).

    Attributes:
        starts: round -> scheduled start, UTC.
        origins: round -> session clock at lights out, seconds; only rounds that have a lap 1 or whose source says it.
    """

    starts: Mapping[int, pd.Timestamp]
    origins: Mapping[int, float]

    def utc(self, rounds: "pd.Series[Any]", seconds: "pd.Series[float]") -> "pd.Series[Any]":
        """UTC instants (microseconds) of session clock times; NaT where the time is null."""
        elapsed = (seconds - rounds.map(self.origins).astype("float64")).mul(1e6).round()
        starts = pd.to_datetime(rounds.map(self.starts), utc=True).dt.as_unit("us")
        return starts + pd.to_timedelta(elapsed.astype("Int64"), unit="us").astype("timedelta64[us]")

    def knows(self, rounds: "pd.Series[Any]") -> "pd.Series[bool]":
        """Which rounds have an origin."""
        return rounds.isin(list(self.origins))


def make_clock(
    laps: pd.DataFrame, starts: Mapping[int, pd.Timestamp], origins: Mapping[int, float] | None = None
) -> SessionClock:
    """The clock of a season from its raw laps (`round, lap, start`): the start of lap 1 that most cars of the race share.

    A race without a lap 1 has the origin that `origins` (round -> session clock at lights out, seconds) gives it, if any.
    """
    found = dict(origins or {})
    if len(laps):
        first = laps[laps["lap"] == 1].groupby("round")["start"].agg(lambda starts: starts.mode().min())
        found |= {int(round_): float(start) for round_, start in first.items()}
    return SessionClock(starts=starts, origins=found)


def identify(table: str, frame: pd.DataFrame, people: pd.DataFrame, sieve: Sieve, clock: SessionClock) -> pd.DataFrame:
    """Add `driver_id` and `race_id`; quarantine rows of unknown races and drivers and of races without a clock.

    Args:
        table: canonical table the rows are for.
        frame: rows of one season with `round` and `code`.
        people: `round, code, driver_id` of the season's entries, one row each.
        sieve: where rejected rows go.
        clock: the season's clock.
    """
    known = people.drop_duplicates(["round", "code"], keep=False)
    joined = frame.merge(known[["round", "code", "driver_id"]], how="left", on=["round", "code"])
    return sieve.check(
        table,
        joined,
        [
            ("unknown race", lambda rows: ~rows["round"].isin(list(clock.starts))),
            ("unknown driver: no entry of that code in the race", is_null("driver_id")),
            ("race without a lap 1: its session clock has no origin", lambda rows: ~clock.knows(rows["round"])),
            *(
                [("starts before lights out", lambda rows: rows["start"] < rows["round"].map(clock.origins))]
                if "start" in frame
                else []
            ),
        ],
    )


def make_laps(raw: pd.DataFrame, clock: SessionClock) -> pd.DataFrame:
    """Canonical laps (without race_id and source) from identified raw laps of one season."""
    laps = raw.sort_values(["round", "driver_id", "lap"], kind="stable", ignore_index=True)
    # Lap 1 has no official time in the feed: from lights out to the line. A generated lap stands in for a car that stopped.
    on_lap_1 = (laps["lap"] == 1) & laps["lap_time_s"].isna() & ~laps["is_generated"].fillna(False).astype(bool)
    since_start = (laps["end"] - laps["round"].map(clock.origins)).round(6)
    by_driver = laps.groupby(["round", "driver_id"], sort=False)
    end = clock.utc(laps["round"], laps["end"])
    tells_status = laps["track_status"].notna().groupby(laps["round"]).transform("any")
    return pd.DataFrame(
        {
            "season": laps["season"],
            "round": laps["round"],
            "driver_id": laps["driver_id"],
            "lap": laps["lap"],
            "lap_start": clock.utc(laps["round"], laps["start"]),
            "lap_time_s": laps["lap_time_s"].mask(on_lap_1 & (since_start > 0), since_start),
            **{column: laps[column] for column in (*_SECTORS, *_SPEEDS, "position")},
            # the 2018 feed begins to number stints on lap 2 or 3: the laps before belong to the first stint it names
            "stint": by_driver["stint"].bfill().fillna(by_driver["stint"].ffill()).fillna(1),
            "compound": _named_compound(laps["compound"]),
            "tyre_life_laps": laps["tyre_life_laps"],
            "is_fresh_tyre": laps["is_fresh_tyre"],
            # a car may cross the pit line after the timing line (141 laps of 2018-2024): not known at the lap's end
            "pit_in": clock.utc(laps["round"], laps["pit_in"].where(laps["pit_in"] <= laps["end"])),
            "pit_out": clock.utc(laps["round"], laps["pit_out"].where(laps["pit_out"] <= laps["end"])),
            # no message yet means that the track is clear, if the source tells of messages at all
            "track_status": laps["track_status"].mask(laps["track_status"].isna() & tells_status, "1"),
            "is_accurate": laps["is_accurate"].fillna(False).astype(bool),
            "is_deleted": laps["is_deleted"],
            "event_timestamp": end,
            "created_timestamp": end,
        }
    )


def make_stints(raw: pd.DataFrame, laps: pd.DataFrame, flags: Mapping[int, pd.Timestamp], clock: SessionClock) -> pd.DataFrame:
    """Canonical stints (without race_id and source); a stint is known when its last lap ends.

    Args:
        raw: identified raw stints of one season; `known`, if it has that, is taken where the last lap is not among the laps.
        laps: canonical laps of the season.
        flags: round -> instant of the flag, for a stint of which nothing else says when it ended.
        clock: of the season.
    """
    ends = laps[["round", "driver_id", "lap", "event_timestamp"]].rename(columns={"lap": "end_lap"})
    joined = raw.merge(ends, how="left", on=["round", "driver_id", "end_lap"])
    at_flag = pd.to_datetime(joined["round"].map(flags), utc=True).dt.as_unit("us")
    if "known" in joined:
        joined["event_timestamp"] = joined["event_timestamp"].fillna(clock.utc(joined["round"], joined["known"]))
    joined["event_timestamp"] = joined["event_timestamp"].fillna(at_flag)
    joined["created_timestamp"] = joined["event_timestamp"]
    joined["compound"] = _named_compound(joined["compound"])
    return joined


def stints_from_laps(laps: pd.DataFrame) -> pd.DataFrame:
    """Stints derived from canonical laps, for seasons whose source has no stint table; columns as raw identified stints."""
    grouped = laps.groupby(["season", "round", "driver_id", "stint"], sort=True)
    stints = grouped.agg(
        start_lap=("lap", "min"), end_lap=("lap", "max"), length_laps=("lap", "size"), compound=("compound", "last")
    )
    return stints.reset_index()


def pit_stops_from_laps(raw_laps: pd.DataFrame) -> pd.DataFrame:
    """Pit stops derived from identified raw laps: pit entry on a lap, exit on the driver's next one."""
    laps = raw_laps.sort_values(["round", "driver_id", "lap"], kind="stable")
    next_out = laps.groupby(["round", "driver_id"], sort=False)["pit_out"].shift(-1)
    stops = laps.assign(pit_out=next_out.where(next_out > laps["pit_in"]))[laps["pit_in"].notna()]
    return stops[["season", "round", "driver_id", "lap", "stint", "pit_in", "pit_out"]].reset_index(drop=True)


def make_pit_stops(raw: pd.DataFrame, clock: SessionClock, flags: Mapping[int, pd.Timestamp]) -> pd.DataFrame:
    """Canonical pit stops (without race_id and source), known when the car leaves the pit lane.

    A car that never left it (retired, or the race was stopped) is only known to have stayed after the flag: event = pit entry,
    created = the flag, so that the row's presence does not tell the retirement early.
    """
    pit_in, pit_out = clock.utc(raw["round"], raw["pit_in"]), clock.utc(raw["round"], raw["pit_out"])
    at_flag = pd.to_datetime(raw["round"].map(flags), utc=True).dt.as_unit("us")
    return pd.DataFrame(
        {
            "season": raw["season"],
            "round": raw["round"],
            "driver_id": raw["driver_id"],
            "lap": raw["lap"],
            "stint": raw["stint"],
            "pit_in": pit_in,
            "pit_out": pit_out,
            "pit_lane_time_s": (raw["pit_out"] - raw["pit_in"]).round(6),
            "event_timestamp": pit_out.fillna(pit_in),
            "created_timestamp": pit_out.fillna(pd.concat([pit_in, at_flag], axis=1).max(axis=1)),
        }
    )


def flags_of(laps: pd.DataFrame, entries: pd.DataFrame, clock: SessionClock) -> dict[int, pd.Timestamp]:
    """Round -> instant of the flag: the end of the winner's last lap.

    Where the winner's laps are not all there (or none are) it is the start plus his official time, but not before the last lap
    that is known of him; without a time, the end of the last lap of whoever has most laps.

    Args:
        laps: canonical laps of the season.
        entries: `round, driver_id, position_order, laps_completed, milliseconds` of the season.
        clock: for the scheduled starts.
    """
    flags: dict[int, pd.Timestamp] = {}
    last = laps.sort_values(["lap"]).groupby(["round", "driver_id"]).agg(lap=("lap", "max"), end=("event_timestamp", "max"))
    winners = entries[entries["position_order"] == 1].drop_duplicates("round").set_index("round")
    for round_ in sorted(int(value) for value in entries["round"].unique()):
        ends = []
        if round_ in winners.index:
            winner = winners.loc[round_]
            lap = 0
            if (round_, winner["driver_id"]) in last.index:
                lap, end = last.loc[(round_, winner["driver_id"])]
                ends.append(end)
            if not lap >= winner["laps_completed"] and np.isfinite(winner["milliseconds"]):
                ends.append(clock.starts[round_] + pd.Timedelta(int(winner["milliseconds"]), unit="ms"))
        if ends:
            flags[round_] = max(ends)
        elif round_ in last.index.get_level_values(0):
            leaders = last.loc[round_]
            flags[round_] = leaders.loc[leaders["lap"] == leaders["lap"].max(), "end"].min()
    return flags


def _named_compound(compound: "pd.Series[Any]") -> "pd.Series[Any]":
    return compound.where(compound.isin(schemas.COMPOUNDS), None)
