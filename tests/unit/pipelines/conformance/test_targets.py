"""Which stores can be asked for, and what is refused before anything runs."""

import pytest

from pipelines.conformance.targets import OFFLINE, ONLINE, offline_target, online_target
from pipelines.errors import UnknownStoreError


@pytest.mark.parametrize("name", [name for name in OFFLINE if "spark" not in name])
def test_known_offline_stores(name: str) -> None:
    assert offline_target(name).type == OFFLINE[name]
    assert not offline_target(name).is_spark


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("sqlite", None),
        ("redis", "redis"),
        ("postgres", "postgres"),
        ("packed-sqlite", None),
        ("packed-redis", "redis"),
        ("packed-postgres", "postgres"),
    ],
)
def test_known_online_stores_say_which_server_they_need(name: str, needs: str | None) -> None:
    assert online_target(name).needs == needs
    assert set(ONLINE) >= {name}


def test_class_paths_are_stores_too() -> None:
    assert offline_target("feast.infra.offline_stores.duckdb.DuckDBOfflineStore").name.endswith("DuckDBOfflineStore")
    assert "path" in online_target("feast.infra.online_stores.sqlite.SqliteOnlineStore").fields


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("duckbd", "expected one of asof, duckdb"),
        ("os; rm -rf /", "expected one of"),
        ("a..b", "expected one of"),
        (".a.b", "expected one of"),
        ("no_such_package.Store", "cannot import no_such_package"),
        ("broken_stores.Missing", "has no class Missing"),
        ("broken_stores.NotAStore", "is no feast OfflineStore"),
        ("feast.infra.online_stores.sqlite.SqliteOnlineStore", "is no feast OfflineStore"),
        ("os.path", "is no feast OfflineStore"),
    ],
)
def test_what_is_no_offline_store_is_refused(name: str, message: str) -> None:
    with pytest.raises(UnknownStoreError, match=message):
        offline_target(name)
