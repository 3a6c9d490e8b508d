"""Two sets of canonical tables beside each other: what only one has, and every column in which they differ."""

from pathlib import Path

import pandas as pd

from feature_repo.files import sha256_file
from feature_repo.visibility import CREATED, EVENT
from pipelines.schemas import TABLES

Frames = dict[str, pd.DataFrame]

# Instants are what these tables are keyed by, and two recordings of a feed put them milliseconds apart.
NEAR = {"weather": pd.Timedelta(seconds=5), "track_status": pd.Timedelta(seconds=5), "race_control": pd.Timedelta(seconds=60)}
NUMBERS = 1e-6  # largest difference of numbers that counts as none; times: a second
SECONDS = 1.0


def lake_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a lake, for lakes that are to be equal to the bit."""
    return {str(file.relative_to(folder)): sha256_file(file) for file in sorted(folder.rglob("*.parquet"))}


def differences(ours: Frames, theirs: Frames) -> pd.DataFrame:
    """One row a table and column that both have values in.

    Returns:
        `table, column, both` (rows compared), `only_ours`, `only_theirs` (rows without a partner, the same for all columns of a
        table), `null_ours`, `null_theirs` (rows where only the other says something), `differ`, `largest` (numbers and seconds).
    """
    found = []
    for table, spec in TABLES.items():
        first, second = ours.get(table), theirs.get(table)
        if first is None or second is None or first.empty or second.empty:
            continue
        both = _paired(table, first, second)
        alone = {"only_ours": len(first) - len(both), "only_theirs": len(second) - len(both)}
        for column in spec.columns:
            if column in (*spec.key, "source", "season", "round") and column != EVENT:
                continue
            mine, other = both[f"{column}_ours"], both[f"{column}_theirs"]
            known = mine.notna() & other.notna()
            away = _away(mine[known], other[known])
            limit = SECONDS if isinstance(mine.dtype, pd.DatetimeTZDtype) else NUMBERS
            found.append(
                {
                    "table": table,
                    "column": column,
                    "both": int(known.sum()),
                    **alone,
                    "null_ours": int((mine.isna() & other.notna()).sum()),
                    "null_theirs": int((mine.notna() & other.isna()).sum()),
                    "differ": int((away > limit).sum()),
                    "largest": float(away.max()) if len(away) else 0.0,
                }
            )
    return pd.DataFrame(found)


def _paired(table: str, ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """Rows of the same key, all columns twice (`_ours`, `_theirs`); of instants, the nearest one of the same race."""
    key = list(TABLES[table].key)
    first = ours.sort_values(CREATED, kind="stable").drop_duplicates(key, keep="last").add_suffix("_ours")
    second = theirs.sort_values(CREATED, kind="stable").drop_duplicates(key, keep="last").add_suffix("_theirs")
    if table not in NEAR:
        return first.merge(second, left_on=[f"{name}_ours" for name in key], right_on=[f"{name}_theirs" for name in key])
    by = [name for name in key if name != EVENT]
    left = first.sort_values(f"{EVENT}_ours").reset_index(drop=True)
    right = second.sort_values(f"{EVENT}_theirs").reset_index(drop=True)
    pairs = pd.merge_asof(
        left,
        right,
        left_on=f"{EVENT}_ours",
        right_on=f"{EVENT}_theirs",
        left_by=[f"{name}_ours" for name in by],
        right_by=[f"{name}_theirs" for name in by],
        direction="nearest",
        tolerance=NEAR[table],
    ).dropna(subset=[f"{EVENT}_theirs"])
    return pairs.drop_duplicates([f"{name}_theirs" for name in by] + [f"{EVENT}_theirs"])


def _away(mine: pd.Series, other: pd.Series) -> pd.Series:
    """How far values are apart: numbers as they are, times in seconds, texts and flags 0 or 1."""
    if isinstance(mine.dtype, pd.DatetimeTZDtype):
        return (mine - other).dt.total_seconds().abs()
    if pd.api.types.is_numeric_dtype(mine) and not pd.api.types.is_bool_dtype(mine):
        return (mine.astype("float64") - other.astype("float64")).abs()
    return (mine.astype(object) != other.astype(object)).astype("float64")
