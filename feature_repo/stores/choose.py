"""Which online store a home uses: SQLite inside it, or the Redis or PostgreSQL that `online_url` names.

On a shared server, rows belong to a namespace. A home gets its own when it is applied: a random name, kept in
`online_namespace.json` together with the home's path. A copy of the home has another path, so it is told to run `pitwall apply`,
which gives it a new namespace: two homes never touch each other's rows. Machines that are meant to share rows name the namespace
in `online_namespace`.
"""

import importlib.util
import os
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from feature_repo.errors import NotAppliedError
from feature_repo.files import read_json, write_json
from feature_repo.settings import Settings
from feature_repo.stores.errors import OnlineUrlError

URL_VARIABLE = "PITWALL_ONLINE_URL"

SQLITE = "feature_repo.stores.online_sqlite.PackedSqliteOnlineStore"
_REDIS = "feature_repo.stores.online_redis.PackedRedisOnlineStore"
_POSTGRES = "feature_repo.stores.online_postgres.PackedPostgresOnlineStore"
_STORES = {"redis": _REDIS, "rediss": _REDIS, "unix": _REDIS, "postgresql": _POSTGRES, "postgres": _POSTGRES}
_EXTRAS = {_REDIS: ("redis", "redis"), _POSTGRES: ("psycopg", "postgres")}
_SERVING = {
    _REDIS: {"timeout_s": 1.5, "pause_s": 2.0},
    _POSTGRES: {"timeout_s": 1.5, "statement_timeout_s": 2.0, "pause_s": 2.0},
}
"""Seconds where people wait for answers: a server that hangs is given up soon, and not asked again by everybody."""


def online_config(settings: Settings, *, serving: bool = False) -> dict[str, Any]:
    """The `online_store` part of a home's Feast configuration. It holds no secret: a URL with a password is named, not written.

    Args:
        settings: which home; on a server its namespace must have been claimed (`claim_namespace`).
        serving: for reading where people wait: a server that does not answer is given up within seconds.
    Raises:
        OnlineUrlError: `online_url` names no known store, lacks its extra, or has a password that is not from the environment.
        NotAppliedError: the home has no namespace, or that of the home it was copied from.
    """
    url = settings.online_url
    if url is None:
        return {"type": SQLITE, "path": str(settings.home / "online_store.db")}
    store = _store_of(url)
    config = {"type": store, "connection_string": _without_secret(url), **(_SERVING[store] if serving else {})}
    name = settings.online_namespace or _claimed(settings.home)
    return {**config, "namespace": name} if store == _REDIS else {**config, "db_schema": f"pitwall_{name}"}


def claim_namespace(settings: Settings) -> None:
    """Give the home a namespace on the server, unless it has one, or the settings name one, or it uses no server. For `apply`."""
    if settings.online_url is None or settings.online_namespace is not None:
        return
    try:
        _claimed(settings.home)
    except NotAppliedError:
        write_json(_namespace_file(settings.home), {"namespace": secrets.token_hex(8), "home": str(settings.home)})


def _claimed(home: Path) -> str:
    path = _namespace_file(home)
    if not path.exists():
        raise NotAppliedError(f"{home}: has no namespace in the online store; run `pitwall apply` first")
    kept = read_json(path)
    if kept["home"] != str(home):
        raise NotAppliedError(
            f"{home}: its namespace in the online store belongs to {kept['home']}, from which this home was copied or moved; run "
            "`pitwall apply` for a new, empty one, or set PITWALL_ONLINE_NAMESPACE to share one on purpose"
        )
    return str(kept["namespace"])


def _namespace_file(home: Path) -> Path:
    return home / "online_namespace.json"


def _store_of(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in _STORES:
        raise OnlineUrlError(
            f"online_url: got the scheme {scheme[:20]!r}, expected redis://host:port/db or postgresql://user@host:port/database"
        )
    store = _STORES[scheme]
    module, extra = _EXTRAS[store]
    if importlib.util.find_spec(module) is None:
        raise OnlineUrlError(f"online_url: {scheme} needs the package {module}; run `pip install '.[{extra}]'` in a checkout")
    return store


def _without_secret(url: str) -> str:
    parts = urlsplit(url)
    if not parts.password and "password" not in parse_qs(parts.query):
        return url
    if os.environ.get(URL_VARIABLE) != url:
        raise OnlineUrlError(
            f"online_url: holds a password; passwords come from the environment only: set {URL_VARIABLE} to the URL, or leave "
            "the password out and set PITWALL_ONLINE_PASSWORD"
        )
    return f"${{{URL_VARIABLE}}}"
