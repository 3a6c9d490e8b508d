"""Circuit profile: the layout of the race in progress or next, and how past races at the circuit went."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from feature_repo.visibility import CREATED, EVENT
from pipelines.features.clean_laps import is_away_from_pits, is_clean, is_green
from pipelines.features.knowledge import KNOWN, as_known_at, micros, stamps, table, versions, with_race
from pipelines.features.results import LAP_KEY, publications
from pipelines.features.windows import mean_last, median_last

ENTITY = ["circuit_id"]
DTYPES = {
    "circuit_length_km": "float32",
    "circuit_scheduled_laps": "float32",
    "circuit_turns": "float32",
    "circuit_type": "object",
    "circuit_direction": "object",
    "circuit_altitude_m": "float32",
    "circuit_overtaking_index_3": "float32",
    "circuit_safety_car_share_5": "float32",
    "circuit_retirement_rate_5": "float32",
    "circuit_pit_loss_mean_3_s": "float32",
    "circuit_pole_to_win_rate": "float32",
    "circuit_speed_trap_median_3_kph": "float32",
}
SAFETY_CAR = "4"
# A race whose result has not come a day after its start does not keep the next race's layout from showing.
IN_PROGRESS_US = 24 * 3600 * 1_000_000
_LAP_COLUMNS = [
    *LAP_KEY,
    "lap_time_s",
    "speed_st_kph",
    "pit_in",
    "pit_out",
    "track_status",
    "is_accurate",
    EVENT,
    CREATED,
]
_FACTS = ["overtaking_index", "had_safety_car", "retirement_rate", "pit_loss_s", "pole_won", "speed_trap_kph"]


def compute_circuit_profile(
    races: pd.DataFrame, circuits: pd.DataFrame, entries: pd.DataFrame, laps: pd.DataFrame
) -> pd.DataFrame:
    """Feature table `circuit_profile`.

    Args:
        races: canonical races (calendar, known a week ahead).
        circuits: canonical circuits, for the altitude.
        entries: canonical entries of every season to look back on.
        laps: canonical laps.
    Returns:
        Keyed by `circuit_id`; a row per instant at which a race there entered the calendar or its result was published.
        `event_timestamp` is when the newest race or result it knows of was first known.
    """
    return profiles(versions(races, ["race_id"]), with_race(race_facts(entries, laps), races, ["circuit_id"]), circuits)


def profiles(calendar: pd.DataFrame, facts: pd.DataFrame, circuits: pd.DataFrame) -> pd.DataFrame:
    """Feature rows of all circuits, or of one: what a worker that holds one circuit runs.

    Args:
        calendar: canonical races there, every version, with `known`.
        facts: rows of `race_facts` with `circuit_id`.
        circuits: canonical circuits, for the altitude.
    """
    heights = versions(circuits, ["season", "circuit_id"]).sort_values([KNOWN, "season"], kind="stable")
    rows = [
        row
        for circuit_id, held in calendar.groupby("circuit_id", sort=True)
        for row in profile_rows(
            str(circuit_id), held, facts[facts["circuit_id"] == circuit_id], heights[heights["circuit_id"] == circuit_id]
        )
    ]
    frame = pd.DataFrame(rows, columns=[*ENTITY, *DTYPES, EVENT, CREATED])
    return table(frame.assign(**{EVENT: stamps(frame[EVENT]), CREATED: stamps(frame[CREATED])}), ENTITY, DTYPES)


def profile_rows(circuit_id: str, calendar: pd.DataFrame, facts: pd.DataFrame, heights: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One row per instant at which something about one circuit became known.

    Args:
        circuit_id: the circuit.
        calendar: its races, every version, with `known`.
        facts: its rows of `race_facts`.
        heights: its rows of circuits, every version, with `known`, oldest first.
    """
    for instant in np.unique(np.concatenate([calendar[KNOWN], facts[KNOWN]])):
        scheduled = calendar[calendar[KNOWN] <= instant]
        published = facts[facts[KNOWN] <= instant]
        event = max(
            int(scheduled.groupby("race_id")[KNOWN].min().max()),
            int(published.groupby("race_id")[KNOWN].min().max()) if len(published) else 0,
        )
        layout = _current(scheduled, set(published["race_id"]), int(instant))
        past = published.drop_duplicates("race_id", keep="last").sort_values("race", kind="stable")
        seen = {name: past[name].to_numpy(dtype=np.float64) for name in _FACTS}
        height = heights.loc[heights[KNOWN] <= instant, "altitude_m"]
        yield {
            "circuit_id": circuit_id,
            "circuit_length_km": layout["course_length_km"],
            "circuit_scheduled_laps": layout["scheduled_laps"],
            "circuit_turns": layout["turns"],
            "circuit_type": layout["circuit_type"],
            "circuit_direction": layout["direction"],
            "circuit_altitude_m": height.iloc[-1] if len(height) else np.nan,
            "circuit_overtaking_index_3": mean_last(seen["overtaking_index"], 3),
            "circuit_safety_car_share_5": mean_last(seen["had_safety_car"], 5),
            "circuit_retirement_rate_5": mean_last(seen["retirement_rate"], 5),
            "circuit_pit_loss_mean_3_s": mean_last(seen["pit_loss_s"], 3),
            "circuit_pole_to_win_rate": mean_last(seen["pole_won"], len(past) or 1),
            "circuit_speed_trap_median_3_kph": median_last(seen["speed_trap_kph"], 3),
            EVENT: event,
            CREATED: int(instant),
        }


def race_facts(entries: pd.DataFrame, laps: pd.DataFrame) -> pd.DataFrame:
    """What each publication of a race's result says about the race, with the laps known by then.

    Returns:
        `race_id, race, known` in order of publication and, as float64 with NaN for not known: `overtaking_index`,
        `had_safety_car`, `retirement_rate`, `pit_loss_s`, `pole_won`, `speed_trap_kph`.
    """
    published = publications(entries, laps)
    starters = published[published["started"]]
    moments = starters[["race_id", KNOWN, "race"]].drop_duplicates()
    known_laps = as_known_at(versions(laps[_LAP_COLUMNS], LAP_KEY), moments, LAP_KEY)
    laps_of = dict(iter(known_laps.groupby(["race_id", KNOWN], sort=True)))
    rows = []
    for key, cars in starters.groupby(["race_id", KNOWN], sort=True):
        of_race = laps_of.get(key, known_laps.iloc[:0])
        clean = of_race[is_clean(of_race)]
        winner = cars[cars["position_order"] == 1]
        status = of_race["track_status"].dropna()
        rows.append(
            {
                "race_id": key[0],
                KNOWN: key[1],
                "race": cars["race"].iloc[0],
                "overtaking_index": overtaking_index(of_race),
                "had_safety_car": float(status.str.contains(SAFETY_CAR).any()) if len(status) else np.nan,
                "retirement_rate": float(cars["is_retired"].mean()),
                "pit_loss_s": pit_loss(of_race),
                "pole_won": float(winner["grid"].iloc[0] == 1) if len(winner) else np.nan,
                "speed_trap_kph": float(clean["speed_st_kph"].median()),
            }
        )
    columns = {"race_id": "object", KNOWN: "int64", "race": "int64", **dict.fromkeys(_FACTS, "float64")}
    return (
        pd.DataFrame(rows, columns=list(columns)).astype(columns).sort_values([KNOWN, "race"], kind="stable", ignore_index=True)
    )


def overtaking_index(laps: pd.DataFrame) -> float:
    """Changes of order between two cars per green lap, in one race.

    A pair of cars counts on a lap when both ended it and the lap before, both laps green and away from the pits for both, and the
    one that ended the lap before first now ends it second. NaN without such a lap.

    Args:
        laps: canonical laps of one race.
    """
    if laps.empty:
        return np.nan
    lap = laps["lap"].to_numpy(dtype=np.int64)
    car, names = pd.factorize(laps["driver_id"], sort=True)
    ends = np.full((lap.max() + 1, len(names)), np.nan)
    ends[lap, car] = micros(laps[EVENT]).astype(np.float64)
    racing = np.zeros(ends.shape, dtype=bool)
    racing[lap, car] = (is_green(laps) & is_away_from_pits(laps)).to_numpy()
    both = racing[1:] & racing[:-1]
    pairs = both[:, :, None] & both[:, None, :]
    ahead = ends[:, :, None] < ends[:, None, :]
    swapped = pairs & ahead[:-1] & ~ahead[1:]
    # a dead heat on the second lap is no change of order
    swapped &= ends[1:, :, None] > ends[1:, None, :]
    green_laps = int((both.sum(axis=1) >= 2).sum())
    return float(swapped.sum() / green_laps) if green_laps else np.nan


def pit_loss(laps: pd.DataFrame) -> float:
    """Median cost of a green-flag stop in one race, seconds: in-lap plus out-lap minus two of the car's median clean laps.

    NaN without a stop of which both laps are timed and green.

    Args:
        laps: canonical laps of one race.
    """
    usual = laps[is_clean(laps)].groupby("driver_id")["lap_time_s"].median().rename("usual_s")
    timed = laps[is_green(laps) & (laps["lap_time_s"] > 0)]
    columns = ["driver_id", "lap", "lap_time_s"]
    leaves = timed.loc[timed["pit_out"].notna(), columns]
    # the lap before the out-lap is the in-lap, also where the pit entry lies behind the finish line
    before = timed[columns].assign(lap=timed["lap"] + 1)
    stops = before.merge(leaves, on=["driver_id", "lap"], suffixes=("_in", "_out"))
    stops = stops.merge(usual, on="driver_id")
    return float((stops["lap_time_s_in"] + stops["lap_time_s_out"] - 2 * stops["usual_s"]).median())


def _current(scheduled: pd.DataFrame, finished: set[str], instant: int) -> "pd.Series[Any]":
    races = scheduled.drop_duplicates("race_id", keep="last")
    races = races.assign(start=micros(races["race_start"])).sort_values("start", kind="stable")
    ahead = races[~races["race_id"].isin(finished) & (races["start"] + IN_PROGRESS_US > instant)]
    return ahead.iloc[0] if len(ahead) else races.iloc[-1]
