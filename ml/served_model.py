"""A trained model as it is served: a folder that answers one race a call, from numbers and pictures, without pickle.

served_model.json   kind, feature service, the features in order with their categories, encoder identity, hashes
predictor/          what the model's own `save` wrote
encoder.safetensors the frozen encoder's weights (models that use pictures)
question/           the cars of one race as they would be asked about, with the answer given when the model was trained
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from feature_repo.errors import DamagedFileError
from feature_repo.files import read_json, sha256_file, write_bytes, write_json
from ml.encoders.vision import EncoderIdentity, VisionEncoder
from ml.ensemble import EnsemblePredictor
from ml.errors import ModelContractError
from ml.fusion_model import FusionPredictor
from ml.rows import EMBEDDING_DIM, OneRace

DESCRIPTION, PREDICTOR, ENCODER, QUESTION = "served_model.json", "predictor", "encoder.safetensors", "question"
FORMAT = 2

_KINDS: Mapping[str, type[FusionPredictor] | type[EnsemblePredictor]] = {"fusion": FusionPredictor, "ensemble": EnsemblePredictor}


@dataclass(frozen=True)
class FeatureSpec:
    """One column of the `tabular` input.

    Attributes:
        name: the feature, as the feature service names it.
        categories: for a text feature the values in the order of their codes 0, 1, ...; None for a number.
        low: smallest number the model was trained on; None for text, or without a number.
        high: largest.
        distinct: different values in training, missing ones not counted; None where a model was trained before this was kept.
    """

    name: str
    categories: tuple[str, ...] | None
    low: float | None = None
    high: float | None = None
    distinct: int | None = None

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "FeatureSpec":
        """The spec as a model's description holds it."""
        categories = stored["categories"]
        ranges = {name: stored.get(name) for name in ("low", "high", "distinct")}
        return cls(str(stored["name"]), None if categories is None else tuple(categories), **ranges)


@dataclass(frozen=True)
class Origin:
    """Where a model comes from; kept in its description.

    Attributes:
        feature_service: the Feast service its `tabular` columns come from.
        data_hash: hash of the training set it was fitted on.
        recipe: hash of configuration, code, seed and encoder; an evaluation of the same recipe and data is evidence for it.
        moment: the moment of the race it learnt to answer at.
        fitted_until: newest race it was fitted on; races up to it are no test of it.
        validated_until: newest race that stopped its training or set its weights.
    """

    feature_service: str
    data_hash: str
    recipe: str
    moment: str
    fitted_until: str
    validated_until: str

    def saw(self, race_id: str) -> str:
        """`training`, `validation` or `no`: what the model had to do with a race before it is asked about it."""
        if race_id <= self.fitted_until:
            return "training"
        return "validation" if race_id <= self.validated_until else "no"


def feature_specs(features: pd.DataFrame, order: Sequence[str]) -> tuple[FeatureSpec, ...]:
    """Which column of the `tabular` input is which feature, with the categories or the range of numbers seen.

    Args:
        features: (N, F) as Feast returned them.
        order: the feature service's order.
    """
    specs = []
    for name in order:
        values = features[name].dropna()
        is_text = values.map(lambda value: isinstance(value, str)).any()
        if is_text:
            categories = tuple(sorted({str(value) for value in values}))
            specs.append(FeatureSpec(name, categories, distinct=len(categories)))
            continue
        numbers = pd.to_numeric(values).to_numpy(dtype=np.float64)
        finite = numbers[np.isfinite(numbers)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (None, None)
        specs.append(FeatureSpec(name, None, low, high, len(np.unique(numbers))))
    return tuple(specs)


def tabular_array(features: Mapping[str, Any] | pd.DataFrame, specs: Sequence[FeatureSpec]) -> NDArray[np.float32]:
    """(N, F) float32: numbers as they are, NaN for missing, categories as codes (a value never seen becomes NaN).

    Args:
        features: name -> (N,) values, or a frame; others than those of `specs` are ignored.
        specs: the columns wanted.
    """
    columns = {spec.name: np.asarray(features[spec.name]) for spec in specs}
    tabular = np.empty((len(columns[specs[0].name]), len(specs)), dtype=np.float32)
    for column, spec in enumerate(specs):
        values = columns[spec.name]
        if spec.categories is not None:
            codes = {value: float(code) for code, value in enumerate(spec.categories)}
            tabular[:, column] = [codes.get(value, math.nan) for value in values]
        elif values.dtype.kind in "fiu":
            tabular[:, column] = values
        else:
            numbers = pd.to_numeric(pd.Series(values), errors="raise")
            tabular[:, column] = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    return tabular


def tabular_frame(tabular: NDArray[np.float32], specs: Sequence[FeatureSpec]) -> pd.DataFrame:
    """The inverse of `tabular_array`.

    Raises:
        ModelContractError: a wrong number of columns, or a code outside the categories.
    """
    return pd.DataFrame(_columns(tabular, specs))


def _columns(tabular: NDArray[np.float32], specs: Sequence[FeatureSpec]) -> dict[str, NDArray[Any]]:
    """`tabular_frame` without a frame: feature -> (cars,) float64 with NaN, or object with None."""
    if tabular.ndim != 2 or tabular.shape[1] != len(specs):
        raise ModelContractError(f"tabular: got shape {tabular.shape}, expected (cars, {len(specs)}); see served_model.json")
    columns: dict[str, NDArray[Any]] = dict(zip([spec.name for spec in specs], tabular.T.astype(np.float64), strict=True))
    for spec in specs:
        if spec.categories is not None:
            names = dict(enumerate(spec.categories))
            values: list[Any] = [None if math.isnan(code) else names.get(code, names) for code in columns[spec.name].tolist()]
            if names in values:
                raise ModelContractError(f"tabular: {spec.name}: expected codes 0..{len(names) - 1} of {spec.categories}")
            columns[spec.name] = np.array(values, dtype=object)
    return columns


class ServedModel:
    """A loaded model folder.

    Attributes:
        name: the model.
        origin: where it comes from; `origin.feature_service` is what it must be asked with.
        specs: columns of `tabular`.
        identity: of its encoder; None for a tabular model.
    """

    def __init__(self, folder: Path) -> None:
        """Load and verify.

        Raises:
            MissingInputError: no such model.
            DamagedFileError: a file is not the one that was written.
        """
        described = read_json(folder / DESCRIPTION)
        if described.get("format") != FORMAT or described.get("kind") not in _KINDS:
            raise DamagedFileError(f"{folder / DESCRIPTION}: not a served model of format {FORMAT}; run `pitwall train`")
        for name, expected in described["files"].items():
            if not (folder / name).is_file() or sha256_file(folder / name) != expected:
                raise DamagedFileError(f"{folder / name}: missing or not the file that was written; run `pitwall train`")
        self.name = str(described["name"])
        self.origin = Origin(**described["origin"])
        self.specs = tuple(FeatureSpec.from_json(spec) for spec in described["features"])
        self.identity = None if described["encoder"] is None else EncoderIdentity(**described["encoder"])
        self._predictor = _KINDS[described["kind"]].load(folder / PREDICTOR)
        self._encoder_file = folder / ENCODER
        self._encoder: VisionEncoder | None = None

    @property
    def uses_pictures(self) -> bool:
        """The model was trained with pictures."""
        return self.identity is not None

    def encoder(self) -> VisionEncoder:
        """The frozen encoder, loaded on first use (0.2 s).

        Raises:
            ModelContractError: a tabular model has none.
        """
        if self.identity is None:
            raise ModelContractError(f"{self.name}: a tabular model has no encoder; ask a model whose `uses_pictures` is true")
        if self._encoder is None:
            self._encoder = VisionEncoder.from_file(self._encoder_file, self.identity)
        return self._encoder

    def predict(self, tabular: NDArray[np.float32], images: NDArray[np.uint8] | None = None) -> NDArray[np.float64]:
        """Position probabilities of the cars of one race, from pictures.

        Args:
            tabular: (cars, F) as `tabular_array` gives.
            images: (cars, height, width, 3) RGB; an all-zero picture means there is none. None: no pictures at all.
        Returns:
            (cars, 20) float64, rows sum to 1.
        """
        cars = len(tabular)
        embedding, has_picture = np.zeros((cars, EMBEDDING_DIM), dtype=np.float32), np.zeros(cars, dtype=bool)
        if self.uses_pictures and images is not None:
            if images.ndim != 4 or images.shape[0] != cars or images.shape[3] != 3:
                raise ModelContractError(f"image: got shape {images.shape}, expected ({cars}, height, width, 3)")
            has_picture = np.asarray(images.reshape(cars, -1).any(axis=1), dtype=np.bool_)
            if has_picture.any():
                embedding[has_picture] = self.encoder().embed_arrays(images[has_picture])
        return self.predict_embedded(tabular, embedding, has_picture)

    def predict_embedded(
        self, tabular: NDArray[np.float32], embedding: NDArray[np.float32], has_picture: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Position probabilities of the cars of one race, from embeddings made by this model's encoder."""
        return self._predictor.predict_proba(OneRace(_columns(tabular, self.specs), embedding, has_picture))


def is_served_model(folder: Path) -> bool:
    """The folder holds a complete model (its description is written last)."""
    return (folder / DESCRIPTION).is_file()


def write_served_model(
    folder: Path,
    model: Any,
    *,
    specs: Sequence[FeatureSpec],
    origin: Origin,
    encoder: tuple[Path, EncoderIdentity] | None,
    question: Mapping[str, Any],
) -> None:
    """Write a model folder; the description comes last, so a folder without it is not a model.

    Args:
        folder: where to; an older model there is replaced.
        model: a fitted `FusionPredictor` or `EnsemblePredictor`.
        specs: columns of `tabular`.
        origin: where the model comes from.
        encoder: weights file and identity, for a model that uses pictures.
        question: `tabular` (cars, F) and `pictures` (PNG bytes or None per car) of one race.
    """
    (folder / DESCRIPTION).unlink(missing_ok=True)
    shutil.rmtree(folder / PREDICTOR, ignore_errors=True)  # an older model may have had files this one has not
    model.save(folder / PREDICTOR)
    if encoder is not None:
        write_bytes(folder / ENCODER, encoder[0].read_bytes())
    kinds = [kind for kind, class_ in _KINDS.items() if isinstance(model, class_)]
    description = {
        "format": FORMAT,
        "kind": kinds[0],
        "name": model.name,
        "origin": asdict(origin),
        "features": [asdict(spec) for spec in specs],
        "encoder": None if encoder is None else encoder[1].to_json(),
    }
    files = [path for path in sorted((folder / PREDICTOR).rglob("*")) if path.is_file()]
    files += [folder / ENCODER] if encoder is not None else []
    hashes = {str(path.relative_to(folder)): sha256_file(path) for path in files}
    write_json(folder / DESCRIPTION, {**description, "files": hashes})
    try:
        served = ServedModel(folder)
        images = decode_pictures(question["pictures"]) if served.uses_pictures else None
        answer = served.predict(question["tabular"], images)
        write_question(folder / QUESTION, question, answer)
    except BaseException:
        (folder / DESCRIPTION).unlink(missing_ok=True)
        raise


def write_question(folder: Path, question: Mapping[str, Any], answer: NDArray[np.float64]) -> None:
    """Store a question with its answer: JSON and the PNGs as they are."""
    for car, png in enumerate(question["pictures"]):
        picture = folder / f"car_{car:02d}.png"
        if png is None:
            picture.unlink(missing_ok=True)
        else:
            write_bytes(picture, png)
    numbers = [[None if math.isnan(value) else float(value) for value in row] for row in question["tabular"]]
    write_json(folder / "question.json", {"tabular": numbers, "answer": answer.tolist()})


def read_question(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float64]]:
    """`tabular` (cars, F), `image` (cars, 600, 800, 3) and the stored answer (cars, 20)."""
    stored = json.loads((folder / "question.json").read_text(encoding="utf-8"))
    tabular = np.array([[math.nan if value is None else value for value in row] for row in stored["tabular"]], dtype=np.float32)
    paths = [folder / f"car_{car:02d}.png" for car in range(len(tabular))]
    images = decode_pictures([path.read_bytes() if path.is_file() else None for path in paths])
    return tabular, images, np.array(stored["answer"], dtype=np.float64)


def decode_pictures(pictures: Sequence[bytes | None]) -> NDArray[np.uint8]:
    """(cars, height, width, 3) RGB; a missing picture is all zero. All pictures must have one size."""
    decoded = [None if png is None else np.asarray(Image.open(BytesIO(png)).convert("RGB")) for png in pictures]
    shape = next((array.shape for array in decoded if array is not None), (1, 1, 3))
    return np.stack([np.zeros(shape, dtype=np.uint8) if array is None else array for array in decoded])
