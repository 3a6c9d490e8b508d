"""`lookup_rows` says what Feast's SDK says, whatever is stored and whoever is asked about: values, nulls and times."""

import itertools
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.online_lookup import lookup_rows

DRIVERS, RACES = ("alonso", "norris", "pérez", "x"), ("2024_08", "2024_09")
SCALARS = {
    "f32": (Float32, st.floats(width=32, allow_nan=False)), "f64": (Float64, st.floats(allow_nan=False)),
    "i32": (Int32, st.integers(-(2**31), 2**31 - 1)), "i64": (Int64, st.integers(-(2**63) + 1, 2**63 - 1)),
    "flag": (Bool, st.booleans()), "text": (String, st.text(max_size=5)), "raw": (Bytes, st.binary(max_size=5)),
    "when": (UnixTimestamp, st.integers(0, 2**31).map(lambda seconds: pd.Timestamp(seconds, unit="s", tz="UTC"))),
}  # fmt: skip
LISTS = {
    "embedding": (Array(Float32), st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4)),
    "laps": (Array(Int64), st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=4)),
    "words": (Array(String), st.lists(st.text(max_size=3), min_size=1, max_size=3)),
}
STORES = {
    "packed": {"type": "feature_repo.stores.online_sqlite.PackedSqliteOnlineStore"},
    "feast": {"type": "sqlite"},
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FeatureStore]:
    folder = tmp_path_factory.mktemp("lookup")
    return {name: _store(folder, name) for name in STORES}


def _store(folder: Path, name: str) -> FeatureStore:
    config: dict[str, Any] = {
        "project": name, "provider": "local", "offline_store": {"type": "file"},
        "online_store": {**STORES[name], "path": str(folder / f"{name}.db")},
        "registry": {"registry_type": "sql", "path": f"sqlite:///{folder / name}.registry.db"},
        "entity_key_serialization_version": 3, "data_quality_monitoring": {"auto_baseline": False},
    }  # fmt: skip
    store = FeatureStore(config=RepoConfig(repo_path=folder, **config))
    race = Entity(name="race", join_keys=["race_id"], value_type=ValueType.STRING)
    driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.STRING)
    views = [_view(folder, "scalars", [driver], SCALARS), _view(folder, "lists", [race, driver], LISTS)]
    rival = views[0].with_name("rival").with_join_key_map({"driver_id": "rival_id"})[["f32", "text"]]
    store.apply(
        [race, driver, *views, FeatureService(name="both_v1", features=views),
         FeatureService(name="rival_v1", features=[rival, views[1][["laps"]]])]
    )  # fmt: skip
    return store


def _view(folder: Path, name: str, entities: list[Entity], features: dict[str, Any]) -> FeatureView:
    source = FileSource(
        name=f"{name}_source", path=str(folder / f"{name}.parquet"), timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )  # fmt: skip
    schema = [Field(name=feature, dtype=kind) for feature, (kind, _) in features.items()]
    return FeatureView(name=name, entities=entities, schema=schema, source=source, ttl=timedelta(0))


_seconds = itertools.count(1)


def _rows(features: dict[str, Any], keys: list[dict[str, str]]) -> st.SearchStrategy[pd.DataFrame]:
    row = st.fixed_dictionaries({name: st.none() | values for name, (_, values) in features.items()})
    return st.lists(st.tuples(st.sampled_from(keys), row), min_size=1, max_size=4, unique_by=lambda pair: str(pair[0])).map(
        lambda pairs: pd.DataFrame([{**key, **values} for key, values in pairs], dtype=object)
    )


asked_rows = st.lists(
    st.fixed_dictionaries({"race_id": st.sampled_from((*RACES, "2030_01")), "driver_id": st.sampled_from((*DRIVERS, "nobody"))}),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scalars=_rows(SCALARS, [{"driver_id": driver} for driver in DRIVERS]),
    lists=_rows(LISTS, [{"driver_id": driver, "race_id": race} for driver in DRIVERS for race in RACES]),
    asked=asked_rows,
)
def test_the_answer_is_that_of_the_sdk(
    stores: dict[str, FeatureStore], scalars: pd.DataFrame, lists: pd.DataFrame, asked: list[dict[str, str]]
) -> None:
    event = pd.Timestamp("2024-05-26T13:00:00Z") + pd.Timedelta(seconds=next(_seconds))
    for view, frame in (("scalars", scalars), ("lists", lists)):
        for store in stores.values():
            store.write_to_online_store(
                view, frame.assign(event_timestamp=event, created_timestamp=event), allow_registry_cache=True
            )
    said = lookup_rows(stores["packed"], "both_v1", asked).to_dict(include_event_timestamps=True)
    for store in stores.values():
        sdk = store.get_online_features(store.get_feature_service("both_v1", allow_cache=True), asked)
        assert said == sdk.to_dict(include_event_timestamps=True)
    plain = lookup_rows(stores["packed"], "both_v1", asked)
    assert list(plain.to_df()["text"]) == plain.values("text")
    columns = plain.columns()
    assert columns["f32"].dtype == np.float64
    assert [None if np.isnan(value) else value for value in columns["f64"]] == plain.values("f64")


@pytest.mark.parametrize("rival", ["norris", "nobody"])
def test_mapped_keys_and_chosen_features_are_those_of_the_sdk(stores: dict[str, FeatureStore], rival: str) -> None:
    asked = {"driver_id": "alonso", "race_id": "2024_08", "unknown": 7, "rival_id": rival}
    store = stores["packed"]
    sdk = store.get_online_features(store.get_feature_service("rival_v1"), [asked]).to_dict(include_event_timestamps=True)
    # With the keys of a row in another order, Feast 0.67 takes the driver for his rival.
    for order in (asked, dict(reversed(asked.items()))):
        assert lookup_rows(store, "rival_v1", [order]).to_dict(include_event_timestamps=True) == sdk
