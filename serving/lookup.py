"""What the store knows about a driver in a race: each feature's value, when it became true, how old it is.

Online is what was materialized last, judged against the clock. With `as_of`, offline: exactly what a training row of that instant
would hold. Feast serves a value of any age as present and never says how old an offline value is; both are added here.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from feast import FeatureStore, FeatureView
from numpy.typing import NDArray

from feature_repo.errors import MissingInputError
from feature_repo.feature_log import FeatureLog
from feature_repo.ids import validate_race_id
from feature_repo.settings import Settings
from feature_repo.spine import find_entrant, find_entrant_at, load_entrants, refuse_future, unknown
from feature_repo.store import get_service, historical, open_store, views_of
from feature_repo.visibility import CREATED, EVENT, as_utc, latest_visible
from serving.errors import InconsistentFeaturesError
from serving.online_lookup import OnlineFeatures, Status, lookup_rows, plan_of

DEFAULT_SERVICE = "finish_position_v1"


@dataclass(frozen=True)
class FeatureValue:
    """One feature at one moment.

    Attributes:
        value: float, int, str, bool, list or None.
        event_timestamp: when it became true (UTC); None if no row of its view is known.
        age_s: from then to the moment asked about, seconds.
        status: FRESH; STALE = older than its view's tag `fresh_for_s`, or than its ttl where there is no tag; MISSING = no value:
            no row, none in it, or at a past moment one older than the ttl.
    """

    value: Any
    event_timestamp: pd.Timestamp | None
    age_s: float | None
    status: Status


@dataclass(frozen=True)
class LookupResult:
    """All features of a service for one race and driver.

    Attributes:
        as_of: the moment that ages are counted to: the clock online, the moment asked about offline.
        source: where values came from.
        features: by name, in the service's order.
    """

    race_id: str
    driver_id: str
    service: str
    as_of: pd.Timestamp
    source: Literal["online", "offline"]
    features: dict[str, FeatureValue]

    def to_json(self) -> dict[str, Any]:
        """A JSON value: times in ISO 8601 UTC, no NaN."""
        return {
            "race_id": self.race_id,
            "driver_id": self.driver_id,
            "service": self.service,
            "as_of": self.as_of.isoformat(),
            "source": self.source,
            "features": {
                name: {
                    "value": feature.value,
                    "event_timestamp": None if feature.event_timestamp is None else feature.event_timestamp.isoformat(),
                    "age_s": feature.age_s,
                    "status": feature.status,
                }
                for name, feature in self.features.items()
            },
        }


@dataclass(frozen=True)
class GridLookup:
    """The online features of several cars of one race.

    Attributes:
        race_id: the race.
        driver_ids: the N cars, in the order asked for.
        features: what the online store held, of whatever age.
    """

    race_id: str
    driver_ids: tuple[str, ...]
    features: OnlineFeatures

    def columns(self, *, expired_at: datetime | pd.Timestamp | None = None) -> dict[str, NDArray[Any]]:
        """race_id, driver_id, then feature -> (N,), as `OnlineFeatures.columns`."""
        cars = np.array(self.driver_ids, dtype=object)
        keys: dict[str, NDArray[Any]] = {"race_id": np.full(len(cars), self.race_id, dtype=object), "driver_id": cars}
        return keys | self.features.columns(expired_at=expired_at)

    def frame(self, *, expired_at: datetime | pd.Timestamp | None = None) -> pd.DataFrame:
        """(N rows) `columns` as a frame; making it takes longer than the lookup."""
        return pd.DataFrame(self.columns(expired_at=expired_at))

    def newest(self, views: Sequence[str] | None = None) -> pd.Timestamp | None:
        """The newest event time of the rows held, UTC; None if none is held.

        Args:
            views: only of these views; default all.
        """
        chosen = [at for at, view in enumerate(self.features.plan.views) if views is None or view.view.name in views]
        held = self.features.held[:, chosen]
        if not held.any():
            return None
        return pd.Timestamp(int(self.features.event_us[:, chosen][held].max()), unit="us", tz=UTC)

    def corrected_after(self, moment: datetime | pd.Timestamp) -> list[str]:
        """The views that hold a row which became known only after `moment`: an answer about it knows corrections of later."""
        late = self.features.held & (self.features.created_us > as_utc(moment).value // 1000)
        return [view.view.name for view, is_late in zip(self.features.plan.views, late.any(axis=0), strict=True) if is_late]


def lookup(
    settings: Settings,
    *,
    race_id: str,
    driver_id: str,
    service: str = DEFAULT_SERVICE,
    as_of: datetime | str | pd.Timestamp | None = None,
    now: datetime | None = None,
    store: FeatureStore | None = None,
) -> LookupResult:
    """Every feature of a service for one driver in one race, with its age.

    Args:
        settings: which home.
        race_id: the race.
        driver_id: the driver; must have entered it.
        service: feature service.
        as_of: None = online, what is served now; else offline, what was known at that instant. There an expired value (older than
            ttl) is None and MISSING, as in a training row.
        now: the clock that online ages are counted to; default the current time.
        store: an open store of this home, to save opening it (0.2 s).
    Raises:
        InvalidIdError, UnknownEntityError: no such race, or the driver is not in it.
        UnknownServiceError: no such service.
        NotServedOnlineError: online, for a service of labels.
        FutureMomentError, NotKnownYetError: `as_of` has not come yet, or the driver was not known to take part then.
    """
    if as_of is None:
        entrant = find_entrant(load_entrants(settings), race_id, driver_id)
    else:
        refuse_future(as_utc(as_of))
        entrant = find_entrant_at(settings, race_id, driver_id, as_utc(as_of))
    feast = store or open_store(settings)
    views = views_of(feast, get_service(feast, service))
    if as_of is None:
        clock = as_utc(now or datetime.now(UTC))
        grid = lookup_grid(feast, race_id=race_id, driver_ids=[driver_id], service=service)
        log_served(FeatureLog.where_wanted(settings, service, store=feast), grid, moment=clock, close=True)
        return LookupResult(race_id, driver_id, service, clock, "online", _online(grid.features, clock))
    moment = as_utc(as_of)
    return LookupResult(race_id, driver_id, service, moment, "offline", _offline(feast, service, views, entrant, moment))


def lookup_grid(store: FeatureStore, *, race_id: str, driver_ids: Sequence[str], service: str = DEFAULT_SERVICE) -> GridLookup:
    """The online features of several cars of a race in one read.

    Args:
        store: an open store, kept between calls.
        race_id: the race.
        driver_ids: entrants of the race, in the order wanted.
        service: feature service.
    Raises:
        UnknownEntityError: a driver did not enter the race.
        NotServedOnlineError: the service holds a view that is never materialized.
    """
    plan = plan_of(store, service)
    entrants = entrants_of(store, race_id)
    strangers = [driver_id for driver_id in driver_ids if driver_id not in entrants]
    if strangers:
        raise unknown("driver_id", strangers[0], entrants, where=f" in race {race_id}")
    keys = sorted(plan.request_keys)
    rows = [{key: entrants[driver_id][key] for key in keys} for driver_id in driver_ids]
    return GridLookup(race_id, tuple(driver_ids), lookup_rows(store, service, rows))


def log_served(
    log: FeatureLog | None,
    grid: GridLookup,
    *,
    moment: pd.Timestamp,
    withheld_at: pd.Timestamp | None = None,
    model_version: str = "",
    close: bool = False,
) -> None:
    """Note down what a lookup served, for `pitwall skew`.

    Args:
        log: of the service; None = nothing is logged.
        grid: what was looked up.
        moment: what the answer is about.
        withheld_at: values expired at this moment were withheld; None = none were.
        model_version: that was asked with it.
        close: the log is not used again.
    """
    if log is None:
        return
    log.append(
        grid.columns(expired_at=withheld_at),
        entity_rows=grid.features.entity_rows,
        event_us=grid.features.event_us,
        moment=moment,
        withheld=withheld_at is not None,
        model_version=model_version,
    )
    if close:
        log.close()


def _online(found: OnlineFeatures, clock: pd.Timestamp) -> dict[str, FeatureValue]:
    """The features of the first entity row, judged against the clock."""
    statuses, ages, held = found.statuses(clock), found.ages_s(clock)[0].tolist(), found.held[0].tolist()
    events = [pd.Timestamp(int(event), unit="us", tz=UTC) for event in found.event_us[0]]
    return {
        name: FeatureValue(
            _plain(found.values(name)[0]),
            events[view] if held[view] else None,
            ages[view] if held[view] else None,
            statuses[name][0],
        )
        for name, view in found.plan.view_of.items()
    }


def entrants_of(store: FeatureStore, race_id: str) -> dict[str, dict[str, str]]:
    """driver_id -> join keys of that car, for one race; the file is read once and again when it changes."""
    path = Path(store.config.repo_path) / "features" / "entrants.parquet"
    if not path.exists():
        raise MissingInputError(f"{path}: no such file; run `pitwall features` first")
    status = path.stat()
    races = _entrants_by_race(path, status.st_mtime_ns, status.st_size, status.st_ino)
    if race_id not in races:
        raise unknown("race_id", validate_race_id(race_id), races)
    return races[race_id]


@functools.lru_cache(maxsize=4)
def _entrants_by_race(path: Path, *_version: int) -> dict[str, dict[str, dict[str, str]]]:
    races: dict[str, dict[str, dict[str, str]]] = {}
    frame = pd.read_parquet(path, columns=["race_id", "driver_id", "constructor_id", "circuit_id"])
    for row in frame.to_dict("records"):
        races.setdefault(row["race_id"], {})[row["driver_id"]] = row
    return races


def _offline(
    store: FeatureStore, service: str, views: list[tuple[FeatureView, list[str]]], entrant: pd.Series, moment: pd.Timestamp
) -> dict[str, FeatureValue]:
    """Values from Feast's point-in-time join; times from the row that our own comparator picks, whose values must agree."""
    keys = sorted({key for view, _ in views for key in view.join_keys})
    spine = pd.DataFrame({**{key: [entrant[key]] for key in keys}, EVENT: [moment]})
    joined = historical(store, service, spine).iloc[0]
    features: dict[str, FeatureValue] = {}
    for view, names in views:
        row = _row_known_at(view, names, entrant, moment)
        ttl = _ttl(view)
        expired = row is not None and ttl is not None and bool(row[EVENT] + ttl < moment)
        for name in names:
            value = _plain(joined[name])
            expected = None if row is None or expired else _plain(row[name])
            if not _same(value, expected):
                raise InconsistentFeaturesError(
                    f"{view.name}.{name} at {moment}: Feast's join gives {value!r}, the newest visible row {expected!r}"
                )
            features[name] = _judged(view, value, None if row is None else row[EVENT], moment)
    return features


def _row_known_at(view: FeatureView, names: list[str], entrant: pd.Series, moment: pd.Timestamp) -> pd.Series | None:
    keys = list(view.join_keys)
    rows = pq.read_table(
        view.batch_source.path, columns=[*keys, *names, EVENT, CREATED], filters=[(key, "==", entrant[key]) for key in keys]
    ).to_pandas()
    known = latest_visible(rows, keys, moment)
    return None if known.empty else known.iloc[0]


def _judged(view: FeatureView, value: Any, event: pd.Timestamp | None, moment: pd.Timestamp) -> FeatureValue:
    age = None if event is None else (moment - event).total_seconds()
    limit = _fresh_for_s(view)
    plain = _plain(value)
    if plain is None:
        return FeatureValue(None, event, age, "MISSING")
    stale = age is not None and limit is not None and age > limit
    return FeatureValue(plain, event, age, "STALE" if stale else "FRESH")


def _ttl(view: FeatureView) -> pd.Timedelta | None:
    """A view's ttl; None = forever, which Feast writes as zero."""
    return pd.Timedelta(view.ttl) if view.ttl else None


def _fresh_for_s(view: FeatureView) -> float | None:
    """How old a value of the view may be before it is STALE: its tag `fresh_for_s`, else its ttl; None = any age."""
    if "fresh_for_s" in view.tags:
        return float(view.tags["fresh_for_s"])
    ttl = _ttl(view)
    return None if ttl is None else ttl.total_seconds()


def _plain(value: Any) -> Any:
    """A value as JSON can hold it: lists for arrays, None for every kind of missing."""
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float | int):
        return math.isclose(left, right, rel_tol=1e-6)  # one side may have passed through 32 bits
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)
