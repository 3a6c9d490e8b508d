"""Which stores can be asked: short names and class paths, validated, with the settings each needs."""

import re
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from feast.infra.offline_stores.offline_store import OfflineStore
from feast.infra.online_stores.online_store import OnlineStore
from feast.repo_config import OFFLINE_STORE_CLASS_FOR_TYPE, ONLINE_STORE_CLASS_FOR_TYPE

from pipelines.errors import UnknownStoreError

OFFLINE = {
    "asof": "feature_repo.stores.offline.AsOfOfflineStore",
    "duckdb": "duckdb",
    "dask": "dask",
    "spark": "spark",
    "asof-spark": "feature_repo.stores.offline_spark.SparkAsOfOfflineStore",
}
ONLINE = {
    "sqlite": "sqlite",
    "redis": "redis",
    "postgres": "postgres",
    "packed-sqlite": "feature_repo.stores.online_sqlite.PackedSqliteOnlineStore",
    "packed-redis": "feature_repo.stores.online_redis.PackedRedisOnlineStore",
    "packed-postgres": "feature_repo.stores.online_postgres.PackedPostgresOnlineStore",
}
SPARK_SETTINGS = {
    "spark.master": "local[2]",
    "spark.driver.memory": "1g",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.shuffle.partitions": "2",
    "spark.ui.enabled": "false",
    "spark.log.level": "ERROR",
}
_CLASS_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+")


@dataclass(frozen=True)
class Target:
    """A store to ask.

    Attributes:
        name: as it was asked for.
        type: what goes into `offline_store.type` or `online_store.type`.
        options: further settings of the store.
        needs: the server the store needs: `redis`, `postgres` or None.
        is_spark: feature tables must be declared as Spark sources.
        fields: the settings that the store knows.
    """

    name: str
    type: str
    options: dict[str, Any] = field(default_factory=dict)
    needs: str | None = None
    is_spark: bool = False
    fields: frozenset[str] = frozenset()


def offline_target(name: str) -> Target:
    """The offline store of that name or class path.

    Raises:
        UnknownStoreError: no such store, or the class is no `OfflineStore`.
    """
    store_type = _checked(name, OFFLINE, OFFLINE_STORE_CLASS_FOR_TYPE, OfflineStore, "offline")
    path = OFFLINE_STORE_CLASS_FOR_TYPE.get(store_type, store_type)
    is_spark = "spark" in path.rsplit(".", 1)[-1].lower()
    return Target(name, store_type, {"spark_conf": dict(SPARK_SETTINGS)} if is_spark else {}, is_spark=is_spark)


def online_target(name: str) -> Target:
    """The online store of that name or class path.

    What a store needs is read off its settings: a host and database, or the `connection_string` it has by default.

    Raises:
        UnknownStoreError: no such store, or the class is no `OnlineStore`.
    """
    store_type = _checked(name, ONLINE, ONLINE_STORE_CLASS_FOR_TYPE, OnlineStore, "online")
    path = ONLINE_STORE_CLASS_FOR_TYPE.get(store_type, store_type)
    module, class_name = path.rsplit(".", 1)
    fields = getattr(import_module(module), f"{class_name}Config").model_fields
    usual = str(fields["connection_string"].default) if "connection_string" in fields else ""
    is_postgres = {"host", "database"} <= set(fields) or usual.startswith("postgres")
    needs = "postgres" if is_postgres else "redis" if usual else None
    return Target(name, store_type, needs=needs, fields=frozenset(fields))


def _checked(name: str, short: dict[str, str], feasts: dict[str, str], base: type, kind: str) -> str:
    """What Feast is told for `name`, once its class was found and is of the right kind."""
    store_type = short.get(name, name)
    path = feasts.get(store_type, store_type)
    if not _CLASS_PATH.fullmatch(path):
        raise UnknownStoreError(
            f"{kind} store: got {name!r}, expected one of {', '.join(short)} or a class path such as pkg.mod.Cls"
        )
    module, class_name = path.rsplit(".", 1)
    try:
        found = getattr(import_module(module), class_name)
    except ImportError as error:
        raise UnknownStoreError(f"{kind} store {name}: cannot import {module} ({error}); is its package installed?") from error
    except AttributeError as error:
        raise UnknownStoreError(f"{kind} store {name}: module {module} has no class {class_name}") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UnknownStoreError(f"{kind} store {name}: {path} is no feast {base.__name__}")
    return store_type
