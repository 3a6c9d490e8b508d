"""The catalogue says what a newcomer needs to know, names everything, and agrees with what is computed."""

import copy
import importlib
from pathlib import Path

import pandas as pd
import pytest
from feast import Entity, FeatureService, FeatureView
from feast.types import Array, Bool, Float32, Int64, String
from strategies import Lake, small_lake

import feature_repo
from feature_repo import catalog
from feature_repo.visibility import CREATED, EVENT
from pipelines.features.tables import COMPUTE, SPINE_TABLES

ROOT = Path(feature_repo.__file__).parent
PANDAS_OF = {Float32: "float32", Int64: "int64", Bool: "bool", String: "object", Array(Int64): "object", Array(Float32): "object"}


@pytest.fixture(scope="module")
def lake() -> Lake:
    return small_lake(1, rounds=2, n_drivers=4, n_laps=8)


def by_name(view: FeatureView) -> str:
    return view.name


@pytest.mark.parametrize("view", catalog.VIEWS, ids=by_name)
def test_every_view_says_what_for_whom_how_fresh_and_in_what_unit(view: FeatureView) -> None:
    assert view.description
    assert view.entities
    assert view.ttl is not None
    assert view.ttl.total_seconds() > 0
    assert {"owner", "tier"} <= set(view.tags) <= {"owner", "tier", "fresh_for_s"}
    assert float(view.tags.get("fresh_for_s", 1)) > 0
    assert [field.name for field in view.features if not field.description.endswith(".")] == []
    assert [field.name for field in view.features if field.name.endswith("_y")] == [], "DuckDB refuses names that end in _y"
    assert view.batch_source.timestamp_field == EVENT
    assert view.batch_source.created_timestamp_column == CREATED
    assert view.batch_source.path == f"features/{view.name}.parquet"


@pytest.mark.parametrize("view", catalog.VIEWS, ids=by_name)
def test_a_comment_above_every_ttl_says_why(view: FeatureView) -> None:
    lines = (ROOT / "feature_views" / f"{view.name}.py").read_text(encoding="utf-8").splitlines()
    ttl = next(number for number, line in enumerate(lines) if line.strip().startswith("ttl="))
    assert lines[ttl - 1].strip().startswith("#")


@pytest.mark.parametrize("view", catalog.VIEWS, ids=by_name)
def test_a_window_in_a_name_is_in_its_description(view: FeatureView) -> None:
    for field in view.features:
        windows = [part.removesuffix("min") for part in field.name.split("_") if part.removesuffix("min").isdigit()]
        assert all(window in field.description for window in windows), field.name


@pytest.mark.parametrize("view", catalog.VIEWS, ids=by_name)
def test_schema_is_what_is_computed(view: FeatureView, lake: Lake) -> None:
    rows = COMPUTE[view.name](lake)
    join_key = {entity.name: entity.join_key for entity in catalog.ENTITIES}
    keys = sorted(join_key[name] for name in view.entities)
    assert list(rows.columns) == [*rows.columns[: len(keys)], *[field.name for field in view.features], EVENT, CREATED]
    assert sorted(rows.columns[: len(keys)]) == keys
    expected = {field.name: PANDAS_OF[field.dtype] for field in view.features}
    assert {name: str(rows[name].dtype).lower() for name in expected} == expected
    assert [str(rows[name].dtype) for name in (EVENT, CREATED)] == ["datetime64[us, UTC]"] * 2


def test_array_cells_have_the_types_the_schema_says(lake: Lake) -> None:
    rows = COMPUTE["trace"](lake)
    assert {str(cell.dtype) for cell in rows["lap_numbers"]} == {"int64"}
    assert {str(cell.dtype) for cell in rows["lap_speeds_kph"]} == {"float32"}


def test_computed_tables_are_views_and_the_two_spine_tables() -> None:
    assert set(COMPUTE) - set(SPINE_TABLES) == {view.name for view in catalog.VIEWS}


def test_feature_names_are_unique_over_all_views() -> None:
    names = [field.name for view in catalog.VIEWS for field in view.features]
    assert len(names) == len(set(names)), "Feast returns plain names, so two views of a service may not share one"


def test_every_module_but_the_catalogue_is_hidden_from_feast() -> None:
    ignored = set((ROOT / ".feastignore").read_text(encoding="utf-8").split())
    modules = {path.name for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert modules - {"catalog.py", "__pycache__"} - ignored == set(), "list new modules in feature_repo/.feastignore"
    assert "catalog.py" not in ignored


def test_every_definition_is_in_the_catalogue() -> None:
    named = {id(value) for value in vars(catalog).values()}
    listed = {id(item) for item in (*catalog.ENTITIES, *catalog.VIEWS, *catalog.SERVICES)}
    modules = [
        "entities",
        "feature_services",
        *[f"feature_views.{path.stem}" for path in (ROOT / "feature_views").glob("[a-z]*.py")],
    ]
    for module in modules:
        for name, value in vars(importlib.import_module(f"feature_repo.{module}")).items():
            if isinstance(value, Entity | FeatureView | FeatureService):
                assert id(value) in named, f"{module}.{name} is not imported in catalog.py"
                assert id(value) in listed, f"{module}.{name} is in none of ENTITIES, VIEWS, SERVICES"


def test_services_hold_what_they_promise() -> None:
    views = {service.name: {projection.name for projection in service.feature_view_projections} for service in catalog.SERVICES}
    everything = {view.name for view in catalog.VIEWS}
    assert views["finish_position_v1"] == everything - {"race_state", "trace", "race_result"}
    assert views["race_state_v1"] == {"race_state"}
    assert views["speed_trace_v1"] == {"trace"}
    assert views["race_result_v1"] == {"race_result"}


def test_labels_are_not_served_online() -> None:
    assert [view.name for view in catalog.VIEWS if not view.online] == ["race_result"]


def test_bound_copies_point_into_the_home_and_leave_the_catalogue_alone(tmp_path: Path) -> None:
    before = copy.deepcopy([view.batch_source.path for view in catalog.VIEWS])
    first, second = catalog.bound_to(tmp_path / "a"), catalog.bound_to(tmp_path / "b")
    for home, objects in (("a", first), ("b", second)):
        views = [item for item in objects if isinstance(item, FeatureView)]
        assert [view.name for view in views] == [view.name for view in catalog.VIEWS]
        for view in views:
            assert Path(view.batch_source.path) == tmp_path / home / "features" / f"{view.name}.parquet"
        for service in (item for item in objects if isinstance(item, FeatureService)):
            for projection in service.feature_view_projections:
                assert Path(projection.batch_source.path).is_relative_to(tmp_path / home)
    assert [view.batch_source.path for view in catalog.VIEWS] == before
    assert len(first) == len(catalog.ENTITIES) + len(catalog.VIEWS) + len(catalog.SERVICES)


def test_tables_of_an_empty_lake_have_the_same_columns(lake: Lake) -> None:
    empty = {name: frame.iloc[:0] for name, frame in lake.items()}
    for name, compute in COMPUTE.items():
        rows, expected = compute(empty), compute(lake)
        assert len(rows) == 0
        pd.testing.assert_series_equal(rows.dtypes, expected.dtypes, obj=name)
