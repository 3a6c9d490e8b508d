"""Driver at circuit: a driver's whole record at one circuit, one row per publication of a result there."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from feature_repo.visibility import CREATED, EVENT
from pipelines.features.knowledge import KNOWN, histories, stamps, table, with_race
from pipelines.features.results import publications

ENTITY = ["driver_id", "circuit_id"]
DTYPES = dict.fromkeys(
    [
        "driver_circuit_starts",
        "driver_circuit_wins",
        "driver_circuit_finish_best",
        "driver_circuit_finish_mean",
        "driver_circuit_retirement_rate",
    ],
    "float32",
)


def compute_driver_circuit(entries: pd.DataFrame, races: pd.DataFrame, laps: pd.DataFrame) -> pd.DataFrame:
    """Feature table `driver_circuit`.

    Args:
        entries: canonical entries of every season to look back on.
        races: canonical races; an entry whose race is not in the calendar yet is left out.
        laps: canonical laps, for who started.
    Returns:
        Keyed by `driver_id, circuit_id`; stamped as `driver_form`.
    """
    return records(circuit_facts(entries, races, laps))


def records(facts: pd.DataFrame) -> pd.DataFrame:
    """Feature rows of all drivers, or of one, from `circuit_facts`; what a worker that holds one driver runs."""
    rows = [row for _, starts in facts.groupby(ENTITY, sort=True) for row in record_rows(starts)]
    frame = pd.DataFrame(rows, columns=[*ENTITY, *DTYPES, EVENT, CREATED])
    return table(frame.assign(**{EVENT: stamps(frame[EVENT]), CREATED: stamps(frame[CREATED])}), ENTITY, DTYPES)


def circuit_facts(entries: pd.DataFrame, races: pd.DataFrame, laps: pd.DataFrame) -> pd.DataFrame:
    """One row per publication and starter with the race's circuit: all that the records are computed from."""
    facts = with_race(publications(entries, laps), races, ["circuit_id"])
    return facts[facts["started"] & facts["circuit_id"].notna()]


def record_rows(starts: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One row per instant at which something about one driver's starts at one circuit became known."""
    finish = starts["position_order"].to_numpy(dtype=np.float64)
    won = (finish == 1) & starts["is_classified"].to_numpy(dtype=bool)
    retired = starts["is_retired"].to_numpy(dtype=np.float64)
    driver_id, circuit_id = starts["driver_id"].iloc[0], starts["circuit_id"].iloc[0]
    for instant, event, rows in histories(starts["race"].to_numpy(), starts[KNOWN].to_numpy()):
        yield {
            "driver_id": driver_id,
            "circuit_id": circuit_id,
            "driver_circuit_starts": float(len(rows)),
            "driver_circuit_wins": float(won[rows].sum()),
            "driver_circuit_finish_best": finish[rows].min(),
            "driver_circuit_finish_mean": finish[rows].mean(),
            "driver_circuit_retirement_rate": retired[rows].mean(),
            EVENT: event,
            CREATED: instant,
        }
