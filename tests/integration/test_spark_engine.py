"""Every step on Spark leaves in a home what the embedded engine leaves there, bit for bit."""

import shutil
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.types import Array, Int64, String
from loop_home import one_object
from loop_setup import Pitwall
from online_servers import online
from safetensors.numpy import load_file
from spark_engine import CONF, on_spark, start
from tiny_home import START

from feature_repo.errors import DuplicateRowsError, SparkJobError
from feature_repo.files import read_parquet, write_parquet
from feature_repo.settings import Settings
from feature_repo.store import OFFLINE_STORE, apply, historical, online_path, open_store
from feature_repo.stores.errors import EntityRowsError, SourceError
from feature_repo.stores.online import packed_store
from feature_repo.stores.packed import entity_keys
from feature_repo.stores.spark_session import spark_offline_store
from pipelines.embeddings import embed_traces
from pipelines.features.build import build_features
from pipelines.ingest.run import ingest
from pipelines.ingest.simulator import SimulatorSource
from pipelines.materialize import materialize
from pipelines.spark.features import compute_all
from pipelines.spark.materialize import transfer
from pipelines.traces import render_traces


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Two seasons of two simulated races, every step to the embeddings done by the embedded engine."""
    settings = Settings(home=tmp_path_factory.mktemp("embedded"), encoder="random", threads=1)
    source = SimulatorSource(seasons=2, races=2, seed=7)
    ingest(settings, source, source.years)
    build_features(settings)
    apply(settings)
    materialize(settings)
    render_traces(settings)
    embed_traces(settings)
    return settings


@pytest.fixture(scope="module")
def spark(embedded: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home with the same lake and encoder, whose steps Spark does; tests do them one after the other."""
    settings = on_spark(embedded, tmp_path_factory.mktemp("spark"))
    start(settings)
    for name in ("lake", "weights"):
        shutil.copytree(embedded.home / name, settings.home / name)
    build_features(settings)
    apply(settings)
    return settings


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rows_online(settings: Settings) -> dict[str, list[tuple[Any, ...]]]:
    with sqlite3.connect(f"file:{online_path(settings)}?mode=ro", uri=True) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: sorted(connection.execute(f'SELECT entity_key, value FROM "{name}"').fetchall())
            for name in tables
            if name.startswith("pitwall_")
        }


def test_feature_tables_are_equal_files(embedded: Settings, spark: Settings) -> None:
    assert files(spark.features_dir) == files(embedded.features_dir)
    assert build_features(spark).skipped, "what engine computed a table does not make it stale"


@pytest.mark.parametrize("service", ["finish_position_v1", "race_state_v1", "speed_trace_v1", "race_result_v1"])
def test_point_in_time_joins_are_equal_frames_in_order(embedded: Settings, spark: Settings, service: str) -> None:
    moments = read_parquet(embedded.features_dir / "moments.parquet")
    moments = moments[moments["lap"].isin([0, 9, 30])]
    spine = read_parquet(embedded.features_dir / "entrants.parquet").merge(moments[["race_id", "as_of"]], on="race_id")
    spine = spine.rename(columns={"as_of": "event_timestamp"})
    published = spine.assign(event_timestamp=spine["event_timestamp"] + pd.Timedelta(hours=6))
    spine = pd.concat([spine, published, spine.head(3)]).sample(frac=1.0, random_state=0)
    spine = spine[["race_id", "driver_id", "constructor_id", "circuit_id", "event_timestamp"]]
    expected = historical(open_store(embedded), service, spine)
    pd.testing.assert_frame_equal(historical(open_store(spark), service, spine), expected, check_exact=True)
    assert expected.drop(columns=list(spine)).notna().any(axis=None)
    assert expected.drop(columns=list(spine)).isna().any(axis=None)


def test_materialization_leaves_the_same_rows_and_never_goes_back(embedded: Settings, spark: Settings) -> None:
    told: list[tuple[str, int, int]] = []
    report = materialize(spark, progress=lambda *step: told.append(step))
    assert rows_online(spark) == rows_online(embedded)
    assert {view for view, done, total in told if done == total} == {view.view for view in report.views}
    assert all(view.up_to_date for view in materialize(spark).views)
    store = open_store(spark)
    view, config = store.get_feature_view("race_state"), store.config
    events = read_parquet(spark.features_dir / "race_state.parquet")["event_timestamp"].astype("int64")
    early, _ = transfer(spark, config, packed_store(store), view, 0, int(events.sort_values().iloc[500]))
    assert early.written == 0
    assert early.held_back > 0
    assert rows_online(spark) == rows_online(embedded)


@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_workers_write_to_a_server_what_the_driver_writes_to_a_file(
    embedded: Settings, spark: Settings, tmp_path: Path, kind: str
) -> None:
    view = open_store(spark).get_feature_view("tire_state")
    with online(kind, tmp_path) as server, online("sqlite", tmp_path) as file:
        for store in (server, file):
            store.store.update(store.config, [], [view], [], [], partial=True)
        there, never = transfer(spark, server.config, server.store, view, 0, 2**53)
        here, _ = transfer(spark, file.config, file.store, view, 0, 2**53)
        assert there == here
        assert (there.written, there.held_back, never) == (server.store.count_rows(server.config, view), 0, 0)
        keys = entity_keys(
            view, read_parquet(spark.features_dir / "tire_state.parquet").drop_duplicates(["race_id", "driver_id"])
        )
        held = server.store.read_rows(server.config, view, keys)
        assert held == file.store.read_rows(file.config, view, keys)
        assert None not in held
        again, _ = transfer(spark, server.config, server.store, view, 0, 2**53)
        assert (again.written, again.unchanged) == (0, there.written)


def test_two_rows_with_the_same_key_and_times_are_refused(spark: Settings) -> None:
    path = spark.features_dir / "race_weather.parquet"
    table = read_parquet(path)
    write_parquet(path, pd.concat([table, table.tail(1)]))
    try:
        with pytest.raises(DuplicateRowsError, match=r"race_weather.parquet.*share key and times"):
            materialize(spark)
    finally:
        write_parquet(path, table)


def test_pictures_are_equal_bytes_and_embeddings_equal_bits(embedded: Settings, spark: Settings) -> None:
    assert render_traces(spark).rendered > 0
    assert files(spark.multimodal_dir) == files(embedded.multimodal_dir)
    assert render_traces(spark).rendered == 0
    damaged = next(iter(sorted((spark.multimodal_dir / "speed_traces").rglob("*.png"))))
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-9])
    first = embed_traces(spark)
    assert [Path(uri).name for uri in first.damaged] == [damaged.name]
    damaged.write_bytes(whole)
    assert embed_traces(spark).new == 1
    (ours,), (theirs,) = (list(home.embeddings_dir.glob("*.safetensors")) for home in (spark, embedded))
    assert ours.name == theirs.name
    np.testing.assert_array_equal(load_file(ours)["embeddings"], load_file(theirs)["embeddings"], strict=True)


@pytest.fixture(scope="module")
def nasty(spark: Settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, FeatureStore]:
    """One table of few keys and instants, so that ties, late rows, corrections and edges of the ttl abound; a store an engine."""
    folder, rng, n = tmp_path_factory.mktemp("nasty"), np.random.default_rng(0), 2_000
    event = rng.integers(0, 300, n)
    table = pd.DataFrame(
        {
            "race_id": rng.choice(["a", "b", "ab", None], n),
            "driver_id": rng.choice(["x", "bx"], n),
            "place": np.arange(n, dtype=np.int64) + 2**53,
            "name": [None if number % 5 == 0 else f"row {number}" for number in range(n)],
            "laps": [[number, number + 1] for number in range(n)],
            "event_timestamp": START + pd.to_timedelta(event, unit="s"),
            "created_timestamp": START + pd.to_timedelta(event + rng.choice([0, 0, 5, 50, -3], n), unit="s"),
        }
    )
    table.loc[::17, "created_timestamp"] = pd.NaT
    write_parquet(folder / "nasty.parquet", table)
    source = FileSource(
        name="nasty_source",
        path=str(folder / "nasty.parquet"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
    race = Entity(name="race", join_keys=["race_id"], value_type=ValueType.STRING)
    driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.STRING)
    view = FeatureView(
        name="nasty",
        entities=[race, driver],
        schema=[Field(name="place", dtype=Int64), Field(name="name", dtype=String), Field(name="laps", dtype=Array(Int64))],
        source=source,
        ttl=timedelta(seconds=40, microseconds=1),
    )
    stores = {}
    for engine, offline in (("embedded", {"type": OFFLINE_STORE}), ("spark", spark_offline_store(spark))):
        config = RepoConfig(
            project="nasty",
            provider="local",
            repo_path=folder,
            registry={"registry_type": "sql", "path": f"sqlite:///{folder / engine}.db"},
            offline_store=offline,
            online_store=None,
            entity_key_serialization_version=3,
        )
        stores[engine] = FeatureStore(config=config)
        stores[engine].apply([race, driver, view])
    return stores


def test_ties_late_rows_null_keys_and_ttl_are_answered_as_by_the_embedded_store(nasty: dict[str, FeatureStore]) -> None:
    rng, n = np.random.default_rng(1), 1_000
    moments = rng.integers(-5, 400, n) * 1_000_000 + rng.choice([0, 1, 500_000], n)
    asked = pd.DataFrame(
        {
            "race_id": rng.choice(["a", "b", "ab", "unknown", None], n),
            "driver_id": rng.choice(["x", "bx"], n),
            "event_timestamp": START + pd.to_timedelta(moments, unit="us"),
            "passed_through": np.arange(n),
        }
    )
    features = ["nasty:place", "nasty:name", "nasty:laps"]
    ours, theirs = (
        nasty[engine].get_historical_features(entity_df=asked.copy(), features=features).to_arrow().to_pylist()
        for engine in ("spark", "embedded")
    )
    assert ours == theirs
    assert [row["passed_through"] for row in ours] == list(range(n))
    assert 0 < sum(row["place"] is None for row in ours) < n


def test_newest_rows_all_rows_and_saved_answers(nasty: dict[str, FeatureStore], tmp_path: Path) -> None:
    view = nasty["spark"].get_feature_view("nasty")
    columns = (["race_id", "driver_id"], ["place", "name"], "event_timestamp", "created_timestamp")
    start, end = (START + pd.Timedelta(seconds=seconds) for seconds in (20, 200))
    for pull in ("pull_latest_from_table_or_query", "pull_all_from_table_or_query"):
        answers = []
        for store in nasty.values():
            offline = store._get_provider().offline_store
            job = getattr(offline, pull)(store.config, view.batch_source, *columns, start, end)
            found = job.to_df().dropna(subset=["race_id", "created_timestamp"])
            answers.append(found.sort_values(list(found)[:3], ignore_index=True)[["race_id", "driver_id", "place", "name"]])
        pd.testing.assert_frame_equal(*answers)
        assert len(answers[0]) > 0
    asked = pd.DataFrame({"race_id": ["a"], "driver_id": ["x"], "event_timestamp": [end]})
    job = nasty["spark"].get_historical_features(entity_df=asked, features=["nasty:place"])
    job.persist(SavedDatasetFileStorage(path=str(tmp_path / "saved")))
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "saved"), job.to_df(), check_dtype=False)


def test_what_cannot_be_answered_is_refused(nasty: dict[str, FeatureStore]) -> None:
    ask = nasty["spark"].get_historical_features
    moment = pd.Timestamp("2024-05-26T14:00:00Z")
    with pytest.raises(EntityRowsError, match=r"lack \['driver_id'\]"):
        ask(entity_df=pd.DataFrame({"race_id": ["a"], "event_timestamp": [moment]}), features=["nasty:place"])
    view = nasty["spark"].get_feature_view("nasty")
    path = Path(view.batch_source.path)
    kept = path.rename(path.with_suffix(".moved"))
    try:
        with pytest.raises(SourceError, match="nasty_source: got no table that Spark can read"):
            ask(
                entity_df=pd.DataFrame({"race_id": ["a"], "driver_id": ["x"], "event_timestamp": [moment]}),
                features=["nasty:place"],
            )
    finally:
        kept.rename(path)


def test_what_a_worker_could_not_read_is_named(spark: Settings, tmp_path: Path) -> None:
    shutil.copytree(spark.lake_dir, tmp_path / "lake")
    damaged = next((tmp_path / "lake" / "pit_stops").rglob("*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(SparkJobError, match=rf"features on Spark: a worker failed: .*DamagedFileError.*{damaged}"):
        build_features(spark.model_copy(update={"home": tmp_path}))


def test_the_command_line_honours_the_engine(
    spark: Settings, pitwall: Pitwall, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (spark.state_dir / "features.json").unlink()
    (tmp_path / "pitwall.yaml").write_text(yaml.safe_dump({"engine": "spark", "spark_conf": CONF}))
    seen: list[Settings] = []

    def watched(settings: Settings) -> Any:
        seen.append(settings)
        return compute_all(settings)

    monkeypatch.setattr("pipelines.spark.features.compute_all", watched)
    said = pitwall("features", "--json", home=spark.home)
    assert one_object(said.out)["skipped"] is False
    assert [(settings.engine, settings.spark_conf) for settings in seen] == [("spark", CONF)]
