"""Simulated against real races: one table of the figures that races of the same kind should share.

`pitwall simulator-report` prints it, and writes it into `docs/simulator.md`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from feature_repo.files import write_text
from pipelines.errors import SimulationRequestError
from pipelines.lake import Lake
from pipelines.simulator.season import season_years, simulate_seasons

TOLERANCE = 0.30
"""Figures that differ by no more than this, relative to the real one, count as of the same size."""

TABLES = ("races", "entries", "laps", "stints", "pit_stops", "weather")
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
_WET_TYRES = ("INTERMEDIATE", "WET")
_LEAST_LAPS = 15  # a car needs this many green laps before its median says something about its pace


@dataclass(frozen=True)
class Figure:
    """One figure on both sides.

    Attributes:
        name: what is measured.
        unit: its unit, "" for a pure number.
        real: value on the real races.
        simulated: value on the simulated races.
    """

    name: str
    unit: str
    real: float
    simulated: float

    @property
    def ratio(self) -> float:
        """Simulated over real; of two zeros 1, of something over nothing infinity."""
        if self.real == 0:
            return 1.0 if self.simulated == 0 else math.inf
        return self.simulated / self.real

    @property
    def is_same_size(self) -> bool:
        """The two differ by at most `TOLERANCE` of the real one."""
        return bool(abs(self.ratio - 1.0) <= TOLERANCE)


@dataclass(frozen=True)
class Comparison:
    """All figures, and how many races they come from.

    Attributes:
        figures: one per measure.
        real_races: races in the real lake.
        real_seasons: first and last real season.
        simulated_races: races simulated.
        request: seasons, races a season and seed of the simulation.
    """

    figures: tuple[Figure, ...]
    real_races: int
    real_seasons: tuple[int, int]
    simulated_races: int
    request: tuple[int, int, int]


def compare(real: Lake, *, seasons: int, races: int, seed: int) -> Comparison:
    """Simulate and measure both sides with the same code.

    Args:
        real: lake of real races.
        seasons: seasons to simulate.
        races: races in each.
        seed: seed of the simulation.
    Raises:
        SimulationRequestError: the lake is simulated or has no laps.
    """
    if real.is_simulated or not real.seasons("laps"):
        raise SimulationRequestError(
            f"{real.root}: got a simulated or empty lake, expected one with real laps; ingest real races first"
        )
    left = {table: real.read(table) for table in TABLES}
    parts = [tables for _, tables in simulate_seasons(season_years(seasons), races, seed)]
    right = {table: pd.concat([part[table] for part in parts], ignore_index=True) for table in TABLES}
    units = measure(left)
    simulated = measure(right)
    figures = tuple(Figure(name, unit, value, simulated[name][0]) for name, (value, unit) in units.items())
    years = real.seasons("laps")
    return Comparison(figures, len(left["races"]), (years[0], years[-1]), len(right["races"]), (seasons, races, seed))


def measure(tables: Mapping[str, pd.DataFrame]) -> dict[str, tuple[float, str]]:
    """Every figure of a set of races: name -> value and unit.

    Args:
        tables: `races`, `entries`, `laps`, `stints`, `pit_stops` and `weather`, as the lake holds them.
    """
    entries, laps = tables["entries"], tables["laps"]
    return {
        **_pace(laps),
        **_results(entries),
        **_stops(entries, tables["stints"], tables["pit_stops"]),
        **_conditions(laps, tables["weather"]),
        **_dynamics(tables["races"], entries, laps),
    }


def _pace(laps: pd.DataFrame) -> dict[str, tuple[float, str]]:
    green = laps[_is_green(laps) & laps["lap_time_s"].notna() & (laps["lap"] > 1)]
    by_race = green.groupby("race_id")["lap_time_s"]
    cars = green.groupby(["race_id", "driver_id"])["lap_time_s"].agg(["median", "mean", "std", "count"])
    cars = cars[cars["count"] >= _LEAST_LAPS]
    gap = 100.0 * (cars["median"] / cars.groupby("race_id")["median"].transform("min") - 1.0)
    wander = (100.0 * cars["std"] / cars["mean"]).groupby("race_id").median()
    ordered = green.sort_values(["race_id", "driver_id", "lap"], kind="stable")
    step = 100.0 * ordered.groupby(["race_id", "driver_id"])["lap_time_s"].diff().abs() / ordered["lap_time_s"]
    return {
        "lap-time spread within a race, green laps, all cars (std / mean, median race)": (
            float((100.0 * by_race.std() / by_race.mean()).median()),
            "%",
        ),
        "lap-time spread of one car, green laps (std / mean, median)": (float(wander.median()), "%"),
        "change from one green lap to the next (median)": (float(step.median()), "%"),
        "pace spread between cars (std of median green laps, mean race)": (float(gap.groupby("race_id").std().mean()), "%"),
        "mean car behind the fastest (median green laps)": (float(gap.groupby("race_id").mean().mean()), "%"),
    }


def _results(entries: pd.DataFrame) -> dict[str, tuple[float, str]]:
    finished = entries["status"].str.startswith("+") | entries["status"].isin(["Finished", "Lapped"])
    change = (entries["grid"] - entries["position_order"]).abs()
    winner = entries[entries["position_order"] == 1]
    return {
        "entries that did not reach the flag": (100.0 * float(1.0 - finished.mean()), "%"),
        "places between grid and result, all entries (mean absolute)": (float(change.mean()), ""),
        "places between grid and result, finishers (mean absolute)": (float(change[finished].mean()), ""),
        "correlation of grid and result (Spearman)": (
            float(entries[["grid", "position_order"]].corr(method="spearman").iloc[0, 1]),
            "",
        ),
        "races won from pole": (100.0 * float((winner["grid"] == 1).mean()), "%"),
    }


def _stops(entries: pd.DataFrame, stints: pd.DataFrame, stops: pd.DataFrame) -> dict[str, tuple[float, str]]:
    length = stints["length_laps"].astype(float)
    return {
        "pit stops per entry": (len(stops) / len(entries), ""),
        "time in the pit lane (median)": (float(stops["pit_lane_time_s"].median()), "s"),
        "stint length, 10th percentile": (float(length.quantile(0.1)), "laps"),
        "stint length, median": (float(length.median()), "laps"),
        "stint length, 90th percentile": (float(length.quantile(0.9)), "laps"),
    }


def _conditions(laps: pd.DataFrame, weather: pd.DataFrame) -> dict[str, tuple[float, str]]:
    by_race = laps["race_id"]
    wet = laps["compound"].isin(_WET_TYRES).groupby(by_race).mean()
    rain = weather["is_raining"].groupby(weather["race_id"])
    figures = {
        "races with 5 % of laps or more on rain tyres": (100.0 * float((wet >= 0.05).mean()), "%"),
        "races with any rain measured": (100.0 * float(rain.any().mean()), "%"),
        "laps under green only": (100.0 * float((laps["track_status"] == "1").mean()), "%"),
    }
    for code, name in (("4", "safety car"), ("6", "VSC"), ("5", "red flag")):
        seen = laps["track_status"].str.contains(code, regex=False)
        figures[f"races with a {name}"] = (100.0 * float(seen.groupby(by_race).any().mean()), "%")
        figures[f"laps that saw a {name}"] = (100.0 * float(seen.mean()), "%")
    return figures


def _dynamics(races: pd.DataFrame, entries: pd.DataFrame, laps: pd.DataFrame) -> dict[str, tuple[float, str]]:
    keys = ["race_id", "driver_id"]
    ordered = laps[laps["position"].notna()].sort_values([*keys, "lap"], kind="stable")
    position = ordered["position"].astype(float)
    moved = position.groupby([ordered["race_id"], ordered["driver_id"]]).diff().abs()
    ordinary = _is_green(ordered) & (ordered["lap"] > 2)
    first = ordered[ordered["lap"] == 1].merge(entries[[*keys, "grid"]], on=keys)
    scheduled = laps["race_id"].map(races.set_index("race_id")["scheduled_laps"])
    figures: dict[str, tuple[float, str]] = {
        "places gained or lost in lap 1 (mean absolute)": (
            float((first["position"].astype(float) - first["grid"]).abs().mean()),
            "",
        ),
        "places gained or lost in a green lap (mean absolute)": (float(moved[ordinary].mean()), ""),
    }
    for share in (0.25, 0.5, 0.75):
        figures |= _order_at(share, entries, laps, scheduled)
    order = entries.set_index(keys)["position_order"]
    ends = laps.groupby(keys)["event_timestamp"].max()[
        entries.loc[entries["status"] == "Finished", keys].apply(tuple, axis=1).tolist()
    ]
    by_place = ends.to_frame("end").join(order)
    first_two = [by_place[by_place["position_order"] == place]["end"].droplevel("driver_id") for place in (1, 2)]
    figures["winner's margin (median)"] = (float((first_two[1] - first_two[0]).dt.total_seconds().median()), "s")
    return figures


def _order_at(share: float, entries: pd.DataFrame, laps: pd.DataFrame, scheduled: pd.Series) -> dict[str, tuple[float, str]]:
    """The running order when the leader has done `share` of the distance, taken as a forecast of the result."""
    keys = ["race_id", "driver_id"]
    moment_lap = np.ceil(share * scheduled)
    moment = laps.loc[laps["lap"] == moment_lap].groupby("race_id")["event_timestamp"].min()
    known = laps[laps["event_timestamp"] <= laps["race_id"].map(moment)]
    last = known.groupby(keys).agg(lap=("lap", "max"), end=("event_timestamp", "max")).reset_index()
    rows = entries[entries["race_id"].isin(moment.index)].merge(last, on=keys, how="left")
    # Furthest along first; a car that has stopped falls back lap by lap; no lap at all is last, by grid.
    rows = rows.assign(lap=rows["lap"].fillna(0)).sort_values(
        ["race_id", "lap", "end", "grid"], ascending=[True, False, True, True]
    )
    forecast = rows.groupby("race_id").cumcount() + 1
    error = (forecast - rows["position_order"]).abs()
    at = f"at {share:.0%} of the distance"
    # What a picture of the laps so far shows without the order: the median green lap of each car.
    ordinary = known[_is_green(known) & (known["lap"] > 1)]
    rows = rows.join(ordinary.groupby(keys)["lap_time_s"].median().rename("pace"), on=keys)
    ranks = rows[rows["pace"].notna()].groupby("race_id")[["pace", "position_order"]].rank()
    by_race = ranks.groupby(rows["race_id"])
    told = by_race.apply(lambda race: float(np.corrcoef(race["pace"], race["position_order"])[0, 1]) if len(race) > 2 else np.nan)
    return {
        f"order {at} is the result: exact": (100.0 * float((error == 0).mean()), "%"),
        f"order {at} is the result: mean absolute error": (float(error.mean()), ""),
        f"median green lap {at} and result: rank correlation (mean race)": (float(told.mean()), ""),
    }


def _is_green(laps: pd.DataFrame) -> "pd.Series[bool]":
    return (laps["track_status"] == "1") & laps["pit_in"].isna() & laps["pit_out"].isna()


def as_markdown(comparison: Comparison) -> str:
    """The table, and one line that says where it comes from."""
    seasons, races, seed = comparison.request
    first, last = comparison.real_seasons
    lines = [
        f"Real: {comparison.real_races} races, {first}-{last}. Simulated: {comparison.simulated_races} races "
        f"(`--seasons {seasons} --races {races} --seed {seed}`). "
        f"{sum(figure.is_same_size for figure in comparison.figures)} of {len(comparison.figures)} figures lie within "
        f"{TOLERANCE:.0%} of the real one.",
        "",
        "| figure | unit | real | simulated | simulated / real | |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {f.name} | {f.unit} | {f.real:.3g} | {f.simulated:.3g} | {f.ratio:.2f} | {'' if f.is_same_size else 'off'} |"
        for f in comparison.figures
    ]
    return "\n".join(lines) + "\n"


def write_table(document: Path, comparison: Comparison) -> None:
    """Replace the table between the two markers in `document` (`docs/simulator.md`).

    Raises:
        SimulationRequestError: the document has no such markers.
    """
    text = document.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SimulationRequestError(f"{document}: got no or several table markers, expected one {BEGIN!r} and one {END!r}")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    write_text(document, f"{before}{BEGIN}\n\n{as_markdown(comparison)}\n{END}{after}")
