"""Which online store a home uses, whose rows are its own, and that no secret reaches a file; without any server."""

import importlib.util
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from feature_repo.errors import BadUsageError, NotAppliedError
from feature_repo.files import read_json
from feature_repo.settings import Settings
from feature_repo.stores.choose import claim_namespace, online_config
from feature_repo.stores.errors import OnlineUrlError
from feature_repo.stores.servers import batches, expanded

REDIS = "redis://127.0.0.1:6379/0"
POSTGRES = "postgresql://pit@127.0.0.1:5432/wall?sslmode=disable"


def at(settings: Settings, url: str | None, **options: str) -> Settings:
    """The same home with another online store."""
    return Settings(home=settings.home, online_url=url, **options)


def test_without_a_url_the_store_is_sqlite_in_the_home_and_needs_no_namespace(settings: Settings) -> None:
    claim_namespace(settings)
    assert online_config(settings)["path"] == str(settings.home / "online_store.db")
    assert not settings.home.exists()


@pytest.mark.parametrize(
    ("url", "store", "space"),
    [
        (REDIS, "online_redis.PackedRedisOnlineStore", "namespace"),
        ("rediss://host/1", "online_redis.PackedRedisOnlineStore", "namespace"),
        ("unix:///run/redis.sock?db=2", "online_redis.PackedRedisOnlineStore", "namespace"),
        (POSTGRES, "online_postgres.PackedPostgresOnlineStore", "db_schema"),
        ("postgres://host/db", "online_postgres.PackedPostgresOnlineStore", "db_schema"),
    ],
)
def test_the_url_names_the_store_and_a_home_has_a_namespace_of_its_own(
    settings: Settings, url: str, store: str, space: str
) -> None:
    chosen = at(settings, url)
    with pytest.raises(NotAppliedError, match=r"no namespace.*run `pitwall apply` first"):
        online_config(chosen)
    claim_namespace(chosen)
    config = online_config(chosen)
    own = read_json(settings.home / "online_namespace.json")["namespace"]
    assert config == {
        "type": f"feature_repo.stores.{store}",
        "connection_string": url,
        space: own if space == "namespace" else f"pitwall_{own}",
    }
    serving = online_config(chosen, serving=True)
    assert {name: part for name, part in serving.items() if name in config} == config
    assert serving["timeout_s"] <= serving["pause_s"] == 2.0, "where people wait, it is given up soon and left alone for a while"
    claim_namespace(chosen)
    assert online_config(chosen) == config
    other = Settings(home=settings.home.parent / "other", online_url=url)
    claim_namespace(other)
    assert online_config(other)[space] != config[space]


def test_a_copied_home_may_not_use_the_rows_of_the_original_and_a_copy_applied_gets_its_own(settings: Settings) -> None:
    claim_namespace(at(settings, REDIS))
    copy = Settings(home=settings.home.parent / "copy", online_url=REDIS)
    shutil.copytree(settings.home, copy.home)
    with pytest.raises(NotAppliedError, match="copied or moved; run `pitwall apply`"):
        online_config(copy)
    claim_namespace(copy)
    assert online_config(copy)["namespace"] != online_config(at(settings, REDIS))["namespace"]


def test_a_namespace_in_the_settings_is_used_as_it_is_and_has_to_be_a_plain_name(settings: Settings) -> None:
    shared = at(settings, POSTGRES, online_namespace="prod-eu")
    claim_namespace(shared)
    assert online_config(shared)["db_schema"] == "pitwall_prod-eu"
    assert not settings.home.exists()
    for name in ("", "a:b", "*", 'x"; --', "x" * 41):
        with pytest.raises(ValidationError, match="online_namespace"):
            at(settings, POSTGRES, online_namespace=name)


@pytest.mark.parametrize("url", ["mysql://host/db", "localhost:6379", "", "/path", "redis"])
def test_a_url_of_no_known_store_is_bad_usage(settings: Settings, url: str) -> None:
    with pytest.raises(OnlineUrlError, match="expected redis://host:port/db or postgresql://") as refused:
        online_config(at(settings, url))
    assert isinstance(refused.value, BadUsageError)


def test_a_store_whose_package_is_not_installed_names_the_extra(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for url, extra in ((REDIS, "redis"), (POSTGRES, "postgres")):
        with pytest.raises(OnlineUrlError, match=rf"pip install '\.\[{extra}\]'"):
            online_config(at(settings, url))


@pytest.mark.parametrize(
    "url",
    [
        "redis://:geheim@host:6379/0",
        "redis://host:6379/0?password=geheim",
        "postgresql://u:geheim@host/db",
        "postgresql://u@host/db?password=geheim",
    ],
)
def test_a_password_comes_from_the_environment_only_and_is_written_nowhere(
    settings: Settings, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = at(settings, url, online_namespace="x")
    with pytest.raises(OnlineUrlError, match="PITWALL_ONLINE_URL") as refused:
        online_config(chosen)
    monkeypatch.setenv("PITWALL_ONLINE_URL", url)
    config = online_config(chosen)
    assert config["connection_string"] == "${PITWALL_ONLINE_URL}"
    assert expanded(config["connection_string"]) == url
    assert "geheim" not in f"{refused.value}{config}{chosen!r}{chosen}"


def test_an_unset_variable_in_a_connection_string_is_named() -> None:
    with pytest.raises(OnlineUrlError, match="NO_SUCH_URL is not set"):
        expanded("${NO_SUCH_URL}")


KEYS = st.lists(st.tuples(st.binary(min_size=1, max_size=1), st.binary(max_size=30)), max_size=40)


@given(rows=KEYS, max_rows=st.integers(1, 9), max_bytes=st.integers(1, 60))
def test_batches_keep_order_bounds_and_distinct_keys(rows: list[tuple[bytes, bytes]], max_rows: int, max_bytes: int) -> None:
    made = list(batches([key for key, _ in rows], [value for _, value in rows], max_rows=max_rows, max_bytes=max_bytes))
    assert [row for keys, values in made for row in zip(keys, values, strict=True)] == rows
    for keys, values in made:
        assert 1 <= len(keys) <= max_rows
        assert len(set(keys)) == len(keys)
        assert len(keys) == 1 or sum(map(len, values)) <= max_bytes


def test_batches_need_a_value_for_every_key() -> None:
    with pytest.raises(ValueError, match="got 2 keys and 1 values"):
        list(batches([b"a", b"b"], [b"1"], max_rows=5, max_bytes=5))
