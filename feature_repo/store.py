"""Feast as Pitwall uses it: one way to open a home's store, to apply the catalogue, and to ask what was known when.

SQL registry and SQLite online store inside the home, or the servers that settings name; the as-of offline store over the home's
Parquet files. The created cutoff is always on; number and order of rows are checked on every retrieval: not every offline store
of Feast keeps them.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from feast import Entity, FeatureService, FeatureStore, FeatureView, RepoConfig
from feast.data_source import DataSource
from feast.errors import FeatureServiceNotFoundException
from filelock import FileLock
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from feature_repo.errors import NotAppliedError, PointInTimeError, UnknownServiceError
from feature_repo.files import write_text
from feature_repo.settings import Settings
from feature_repo.stores.choose import SQLITE, claim_namespace, online_config
from feature_repo.stores.errors import FeatureRegistryUnavailableError
from feature_repo.stores.online import packed_store
from feature_repo.stores.spark_session import spark_offline_store
from feature_repo.visibility import EVENT

logger = logging.getLogger(__name__)

PROJECT = "pitwall"
ROW_ID = "pitwall_row_id"
OFFLINE_STORE = "feature_repo.stores.offline.AsOfOfflineStore"


@dataclass(frozen=True)
class ApplyReport:
    """What `apply` registered.

    Attributes:
        views: feature views, by name.
        services: feature services, by name.
        deleted: objects that left the catalogue and were removed, as `kind name`.
    """

    views: tuple[str, ...]
    services: tuple[str, ...]
    deleted: tuple[str, ...]


def online_path(settings: Settings) -> Path:
    """The SQLite online store of a home that uses no server."""
    return settings.home / "online_store.db"


def open_store(settings: Settings, *, online: Path | None = None, serving: bool = False) -> FeatureStore:
    """The Feast store of a home that was applied.

    Args:
        settings: which home.
        online: an SQLite file that is its online store instead of the home's own: a store beside it that nobody else reads.
        serving: read where people wait: a server of online features that does not answer is given up within seconds, and for
            the next ones at once.
    Raises:
        NotAppliedError: nothing was applied to this home yet.
    """
    if settings.registry_url is None and not (settings.home / "registry.db").exists():
        raise NotAppliedError(f"{settings.home}: no feature registry here; run `pitwall apply` first")
    return _open(_config(settings, online, serving=serving), settings.home)


def apply(settings: Settings, objects: Sequence[Any] | None = None) -> ApplyReport:
    """Register the catalogue in the home's registry, create the online tables, write `feature_store.yaml`.

    Idempotent. Objects that are no longer in the catalogue are deleted, with their online rows. Processes that apply to the same
    home at once wait for each other.

    Args:
        settings: which home.
        objects: entities, views and services with absolute source paths; default `catalog.bound_to(home)`.
    Raises:
        FeatureRegistryUnavailableError, OnlineStoreUnavailableError: the registry or the online store does not answer.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    if objects is None:
        from feature_repo.catalog import bound_to  # the catalogue is built on import: only where it is really wanted

        objects = bound_to(settings.home)
    with FileLock(settings.home / ".apply.lock", timeout=120):
        claim_namespace(settings)
        _write_yaml(settings)
        store = _open(_config(settings), settings.home)
        with _asked(store):
            stale = _no_longer_in(store, objects)
            store.apply(list(objects), objects_to_delete=stale, partial=False)
        views = [item for item in objects if isinstance(item, FeatureView)]
        # Feast leaves the online rows of a view that is no longer served.
        hidden = [view for view in views if not view.online]
        packed_store(store).update(store.config, hidden, [], [], [], partial=True)
    services = sorted(item.name for item in objects if isinstance(item, FeatureService))
    deleted = tuple(f"{type(item).__name__} {item.name}" for item in stale)
    logger.info("features_applied views=%d services=%d deleted=%d", len(views), len(services), len(deleted))
    return ApplyReport(tuple(sorted(view.name for view in views)), tuple(services), deleted)


def get_service(store: FeatureStore, name: str) -> FeatureService:
    """The feature service `name`.

    Raises:
        UnknownServiceError: there is none; the message names those there are.
        FeatureRegistryUnavailableError: the registry does not answer.
    """
    with _asked(store):
        try:
            return store.get_feature_service(name)
        except FeatureServiceNotFoundException as error:
            known = sorted(service.name for service in store.list_feature_services())
            raise UnknownServiceError(
                f"feature service: got {name!r}, expected one of {', '.join(known) or '(none applied)'}"
            ) from error


def views_of(store: FeatureStore, service: FeatureService) -> list[tuple[FeatureView, list[str]]]:
    """Each view of a service with the features that the service takes from it, in the service's order.

    Raises:
        NotAppliedError: a view's source lies outside this home: the registry was copied from another one.
        FeatureRegistryUnavailableError: the registry does not answer.
    """
    result = []
    for projection in service.feature_view_projections:
        with _asked(store):
            view = store.get_feature_view(projection.name, allow_registry_cache=True)
        source, home = Path(view.batch_source.path), Path(store.config.repo_path)
        if not source.is_relative_to(home):
            raise NotAppliedError(f"view {view.name}: reads {source}, outside the home {home}; run `pitwall apply` again")
        result.append((view, [field.name for field in projection.features]))
    return result


def feature_names(store: FeatureStore, service_name: str) -> list[str]:
    """The feature columns of a service, in order: what `historical` adds to a spine."""
    return [name for _, names in views_of(store, get_service(store, service_name)) for name in names]


def historical(store: FeatureStore, service_name: str, spine: pd.DataFrame) -> pd.DataFrame:
    """What each feature of a service was known to be at each row's moment.

    For each row and view: of the rows with the same key, event_timestamp <= moment, created_timestamp <= moment and
    event_timestamp >= moment - ttl, the one with the newest event, ties to the newest created; null where there is none.

    Args:
        store: an applied store.
        service_name: the feature service.
        spine: has the join keys of the service and `event_timestamp` (the moment; UTC, a naive time is UTC; cut to microseconds);
            other columns are passed through. Rows may repeat and come in any order.
    Returns:
        The spine's columns (moments in UTC microseconds), then the service's features; the rows of `spine` in their order.
    Raises:
        UnknownServiceError: no such service.
        PointInTimeError: a join key or the moment is missing, a spine column has a feature's name, or Feast answered other rows.
    """
    views = views_of(store, get_service(store, service_name))
    features = [name for _, names in views for name in names]
    keys = sorted({key for view, _ in views for key in view.join_keys})
    asked = _checked(spine, keys, features, service_name)
    answer = _answer(store, service_name, asked[[ROW_ID, *keys, EVENT]])
    return pd.concat([asked.drop(columns=ROW_ID), answer[features]], axis="columns")


def _checked(spine: pd.DataFrame, keys: list[str], features: list[str], service_name: str) -> pd.DataFrame:
    missing = [column for column in [*keys, EVENT] if column not in spine.columns]
    if missing:
        raise PointInTimeError(f"spine for {service_name}: lacks {missing}; it needs {[*keys, EVENT]}, got {list(spine.columns)}")
    taken = sorted({*features, ROW_ID} & set(spine.columns))
    if taken:
        raise PointInTimeError(f"spine for {service_name}: columns {taken} have the names of features; drop or rename them")
    asked = spine.reset_index(drop=True)
    asked = asked.assign(**{EVENT: pd.to_datetime(asked[EVENT], utc=True).dt.floor("us").astype("datetime64[us, UTC]")})
    empty = asked[[*keys, EVENT]].isna()
    if empty.to_numpy().any():
        column = empty.any().idxmax()
        raise PointInTimeError(f"spine for {service_name}: {column} is empty in row {int(empty[column].idxmax())}")
    return asked.assign(**{ROW_ID: range(len(asked))})


def _answer(store: FeatureStore, service_name: str, asked: pd.DataFrame) -> pd.DataFrame:
    service = get_service(store, service_name)
    answer = store.get_historical_features(entity_df=asked, features=service, filter_by_created_timestamp=True).to_df()
    answer = answer.sort_values(ROW_ID, kind="stable", ignore_index=True)  # Spark answers in any order
    if len(answer) != len(asked) or (answer[ROW_ID].to_numpy() != asked[ROW_ID].to_numpy()).any():
        raise PointInTimeError(
            f"{service_name}: asked for {len(asked)} rows, Feast answered {len(answer)} ({answer[ROW_ID].nunique()} different); "
            f"every row must be answered exactly once. Check the offline store's type: {store.config.offline_store.type}"
        )
    return answer


def _config(settings: Settings, online: Path | None = None, *, serving: bool = False) -> dict[str, Any]:
    return {
        "project": PROJECT,
        "provider": "local",
        "registry": {"registry_type": "sql", "path": settings.registry_path},
        "offline_store": spark_offline_store(settings) if settings.engine == "spark" else {"type": OFFLINE_STORE},
        "online_store": online_config(settings, serving=serving) if online is None else {"type": SQLITE, "path": str(online)},
        "entity_key_serialization_version": 3,
        "data_quality_monitoring": {"auto_baseline": False},  # else apply scans every source
        "coerce_tz_aware": False,  # the offline store does it; Feast would look at every time one by one
    }


def _open(config: dict[str, Any], home: Path) -> FeatureStore:
    return FeatureStore(config=RepoConfig(repo_path=home, **config))


@contextmanager
def _asked(store: FeatureStore) -> Iterator[None]:
    """Ask the registry of a store; what goes wrong with its database is said in one sentence."""
    try:
        yield
    except SQLAlchemyError as error:
        where = make_url(store.config.registry.path).render_as_string(hide_password=True)
        reason = next(iter(str(getattr(error, "orig", None) or error).strip().splitlines()), type(error).__name__)
        raise FeatureRegistryUnavailableError(
            f"feature registry at {where}: no answer ({reason}); start it or correct PITWALL_REGISTRY_URL"
        ) from error


def _write_yaml(settings: Settings) -> None:
    header = "# Written by `pitwall apply`, for any Feast client (`feast -c <this folder> ...`). Do not edit.\n"
    text = header + yaml.safe_dump(_config(settings), sort_keys=False)
    target = settings.home / "feature_store.yaml"
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        write_text(target, text)


def _no_longer_in(store: FeatureStore, objects: Sequence[Any]) -> list[Any]:
    wanted = {(_kind(item), item.name) for item in objects}
    wanted |= {(DataSource, item.batch_source.name) for item in objects if isinstance(item, FeatureView)}
    registered = [
        *store.list_feature_services(),
        *store.list_feature_views(),
        *store.list_entities(),
        *store.list_data_sources(),
    ]
    return [item for item in registered if (_kind(item), item.name) not in wanted and not item.name.startswith("__")]


def _kind(item: Any) -> type:
    return next((kind for kind in (FeatureService, FeatureView, Entity, DataSource) if isinstance(item, kind)), type(item))
