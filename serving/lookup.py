"""What the store knows about a driver in a race: each feature's value, when it became true, how old it is.

Online is what was materialized last, judged against the clock. With `as_of`, offline: exactly what a training row of that instant
would hold. Feast serves a value of any age as present and never says how old an offline value is; both are added here.
"""

import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from feast import FeatureService, FeatureStore, FeatureView
from feast.type_map import feast_value_type_to_python_type
from feast.types import Float32, Float64, Int32, Int64
from numpy.typing import NDArray

from feature_repo.errors import MissingInputError
from feature_repo.ids import validate_race_id
from feature_repo.settings import Settings
from feature_repo.spine import find_entrant, find_entrant_at, load_entrants, refuse_future, unknown
from feature_repo.store import get_service, historical, open_store, views_of
from feature_repo.visibility import CREATED, EVENT, as_utc, latest_visible
from serving.errors import InconsistentFeaturesError, NotServedOnlineError

DEFAULT_SERVICE = "finish_position_v1"
Status = Literal["FRESH", "STALE", "MISSING"]


@dataclass(frozen=True)
class FeatureValue:
    """One feature at one moment.

    Attributes:
        value: float, int, str, bool, list or None.
        event_timestamp: when it became true (UTC); None if no row of its view is known.
        age_s: from then to the moment asked about, seconds.
        status: FRESH; STALE = older than its view's tag `fresh_for_s`, or than its ttl where there is no tag; MISSING = no row,
            or no value in it.
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
        frame: (N rows) race_id, driver_id, then the service's features as the online store holds them, of whatever age; numbers
            are float64 with NaN where nothing is held, everything else is object with None.
        event_s: (N, V) int64, when each view's row became true, whole seconds since 1970 UTC; 0 where no row is held.
        views: the V views, in the order of `event_s`.
        view_of: per feature, the position of its view.
        ttl: per view, its ttl; None = forever.
    """

    frame: pd.DataFrame
    event_s: NDArray[np.int64]
    views: tuple[str, ...]
    view_of: dict[str, int]
    ttl: tuple[pd.Timedelta | None, ...]

    @property
    def event_timestamps(self) -> pd.DataFrame:
        """(N rows) per view, when its row became true, UTC; NaT where no row is held. Slower than the lookup itself."""
        stamps = np.where(self.event_s == 0, _NAT_S, self.event_s).astype("datetime64[s]")
        return pd.DataFrame(stamps, columns=list(self.views)).apply(lambda stamp: stamp.dt.tz_localize(UTC))

    @property
    def newest(self) -> pd.Timestamp | None:
        """The newest event time of all rows held, whole seconds UTC; None if none is held."""
        latest = int(self.event_s.max(initial=0))
        return pd.Timestamp(latest, unit="s", tz=UTC) if latest else None

    def unexpired(self, now: datetime | pd.Timestamp) -> pd.DataFrame:
        """The frame with None for values older than their view's ttl at `now`: what a training row of that moment would hold.

        Feast enforces ttl offline only; a model that never saw an expired value in training should not see one online. Ages count
        from whole seconds, so a value may expire up to one second early.
        """
        clock_s = as_utc(now).timestamp()
        frame = self.frame.copy()
        ages_s = clock_s - self.event_s
        limits_s = np.array([np.inf if ttl is None else ttl.total_seconds() for ttl in self.ttl])
        expired = (self.event_s != 0) & (ages_s > limits_s)
        if expired.any():  # rarely: masking every column took longer than looking it up
            for name, position in self.view_of.items():
                if expired[:, position].any():
                    frame[name] = frame[name].mask(expired[:, position], None)
        return frame


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
            ttl) is None and STALE, because training gets null.
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
        stamps = grid.event_timestamps.iloc[0]
        features = {
            name: _judged(view, grid.frame[name].iloc[0], _or_none(stamps[view.name]), clock)
            for view, names in views
            for name in names
        }
        return LookupResult(race_id, driver_id, service, clock, "online", features)
    moment = as_utc(as_of)
    return LookupResult(race_id, driver_id, service, moment, "offline", _offline(feast, service, views, entrant, moment))


def lookup_grid(store: FeatureStore, *, race_id: str, driver_ids: Sequence[str], service: str = DEFAULT_SERVICE) -> GridLookup:
    """The online features of several cars of a race in one call to Feast.

    Args:
        store: an open store, kept between calls.
        race_id: the race.
        driver_ids: entrants of the race, in the order wanted.
        service: feature service.
    Raises:
        UnknownEntityError: a driver did not enter the race.
        NotServedOnlineError: the service holds a view that is never materialized.
    """
    plan = _plan(store, service)
    entrants = _entrants_of(store, race_id)
    strangers = [driver_id for driver_id in driver_ids if driver_id not in entrants]
    if strangers:
        raise unknown("driver_id", strangers[0], entrants, where=f" in race {race_id}")
    rows = [{key: entrants[driver_id][key] for key in plan.keys} for driver_id in driver_ids]
    response = store.get_online_features(features=plan.service, entity_rows=rows).proto
    columns = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
    numbers = {name: number for name, number in plan.fields.items() if number is not None}
    matrix = np.empty((len(rows), len(numbers)))
    for column, (name, number) in enumerate(numbers.items()):
        matrix[:, column] = [getattr(cell, number) if cell.HasField(number) else np.nan for cell in columns[name].values]
    frame = pd.DataFrame(matrix, columns=list(numbers))  # one block: a frame of sixty single columns takes 1 ms more to make
    frame.insert(0, "race_id", race_id)
    frame.insert(1, "driver_id", list(driver_ids))
    for place, (name, number_field) in enumerate(plan.fields.items(), start=2):
        if number_field is None:
            cells = [feast_value_type_to_python_type(cell) for cell in columns[name].values]
            frame.insert(place, name, pd.Series(cells, dtype=object))
    # Feast gives the time of the row even where the value is null, 0 where there is no row; one feature of a view tells for all.
    event_s = np.array(
        [[stamp.seconds for stamp in columns[name].event_timestamps] for name in plan.first_of_view], dtype=np.int64
    )
    return GridLookup(frame, event_s.T, plan.views, plan.view_of, plan.ttl)


_NAT_S = np.iinfo(np.int64).min
# Field of Feast's value message that holds a number of this type.
_NUMBERS = {Float32: "float_val", Float64: "double_val", Int32: "int32_val", Int64: "int64_val"}
_PLAN_FOR_S = 60.0
_plans: WeakKeyDictionary[FeatureStore, dict[str, tuple[float, "_Plan"]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class _Plan:
    """What a service needs and gives: join keys; features in order with the message field of numbers; views."""

    service: FeatureService
    keys: tuple[str, ...]
    fields: dict[str, str | None]
    views: tuple[str, ...]
    first_of_view: tuple[str, ...]
    view_of: dict[str, int]
    ttl: tuple[pd.Timedelta | None, ...]


def _plan(store: FeatureStore, service_name: str) -> _Plan:
    """The plan of a service, kept for a minute per open store: reading it from the registry takes longer than the features."""
    plans = _plans.setdefault(store, {})
    made, plan = plans.get(service_name, (-math.inf, None))
    if plan is None or time.monotonic() - made > _PLAN_FOR_S:
        plan = _make_plan(store, service_name)
        plans[service_name] = (time.monotonic(), plan)
    return plan


def _make_plan(store: FeatureStore, service_name: str) -> _Plan:
    service = get_service(store, service_name)
    views = views_of(store, service)
    hidden = [view.name for view, _ in views if not view.online]
    if hidden:
        raise NotServedOnlineError(
            f"service {service_name}: view {hidden[0]} is never materialized; ask with a moment (`--as-of`)"
        )
    types = {field.name: field.dtype for view, _ in views for field in view.features}
    return _Plan(
        service=service,
        keys=tuple(sorted({key for view, _ in views for key in view.join_keys})),
        fields={name: _NUMBERS.get(types[name]) for _, names in views for name in names},
        views=tuple(view.name for view, _ in views),
        first_of_view=tuple(names[0] for _, names in views),
        view_of={name: position for position, (_, names) in enumerate(views) for name in names},
        ttl=tuple(_ttl(view) for view, _ in views),
    )


def _entrants_of(store: FeatureStore, race_id: str) -> dict[str, dict[str, str]]:
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
            features[name] = _judged(view, value, None if row is None else row[EVENT], moment, expired=expired)
    return features


def _row_known_at(view: FeatureView, names: list[str], entrant: pd.Series, moment: pd.Timestamp) -> pd.Series | None:
    keys = list(view.join_keys)
    rows = pq.read_table(
        view.batch_source.path, columns=[*keys, *names, EVENT, CREATED], filters=[(key, "==", entrant[key]) for key in keys]
    ).to_pandas()
    known = latest_visible(rows, keys, moment)
    return None if known.empty else known.iloc[0]


def _judged(
    view: FeatureView, value: Any, event: pd.Timestamp | None, moment: pd.Timestamp, *, expired: bool = False
) -> FeatureValue:
    age = None if event is None else (moment - event).total_seconds()
    limit = _fresh_for_s(view)
    plain = _plain(value)
    if plain is None and not expired:
        return FeatureValue(None, event, age, "MISSING")
    stale = expired or (age is not None and limit is not None and age > limit)
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


def _or_none(stamp: pd.Timestamp) -> pd.Timestamp | None:
    return None if stamp is pd.NaT else stamp
