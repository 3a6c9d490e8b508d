"""The races of a home by season, newest first, with the winner once known."""

import functools
from typing import Any

from feature_repo.files import read_parquet
from feature_repo.settings import Settings
from feature_repo.visibility import CREATED, EVENT
from serving.dashboard.tables import FileVersion, versions


def race_list(settings: Settings) -> list[dict[str, Any]]:
    """Every race with what the list shows of it: newest season first, rounds in order.

    Returns:
        Per race `season, round, race_id, name, circuit_id, race_start` (UTC, ISO 8601), `scheduled_laps, laps` (completed by the
        leader so far), `is_simulated`, `winner` (`driver_id, name, code`, or None while it is not known).
    Raises:
        MissingInputError: there are no feature tables.
    """
    return [dict(race) for race in _races(versions(settings, "moments", "race_result", "entrants"))]


@functools.lru_cache(maxsize=2)
def _races(files: tuple[FileVersion, ...]) -> tuple[dict[str, Any], ...]:
    moments, results, entrants = (read_parquet(version[0]) for version in files)
    laps = moments.groupby("race_id")["lap"].max()
    newest = results.sort_values([EVENT, CREATED]).drop_duplicates(["race_id", "driver_id"], keep="last")
    won = newest[newest["finish_position"] == 1].merge(entrants, on=["race_id", "driver_id"])
    winners = {row.race_id: {"driver_id": row.driver_id, "name": row.driver_name, "code": row.code} for row in won.itertuples()}
    races = moments.drop_duplicates("race_id").sort_values(["season", "round"], ascending=[False, True])
    return tuple(
        {
            "season": int(row.season),
            "round": int(row.round),
            "race_id": row.race_id,
            "name": row.name_,
            "circuit_id": row.circuit_id,
            "race_start": row.race_start.isoformat(),
            "scheduled_laps": int(row.scheduled_laps),
            "laps": int(laps[row.race_id]),
            "is_simulated": bool(row.is_simulated),
            "winner": winners.get(row.race_id),
        }
        for row in races.rename(columns={"name": "name_"}).itertuples()
    )
