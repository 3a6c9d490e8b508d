"""The dataset cache has the agreed form, is the same for the same content, and damage is named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders import make_rows

from feature_repo.errors import MissingInputError
from feature_repo.files import TMP_PREFIX
from ml.dataset_cache import DatasetCacheBuilder, parse_cache
from ml.errors import DatasetCacheError
from ml.rows import Rows

NEWEST = "2018-06-01T15:00:00Z"


@pytest.fixture
def rows() -> Rows:
    return make_rows(np.random.default_rng(0), 2, n_cars=5)


@pytest.fixture
def builder(tmp_path: Path) -> DatasetCacheBuilder:
    return DatasetCacheBuilder(tmp_path / "dataset_cache.json", tmp_path / "speed_traces")


def paths(rows: Rows) -> dict[tuple[str, str], str]:
    pairs = zip(rows.keys["race_id"], rows.keys["driver_id"], strict=True)
    return {(race, driver): f"{race}/{driver}.png" for race, driver in pairs}


def test_file_has_exactly_the_agreed_keys(rows: Rows, builder: DatasetCacheBuilder) -> None:
    builder.build_cache(rows, image_paths=paths(rows), newest_created=NEWEST)
    content = json.loads(builder.cache_file.read_text(encoding="utf-8"))
    assert set(content) == {"metadata", "feature_names", "generated_at"}
    assert content["feature_names"] == list(rows.features.columns)
    assert content["generated_at"] == "2018-06-01T15:00:00+00:00"
    assert len(content["metadata"]) == len(rows)
    for i, entry in enumerate(content["metadata"]):
        assert set(entry) == {"race_id", "driver_id", "image_path", "tabular_features", "label", "finished"}
        assert entry["label"] == rows.position[i]
        assert entry["finished"] is bool(rows.finished[i])
        assert (entry["image_path"] is not None) == bool(rows.has_picture[i])
        for name, value in zip(content["feature_names"], entry["tabular_features"], strict=True):
            expected = rows.features[name].iloc[i]
            assert value is None if pd.isna(expected) else value == expected


def test_equal_content_gives_equal_bytes_and_no_leftovers(rows: Rows, builder: DatasetCacheBuilder) -> None:
    builder.build_cache(rows, image_paths=paths(rows), newest_created=NEWEST)
    first = builder.cache_file.read_bytes()
    builder.build_cache(rows, image_paths=paths(rows), newest_created=NEWEST)
    assert builder.cache_file.read_bytes() == first
    assert not list(builder.cache_file.parent.glob(f"{TMP_PREFIX}*"))


def test_validate_reports_entries_whose_picture_is_gone(rows: Rows, builder: DatasetCacheBuilder) -> None:
    builder.build_cache(rows, image_paths=paths(rows), newest_created=NEWEST)
    expected = [f"{race}/{driver}" for (race, driver), has in zip(paths(rows), rows.has_picture, strict=True) if has]
    assert builder.validate_cache() == expected
    there = builder.image_dir / f"{expected[0]}.png"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"png")
    assert builder.validate_cache() == expected[1:]


def damage(content: dict[str, Any], how: str) -> None:
    entry = content["metadata"][3]
    match how:
        case "short":
            entry["tabular_features"].pop()
        case "label":
            entry["label"] = 21
        case "extra":
            entry["grid"] = 3
        case "missing":
            del content["generated_at"]
        case "twice":
            content["metadata"].append(entry)
        case "path":
            entry["image_path"] = "../../secret.png"
        case "id":
            entry["driver_id"] = "../x"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("short", r"metadata\[3\].*expected 10"),
        ("label", "metadata.3.label"),
        ("extra", "metadata.3.grid"),
        ("missing", "generated_at"),
        ("twice", "twice"),
        ("path", "inside the picture folder"),
        ("id", "driver_id"),
    ],
)
def test_damage_is_named(rows: Rows, builder: DatasetCacheBuilder, how: str, message: str) -> None:
    builder.build_cache(rows, image_paths=paths(rows), newest_created=NEWEST)
    content = json.loads(builder.cache_file.read_text(encoding="utf-8"))
    damage(content, how)
    builder.cache_file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        builder.validate_cache()


def test_truncated_and_absent_files(rows: Rows, builder: DatasetCacheBuilder) -> None:
    with pytest.raises(MissingInputError):
        builder.validate_cache()
    builder.build_cache(rows, image_paths=paths(rows), newest_created=NEWEST)
    builder.cache_file.write_bytes(builder.cache_file.read_bytes()[:200])
    with pytest.raises(DatasetCacheError, match="not JSON"):
        builder.validate_cache()


def test_infinite_features_are_refused_and_nothing_is_written(rows: Rows, builder: DatasetCacheBuilder) -> None:
    rows.features.loc[2, "grid_position"] = np.inf
    race_id, driver_id = rows.keys.loc[2, ["race_id", "driver_id"]]
    with pytest.raises(
        DatasetCacheError, match=f"{race_id}/{driver_id}, features grid_position: got infinity, .*pitwall features"
    ):
        builder.build_cache(rows, image_paths={}, newest_created=NEWEST)
    assert not builder.cache_file.exists()


def test_absent_feature_is_named(rows: Rows, builder: DatasetCacheBuilder) -> None:
    with pytest.raises(
        DatasetCacheError, match="one row, features nonsense: absent, expected all 2; run `pitwall features` again"
    ):
        builder.extract_tabular_features(rows.features.iloc[0], ["grid_position", "nonsense"])


def test_a_car_that_is_there_twice_is_named(rows: Rows) -> None:
    race_id, driver_id = rows.keys.loc[1, ["race_id", "driver_id"]]
    with pytest.raises(ValueError, match=f"Rows: {race_id}/{driver_id} appears twice, expected each car of a race once"):
        rows.take(np.array([0, 1, 1]))


def laps() -> pd.DataFrame:
    start = pd.Timestamp("2024-05-26T13:00:00Z") + pd.to_timedelta([0, 90, 180, 280], unit="s")
    end = start + pd.to_timedelta([90, 90, 100, 100], unit="s")
    return pd.DataFrame(
        {"lap": [1, 2, 3, 4], "lap_time_s": [90.0, np.nan, 100.0, 100.0], "lap_start": start, "event_timestamp": end}
    ).assign(created_timestamp=lambda frame: frame["event_timestamp"])


def test_lap_speeds_are_of_laps_that_ended_by_the_moment(builder: DatasetCacheBuilder) -> None:
    third_end = "2024-05-26T13:04:40Z"
    speeds = builder.extract_lap_speeds(laps(), course_length_km=5.0, as_of=third_end)
    np.testing.assert_allclose(speeds, [200, 200, 180], rtol=1e-6)  # lap 2 has no official time: end - start
    changed = laps()
    changed.loc[3, "lap_time_s"] = 1.0
    np.testing.assert_array_equal(builder.extract_lap_speeds(changed, course_length_km=5.0, as_of=third_end), speeds)
    assert len(builder.extract_lap_speeds(laps(), course_length_km=5.0, as_of="2024-05-26T13:00:00Z")) == 0


def test_impossible_laps_are_refused(builder: DatasetCacheBuilder) -> None:
    with pytest.raises(DatasetCacheError, match="lap 3"):
        builder.extract_lap_speeds(laps().assign(lap_time_s=[90.0, 90.0, -1.0, 90.0]), course_length_km=5.0, as_of="2025-01-01")
    with pytest.raises(DatasetCacheError, match="course_length_km"):
        builder.extract_lap_speeds(laps(), course_length_km=0.0, as_of="2025-01-01")


def test_parse_refuses_what_is_no_mapping() -> None:
    with pytest.raises(DatasetCacheError):
        parse_cache([1, 2], origin="x.json")
