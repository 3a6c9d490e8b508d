"""Driver form: windows over a driver's last starts, one row per publication of a result the driver is in."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from feature_repo.visibility import CREATED, EVENT
from pipelines.features.knowledge import KNOWN, histories, stamps, table
from pipelines.features.ratings import elo
from pipelines.features.results import starter_facts
from pipelines.features.windows import mean_last, median_last, std_last

ENTITY = ["driver_id"]
DTYPES = dict.fromkeys(
    [
        "driver_finish_mean_3",
        "driver_finish_mean_5",
        "driver_finish_mean_10",
        "driver_finish_std_10",
        "driver_grid_mean_5",
        "driver_positions_gained_mean_5",
        "driver_retirement_rate_10",
        "driver_points_mean_5",
        "driver_podium_rate_10",
        "driver_win_rate_20",
        "driver_qualifying_gap_to_pole_pct_mean_5",
        "driver_beat_teammate_rate_10",
        "driver_race_pace_gap_pct_median_5",
        "driver_starts",
        "driver_elo",
    ],
    "float32",
)
_INPUTS = [
    "finish",
    "grid",
    "points",
    "is_retired",
    "is_podium",
    "is_win",
    "beat_teammate",
    "qualifying_gap_pct",
    "pace_gap_pct",
    "elo",
]


def compute_driver_form(entries: pd.DataFrame, qualifying: pd.DataFrame, laps: pd.DataFrame) -> pd.DataFrame:
    """Feature table `driver_form`.

    Args:
        entries: canonical entries of every season to look back on.
        qualifying: canonical qualifying.
        laps: canonical laps.
    Returns:
        Keyed by `driver_id`. `event_timestamp` is when the newest race of the history was first published; `created_timestamp` is
        the publication (equal unless a result was corrected).
    """
    facts = driver_facts(entries, qualifying, laps)
    rows = [row for _, starts in facts.groupby("driver_id", sort=True) for row in form_rows(starts)]
    return _as_table(rows)


def driver_facts(entries: pd.DataFrame, qualifying: pd.DataFrame, laps: pd.DataFrame) -> pd.DataFrame:
    """`starter_facts` with each driver's Elo rating after the publication: all that a driver's form is computed from."""
    return rated(starter_facts(entries, qualifying, laps))


def rated(facts: pd.DataFrame) -> pd.DataFrame:
    """`facts` (of every race: a rating hangs on all before it) with each driver's Elo rating after the publication."""
    return facts.merge(elo(facts, "driver_id"), on=[KNOWN, "driver_id"], how="left", validate="many_to_one")


def form_of_driver(starts: pd.DataFrame) -> pd.DataFrame:
    """Feature rows of one driver from the driver's rows of `driver_facts`; what a worker that holds one key runs."""
    return _as_table(list(form_rows(starts)))


def form_rows(starts: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One row per instant at which something about one driver's starts became known."""
    driver_id = starts["driver_id"].iloc[0]
    columns = {name: starts[name].to_numpy(dtype=np.float64) for name in _INPUTS}
    known = starts[KNOWN].to_numpy()
    for instant, event, rows in histories(starts["race"].to_numpy(), known):
        # A window of a history never looks further back than 20 starts; the rest only counts.
        recent = rows[-20:]
        now = {name: values[recent] for name, values in columns.items()}
        yield {
            "driver_id": driver_id,
            "driver_finish_mean_3": mean_last(now["finish"], 3),
            "driver_finish_mean_5": mean_last(now["finish"], 5),
            "driver_finish_mean_10": mean_last(now["finish"], 10),
            "driver_finish_std_10": std_last(now["finish"], 10),
            "driver_grid_mean_5": mean_last(now["grid"], 5),
            "driver_positions_gained_mean_5": mean_last(now["grid"] - now["finish"], 5),
            "driver_retirement_rate_10": mean_last(now["is_retired"], 10),
            "driver_points_mean_5": mean_last(now["points"], 5),
            "driver_podium_rate_10": mean_last(now["is_podium"], 10),
            "driver_win_rate_20": mean_last(now["is_win"], 20),
            "driver_qualifying_gap_to_pole_pct_mean_5": mean_last(now["qualifying_gap_pct"], 5),
            "driver_beat_teammate_rate_10": mean_last(now["beat_teammate"], 10),
            "driver_race_pace_gap_pct_median_5": median_last(now["pace_gap_pct"], 5),
            "driver_starts": float(len(rows)),
            # the rating of the publication itself, which is the last row to have become known, not the last race
            "driver_elo": columns["elo"][known == instant][0],
            EVENT: event,
            CREATED: instant,
        }


def _as_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[*ENTITY, *DTYPES, EVENT, CREATED])
    return table(frame.assign(**{EVENT: stamps(frame[EVENT]), CREATED: stamps(frame[CREATED])}), ENTITY, DTYPES)
