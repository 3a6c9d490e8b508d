"""Grid: qualifying, starting place and days since the last race, one row per car and instant at which one of them got known."""

import numpy as np
import pandas as pd

from feature_repo.visibility import CREATED, EVENT
from pipelines.features.knowledge import KNOWN, FloatArray, as_known_at, micros, stamps, table, versions, with_race
from pipelines.features.results import ENTRY_KEY, publications, qualifying_gaps

ENTITY = ["race_id", "driver_id"]
DTYPES = dict.fromkeys(
    [
        "grid_position",
        "grid_qualifying_position",
        "grid_qualifying_gap_to_pole_pct",
        "grid_qualifying_gap_to_teammate_pct",
        "grid_is_pit_lane_start",
        "grid_penalty_places",
        "driver_days_since_last_race",
    ],
    "float32",
)
DAY_US = 86_400 * 1_000_000
_CAR = ["race_id", KNOWN, "driver_id"]


def compute_grid(entries: pd.DataFrame, qualifying: pd.DataFrame, races: pd.DataFrame, laps: pd.DataFrame) -> pd.DataFrame:
    """Feature table `grid`.

    Args:
        entries: canonical entries; of the race itself only `grid` and `is_pit_lane_start` are read, which were known at
            `grid_timestamp`; of earlier races who started, known when their result was published.
        qualifying: canonical qualifying.
        races: canonical races, for the scheduled start.
        laps: canonical laps, for who started earlier races.
    Returns:
        Keyed by `race_id, driver_id`: a provisional row when qualifying is published, a final one at `grid_timestamp`.
        `event_timestamp` is when the newest of the two was first known, `created_timestamp` the instant of the row.
    """
    return grid_rows(cars(entries, qualifying, races), starts(entries, races, laps))


def cars(entries: pd.DataFrame, qualifying: pd.DataFrame, races: pd.DataFrame) -> pd.DataFrame:
    """What each race's qualifying and grid say about its cars: one row per car and instant; needs nothing of other races.

    Returns:
        `race_id, driver_id, known, event, start` (microseconds; `start` as float64, NaN where the calendar does not say yet) and,
        as float64, `grid, place, is_pit_lane_start, gap_to_pole_pct, gap_to_teammate_pct`.
    """
    session = versions(qualifying, ENTRY_KEY)
    slots = starting_slots(entries)
    moments = pd.concat([session[["race_id", KNOWN]], slots[["race_id", KNOWN]]]).drop_duplicates()
    first_session = session.groupby(ENTRY_KEY)[KNOWN].min().rename("first_session")
    first_slot = slots.groupby(ENTRY_KEY)[KNOWN].min().rename("first_slot")
    gaps = qualifying_gaps(as_known_at(session, moments, ENTRY_KEY))
    gaps = gaps[[*_CAR, "position", "qualifying_gap_pct", "teammate_gap_pct"]].merge(first_session, on=ENTRY_KEY)
    placed = as_known_at(slots, moments, ENTRY_KEY).merge(first_slot, on=ENTRY_KEY)
    rows = gaps.merge(placed, on=_CAR, how="outer", sort=True)
    floats = {
        "grid": rows["grid"],
        "place": rows["position"],
        "is_pit_lane_start": rows["is_pit_lane_start"],
        "gap_to_pole_pct": rows["qualifying_gap_pct"],
        "gap_to_teammate_pct": rows["teammate_gap_pct"],
    }
    return rows[_CAR].assign(
        event=rows[["first_session", "first_slot"]].max(axis="columns").astype("int64"),
        start=micros_or_nan(with_race(rows, races, ["race_start"])["race_start"]),
        **{name: values.to_numpy(dtype=np.float64, na_value=np.nan) for name, values in floats.items()},
    )


def starts(entries: pd.DataFrame, races: pd.DataFrame, laps: pd.DataFrame) -> pd.DataFrame:
    """`driver_id, known, start`: who is known since when to have started a race scheduled for when (microseconds, float64)."""
    results = with_race(publications(entries, laps), races, ["race_start"])
    results = results.assign(start=micros_or_nan(results["race_start"]))
    return results.loc[results["started"] & ~np.isnan(results["start"]), ["driver_id", KNOWN, "start"]]


def grid_rows(of_cars: pd.DataFrame, started: pd.DataFrame) -> pd.DataFrame:
    """Feature rows of all drivers, or of one: what a worker that holds one driver runs.

    Args:
        of_cars: from `cars`.
        started: from `starts`, of every race.
    """
    start = of_cars["start"].to_numpy()
    filled = of_cars[ENTRY_KEY].assign(
        grid_position=of_cars["grid"],
        grid_qualifying_position=of_cars["place"],
        grid_qualifying_gap_to_pole_pct=of_cars["gap_to_pole_pct"],
        grid_qualifying_gap_to_teammate_pct=of_cars["gap_to_teammate_pct"],
        grid_is_pit_lane_start=of_cars["is_pit_lane_start"],
        grid_penalty_places=of_cars["grid"] - of_cars["place"],
        driver_days_since_last_race=(start - last_start(of_cars, start, started)) / DAY_US,
        **{EVENT: stamps(of_cars["event"].to_numpy()), CREATED: stamps(of_cars[KNOWN].to_numpy())},
    )
    return table(filled, ENTITY, DTYPES)


def starting_slots(entries: pd.DataFrame) -> pd.DataFrame:
    """`race_id, driver_id, grid, is_pit_lane_start, known`: the part of the entries that is known before the race.

    It is known at `grid_timestamp`, not when the result is; a later version of the result with the same `grid_timestamp` is about
    the result and changes nothing here.
    """
    known = micros(entries["grid_timestamp"])
    slots = entries.assign(**{KNOWN: known}).sort_values([*ENTRY_KEY, KNOWN, CREATED], kind="stable")
    slots = slots.drop_duplicates([*ENTRY_KEY, KNOWN], keep="first", ignore_index=True)
    return slots[[*ENTRY_KEY, KNOWN, "grid", "is_pit_lane_start"]].astype({"grid": "Float64", "is_pit_lane_start": "Float64"})


def last_start(rows: pd.DataFrame, start: FloatArray, results: pd.DataFrame) -> FloatArray:
    """(n,) when the last race that each row's driver is known to have started was scheduled to start, microseconds; NaN if none.

    Args:
        rows: has `driver_id` and `known`.
        start: (n,) scheduled start of each row's race, microseconds, NaN where the calendar does not say yet.
        results: from `starts`.
    """
    of_driver = {
        driver: (races[KNOWN].to_numpy(), races["start"].to_numpy()) for driver, races in results.groupby("driver_id", sort=False)
    }
    nothing = (np.empty(0, dtype=np.int64), np.empty(0))
    previous = np.full(len(rows), np.nan)
    for i, (driver, known) in enumerate(zip(rows["driver_id"], rows[KNOWN], strict=True)):
        published, started = of_driver.get(driver, nothing)
        before = started[(published <= known) & (started < start[i])]
        if len(before):
            previous[i] = before.max()
    return previous


def micros_or_nan(instants: "pd.Series[pd.Timestamp]") -> FloatArray:
    """(n,) microseconds since 1970 as float64, NaN for NaT; exact until the year 2255."""
    return np.where(instants.isna(), np.nan, micros(instants).astype(np.float64))
