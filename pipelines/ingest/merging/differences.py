"""Where sources disagree, as the last merge of each season found it: counts, and every difference beyond what is tolerated.

`state/differences/season=<YYYY>.json` has the counts and which sources were merged, `season=<YYYY>.parquet` one row a difference.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from feature_repo.files import read_json, read_parquet, write_json, write_parquet
from feature_repo.settings import Settings
from pipelines.errors import SourceMissingError
from pipelines.ingest.merging.merge import Merged

_COLUMNS = ["table", "column", "race_id", "key", "source", "value", "other_source", "other_value"]


def keep(settings: Settings, season: int, sources: Sequence[str], merged: Merged) -> None:
    """Write what the merge of a season found, or nothing where there was only one source."""
    folder = settings.state_dir / "differences"
    counts, rows = folder / f"season={season:04d}.json", folder / f"season={season:04d}.parquet"
    if len(sources) < 2:
        counts.unlink(missing_ok=True)
        rows.unlink(missing_ok=True)
        return
    found = merged.disagreements
    write_parquet(rows, pd.concat(found, ignore_index=True)[_COLUMNS] if found else pd.DataFrame(columns=_COLUMNS, dtype=str))
    write_json(
        counts,
        {
            "season": season,
            "sources": sorted(sources),
            "columns": [
                {
                    "table": table,
                    "column": column,
                    "believed": believed,
                    "other": other,
                    "compared": found.compared,
                    "differ": found.differ,
                    "largest": None if math.isnan(found.largest) else found.largest,
                }
                for (table, column, believed, other), found in merged.compared.items()
            ],
            "only_in": [{"table": table, "source": source, "rows": n} for (table, source), n in merged.only_in.items()],
        },
    )


@dataclass(frozen=True)
class DifferenceReport:
    """What sources said differently.

    Attributes:
        seasons: seasons that several sources told of, with the sources.
        columns: one entry a table, column and pair of sources, over all the seasons: `compared, differ, largest`.
        only_in: rows that only one of several sources of the same race has: `table, source, rows`.
        rows: every difference (`_COLUMNS`).
    """

    seasons: dict[int, list[str]]
    columns: list[dict[str, Any]]
    only_in: list[dict[str, Any]]
    rows: pd.DataFrame = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """The report as one JSON object."""
        return {
            "seasons": {str(season): sources for season, sources in self.seasons.items()},
            "columns": self.columns,
            "only_in": self.only_in,
            "differences": self.rows.to_dict("records"),
        }


def read(settings: Settings, seasons: Sequence[int] | None = None) -> DifferenceReport:
    """What the last merges found.

    Args:
        settings: which home.
        seasons: seasons to report; all that several sources told of when None.
    Raises:
        SourceMissingError: no season of those has more than one source.
    """
    folder = settings.state_dir / "differences"
    files = sorted(folder.glob("season=*.json")) if folder.exists() else []
    found = (
        [entry for file in files if seasons is None or (entry := read_json(file))["season"] in seasons]
        if seasons
        else [read_json(file) for file in files]
    )
    if not found:
        raise SourceMissingError(
            f"differences: {folder}: got no season that more than one source told of, expected some; ingest the same seasons "
            "from two sources, such as --source files and --source jolpica"
        )
    columns: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    only_in: dict[tuple[str, str], int] = {}
    for entry in found:
        for item in entry["columns"]:
            name = (item["table"], item["column"], item["believed"], item["other"])
            total = columns.setdefault(name, {**item, "compared": 0, "differ": 0, "largest": None})
            total["compared"] += item["compared"]
            total["differ"] += item["differ"]
            largest = [value for value in (total["largest"], item["largest"]) if value is not None]
            total["largest"] = max(largest) if largest else None
        for item in entry["only_in"]:
            only_in[(item["table"], item["source"])] = only_in.get((item["table"], item["source"]), 0) + item["rows"]
    rows = [read_parquet(folder / f"season={entry['season']:04d}.parquet") for entry in found]
    return DifferenceReport(
        seasons={entry["season"]: entry["sources"] for entry in found},
        columns=list(columns.values()),
        only_in=[{"table": table, "source": source, "rows": n} for (table, source), n in only_in.items()],
        rows=pd.concat(rows, ignore_index=True),
    )
