"""Homes whose online store is Redis or PostgreSQL: answers as with SQLite, apart from each other, no secrets in files."""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import psycopg
import pytest
import redis
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, RepoConfig, ValueType
from feast.data_source import PushMode
from feast.types import Array, Bool, Float32, Int64, String, UnixTimestamp
from loop_setup import Pitwall
from online_servers import POSTGRES, REDIS, online, remove_namespace, url_of
from own_redis import own_redis
from psycopg import sql
from tiny_home import DRIVERS, RACES, at, catalogue, form_row, rows, write_all, write_table

from feature_repo.errors import NotAppliedError
from feature_repo.settings import Settings
from feature_repo.store import apply, open_store
from feature_repo.stores.choose import online_config
from feature_repo.stores.errors import OnlineStoreUnavailableError, OnlineUrlError
from feature_repo.stores.online import packed_store
from pipelines.materialize import materialize, online_status
from pipelines.status import status
from serving.lookup import lookup

SERVERS = ["redis", "postgres"]
Home = Callable[..., Settings]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with feature tables, not applied."""
    home = Settings(home=tmp_path_factory.mktemp("template") / "home")
    write_all(home)
    return home.home


@pytest.fixture
def home(settings: Settings, template: Path, tmp_path: Path) -> Iterator[Home]:
    """`home("redis")`: an applied home with feature tables on that server; its rows are removed afterwards."""
    made: list[Settings] = []

    def make(kind: str, name: str = "home", **options: Any) -> Settings:
        url = None if kind == "sqlite" else options.pop("online_url", None) or url_of(kind)
        chosen = Settings(home=tmp_path / name, online_url=url, **options)
        shutil.copytree(template, chosen.home)
        made.append(chosen)
        apply(chosen, catalogue(chosen.home))
        return chosen

    yield make
    for chosen in made:
        if chosen.online_url is not None:
            _remove(chosen)


@pytest.mark.parametrize("kind", SERVERS)
def test_a_home_on_a_server_gives_the_answers_of_one_on_sqlite(kind: str, home: Home) -> None:
    ours, reference = home(kind), home("sqlite", "reference")
    reports = [
        [(view.view, view.rows, view.newest, view.written) for view in materialize(each).views] for each in (ours, reference)
    ]
    assert reports[0] == reports[1]
    assert sum(view.written for view in materialize(ours).views) == 0
    assert all(view.up_to_date for view in materialize(ours).views)
    cars = [{"race_id": race_id, "driver_id": driver_id} for race_id in RACES for driver_id in (*DRIVERS, "nobody")]
    for service in ("finish_position_v1", "speed_trace_v1"):
        answers = [_sdk(open_store(each), service, cars) for each in (ours, reference)]
        assert answers[0] == answers[1]
        found = [lookup(each, race_id="2024_08", driver_id="norris", service=service, now=at(300)) for each in (ours, reference)]
        assert found[0] == found[1]
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert online_status(ours, now) == online_status(reference, now)
    assert status(ours)["online"]["driver_form"]["rows"] == len(DRIVERS)


@pytest.mark.parametrize("kind", SERVERS)
def test_late_and_corrected_rows_change_what_is_served_and_older_ones_do_not(kind: str, home: Home) -> None:
    ours = home(kind)
    materialize(ours)
    write_table(ours, "driver_form", rows(form_row("norris", 60.0, 9.0), form_row("alonso", -86_400, 8.0, created=99.0)))
    report = {view.view: view for view in materialize(ours).views}["driver_form"]
    assert (report.rows, report.written, report.held_back) == (3, 0, 2)  # the second race's form is newer than both
    newer = [form_row("norris", 30 * 86_400.0, 9.0), form_row("alonso", 13 * 86_400.0, 8.0, created=13 * 86_400.0 + 1)]
    write_table(ours, "driver_form", rows(*newer))
    report = {view.view: view for view in materialize(ours).views}["driver_form"]
    assert (report.rows, report.written, report.held_back) == (3, 2, 0)
    found = lookup(ours, race_id="2024_09", driver_id="alonso", now=at(14 * 86_400.0)).features["form_finish"]
    assert (found.value, found.event_timestamp) == (8.0, at(13 * 86_400.0))


@pytest.mark.parametrize("kind", SERVERS)
def test_writing_and_pushing_through_the_sdk_equals_sqlite_and_never_goes_back(kind: str, tmp_path: Path) -> None:
    moment = datetime(2024, 5, 26, 13, 0, 0, 250_001, tzinfo=UTC)
    older, newer = moment - timedelta(microseconds=1), moment + timedelta(microseconds=1)
    answers = []
    for each in (kind, "sqlite"):
        folder = tmp_path / f"{each}{len(answers)}"
        folder.mkdir()
        with online(each, folder) as made:
            store = _store_with_a_pushed_view(made.config, folder)
            store.write_to_online_store("form", df=_pushed(moment, x=[1.5, None]))
            store.push("form_push", _pushed(older, x=[7.0, 7.0]), to=PushMode.ONLINE)
            first = _sdk(
                store, ["form:x", "form:laps", "form:label", "form:wet", "form:until"], [{"driver_id": "a"}, {"driver_id": "b"}]
            )
            store.push("form_push", _pushed(newer, x=[2.5, 3.5]), to=PushMode.ONLINE)
            store.write_to_online_store("form", df=_pushed(moment, x=[9.0, 9.0]))
            second = _sdk(store, ["form:x"], [{"driver_id": "b"}, {"driver_id": "a"}, {"driver_id": "c"}])
            answers.append((first, second))
            store.teardown()
    assert answers[0] == answers[1]
    first, second = answers[0]
    assert first["x"] == [1.5, None]
    assert second["x"] == [3.5, 2.5, None]
    assert first["laps"] == [[1, 2], []]


def test_after_flushdb_materialize_fills_again(home: Home, tmp_path: Path) -> None:
    with own_redis(tmp_path) as address:
        ours = home("redis", online_url=f"redis://{address}/0")
        rows_of = {view.view: view.rows for view in materialize(ours).views}
        with redis.Redis.from_url(f"redis://{address}/0") as client:
            client.flushdb()
        assert {view: held.rows for view, held in online_status(ours).items()} == dict.fromkeys(rows_of, 0)
        again = materialize(ours).views
        assert not any(view.up_to_date for view in again)
        assert {view.view: view.rows for view in again} == {view.view: view.written for view in again} == rows_of
    with pytest.raises(OnlineStoreUnavailableError, match=r"127\.0\.0\.1.*no answer"):
        materialize(ours)
    with pytest.raises(OnlineStoreUnavailableError, match="start it or correct PITWALL_ONLINE_URL"):
        lookup(ours, race_id="2024_08", driver_id="norris", now=at(300))


def test_after_truncate_materialize_fills_again_and_a_dropped_table_is_named(home: Home) -> None:
    ours = home("postgres")
    rows_of = {view.view: view.rows for view in materialize(ours).views}
    with psycopg.connect(POSTGRES, autocommit=True) as connection:
        tables = _tables(connection, online_config(ours)["db_schema"])
        for table in tables:
            connection.execute(sql.SQL("TRUNCATE {}").format(table))
        assert {view.view: view.written for view in materialize(ours).views} == rows_of
        connection.execute(sql.SQL("DROP TABLE {}").format(tables[0]))
    with pytest.raises(NotAppliedError, match="run `pitwall apply` first"):
        materialize(ours)
    apply(ours, catalogue(ours.home))
    assert {view.view: view.rows for view in materialize(ours).views} == rows_of


@pytest.mark.parametrize("kind", SERVERS)
def test_two_homes_on_one_server_do_not_touch_each_other(kind: str, home: Home, tmp_path: Path) -> None:
    ours, theirs = home(kind), home(kind, "theirs")
    materialize(ours)
    assert {view: held.rows for view, held in online_status(theirs).items()} == dict.fromkeys(online_status(ours), 0)
    assert lookup(theirs, race_id="2024_08", driver_id="norris", now=at(300)).features["form_elo"].status == "MISSING"
    held = {view: found.rows for view, found in online_status(ours).items()}
    materialize(theirs, rebuild=True)
    shrunk = open_store(theirs)
    form, online_rows = shrunk.get_feature_view("driver_form"), packed_store(shrunk)
    assert online_rows.count_rows(shrunk.config, form) == len(DRIVERS)
    apply(theirs, [item for item in catalogue(theirs.home) if item.name not in {"driver_form", "finish_position_v1"}])
    if kind == "redis":  # in PostgreSQL the table is gone
        assert online_rows.count_rows(shrunk.config, form) == 0
    assert online_rows.is_ready_for(shrunk.config, form) is (kind == "redis")
    open_store(theirs).teardown()
    assert {view: found.rows for view, found in online_status(ours).items()} == held

    copied = ours.model_copy(update={"home": tmp_path / "copied"})
    shutil.copytree(ours.home, copied.home)
    with pytest.raises(NotAppliedError, match=f"belongs to {ours.home}.*copied or moved; run `pitwall apply`"):
        materialize(copied)
    assert online_status(copied) == {}
    apply(copied, catalogue(copied.home))
    try:
        assert {found.rows for found in online_status(copied).values()} == {0}
        materialize(copied, rebuild=True)
        assert {view: found.rows for view, found in online_status(ours).items()} == held
    finally:
        _remove(copied)


@pytest.mark.parametrize("kind", SERVERS)
def test_homes_that_name_one_namespace_share_rows(kind: str, home: Home) -> None:
    ours, replica = (home(kind, name, online_namespace="test_shared") for name in ("ours", "replica"))
    materialize(ours)
    found = lookup(replica, race_id="2024_08", driver_id="norris", now=at(300))
    assert found == lookup(ours, race_id="2024_08", driver_id="norris", now=at(300))
    assert found.features["form_elo"].value == 1503.0
    assert not (replica.home / "online_namespace.json").exists()


@pytest.mark.parametrize("kind", SERVERS)
def test_applying_again_keeps_the_namespace_and_the_rows(kind: str, home: Home) -> None:
    ours = home(kind)
    materialize(ours)
    before = online_config(ours)
    apply(ours, catalogue(ours.home))
    assert online_config(ours) == before
    assert all(view.up_to_date for view in materialize(ours).views)


@pytest.mark.parametrize("kind", SERVERS)
def test_a_password_is_in_no_file_and_any_feast_client_reads_with_it(
    kind: str, home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Servers that ask for none ignore a password or take any for the user `default`.
    parts = urlsplit(url_of(kind))
    user = "postgres" if kind == "postgres" else "default"
    port = parts.port or {"redis": 6379, "postgres": 5432}[kind]
    url = parts._replace(netloc=f"{user}:geheim@{parts.hostname}:{port}").geturl()
    with pytest.raises(OnlineUrlError, match="from the environment only: set PITWALL_ONLINE_URL") as refused:
        home(kind, "refused", online_url=url)
    assert "geheim" not in str(refused.value)
    monkeypatch.setenv("PITWALL_ONLINE_URL", url)
    ours = home(kind, online_url=url)
    materialize(ours)
    yaml_text = (ours.home / "feature_store.yaml").read_text()
    assert "connection_string: ${PITWALL_ONLINE_URL}" in yaml_text
    texts = [path.read_bytes() for path in ours.home.rglob("*") if path.is_file()]
    assert not any(b"geheim" in text for text in texts)
    assert "geheim" not in f"{ours!r}{open_store(ours).config!r}{caplog.text}"
    car = [{"race_id": "2024_08", "driver_id": "norris"}]
    assert _sdk(FeatureStore(str(ours.home)), "finish_position_v1", car) == _sdk(open_store(ours), "finish_position_v1", car)


@pytest.mark.parametrize("kind", SERVERS)
def test_the_command_line_works_with_each_store(kind: str, home: Home, pitwall: Pitwall, tmp_path: Path) -> None:
    ours = home(kind)
    (tmp_path / "pitwall.yaml").write_text(f"online_url: {url_of(kind)}\n")

    def said(*arguments: str) -> Any:
        answer = pitwall(*arguments, "--json", home=ours.home)
        assert answer.code == 0, answer.err
        return json.loads(answer.out)

    assert sum(view["rows"] for view in said("materialize")["views"]) > 0
    assert said("status")["online"]["driver_form"]["rows"] == len(DRIVERS)
    found = said("lookup", "--race", "2024_08", "--driver", "norris")
    assert found["features"]["form_elo"]["value"] == 1503.0
    said("apply")  # the real catalogue, in place of the tiny one
    assert {"driver_form", "circuit_profile"} <= set(said("status")["online"])


def test_a_wrong_url_or_server_is_bad_usage_or_a_plain_failure(settings: Settings, pitwall: Pitwall, tmp_path: Path) -> None:
    (tmp_path / "pitwall.yaml").write_text("online_url: mysql://127.0.0.1/\n")
    wrong = pitwall("apply", home=tmp_path / "home")
    assert (wrong.code, "expected redis://host:port/db or postgresql://" in wrong.err) == (2, True)
    for url, server in (
        ("redis://127.0.0.1:1/0", "Redis at 127.0.0.1:1"),
        ("postgresql://u@127.0.0.1:1/d", "PostgreSQL at 127.0.0.1:1/d"),
    ):
        (tmp_path / "pitwall.yaml").write_text(f"online_url: {url}\n")
        down = pitwall("apply", home=tmp_path / "home")
        assert down.code == 1
        assert "Traceback" not in down.err
        assert server in " ".join(down.err.split())


def _sdk(store: FeatureStore, features: Any, cars: list[dict[str, Any]]) -> dict[str, list[Any]]:
    wanted = store.get_feature_service(features) if isinstance(features, str) else features
    return store.get_online_features(features=wanted, entity_rows=cars).to_dict(include_event_timestamps=True)


def _store_with_a_pushed_view(config: RepoConfig, folder: Path) -> FeatureStore:
    driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.STRING)
    batch = FileSource(
        name="form_source",
        path=str(folder / "form.parquet"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
    _pushed(datetime(2024, 1, 1, tzinfo=UTC), x=[0.0, 0.0]).to_parquet(folder / "form.parquet")
    types = {"x": Float32, "laps": Array(Int64), "label": String, "wet": Bool, "until": UnixTimestamp}
    schema = [Field(name=name, dtype=dtype) for name, dtype in types.items()]
    view = FeatureView(name="form", entities=[driver], schema=schema, source=PushSource(name="form_push", batch_source=batch))
    store = FeatureStore(config=config)
    store.apply([driver, view])
    return store


def _pushed(moment: datetime, *, x: list[float | None]) -> pd.DataFrame:
    stamps = pd.Series([pd.Timestamp(moment)] * 2).astype("datetime64[us, UTC]")
    return pd.DataFrame(
        {
            "driver_id": ["a", "b"],
            "x": pd.Series(x, dtype="float32"),
            "laps": [[1, 2], []],
            "label": ["ü", None],
            "wet": [True, False],
            "until": stamps + pd.Timedelta(seconds=5),
            "event_timestamp": stamps,
            "created_timestamp": stamps,
        }
    )


def _tables(connection: psycopg.Connection, schema: str) -> list[sql.Identifier]:
    found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1", (schema,)).fetchall()
    return [sql.Identifier(schema, name) for (name,) in found]


def _remove(settings: Settings) -> None:
    try:
        config = online_config(settings)
    except (NotAppliedError, OnlineUrlError):
        return
    if "namespace" in config and urlsplit(str(settings.online_url)).port == urlsplit(REDIS).port:
        remove_namespace("redis", config["namespace"])
    elif "db_schema" in config:
        remove_namespace("postgres", config["db_schema"])
