"""What several sources might say of the same small lake: some rows missing, some nulls, some other values."""

import numpy as np
import pandas as pd

from pipelines.ingest.merging.precedence import CORRECTED, PRECEDENCE
from pipelines.schemas import TABLES, conform

NAMES = ("files", "fastf1", "livetiming", "jolpica", "openf1")


def said_by(name: str, lake: dict[str, pd.DataFrame], seed: int, *, season: int = 2022) -> dict[str, pd.DataFrame]:
    """`lake`'s tables of one season as the source `name` tells them: whole races and single rows left out, nulls, other values.

    Values of columns that sources are compared in differ in a tenth of the rows.
    """
    rng = np.random.default_rng(seed)
    said = {}
    for table, frame in lake.items():
        rows = frame[frame["season"] == season].reset_index(drop=True)
        if name not in PRECEDENCE[table].order or rows.empty:
            continue
        if "race_id" in rows:
            missing = [race for race in sorted(rows["race_id"].unique()) if rng.random() < 0.25]
            rows = rows[~rows["race_id"].isin(missing)]
        rows = rows[rng.random(len(rows)) < 0.95].reset_index(drop=True).assign(source=name)
        for column, col in TABLES[table].cols.items():
            if column in TABLES[table].key or column == "season":
                continue
            if col.nullable:
                rows[column] = rows[column].mask(rng.random(len(rows)) < 0.3)
            elif col.kind == "int" and column in PRECEDENCE[table].tolerance:
                rows[column] = rows[column].mask(rng.random(len(rows)) < 0.1, rows[column] + 1)
        if table in CORRECTED:
            # every source puts the flag, and so the result, at a second of its own
            by = pd.Timedelta(seconds=int(rng.integers(-3, 4)))
            rows["event_timestamp"], rows["created_timestamp"] = rows["event_timestamp"] + by, rows["created_timestamp"] + by
        if len(rows):
            said[table] = conform(table, rows)
    return said
