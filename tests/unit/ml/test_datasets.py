"""Datasets read pictures lazily, survive missing ones, and batch both kinds with a mask."""

from pathlib import Path

import numpy as np
import pytest
import torch
from builders import make_rows
from PIL import Image
from torch.utils.data import DataLoader

from ml.config import FusionConfig
from ml.dataset_cache import DatasetCacheBuilder
from ml.datasets import MultiModalDataset, TrainingSet, collate, rows_hash
from ml.errors import ModelContractError
from ml.preprocessing import TabularPreprocessor
from ml.rows import Rows


@pytest.fixture
def rows() -> Rows:
    return make_rows(np.random.default_rng(1), 2, n_cars=6, picture_share=0.7)


@pytest.fixture
def cache(rows: Rows, tmp_path: Path) -> tuple[Path, Path]:
    """A cache file and its pictures, each of one colour that tells the row."""
    folder = tmp_path / "traces"
    paths = {}
    for i, (race, driver) in enumerate(zip(rows.keys["race_id"], rows.keys["driver_id"], strict=True)):
        path = folder / race / f"{driver}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if rows.has_picture[i]:
            Image.new("RGB", (80, 60), (10 * i, 0, 0)).save(path)
        paths[(race, driver)] = f"{race}/{driver}.png"
    file = tmp_path / "dataset_cache.json"
    DatasetCacheBuilder(file, folder).build_cache(rows, image_paths=paths, newest_created="2024-01-01")
    return file, folder


def test_samples_hold_what_the_rows_held(rows: Rows, cache: tuple[Path, Path]) -> None:
    dataset = MultiModalDataset(*cache)
    assert len(dataset) == len(rows)
    for i in range(len(rows)):
        sample = dataset[i]
        assert (sample.race_id, sample.driver_id) == tuple(rows.keys.loc[i, ["race_id", "driver_id"]])
        assert (sample.label, sample.finished) == (rows.position[i], rows.finished[i])
        assert (sample.image is not None) == rows.has_picture[i]
        if sample.image is not None:
            assert sample.image.shape == (3, 224, 224)
            assert float(sample.image[0].mean()) == pytest.approx(10 * i / 255)
    numeric = rows.features.select_dtypes("number")
    assert dataset.tabular_names == tuple(numeric.columns)
    np.testing.assert_array_equal(dataset.tabular.numpy(), numeric.to_numpy(dtype=np.float32))


def test_features_from_the_cache_prepare_like_those_in_memory(rows: Rows, cache: tuple[Path, Path]) -> None:
    fitted = TabularPreprocessor.fit(rows.features, rows.race_code, FusionConfig(name="x", race_relative_tabular=True))
    dataset = MultiModalDataset(*cache, preprocessor=fitted)
    np.testing.assert_array_equal(dataset.tabular.numpy(), fitted.transform(rows.features, rows.race_code))


def test_pictures_are_opened_when_asked_for(cache: tuple[Path, Path]) -> None:
    dataset = MultiModalDataset(*cache, resize=False)
    i = int(np.flatnonzero(dataset.has_picture)[0])
    path = cache[1] / str(dataset.entries[i].image_path)
    Image.new("RGB", (80, 60), (0, 0, 255)).save(path)
    image = dataset[i].image
    assert image is not None
    assert float(image[2].mean()) == 1
    path.unlink()
    assert dataset[i].image is None
    assert not MultiModalDataset(*cache).has_picture[i]


def test_mixed_batches_have_a_mask(rows: Rows, cache: tuple[Path, Path]) -> None:
    dataset = MultiModalDataset(*cache)
    batch = next(iter(DataLoader(dataset, batch_size=12, collate_fn=collate)))
    assert batch.images is not None
    assert batch.images.shape == (12, 3, 224, 224)
    assert batch.has_picture.tolist() == rows.has_picture.tolist()
    assert not batch.images[~batch.has_picture].any()
    assert batch.label.tolist() == rows.position.tolist()
    assert batch.race_ids == tuple(rows.keys["race_id"])


def test_a_batch_without_any_picture_has_no_images(rows: Rows, cache: tuple[Path, Path]) -> None:
    dataset = MultiModalDataset(*cache)
    without = [dataset[int(i)] for i in np.flatnonzero(~rows.has_picture)]
    batch = collate(without)
    assert batch.images is None
    assert not batch.has_picture.any()


def test_pictures_of_different_size_need_a_common_one(rows: Rows, cache: tuple[Path, Path]) -> None:
    first = int(np.flatnonzero(rows.has_picture)[0])
    Image.new("RGB", (30, 30)).save(cache[1] / f"{rows.keys['race_id'][first]}/{rows.keys['driver_id'][first]}.png")
    dataset = MultiModalDataset(*cache, resize=False)
    with pytest.raises(ModelContractError, match="resize"):
        collate([dataset[i] for i in range(len(dataset))])


def test_a_label_out_of_range_names_its_row(rows: Rows) -> None:
    fitted = TabularPreprocessor.fit(rows.features, rows.race_code, FusionConfig(name="x"))
    rows.position[4] = 0
    with pytest.raises(ModelContractError, match="2018_01 driver_04"):
        TrainingSet.from_rows(rows, fitted)


def test_rows_hash_sees_every_part_that_training_sees(rows: Rows) -> None:
    def changed(part: str) -> str:
        other = rows.take(np.arange(len(rows)))
        match part:
            case "features":
                other.features.loc[3, "grid_position"] += 1
            case "missing":
                other.features.loc[3, "grid_position"] = np.nan
            case "position":
                other.position[[0, 1]] = other.position[[1, 0]]
            case "embedding":
                other.embedding[2, 5] += 1
            case "keys":
                other.keys.loc[0, "driver_id"] = "someone_else"
        return rows_hash(other)

    hashes = [rows_hash(rows), *map(changed, ["features", "missing", "position", "embedding", "keys"])]
    assert len(set(hashes)) == len(hashes)
    assert changed("nothing") == rows_hash(rows)


def test_picture_share_and_training_set(rows: Rows, cache: tuple[Path, Path]) -> None:
    examples = MultiModalDataset(*cache).training_set(live=False, embedding=rows.embedding)
    assert examples.picture_share == pytest.approx(rows.has_picture.mean())
    assert torch.equal(examples.position, torch.from_numpy(rows.position))
