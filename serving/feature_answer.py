"""Features of many entity rows with event time, age and status: online as they are now, or as they were known at an instant.

Online what was read is judged against the clock; at an instant exactly what a training row of that instant has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pandas as pd
from feast import FeatureStore
from numpy.typing import NDArray

from feature_repo.ids import validate_driver_id, validate_race_id
from feature_repo.settings import Settings
from feature_repo.spine import refuse_future, unknown
from feature_repo.visibility import as_utc
from serving.lookup import entrants_of
from serving.online_lookup import Status, lookup_rows
from serving.past_lookup import lookup_past, past_views
from serving.races import cars_at, newest_row_known


@dataclass(frozen=True)
class FeatureAnswer:
    """The features of a service for N entity rows.

    Attributes:
        service: the feature service.
        source: `online`, or `offline` for a past instant.
        as_of: the instant that ages are counted to.
        entity_rows: (N) with every join key that was used.
        view: feature -> its view.
        value: feature -> (N) values, None where nothing is known; what is not finite becomes null in JSON.
        status: feature -> (N) statuses.
        event_us: view -> (N,) when the newest row became true, microseconds since 1970 UTC.
        held: view -> (N,) there is such a row.
    """

    service: str
    source: Literal["online", "offline"]
    as_of: pd.Timestamp
    entity_rows: Sequence[Mapping[str, str]]
    view: dict[str, str]
    value: dict[str, list[Any]]
    status: dict[str, list[Status]]
    event_us: dict[str, NDArray[np.int64]]
    held: dict[str, NDArray[np.bool_]]

    def to_json(self) -> dict[str, Any]:
        """The answer as JSON: per feature lists in the order of the rows."""
        now_us = self.as_of.value // 1000
        times = {view: _times(event_us, self.held[view]) for view, event_us in self.event_us.items()}
        ages = {view: _ages(now_us - event_us, self.held[view]) for view, event_us in self.event_us.items()}
        return {
            "service": self.service,
            "source": self.source,
            "as_of": self.as_of.isoformat(),
            "entity_rows": self.entity_rows,
            "features": {
                name: {
                    "view": view,
                    "value": self.value[name],
                    "event_timestamp": times[view],
                    "age_s": ages[view],
                    "status": self.status[name],
                }
                for name, view in self.view.items()
            },
        }


def features_now(
    store: FeatureStore, service: str, rows: Sequence[Mapping[str, str]], *, now: datetime | None = None
) -> FeatureAnswer:
    """What the online store holds.

    Args:
        store: an open store.
        service: feature service.
        rows: join keys; `race_id` with `driver_id` is enough.
        now: the clock; default the current time.
    Raises:
        UnknownServiceError, NotServedOnlineError, EntityRowError: as in `lookup_rows`.
        UnknownEntityError: no such race, or the driver is not in it, where the other keys are to be found from these.
        OnlineStoreUnavailableError: the store does not answer.
    """
    completed = _completed(store, service, rows, lambda race_id: entrants_of(store, race_id))
    found = lookup_rows(store, service, completed)
    clock = as_utc(now or datetime.now(UTC))
    names = [view.view.name for view in found.plan.views]
    held, values = found.held, {name: found.values(name) for name in found.names}
    return FeatureAnswer(
        service=service,
        source="online",
        as_of=clock,
        entity_rows=completed,
        view={name: names[at] for name, at in found.plan.view_of.items()},
        value=values,
        status=found.statuses(clock, values),
        event_us={name: found.event_us[:, at] for at, name in enumerate(names)},
        held={name: held[:, at] for at, name in enumerate(names)},
    )


def features_at(
    settings: Settings, store: FeatureStore, service: str, rows: Sequence[Mapping[str, str]], as_of: pd.Timestamp
) -> FeatureAnswer:
    """What was known at an instant; a value expired by then is None and MISSING, as in a training row.

    Args:
        settings: which home.
        store: its open store.
        service: feature service.
        rows: join keys; `race_id` with `driver_id` is enough.
        as_of: the instant, UTC.
    Raises:
        FutureMomentError: it has not come yet, or lies long after what the home knows.
        UnknownServiceError, EntityRowError: as in `lookup_past`.
        UnknownEntityError, NotKnownYetError: no such race or driver then, where the other keys are to be found from these.
    """
    refuse_future(as_of, newest=newest_row_known(settings))

    def cars(race_id: str) -> dict[str, dict[str, str]]:
        columns = cars_at(settings, race_id, as_of)
        keyed = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return {row["driver_id"]: row for row in keyed}

    completed = _completed(store, service, rows, cars)
    moments_us = np.full(len(completed), as_of.value // 1000, dtype=np.int64)
    keys = {key: [row.get(key) for row in completed] for key in dict.fromkeys(key for row in completed for key in row)}
    found = lookup_past(store, service, keys, moments_us)
    names = [view.view.name for view in found.views]
    return FeatureAnswer(
        service=service,
        source="offline",
        as_of=as_of,
        entity_rows=completed,
        view={name: names[at] for name, at in found.view_of.items()},
        value={name: found.values(name) for name in found.names},
        status={name: found.statuses(name) for name in found.names},
        event_us={name: found.event_us[:, at] for at, name in enumerate(names)},
        held={name: found.held[:, at] for at, name in enumerate(names)},
    )


def _completed(store: FeatureStore, service: str, rows: Sequence[Mapping[str, str]], cars_of: Any) -> list[dict[str, str]]:
    """The rows with every key of the service, those not given taken from who entered the race."""
    needed = {key for view in past_views(store, service) for key in view.join_keys}
    races: dict[str, Mapping[str, Mapping[str, str]]] = {}
    completed = []
    for row in rows:
        lacking = [key for key in needed if key not in row]
        if not lacking or not {"race_id", "driver_id"} <= row.keys():
            completed.append(dict(row))
            continue
        race_id, driver_id = validate_race_id(row["race_id"]), validate_driver_id(row["driver_id"])
        if race_id not in races:
            races[race_id] = cars_of(race_id)
        cars = races[race_id]
        if driver_id not in cars:
            raise unknown("driver_id", driver_id, cars, where=f" in race {race_id}")
        completed.append({**row, **{key: str(cars[driver_id][key]) for key in sorted(lacking)}})
    return completed


def _times(event_us: NDArray[np.int64], held: NDArray[np.bool_]) -> list[str | None]:
    texts = np.datetime_as_string(event_us.astype("datetime64[us]"), unit="us", timezone="UTC").tolist()
    return [text if there else None for text, there in zip(texts, held.tolist(), strict=True)]


def _ages(age_us: NDArray[np.int64], held: NDArray[np.bool_]) -> list[float | None]:
    return [age if there else None for age, there in zip((age_us / 1e6).tolist(), held.tolist(), strict=True)]
