"""Constructor form: windows over a constructor's last races, one row per publication of a result its cars are in."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from feature_repo.visibility import CREATED, EVENT
from pipelines.features.knowledge import KNOWN, histories, stamps, table
from pipelines.features.ratings import elo, standings
from pipelines.features.results import starter_facts, team_facts
from pipelines.features.windows import mean_last, median_last

ENTITY = ["constructor_id"]
DTYPES = dict.fromkeys(
    [
        "constructor_standing",
        "constructor_points_mean_5",
        "constructor_finish_mean_5",
        "constructor_retirement_rate_10",
        "constructor_qualifying_gap_to_pole_pct_mean_5",
        "constructor_pit_lane_time_median_5_s",
        "constructor_elo",
    ],
    "float32",
)
_INPUTS = ["points", "finish", "n_retired", "n_cars", "qualifying_gap_pct", "pit_lane_time_s", "elo", "standing"]


def compute_constructor_form(
    entries: pd.DataFrame, qualifying: pd.DataFrame, laps: pd.DataFrame, pit_stops: pd.DataFrame
) -> pd.DataFrame:
    """Feature table `constructor_form`.

    Args:
        entries: canonical entries of every season to look back on.
        qualifying: canonical qualifying.
        laps: canonical laps.
        pit_stops: canonical pit stops.
    Returns:
        Keyed by `constructor_id`; stamped as `driver_form`.
    """
    facts = constructor_facts(entries, qualifying, laps, pit_stops)
    rows = [row for _, races in facts.groupby("constructor_id", sort=True) for row in form_rows(races)]
    return _as_table(rows)


def constructor_facts(
    entries: pd.DataFrame, qualifying: pd.DataFrame, laps: pd.DataFrame, pit_stops: pd.DataFrame
) -> pd.DataFrame:
    """`team_facts` with Elo rating and championship place: all that a constructor's form is computed from."""
    return rated(team_facts(starter_facts(entries, qualifying, laps), pit_stops))


def rated(facts: pd.DataFrame) -> pd.DataFrame:
    """`team_facts` (of every race: rating and place hang on all before it) with Elo rating and championship place."""
    key = [KNOWN, "constructor_id"]
    facts = facts.merge(elo(facts, "constructor_id"), on=key, how="left", validate="many_to_one")
    return facts.merge(standings(facts), on=key, how="left", validate="many_to_one")


def form_of_constructor(races: pd.DataFrame) -> pd.DataFrame:
    """Feature rows of one constructor from its rows of `constructor_facts`; what a worker that holds one key runs."""
    return _as_table(list(form_rows(races)))


def form_rows(races: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One row per instant at which something about one constructor's races became known."""
    constructor_id = races["constructor_id"].iloc[0]
    columns = {name: races[name].to_numpy(dtype=np.float64) for name in _INPUTS}
    known = races[KNOWN].to_numpy()
    for instant, event, rows in histories(races["race"].to_numpy(), known):
        now = {name: values[rows[-10:]] for name, values in columns.items()}
        # rating and standing are those of the publication itself, which need not be about the last race
        published = int(np.flatnonzero(known == instant)[0])
        yield {
            "constructor_id": constructor_id,
            "constructor_standing": columns["standing"][published],
            "constructor_points_mean_5": mean_last(now["points"], 5),
            "constructor_finish_mean_5": mean_last(now["finish"], 5),
            "constructor_retirement_rate_10": now["n_retired"].sum() / now["n_cars"].sum(),
            "constructor_qualifying_gap_to_pole_pct_mean_5": mean_last(now["qualifying_gap_pct"], 5),
            "constructor_pit_lane_time_median_5_s": median_last(now["pit_lane_time_s"], 5),
            "constructor_elo": columns["elo"][published],
            EVENT: event,
            CREATED: instant,
        }


def _as_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[*ENTITY, *DTYPES, EVENT, CREATED])
    return table(frame.assign(**{EVENT: stamps(frame[EVENT]), CREATED: stamps(frame[CREATED])}), ENTITY, DTYPES)
