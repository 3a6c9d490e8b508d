"""What a request needs to know about a race besides features: who drives in it, what it is called, how long it is.

The two files of a home that say so are read once and again when they change; reading them takes 2 ms a request otherwise.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from feature_repo.errors import MissingInputError
from feature_repo.files import read_parquet
from feature_repo.ids import validate_race_id
from feature_repo.settings import Settings
from feature_repo.spine import unknown


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


def driver_names(settings: Settings, race_id: str) -> Mapping[str, str]:
    """driver_id -> the driver's name for every entrant of a race, sorted by driver_id.

    Raises:
        InvalidIdError, UnknownEntityError: no such race.
        MissingInputError: there is no `features/entrants.parquet`.
    """
    races = _entrants(*_version(settings.features_dir / "entrants.parquet"))
    if race_id not in races:
        raise unknown("race_id", validate_race_id(race_id), races)
    return races[race_id]


def race_of(settings: Settings, race_id: str) -> Race:
    """A race's name and distance.

    Raises:
        InvalidIdError, UnknownEntityError: no such race.
        MissingInputError: there is no `features/moments.parquet`.
    """
    races = _races(*_version(settings.features_dir / "moments.parquet"))
    if race_id not in races:
        raise unknown("race_id", validate_race_id(race_id), races)
    return races[race_id]


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
