"""What each published race result says about each starter: the facts that the form and record features are windows of.

A result is published when its entries become known (3 h after the flag) and again when any of them is corrected; each publication
is computed from what was known at that instant of the entries, qualifying, laps and pit stops.
"""

import numpy as np
import pandas as pd

from feature_repo.visibility import CREATED, EVENT
from pipelines.features.clean_laps import is_clean
from pipelines.features.knowledge import KNOWN, FloatArray, as_known_at, micros, versions

# Entries that took no part in the race, in the words of Ergast/Jolpica; "Withdrew" also of cars that retired into the pits.
NOT_STARTED = frozenset({"Did not start", "Withdrew", "Did not qualify", "Did not prequalify"})
DISQUALIFIED = frozenset({"Disqualified", "Excluded"})
MIN_CLEAN_LAPS = 5  # a median of fewer laps says more about traffic than about pace
MAX_STOP_S = 120.0  # longer ones are red flags or repairs

ENTRY_KEY = ["race_id", "driver_id"]
LAP_KEY = ["race_id", "driver_id", "lap"]
_PUBLICATION = ["race_id", KNOWN]


def publications(entries: pd.DataFrame, laps: pd.DataFrame) -> pd.DataFrame:
    """Every entry as each publication of its race's result has it.

    A car started when it completed a lap, or when timing has a lap of it and its status does not say otherwise: reasons such as
    "Power Unit" or "Illness" are given to cars that never left the garage too, and a car that crashed on its way to the grid has
    a lap in the timing. Where a race has no timed laps at all, the status alone decides.

    Args:
        entries: canonical entries; several rows of a race and driver are versions of the result.
        laps: canonical laps; only those known at the publication count.
    Returns:
        The entries' columns; `known` (microseconds, the publication); `race` (chronological number of the race); `started` and
        `is_retired` (started, not classified, not disqualified).
    """
    known = versions(entries, ENTRY_KEY)
    rows = as_known_at(known, known[_PUBLICATION].drop_duplicates(), ENTRY_KEY)
    seen = laps[ENTRY_KEY].assign(first_lap=np.maximum(micros(laps[EVENT]), micros(laps[CREATED])))
    seen = seen.groupby(ENTRY_KEY, sort=True)["first_lap"].min().reset_index()
    first_lap = rows[ENTRY_KEY].merge(seen, on=ENTRY_KEY, how="left")["first_lap"].to_numpy()
    race_lap = rows["race_id"].map(seen.groupby("race_id")["first_lap"].min()).to_numpy()
    instant = rows[KNOWN].to_numpy()
    has_lap = (first_lap <= instant) | ~(race_lap <= instant)
    started = (rows["laps_completed"] > 0) | (has_lap & ~rows["status"].isin(NOT_STARTED))
    return rows.assign(
        race=rows["season"].astype("int64") * 100 + rows["round"].astype("int64"),
        started=started,
        is_retired=started & ~rows["is_classified"].astype(bool) & ~rows["status"].isin(DISQUALIFIED),
    )


def starter_facts(entries: pd.DataFrame, qualifying: pd.DataFrame, laps: pd.DataFrame) -> pd.DataFrame:
    """One row per publication and starter.

    Args:
        entries: canonical entries.
        qualifying: canonical qualifying.
        laps: canonical laps.
    Returns:
        `race_id, season, race, known, driver_id, constructor_id` and, as float64: `finish` and `grid` (places), `points`,
        `is_retired`, `is_podium`, `is_win` (0/1), `beat_teammate` (0/1, NaN without a starting teammate),
        `qualifying_gap_pct` (to the pole sitter), `pace_gap_pct` (median clean lap to the quickest such median).
    """
    starters = publications(entries, laps)
    starters = starters[starters["started"]].reset_index(drop=True)
    moments = starters[_PUBLICATION].drop_duplicates()
    classified = starters["is_classified"].astype(bool)
    facts = starters[["race_id", "season", "race", KNOWN, "driver_id", "constructor_id"]].assign(
        finish=starters["position_order"].astype("float64"),
        grid=starters["grid"].astype("float64"),
        points=starters["points"].astype("float64"),
        is_retired=starters["is_retired"].astype("float64"),
        is_podium=(classified & (starters["position_order"] <= 3)).astype("float64"),
        is_win=(classified & (starters["position_order"] == 1)).astype("float64"),
    )
    mate = best_of_others(facts["finish"].to_numpy(), facts, [*_PUBLICATION, "constructor_id"])
    facts["beat_teammate"] = np.where(np.isnan(mate), np.nan, (facts["finish"].to_numpy() < mate).astype(np.float64))
    gaps = qualifying_gaps(as_known_at(versions(qualifying, ENTRY_KEY), moments, ENTRY_KEY))
    timed = laps[[*LAP_KEY, "lap_time_s", EVENT, CREATED]].assign(clean=is_clean(laps))
    timed = as_known_at(versions(timed, LAP_KEY), moments, LAP_KEY)
    pace = pace_gaps(timed[timed["clean"]])
    facts = facts.merge(gaps[[*_PUBLICATION, "driver_id", "qualifying_gap_pct"]], on=[*_PUBLICATION, "driver_id"], how="left")
    return facts.merge(pace, on=[*_PUBLICATION, "driver_id"], how="left")


def qualifying_gaps(qualifying: pd.DataFrame) -> pd.DataFrame:
    """`qualifying` with each driver's best time of the session against the pole sitter's and the teammate's best.

    Bests of the whole session are compared, not the last part each took part in: when the track dries or gets wet between the
    parts, everybody has a time from each of them.

    Args:
        qualifying: rows known at one `known` per race; canonical columns.
    Returns:
        The same rows with `qualifying_gap_pct` and `teammate_gap_pct`, percent (> 0 = slower), NaN where a time is missing.
    """
    best = qualifying[["q1_s", "q2_s", "q3_s"]].astype("float64").min(axis="columns")
    pole = qualifying[_PUBLICATION].assign(pole_s=best).loc[(qualifying["position"] == 1).to_numpy()]
    pole = pole.drop_duplicates(_PUBLICATION)
    pole_s = qualifying[_PUBLICATION].merge(pole, on=_PUBLICATION, how="left")["pole_s"].to_numpy()
    mate_s = best_of_others(best.to_numpy(), qualifying, [*_PUBLICATION, "constructor_id"])
    return qualifying.assign(
        qualifying_gap_pct=100.0 * (best.to_numpy() / pole_s - 1.0), teammate_gap_pct=100.0 * (best.to_numpy() / mate_s - 1.0)
    )


def pace_gaps(clean_laps: pd.DataFrame) -> pd.DataFrame:
    """Each driver's median clean lap against the quickest median of the race, percent.

    Args:
        clean_laps: clean laps known at one `known` per race; drivers with fewer than `MIN_CLEAN_LAPS` are left out.
    Returns:
        `race_id, known, driver_id, pace_gap_pct`.
    """
    by_driver = clean_laps.groupby([*_PUBLICATION, "driver_id"], sort=True)["lap_time_s"].agg(["median", "size"]).reset_index()
    by_driver = by_driver[by_driver["size"] >= MIN_CLEAN_LAPS]
    quickest = by_driver.groupby(_PUBLICATION)["median"].transform("min")
    return by_driver[[*_PUBLICATION, "driver_id"]].assign(pace_gap_pct=100.0 * (by_driver["median"] / quickest - 1.0))


def team_facts(starters: pd.DataFrame, pit_stops: pd.DataFrame) -> pd.DataFrame:
    """One row per publication and constructor, from `starter_facts`.

    Returns:
        `race_id, season, race, known, constructor_id` and, as float64: `points` (of the cars whose points are known, NaN if
        none are), `finish` (mean), `finish_best`, `n_retired`, `n_cars`, `qualifying_gap_pct` (the better car's),
        `pit_lane_time_s` (median of the race's stops).
    """
    team = [*_PUBLICATION, "season", "race", "constructor_id"]
    by_team = starters.groupby(team, sort=True)
    facts = (
        by_team.agg(
            finish=("finish", "mean"),
            finish_best=("finish", "min"),
            n_retired=("is_retired", "sum"),
            n_cars=("driver_id", "size"),
            qualifying_gap_pct=("qualifying_gap_pct", "min"),
        )
        .assign(points=by_team["points"].sum(min_count=1))  # unknown points are not 0 points
        .reset_index()
    )
    moments = starters[_PUBLICATION].drop_duplicates()
    stops = as_known_at(versions(pit_stops, LAP_KEY), moments, LAP_KEY)
    stops = stops[stops["pit_lane_time_s"] <= MAX_STOP_S]
    stops = stops.merge(starters[[*_PUBLICATION, "driver_id", "constructor_id"]], on=[*_PUBLICATION, "driver_id"])
    median = stops.groupby([*_PUBLICATION, "constructor_id"])["pit_lane_time_s"].median().reset_index()
    return facts.merge(median, on=[*_PUBLICATION, "constructor_id"], how="left").astype({"n_cars": "float64"})


def best_of_others(values: FloatArray, frame: pd.DataFrame, group: list[str]) -> FloatArray:
    """(n,) per row the smallest value among the other rows of its group; NaN where no other row has a value."""
    codes = frame.groupby(group, sort=False).ngroup().to_numpy()
    order = np.lexsort((values, codes))  # NaN sorts last within its group
    sorted_codes, sorted_values = codes[order], values[order]
    is_first = np.diff(sorted_codes, prepend=-1) != 0
    first_of_row = np.flatnonzero(is_first)[np.cumsum(is_first) - 1] if len(order) else np.empty(0, dtype=np.int64)
    second = np.minimum(first_of_row + 1, len(order) - 1)
    second_value = np.where(sorted_codes[second] == sorted_codes, sorted_values[second], np.nan)
    second_value = np.where(second == first_of_row, np.nan, second_value)
    others = np.empty(len(order))
    others[order] = np.where(is_first, second_value, sorted_values[first_of_row])
    return others
