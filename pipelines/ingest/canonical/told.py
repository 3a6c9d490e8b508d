"""What a source itself said of a race's classifications, as hashes: they tell its corrections from changes of our code.

Taken of raw rows, before anything is derived from them. The unit is the race, because a canonical row depends on others of its
race: places on the grid close up, points follow from the order.
"""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import pandas as pd

from feature_repo.files import sha256_json


def told_of_races(raw: Mapping[str, Sequence[tuple[pd.DataFrame, Sequence[str]]]]) -> dict[str, dict[int, str]]:
    """Canonical table -> round -> hash of what was said of it.

    Args:
        raw: canonical table -> the raw frames that its rows follow from, each with the columns that matter; every frame with rows
            has `round`. Rows may be in any order, numbers of any type.
    """
    told: dict[str, dict[int, str]] = {}
    for table, frames in raw.items():
        said: dict[int, list[list[Any]]] = {}
        for number, (frame, columns) in enumerate(frames):
            if len(frame):
                for round_, rows in frame.groupby("round"):
                    content = rows[list(columns)].to_numpy(dtype=object).tolist()
                    said.setdefault(int(round_), []).append([number, sorted([_plain(value) for value in row] for row in content)])
        told[table] = {round_: sha256_json(content) for round_, content in said.items()}
    return told


def _plain(value: Any) -> str:
    if pd.isna(value):
        return ""
    return repr(float(value)) if isinstance(value, Real) else str(value)
