"""A temporary Feast repository on the online store under test, and what cases do with it: apply, write, materialize, read.

Everything goes through Feast's public interface, so a case says what any Feast client would see.
"""

import multiprocessing
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

from pipelines.conformance.model import View
from pipelines.conformance.offline import FEAST_TYPES, VALUE_TYPES, feature_table
from pipelines.conformance.outcome import plain
from pipelines.conformance.targets import Target


class MismatchError(AssertionError):
    """A store answered something else than the right answer."""

    def __init__(self, got: object, expected: object) -> None:
        self.got, self.expected = repr(got), repr(expected)
        super().__init__(f"got {self.got}, expected {self.expected}")


def expect(got: object, expected: object) -> None:
    """Raise `MismatchError` unless both are equal."""
    if got != expected:
        raise MismatchError(got, expected)


@dataclass(frozen=True)
class Served:
    """What an online store answers about one feature of one key.

    Attributes:
        value: None is null or absent.
        event: the event time that comes with it, UTC; the epoch where there is none.
        is_present: the store says that it holds a value.
    """

    value: Any
    event: datetime
    is_present: bool


@dataclass
class Bench:
    """One repository. `folder` holds registry and tables; `project` keeps cases apart on a shared server."""

    target: Target
    folder: Path
    project: str
    options: Mapping[str, Any]
    _store: FeatureStore | None = field(default=None, repr=False)

    def settings(self) -> dict[str, Any]:
        """The arguments of `RepoConfig`; other processes open the same repository with them."""
        return {
            "repo_path": str(self.folder),
            "project": self.project,
            "provider": "local",
            "registry": {"registry_type": "file", "path": str(self.folder / "registry.db"), "cache_ttl_seconds": 0},
            "offline_store": {"type": "duckdb"},
            "online_store": {"type": self.target.type, **self.options},
            "entity_key_serialization_version": 3,
            "data_quality_monitoring": {"auto_baseline": False},
        }

    @property
    def store(self) -> FeatureStore:
        """The repository's store, opened once."""
        if self._store is None:
            self._store = open_store(self.settings())
        return self._store

    def apply(self, *views: View) -> None:
        """Register the views (and create their online tables)."""
        entities = {
            key: Entity(name=key, join_keys=[key], value_type=VALUE_TYPES[kind])
            for view in views
            for key, kind in view.keys.items()
        }
        self.store.apply([*entities.values(), *(self._declared(view, entities) for view in views)])

    def delete(self, view: View) -> None:
        """Remove a view from the registry, and with it whatever it holds online."""
        self.store.apply([], objects_to_delete=[self.store.get_feature_view(view.name)], partial=False)

    def write(self, view: View, *rows: Mapping[str, Any]) -> None:
        """Write rows (as `model.row` makes them) in one batch, in the given order."""
        write_rows(self.store, view, rows)

    def materialize(self, view: View, start: datetime, end: datetime) -> None:
        """`feast materialize` of the view's table between two event times."""
        pq.write_table(feature_table(view), self._path(view))
        self.store.materialize(start, end, feature_views=[view.name])

    def read(self, view: View, *keys: Mapping[str, Any]) -> list[dict[str, Served]]:
        """What the store serves for each key, feature by feature."""
        return read_rows(self.store, view, keys)

    def values(self, view: View, *keys: Mapping[str, Any]) -> list[dict[str, Any]]:
        """As `read`, the values only."""
        return [{name: served.value for name, served in found.items()} for found in self.read(view, *keys)]

    def _declared(self, view: View, entities: Mapping[str, Entity]) -> FeatureView:
        path = self._path(view)
        if not path.exists():
            pq.write_table(feature_table(view), path)
        source = FileSource(
            name=f"{view.name}_source",
            path=str(path),
            timestamp_field=view.event_column,
            created_timestamp_column=view.created_column or "",
        )
        return FeatureView(
            name=view.name,
            entities=[entities[key] for key in view.keys],
            ttl=view.ttl or timedelta(0),
            schema=[Field(name=name, dtype=FEAST_TYPES[kind]) for name, kind in {**view.keys, **view.features}.items()],
            source=source,
            online=True,
        )

    def _path(self, view: View) -> Path:
        return self.folder / f"{view.name[:40]}-{len(view.name)}.parquet"


def open_store(settings: Mapping[str, Any]) -> FeatureStore:
    """The store of a repository."""
    warnings.simplefilter("ignore")
    return FeatureStore(config=RepoConfig(**settings))


def write_rows(store: FeatureStore, view: View, rows: Sequence[Mapping[str, Any]]) -> None:
    """`write_to_online_store` of rows as `model.row` makes them."""
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in [*view.keys, *view.features]}
    frame = pd.DataFrame({name: pd.Series(values, dtype=_dtype(values)) for name, values in columns.items()})
    frame[view.event_column] = pd.Series([row["event"] for row in rows], dtype="datetime64[us, UTC]")
    if view.created_column:
        frame[view.created_column] = pd.Series([row["created"] for row in rows], dtype="datetime64[us, UTC]")
    store.write_to_online_store(view.name, frame)


def read_rows(store: FeatureStore, view: View, keys: Sequence[Mapping[str, Any]]) -> list[dict[str, Served]]:
    """`get_online_features` with the exact times of Feast's response (its `to_dict` cuts them to seconds)."""
    response = store.get_online_features(
        features=[f"{view.name}:{name}" for name in view.features], entity_rows=[dict(key) for key in keys]
    )
    values = response.to_dict()
    found: list[dict[str, Served]] = [{} for _ in keys]
    for name, column in zip(response.proto.metadata.feature_names.val, response.proto.results, strict=True):
        if name in view.features:
            for row, value, stamp, status in zip(found, values[name], column.event_timestamps, column.statuses, strict=True):
                row[name] = Served(plain(value), stamp.ToDatetime(tzinfo=UTC), status == FieldStatus.PRESENT)
    return found


def in_processes(jobs: Sequence[tuple[Any, ...]], *, zone: str = "UTC") -> list[Any]:
    """Call `function(*arguments)` for each (function, *arguments), every one in a process of its own, all at once.

    The processes are forked from a clean server that has imported Feast, so they share no connection with this one.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.conformance.online"])
    with ProcessPoolExecutor(len(jobs), mp_context=context, initializer=_enter_zone, initargs=(zone,)) as pool:
        return [future.result(timeout=50) for future in [pool.submit(*job) for job in jobs]]


def _enter_zone(zone: str) -> None:
    os.environ["TZ"] = zone
    time.tzset()


def _dtype(values: Sequence[Any]) -> str | None:
    return "object" if any(isinstance(value, list | bytes | str) or value is None for value in values) else None
