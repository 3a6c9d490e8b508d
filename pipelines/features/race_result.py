"""Race result: the label of each car, one row per published version of it."""

import pandas as pd

from feature_repo.visibility import CREATED, EVENT
from pipelines.features.knowledge import KNOWN, stamps, table, versions
from pipelines.features.results import ENTRY_KEY

ENTITY = ["race_id", "driver_id"]
DTYPES = {"finish_position": "int64", "is_classified": "bool", "status": "object"}


def compute_race_result(entries: pd.DataFrame) -> pd.DataFrame:
    """Feature table `race_result`.

    Args:
        entries: canonical entries; a second row of a race and driver is a correction.
    Returns:
        Keyed by `race_id, driver_id`. `event_timestamp` is the first publication of the car's result, `created_timestamp` that of
        this version, so that a join sees the newest version known at its moment.
    """
    rows = versions(entries, ENTRY_KEY)
    first = rows.groupby(ENTRY_KEY)[KNOWN].transform("min")
    labels = rows[ENTRY_KEY].assign(
        finish_position=rows["position_order"],
        is_classified=rows["is_classified"],
        status=rows["status"],
        **{EVENT: stamps(first.to_numpy()), CREATED: stamps(rows[KNOWN].to_numpy())},
    )
    return table(labels, ENTITY, DTYPES)
