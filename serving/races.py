"""What a request needs to know about a race besides features: who drives in it, what it is called, how long it is.

Now, or as it was known at an instant. The files of a home that say so are read once and again when they change; reading them
takes 2 ms a request otherwise.
"""

import bisect
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
from feature_repo.spine import Moment, MomentPoint, entity_frame, newest_known, resolve_moment, unknown
from feature_repo.visibility import CREATED, EVENT, as_utc, latest_visible

_FileVersion = tuple[Path, int, int, int]
_newest: dict[tuple[_FileVersion, ...], pd.Timestamp] = {}


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
        named = zip(rows["driver_id"], rows["driver_name"], rows["is_entered"], strict=True)
        return {driver_id: name for driver_id, name, is_entered in named if is_entered}
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
        version = _version(settings.features_dir / "races_known.parquet")
        history = _histories(*version).get(race_id)
        if history is None or history.rows_known_at(as_of) == 0:
            race_known_at(settings, race_id, as_of)  # says why
        return _race(version, race_id, 0 if history is None else history.rows_known_at(as_of))
    races = _races(*_version(settings.features_dir / "moments.parquet"))
    if race_id not in races:
        raise unknown("race_id", validate_race_id(race_id), races)
    return races[race_id]


def moment_point(settings: Settings, race_id: str, moment: Moment) -> MomentPoint:
    """The instant of a moment in one race (see `resolve_moment`).

    Raises:
        InvalidIdError, UnknownEntityError, InvalidMomentError, FutureMomentError: as in `resolve_moment`.
    """
    version = _version(settings.features_dir / "moments.parquet")
    if race_id not in _moments(*version):
        entity_frame(settings, moment, [race_id])  # says what is wrong with the race
        raise unknown("race_id", race_id, _moments(*version))
    if moment.instant is not None:  # whether it has come yet depends on the clock
        return resolve_moment(_moments(*version)[race_id], race_id, moment)
    return _point(version, race_id, moment)


def cars_at(settings: Settings, race_id: str, instant: pd.Timestamp) -> Mapping[str, tuple[str, ...]]:
    """The join keys of the cars known to take part in a race at an instant, sorted by driver_id.

    Returns:
        `race_id`, `driver_id`, `constructor_id`, `circuit_id` -> one value a car; as `entity_frame` has them.
    Raises:
        UnknownEntityError, NotKnownYetError: no such race, or nobody was known to take part yet.
    """
    versions = tuple(_version(settings.features_dir / f"{table}.parquet") for table in ("entrants_known", "races_known"))
    histories = [_histories(*version).get(race_id) for version in versions]
    n_known = tuple(0 if history is None else history.rows_known_at(instant) for history in histories)
    cars = _cars(versions, race_id, n_known)
    if cars is None:
        entity_frame(settings, Moment.at(instant), [race_id])  # says why
        raise unknown("race_id", race_id, _histories(*versions[0]))
    return cars


def laps_of(settings: Settings, race_id: str) -> pd.DataFrame:
    """The leader's laps of a race: lap, as_of (its end), known_at and more; lap 0 is lights out, where the home has it.

    Raises:
        UnknownEntityError: no such race.
    """
    moments = _moments(*_version(settings.features_dir / "moments.parquet"))
    if race_id not in moments:
        raise unknown("race_id", validate_race_id(race_id), moments)
    return moments[race_id]


def race_known_at(settings: Settings, race_id: str, instant: pd.Timestamp) -> "pd.Series[Any]":
    """What the calendar said of a race at an instant: the row of `races_known`.

    Raises:
        UnknownEntityError, NotKnownYetError: no such race, or not yet.
    """
    rows = _known(settings, "races_known", race_id, ("race_id",), instant)
    if rows.empty:
        raise NotKnownYetError(f"{race_id}, as of {instant.isoformat()}: the race was not in the calendar yet")
    return rows.iloc[0]


def entrants_known_at(settings: Settings, race_id: str, instant: pd.Timestamp) -> pd.DataFrame:
    """Who was known to take part at an instant: rows of `entrants_known`, sorted by driver_id."""
    rows = _known(settings, "entrants_known", race_id, ("race_id", "driver_id"), instant)
    return rows[rows["is_entered"].astype(bool)].sort_values("driver_id", kind="stable")


def result_at(settings: Settings, race_id: str, instant: pd.Timestamp) -> pd.DataFrame:
    """The result as it was known at an instant, a row a driver; empty while there was none."""
    return _known(settings, "race_result", race_id, ("race_id", "driver_id"), instant)


def newest_row_known(settings: Settings) -> pd.Timestamp:
    """`newest_known`, read again only when a feature table has changed."""
    versions = tuple(_version(path) for path in sorted(settings.features_dir.glob("*.parquet")))
    newest = _newest.get(versions)
    if newest is None:
        newest = newest_known(settings)
        _newest.clear()
        _newest[versions] = newest
    return newest


def result_known(settings: Settings, race_id: str, as_of: pd.Timestamp) -> bool:
    """Whether a result of the race was published by an instant."""
    return not _known(settings, "race_result", race_id, ("race_id",), as_of).empty


def _known(settings: Settings, table: str, race_id: str, keys: tuple[str, ...], as_of: pd.Timestamp) -> pd.DataFrame:
    """The newest row of each key of a race in a table that was known at an instant."""
    version = _version(settings.features_dir / f"{table}.parquet")
    histories = _histories(*version)
    if race_id in histories:
        return _newest_of(version, race_id, keys, histories[race_id].rows_known_at(as_of))
    if table != "race_result":
        raise unknown("race_id", validate_race_id(race_id), histories)
    return pd.DataFrame(columns=[*keys, EVENT, CREATED])


@dataclass(frozen=True)
class _History:
    """All rows of one race in a table, and when each became knowable, sorted: between two such instants nothing changes."""

    rows: pd.DataFrame
    visible_us: list[int]

    @classmethod
    def of(cls, rows: pd.DataFrame) -> "_History":
        known = rows[[EVENT, CREATED]].max(axis=1, skipna=False).dropna()
        return cls(rows, sorted(as_utc(stamp).value // 1000 for stamp in known))

    def rows_known_at(self, instant: pd.Timestamp) -> int:
        """How many rows were knowable at an instant: equal numbers mean the same rows."""
        return bisect.bisect_right(self.visible_us, as_utc(instant).value // 1000)


@functools.lru_cache(maxsize=1024)
def _newest_of(version: _FileVersion, race_id: str, keys: tuple[str, ...], n_known: int) -> pd.DataFrame:
    history = _histories(*version)[race_id]
    if n_known == 0:
        return history.rows.iloc[:0]
    return latest_visible(history.rows, list(keys), pd.Timestamp(history.visible_us[n_known - 1], unit="us", tz="UTC"))


@functools.lru_cache(maxsize=4)
def _moments(path: Path, *_version: int) -> dict[str, pd.DataFrame]:
    return dict(list(read_parquet(path).groupby("race_id", sort=True)))


@functools.lru_cache(maxsize=1024)
def _point(version: _FileVersion, race_id: str, moment: Moment) -> MomentPoint:
    return resolve_moment(_moments(*version)[race_id], race_id, moment)


@functools.lru_cache(maxsize=1024)
def _race(version: _FileVersion, race_id: str, n_known: int) -> Race:
    row = _newest_of(version, race_id, ("race_id",), n_known).iloc[0]
    return Race(str(row["name"]), int(row["scheduled_laps"]), bool(row["is_simulated"]))


@functools.lru_cache(maxsize=1024)
def _cars(versions: tuple[_FileVersion, ...], race_id: str, n_known: tuple[int, ...]) -> dict[str, tuple[str, ...]] | None:
    if 0 in n_known:
        return None
    known = _newest_of(versions[0], race_id, ("race_id", "driver_id"), n_known[0])
    race = _newest_of(versions[1], race_id, ("race_id",), n_known[1])
    entered = known[known["is_entered"].astype(bool)].sort_values("driver_id", kind="stable")
    if entered.empty or race.empty:
        return None
    n_cars = len(entered)
    return {
        "race_id": (race_id,) * n_cars,
        "driver_id": tuple(map(str, entered["driver_id"])),
        "constructor_id": tuple(map(str, entered["constructor_id"])),
        "circuit_id": (str(race["circuit_id"].iloc[0]),) * n_cars,
    }


@functools.lru_cache(maxsize=8)
def _histories(path: Path, *_version: int) -> dict[str, _History]:
    return {str(race_id): _History.of(rows) for race_id, rows in read_parquet(path).groupby("race_id", sort=True)}


def _version(path: Path) -> _FileVersion:
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
