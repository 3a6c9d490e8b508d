"""A race told by a lap chart and pit stops at a time of day: when each lap began and ended, its stint, its pit entry and exit.

Session clock: 0 is lights out, where lap 1 of every car begins; a lap begins where the car's last one ended, so a lap ends at the
sum of the times so far. Where a lap is missing, the car's later ones have no known instant.

Pit stops have a local time of day in whole seconds. What it says at lights out follows from the race itself: a car crosses the
line while it is in the pit lane, so the median of (time of day - end of the lap) over the stops is taken for it; stops of two
minutes and more, which wait for a red flag to end, do not count where there are others. Cars enter the pit lane before the line,
so pit entries come late by that, and exits with them: against the timing feed of 148 races of 2018-2024 the median is 2.9 s,
mostly 2 to 6 s, and 25 s where the line comes after the boxes. The time spent in the pit lane is the source's own, to the
millisecond.
"""

from typing import Any

import numpy as np
import pandas as pd

from pipelines.ingest.canonical import timing
from pipelines.ingest.canonical.checks import Check
from pipelines.ingest.canonical.sieve import Rule, Sieve, is_null, outside
from pipelines.schemas import MAX_LAP_TIME_S

CHART_KEY = ["season", "round", "driver_id", "lap"]
LAP_CONTENT = [*CHART_KEY, "lap_time_s", "position"]
STOP_CONTENT = [*CHART_KEY, "time_of_day_s", "duration_s"]
_CAR = ["round", "driver_id"]
_DAY_S = 86_400.0
_WAITED_S = 120.0  # a stop of this length waits for a red flag to end
_LINE_S = 5.0  # a pit entry at most so much after the line is the rounding of the time of day: it is put on the line
_UNKNOWN_NUMBERS = (
    *("sector1_s", "sector2_s", "sector3_s"),
    *("speed_i1_kph", "speed_i2_kph", "speed_fl_kph", "speed_st_kph"),
    "tyre_life_laps",
)
_UNKNOWN_TEXTS = ("compound", "track_status")
_UNKNOWN_FLAGS = ("is_fresh_tyre", "is_deleted", "is_generated")

_CHART_RULES: list[Rule] = [
    ("unknown driver", is_null("driver_id")),
    ("impossible lap number", outside("lap", 1, 500, whole=True)),
    ("no lap time", is_null("lap_time_s")),
    ("impossible lap time", outside("lap_time_s", 0.001, MAX_LAP_TIME_S)),
]
_STOP_RULES: list[Rule] = [
    ("unknown driver", is_null("driver_id")),
    ("impossible lap number", outside("lap", 1, 500, whole=True)),
    ("impossible time of day", outside("time_of_day_s", 0, _DAY_S)),
    ("impossible time in the pit lane", outside("duration_s", 0.001, MAX_LAP_TIME_S)),
]
CHART_CHECK = Check(_CHART_RULES, CHART_KEY, LAP_CONTENT)
STOP_CHECK = Check(_STOP_RULES, CHART_KEY, STOP_CONTENT)


def read_chart(chart: pd.DataFrame, stops: pd.DataFrame, people: pd.DataFrame, sieve: Sieve) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Laps and pit stops as `assemble.RawSeason` takes them, session clock.

    What a chart does not know is null: sectors, speeds, tyres, track status. No lap is called accurate. A stint ends with each
    pit stop, drive-through penalties included, because the source does not tell them from changes of tyres.

    Args:
        chart: `LAP_CONTENT`, each key once, checked with `CHART_CHECK`.
        stops: `STOP_CONTENT`, each key once, checked with `STOP_CHECK`.
        people: `round, driver_id, code` of the entries.
        sieve: where laps after a missing one go, and what breaks `timing.LAP_RULES` or `PIT_RULES`.
    """
    codes = people.drop_duplicates(_CAR)[[*_CAR, "code"]]
    laps = sieve.reject("laps", *_with_ends(chart)).merge(codes, how="left", on=_CAR)
    at_stops = sieve.check("pit_stops", _with_instants(stops, laps).merge(codes, how="left", on=_CAR), timing.PIT_RULES)
    told = sieve.check("laps", _with_stops(laps, at_stops), timing.LAP_RULES)
    return told.drop(columns="driver_id"), at_stops.drop(columns="driver_id")


def _with_ends(chart: pd.DataFrame) -> "tuple[pd.DataFrame, pd.Series[Any]]":
    """Laps in order with `start` and `end`; and for those without an instant the reason."""
    laps = chart.sort_values([*_CAR, "lap"], kind="stable", ignore_index=True)
    by_car = laps.groupby(_CAR, sort=False)
    end = by_car["lap_time_s"].cumsum().round(3)
    gap = laps["lap"] != by_car.cumcount() + 1
    after_gap = gap.groupby([laps[name] for name in _CAR], sort=False).cummax().astype(bool)
    reason = pd.Series(None, index=laps.index, dtype=object).mask(
        after_gap, "an earlier lap is missing: its instant is not known"
    )
    return laps.assign(end=end, start=(end - laps["lap_time_s"]).round(3)), reason


def _with_instants(stops: pd.DataFrame, laps: pd.DataFrame) -> pd.DataFrame:
    """Stops in order with `stint`, `pit_in` and `pit_out`; null where no stop of the race has a lap to go by."""
    ordered = stops.sort_values([*_CAR, "lap"], kind="stable", ignore_index=True)
    ordered = ordered.merge(laps[[*_CAR, "lap", "end"]], how="left", on=[*_CAR, "lap"])
    apart = ordered["time_of_day_s"] - ordered["end"]
    # one race's differences are within hours of each other, but midnight may lie between
    first = apart.groupby(ordered["round"]).transform("first")
    apart = _within_half_a_day(apart - first) + first
    usual = apart.where(ordered["duration_s"] < _WAITED_S).groupby(ordered["round"]).transform("median")
    at_start = usual.fillna(apart.groupby(ordered["round"]).transform("median"))
    elapsed = ordered["time_of_day_s"] - at_start
    pit_in = elapsed.where(ordered["end"].isna(), _within_half_a_day(elapsed - ordered["end"]) + ordered["end"])
    # lights out is within the race's day: without a lap to go by a stop after midnight is a day late
    pit_in = pit_in.mask(ordered["end"].isna() & (pit_in < 0), pit_in + _DAY_S)
    rounding = (pit_in > ordered["end"]) & (pit_in <= ordered["end"] + _LINE_S)
    pit_in = pit_in.mask(rounding, ordered["end"]).round(3)
    return ordered.assign(
        stint=ordered.groupby(_CAR, sort=False).cumcount() + 1.0,
        pit_in=pit_in,
        pit_out=(pit_in + ordered["duration_s"]).round(3),
    ).drop(columns=["end"])


def _with_stops(laps: pd.DataFrame, stops: pd.DataFrame) -> pd.DataFrame:
    """Laps with what the stops say about them, and nulls for what nobody says."""
    entered = stops[[*_CAR, "lap", "pit_in"]]
    left = stops[[*_CAR, "lap", "pit_out"]].assign(lap=stops["lap"] + 1)
    told = laps.merge(entered, how="left", on=[*_CAR, "lap"]).merge(left, how="left", on=[*_CAR, "lap"])
    before = told.groupby(_CAR, sort=False)["pit_in"].transform(lambda pits: pits.notna().cumsum().shift(fill_value=0))
    told["pit_in"] = told["pit_in"].where(told["pit_in"] >= told["start"])  # a stop whose lap number is wrong
    return told.assign(
        stint=before.astype("float64") + 1,
        is_accurate=False,
        **dict.fromkeys(_UNKNOWN_NUMBERS, np.nan),
        **{name: pd.Series(None, index=told.index, dtype=object) for name in _UNKNOWN_TEXTS},
        **{name: pd.Series(pd.NA, index=told.index, dtype="boolean") for name in _UNKNOWN_FLAGS},
    )


def _within_half_a_day(seconds: "pd.Series[float]") -> "pd.Series[float]":
    return (seconds + _DAY_S / 2) % _DAY_S - _DAY_S / 2
