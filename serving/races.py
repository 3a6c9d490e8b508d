"""What a request needs to know about a race besides features: who drives in it, what it is called, how long it is.

Now, or as it was known at an instant. The files of a home that say so are read once and again when they change; reading them
takes 2 ms a request otherwise.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from feature_repo.errors import MissingInputError, NotKnownYetError
from feature_repo.files import read_parquet
from feature_repo.ids import validate_race_id
from feature_repo.settings import Settings
from feature_repo.spine import unknown
from feature_repo.visibility import CREATED, EVENT, latest_visible


@dataclass(frozen=True)
class Race:
    """One race as its pictures are titled and scaled.

    Attributes:
        name: such as `Monaco Grand Prix`.
        scheduled_laps: race distance, laps.
        is_simulated: it never happened.
    """

    name: str
    scheduled_laps: int
    is_simulated: bool


def driver_names(settings: Settings, race_id: str, as_of: pd.Timestamp | None = None) -> Mapping[str, str]:
    """driver_id -> the driver's name for every entrant of a race, sorted by driver_id.

    Args:
        settings: which home.
        race_id: the race.
        as_of: None = as they are known now; else as they were known at that instant.
    Raises:
        InvalidIdError, UnknownEntityError: no such race.
        MissingInputError: there is no such feature table.
    """
    if as_of is not None:
        rows = _known(settings, "entrants_known", race_id, ("race_id", "driver_id"), as_of)
        return {row.driver_id: row.driver_name for row in rows.itertuples() if row.is_entered}
    races = _entrants(*_version(settings.features_dir / "entrants.parquet"))
    if race_id not in races:
        raise unknown("race_id", validate_race_id(race_id), races)
    return races[race_id]


def race_of(settings: Settings, race_id: str, as_of: pd.Timestamp | None = None) -> Race:
    """A race's name and distance.

    Args:
        settings: which home.
        race_id: the race.
        as_of: None = as they are known now; else as they were known at that instant.
    Raises:
        InvalidIdError, UnknownEntityError: no such race.
        NotKnownYetError: the race was not in the calendar at that instant.
        MissingInputError: there is no such feature table.
    """
    if as_of is not None:
        rows = _known(settings, "races_known", race_id, ("race_id",), as_of)
        if rows.empty:
            raise NotKnownYetError(f"{race_id}, as of {as_of.isoformat()}: the race was not in the calendar yet")
        row = rows.iloc[0]
        return Race(str(row["name"]), int(row["scheduled_laps"]), bool(row["is_simulated"]))
    races = _races(*_version(settings.features_dir / "moments.parquet"))
    if race_id not in races:
        raise unknown("race_id", validate_race_id(race_id), races)
    return races[race_id]


def result_known(settings: Settings, race_id: str, as_of: pd.Timestamp) -> bool:
    """Whether a result of the race was published by an instant."""
    return not _known(settings, "race_result", race_id, ("race_id",), as_of).empty


def _known(settings: Settings, table: str, race_id: str, keys: tuple[str, ...], as_of: pd.Timestamp) -> pd.DataFrame:
    """The newest row of each key of a race in a table that was known at an instant."""
    races = _histories(*_version(settings.features_dir / f"{table}.parquet"))
    if race_id in races:
        return latest_visible(races[race_id], list(keys), as_of)
    if table != "race_result":
        raise unknown("race_id", validate_race_id(race_id), races)
    return pd.DataFrame(columns=[*keys, EVENT, CREATED])


@functools.lru_cache(maxsize=8)
def _histories(path: Path, *_version: int) -> dict[str, Any]:
    return dict(list(read_parquet(path).groupby("race_id", sort=True)))


def _version(path: Path) -> tuple[Path, int, int, int]:
    """A file and what changes when it is replaced."""
    if not path.exists():
        raise MissingInputError(f"{path}: no such file; run `pitwall features` first")
    status = path.stat()
    return path, status.st_mtime_ns, status.st_size, status.st_ino


@functools.lru_cache(maxsize=4)
def _entrants(path: Path, *_version: int) -> dict[str, dict[str, str]]:
    races: dict[str, dict[str, str]] = {}
    frame = read_parquet(path, columns=["race_id", "driver_id", "driver_name"]).sort_values(["race_id", "driver_id"])
    for row in frame.itertuples():
        races.setdefault(row.race_id, {})[row.driver_id] = row.driver_name
    return races


@functools.lru_cache(maxsize=4)
def _races(path: Path, *_version: int) -> dict[str, Race]:
    frame = read_parquet(path, columns=["race_id", "name", "scheduled_laps", "is_simulated"]).drop_duplicates("race_id")
    return {row.race_id: Race(row.name, int(row.scheduled_laps), bool(row.is_simulated)) for row in frame.itertuples()}
