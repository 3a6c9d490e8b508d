"""Examples as tensors: from `Rows` in memory, or from a dataset cache file with pictures read when they are asked for."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from feature_repo.files import read_json
from ml.dataset_cache import CacheEntry, parse_cache
from ml.encoders.pictures import read_picture
from ml.encoders.transforms import INPUT_PX
from ml.encoders.vision import to_tensor
from ml.errors import ModelContractError
from ml.preprocessing import TabularPreprocessor
from ml.rows import N_POSITIONS, Rows

logger = logging.getLogger(__name__)

Pictures = Callable[[NDArray[np.int64]], Tensor]
"""Row numbers (b,) -> (b, 3, H, W) pictures; rows without one may hold anything."""


@dataclass(frozen=True)
class TrainingSet:
    """N prepared examples as tensors in memory; what the trainer loops over.

    Attributes:
        tabular: (N, T) float32, prepared by a `TabularPreprocessor`.
        embedding: (N, 512) float32, or None when pictures are to be encoded live.
        pictures: gives pictures for live encoding, or None.
        has_picture: (N,) bool.
        race: (N,) int64.
        position: (N,) int64, 1..20.
        finished: (N,) bool.
        race_ids: (N,) for messages that name a batch.
        driver_ids: (N,) likewise.
        input_names: (T) what the columns of `tabular` are.
    """

    tabular: Tensor
    embedding: Tensor | None
    pictures: Pictures | None
    has_picture: Tensor
    race: Tensor
    position: Tensor
    finished: Tensor
    race_ids: NDArray[np.object_]
    driver_ids: NDArray[np.object_]
    input_names: tuple[str, ...]

    def __post_init__(self) -> None:
        wrong = ~((self.position >= 1) & (self.position <= N_POSITIONS))
        if bool(wrong.any()):
            i = int(torch.nonzero(wrong)[0])
            raise ModelContractError(
                f"{self.race_ids[i]} {self.driver_ids[i]}: got position {int(self.position[i])}, expected 1..{N_POSITIONS}"
            )

    def __len__(self) -> int:
        return len(self.position)

    @property
    def picture_share(self) -> float:
        """Share of examples with a picture."""
        return float(self.has_picture.double().mean()) if len(self) else 0.0

    @classmethod
    def from_rows(cls, rows: Rows, preprocessor: TabularPreprocessor, *, pictures: Pictures | None = None) -> "TrainingSet":
        """Prepare rows for training.

        Args:
            rows: the examples.
            preprocessor: fitted on the training part.
            pictures: live pictures instead of the rows' embeddings.
        """
        race = rows.race_code
        return cls(
            tabular=torch.from_numpy(preprocessor.transform(rows.features, race)),
            embedding=torch.from_numpy(np.ascontiguousarray(rows.embedding, dtype=np.float32)) if pictures is None else None,
            pictures=pictures,
            has_picture=torch.from_numpy(rows.has_picture.copy()),
            race=torch.from_numpy(race.copy()),
            position=torch.from_numpy(rows.position.copy()),
            finished=torch.from_numpy(rows.finished.copy()),
            race_ids=rows.keys["race_id"].to_numpy(dtype=object),
            driver_ids=rows.keys["driver_id"].to_numpy(dtype=object),
            input_names=tuple(preprocessor.input_names),
        )


def rows_hash(*parts: Rows) -> str:
    """SHA-256 over everything in the rows that training can see, in order."""
    digest = hashlib.sha256()
    for rows in parts:
        for frame in (rows.keys[["race_id", "driver_id", "lap", "event_timestamp"]], rows.features):
            digest.update(",".join(map(str, frame.columns)).encode())
            digest.update(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
        for array in (rows.position, rows.finished, rows.has_picture, rows.embedding):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Sample:
    """One race and driver out of a `MultiModalDataset`.

    Attributes:
        image: (3, H, W) float32 in 0..1, or None when there is no picture.
        tabular: (T,) float32.
        label: finishing position 1..20.
        finished: classified.
        race_id: the race.
        driver_id: the driver.
    """

    image: Tensor | None
    tabular: Tensor
    label: int
    finished: bool
    race_id: str
    driver_id: str


@dataclass(frozen=True)
class Batch:
    """Samples side by side.

    Attributes:
        images: (B, 3, H, W) float32, zero where there is no picture; None when no sample has one.
        has_picture: (B,) bool, the mask.
        tabular: (B, T) float32.
        label: (B,) int64, 1..20.
        finished: (B,) bool.
        race_ids: (B) races.
        driver_ids: (B) drivers.
    """

    images: Tensor | None
    has_picture: Tensor
    tabular: Tensor
    label: Tensor
    finished: Tensor
    race_ids: tuple[str, ...]
    driver_ids: tuple[str, ...]


class MultiModalDataset(Dataset[Sample]):
    """The examples of a dataset cache; a picture is opened when its sample is asked for, never before.

    Args:
        cache_file: a `dataset_cache.json`.
        image_dir: what the cache's `image_path`s are relative to.
        preprocessor: turns features into net inputs; None gives the numeric features as stored, NaN where missing.
        resize: pictures are resized as the encoder does it, to 224x224 without cropping; False keeps their size.
    Raises:
        MissingInputError: no such cache file.
        DatasetCacheError: it is not a dataset cache.
    """

    def __init__(
        self, cache_file: Path, image_dir: Path, *, preprocessor: TabularPreprocessor | None = None, resize: bool = True
    ) -> None:
        cache = parse_cache(read_json(Path(cache_file)), origin=str(cache_file))
        self.image_dir = Path(image_dir)
        self.resize = resize
        self.entries: tuple[CacheEntry, ...] = cache.metadata
        self.feature_names = tuple(cache.feature_names)
        self.features = pd.DataFrame([entry.tabular_features for entry in self.entries], columns=list(self.feature_names))
        for name in self.feature_names:
            if not self.features[name].map(lambda value: isinstance(value, str)).any():
                self.features[name] = self.features[name].astype(np.float64)
        self.race_ids = np.array([entry.race_id for entry in self.entries], dtype=object)
        self.driver_ids = np.array([entry.driver_id for entry in self.entries], dtype=object)
        self.race: NDArray[np.int64] = pd.factorize(self.race_ids, sort=True)[0].astype(np.int64)
        self.has_picture = np.array([self._path(i) is not None for i in range(len(self.entries))], dtype=bool)
        if preprocessor is None:
            numeric = self.features.select_dtypes("number")
            self.tabular_names = tuple(str(name) for name in numeric.columns)
            self.tabular = torch.from_numpy(numeric.to_numpy(dtype=np.float32))
        else:
            self.tabular_names = tuple(preprocessor.input_names)
            self.tabular = torch.from_numpy(preprocessor.transform(self.features, self.race))
        absent = len(self.entries) - int(self.has_picture.sum())
        if absent:
            logger.info("dataset_pictures_missing missing=%d of=%d", absent, len(self.entries))

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[index]
        return Sample(self.image(index), self.tabular[index], entry.label, entry.finished, entry.race_id, entry.driver_id)

    def image(self, index: int) -> Tensor | None:
        """(3, H, W) float32 in 0..1, or None when the sample has no picture.

        Raises:
            DamagedPictureError: the file is no readable picture.
        """
        path = self._path(index)
        if path is None:
            return None
        pixels = read_picture(path.read_bytes(), str(self.entries[index].image_path)) if self.resize else to_tensor(path)
        return pixels.float() / 255

    def images(self, rows: NDArray[np.int64]) -> Tensor:
        """(b, 3, H, W) pictures of the rows, zero where there is none; the `pictures` of a live `TrainingSet`.

        Raises:
            ModelContractError: the pictures differ in size and `resize` is False.
        """
        return _stack([self.image(int(row)) for row in rows])

    def training_set(self, *, live: bool, embedding: NDArray[np.float32] | None = None) -> TrainingSet:
        """The dataset as a `TrainingSet`.

        Args:
            live: encode pictures in every step instead of taking `embedding`.
            embedding: (N, 512) for `live` False.
        """
        return TrainingSet(
            tabular=self.tabular,
            embedding=None if live or embedding is None else torch.from_numpy(embedding),
            pictures=self.images if live else None,
            has_picture=torch.from_numpy(self.has_picture.copy()),
            race=torch.from_numpy(self.race.copy()),
            position=torch.tensor([entry.label for entry in self.entries]),
            finished=torch.tensor([entry.finished for entry in self.entries]),
            race_ids=self.race_ids,
            driver_ids=self.driver_ids,
            input_names=self.tabular_names,
        )

    def _path(self, index: int) -> Path | None:
        relative = self.entries[index].image_path
        if relative is None:
            return None
        path = self.image_dir / relative
        return path if path.is_file() else None


def collate(samples: Sequence[Sample]) -> Batch:
    """Put samples, some without a picture, into one batch with a mask; the `collate_fn` of a DataLoader.

    Raises:
        ModelContractError: pictures of different sizes in one batch.
    """
    has_picture = [sample.image is not None for sample in samples]
    return Batch(
        images=_stack([sample.image for sample in samples]) if any(has_picture) else None,
        has_picture=torch.tensor(has_picture),
        tabular=torch.stack([sample.tabular for sample in samples]),
        label=torch.tensor([sample.label for sample in samples]),
        finished=torch.tensor([sample.finished for sample in samples]),
        race_ids=tuple(sample.race_id for sample in samples),
        driver_ids=tuple(sample.driver_id for sample in samples),
    )


def _stack(images: list[Tensor | None]) -> Tensor:
    shapes = {tuple(image.shape) for image in images if image is not None}
    if len(shapes) > 1:
        raise ModelContractError(f"pictures of a batch: got sizes {sorted(shapes)}, expected one; set resize")
    stacked = torch.zeros(len(images), *(shapes.pop() if shapes else (3, INPUT_PX, INPUT_PX)))
    for i, image in enumerate(images):
        if image is not None:
            stacked[i] = image
    return stacked
