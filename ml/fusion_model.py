"""`FusionPredictor`: a fusion configuration as a position model, from fitting over several seeds to probabilities to files."""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from scipy.special import ndtr, softmax
from torch import Tensor

from feature_repo.errors import DamagedFileError
from feature_repo.files import read_json, sha256_bytes, write_bytes, write_json
from ml.checkpoints import Provenance, code_hash
from ml.config import FusionConfig, parse_config
from ml.datasets import TrainingSet, rows_hash
from ml.errors import ModelContractError, NotFittedError
from ml.fusion import MultiModalFusionModel
from ml.losses import MEAN_POSITION, SPREAD_POSITION
from ml.placing import Placing, fit_placing
from ml.plackett_luce import race_probabilities
from ml.preprocessing import TabularPreprocessor
from ml.rows import N_POSITIONS, OneRace, Rows
from ml.torch_threads import one_thread
from ml.trainer import MultiModalTrainer
from ml.training_result import TrainingResult

logger = logging.getLogger(__name__)

FORMAT = 1
MODEL_JSON, WEIGHTS = "model.json", "weights.safetensors"


class FusionPredictor:
    """Position probabilities by one or several fusion nets (`n_seeds`), whose outputs are averaged.

    With `use_pictures` false it is a tabular net: with loss listwise the Plackett-Luce net of the baseline.

    Args:
        config: the experiment.
        name: name in reports; the configuration's by default.
        encoder_identity: kind, hash and transform of the encoder that made the rows' embeddings; "" without pictures.
        checkpoint_dir: training checkpoints go to `<checkpoint_dir>/<name>/` (further seeds to `seed_<n>/` inside); None = none.
        resume: go on from checkpoints of the same configuration, data, code and encoder.
        device: where the nets are trained and run.

    Attributes:
        results: one per net, how its training went.
        sigma: spread of the place around the prediction on the validation part (mse), in places.
    """

    def __init__(
        self,
        config: FusionConfig,
        *,
        name: str | None = None,
        encoder_identity: str = "",
        checkpoint_dir: Path | None = None,
        resume: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config = config
        self.name = name or config.name
        self.encoder_identity = encoder_identity if config.use_pictures else ""
        self.results: tuple[TrainingResult, ...] = ()
        self.sigma = SPREAD_POSITION
        self.provenance: Provenance | None = None
        self._checkpoint_dir = checkpoint_dir
        self._resume = resume
        self._device = torch.device(device)
        self._placing: Placing | None = None
        self._preprocessor: TabularPreprocessor | None = None
        self._models: list[MultiModalFusionModel] = []

    def fit(self, train: Rows, validation: Rows) -> None:
        """Fit preprocessing on `train` only, train one net a seed, stop early and calibrate on `validation`.

        Raises:
            ModelContractError: a race is in both parts, or the features are unusable.
            NonFiniteLossError, TrainingMemoryError: as in `MultiModalTrainer.train`.
        """
        shared = set(train.keys["race_id"]) & set(validation.keys["race_id"])
        if shared:
            raise ModelContractError(f"validation: races {', '.join(sorted(shared)[:5])} are in the training part too")
        preprocessor = TabularPreprocessor.fit(train.features, train.race_code, self.config)
        self.provenance = Provenance(
            config=self.config.model_dump(mode="json"),
            config_hash=self.config.hash(),
            feature_service=self.config.feature_service,
            feature_order=preprocessor.feature_names,
            data_hash=rows_hash(train, validation),
            code_hash=code_hash(),
            encoder_identity=self.encoder_identity,
            preprocessing=preprocessor.to_dict(),
        )
        train_set = TrainingSet.from_rows(train, preprocessor)
        validation_set = TrainingSet.from_rows(validation, preprocessor)
        models, results = [], []
        for member in range(self.config.n_seeds):
            with one_thread():
                model = build_model(self.config, preprocessor.width, train_set, seed=self.config.seed + member)
            trainer = MultiModalTrainer(
                model,
                train_set,
                validation_set,
                provenance=self.provenance,
                seed=self.config.seed + member,
                checkpoint_dir=self._member_dir(member),
                device=self._device,
            )
            results.append(trainer.train(resume=self._resume))
            models.append(model)
        _share_picture_inputs(models)
        self._preprocessor, self._models, self.results = preprocessor, models, tuple(results)
        self._calibrate(validation, retired_position=train.position[~train.finished])
        logger.info(
            "fusion_fitted model=%s rows=%d validation=%d pictures=%.3f epochs=%s validation_loss=%s",
            self.name,
            len(train),
            len(validation),
            float(train.has_picture.mean()) if self.config.use_pictures else 0.0,
            [result.best_epoch for result in results],
            [round(result.best_validation_loss, 4) for result in results],
        )

    def predict_proba(self, rows: Rows | OneRace) -> NDArray[np.float64]:
        """(N, 20) probability of each finishing position; rows sum to 1.

        A race's rows must be given together. Labels in `rows` are not read.

        Raises:
            NotFittedError: before `fit` or `load`.
            ModelContractError: features that the model needs are absent.
        """
        output = self.outputs(rows)
        if self.config.loss == "cross_entropy":
            return np.asarray(softmax(output, axis=1), dtype=np.float64)
        if self._placing is not None:
            return self._placing(output[:, 0], rows.race_code)
        if self.config.loss == "listwise":
            return race_probabilities(output[:, 0], rows.race_code)
        return _discretised_normal(MEAN_POSITION + SPREAD_POSITION * output[:, 0], self.sigma)

    def outputs(self, rows: Rows | OneRace) -> NDArray[np.float64]:
        """What the nets say, averaged: (N, 20) logits (cross_entropy), (N, 1) scores (listwise) or standardised places (mse).

        Raises:
            NotFittedError, ModelContractError: as in `predict_proba`.
        """
        if self._preprocessor is None:
            raise NotFittedError(f"{self.name}: not fitted; call fit or load first")
        race = rows.race_code
        tabular = torch.from_numpy(self._preprocessor.transform(rows.features, race)).to(self._device)
        embedding = torch.from_numpy(np.ascontiguousarray(rows.embedding, dtype=np.float32)).to(self._device)
        has_picture = torch.from_numpy(rows.has_picture.copy()).to(self._device)
        codes = torch.from_numpy(race.copy()).to(self._device)
        with torch.inference_mode(), one_thread():
            inputs = _picture_inputs(self._models, embedding, has_picture, codes)
            outputs = [model.fuse(image, tabular).double() for model, image in zip(self._models, inputs, strict=True)]
        averaged: NDArray[np.float64] = torch.stack(outputs).mean(dim=0).cpu().numpy()
        return averaged

    def save(self, folder: Path) -> None:
        """Write `model.json` and `weights.safetensors`: no pickle, each file whole or not at all, the weights' hash in the JSON.

        Raises:
            NotFittedError: before `fit` or `load`.
        """
        if self._preprocessor is None or self.provenance is None:
            raise NotFittedError(f"{self.name}: not fitted, nothing to save; call fit first")
        tensors = {
            f"net{i}.{key}": value.cpu().contiguous()
            for i, model in enumerate(self._models)
            for key, value in model.own_state().items()
        }
        weights = save_tensors(tensors)
        write_bytes(folder / WEIGHTS, weights)
        write_json(
            folder / MODEL_JSON,
            {
                "format": FORMAT,
                "kind": "fusion",
                "name": self.name,
                "sigma": self.sigma,
                "placing": None if self._placing is None else self._placing.to_dict(),
                "provenance": asdict(self.provenance),
                "results": [_without_seconds(asdict(result)) for result in self.results],
                "weights_sha256": sha256_bytes(weights),
            },
        )

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu") -> Self:
        """Read what `save` wrote; the loaded model gives the same probabilities.

        Raises:
            MissingInputError: a file is missing.
            DamagedFileError: the weights are not those the JSON was written with, or the JSON is not of this format.
        """
        try:
            described = read_json(folder / MODEL_JSON)
            weights = (folder / WEIGHTS).read_bytes()
        except json.JSONDecodeError as error:
            raise DamagedFileError(f"{folder / MODEL_JSON}: not JSON: {error}; train again") from error
        if not isinstance(described, dict) or described.get("format") != FORMAT or described.get("kind") != "fusion":
            raise DamagedFileError(f"{folder / MODEL_JSON}: not a fusion model of format {FORMAT}; train again")
        if sha256_bytes(weights) != described["weights_sha256"]:
            raise DamagedFileError(f"{folder / WEIGHTS}: not the weights {MODEL_JSON} was written with; train again")
        stored = described["provenance"]
        config = parse_config(stored["config"], origin=MODEL_JSON)
        predictor = cls(config, name=described["name"], encoder_identity=stored["encoder_identity"], device=device)
        predictor.provenance = Provenance(**{**stored, "feature_order": tuple(stored["feature_order"])})
        predictor.sigma = float(described["sigma"])
        predictor._placing = None if described["placing"] is None else Placing.from_dict(described["placing"])
        predictor._preprocessor = TabularPreprocessor.from_dict(stored["preprocessing"])
        predictor._models = _load_nets(weights, config, predictor._preprocessor.width, torch.device(device))
        return predictor

    def _calibrate(self, validation: Rows, *, retired_position: NDArray[np.int64]) -> None:
        if self.config.loss == "mse":
            places = MEAN_POSITION + SPREAD_POSITION * self.outputs(validation)[:, 0]
            self.sigma = max(float(np.sqrt(np.mean((places - validation.position) ** 2))), 0.1)
        elif self.config.model_retirements:
            self._placing = fit_placing(
                self.outputs(validation)[:, 0],
                race=validation.race_code,
                position=validation.position,
                retired_position=retired_position,
            )

    def _member_dir(self, member: int) -> Path | None:
        if self._checkpoint_dir is None:
            return None
        folder = self._checkpoint_dir / self.name
        return folder if member == 0 else folder / f"seed_{self.config.seed + member}"


def _without_seconds(result: dict[str, Any]) -> dict[str, Any]:
    """A training result without wall times, so that equal trainings give equal files."""
    return {**result, "epochs": [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in result["epochs"]]}


def build_model(
    config: FusionConfig, tabular_dim: int, train_set: TrainingSet, *, seed: int, vision: torch.nn.Module | None = None
) -> MultiModalFusionModel:
    """A net with seeded initial weights, its picture inputs fitted on the training part.

    Args:
        config: the experiment.
        tabular_dim: width of the prepared tabular inputs.
        train_set: the training part; its embeddings fit projection and scale. A set of live pictures is encoded once if the
            configuration needs that.
        seed: of the initial weights; torch's own generator is left as it was.
        vision: frozen encoder, for sets with live pictures.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MultiModalFusionModel(config, tabular_dim, vision=vision)
    if model.image_inputs is not None and (config.embedding_pca is not None or config.embedding_scaling != "none"):
        model.image_inputs.fit(_embeddings(model, train_set), train_set.has_picture, train_set.race)
    return model


def _embeddings(model: MultiModalFusionModel, examples: TrainingSet, chunk: int = 64) -> Tensor:
    if examples.embedding is not None:
        return examples.embedding
    if examples.pictures is None:
        raise ModelContractError("training set: got neither embeddings nor pictures for a model that uses pictures")
    encoded = []
    for start in range(0, len(examples), chunk):
        index = np.arange(start, min(start + chunk, len(examples)))
        encoded.append(model.encode(examples.pictures(index), examples.has_picture[index]))
    return torch.cat(encoded)


def _load_nets(weights: bytes, config: FusionConfig, tabular_dim: int, device: torch.device) -> list[MultiModalFusionModel]:
    try:
        tensors = load_tensors(weights)
    except SafetensorError as error:
        raise DamagedFileError(f"{WEIGHTS}: {error}; train again") from error
    nets = []
    for i in range(config.n_seeds):
        prefix = f"net{i}."
        with torch.random.fork_rng(devices=[]):
            net = MultiModalFusionModel(config, tabular_dim)
        net.load_own_state({key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)})
        nets.append(net.to(device).eval_mode())
    _share_picture_inputs(nets)
    return nets


def _share_picture_inputs(nets: list[MultiModalFusionModel]) -> None:
    """Let nets of equal picture inputs use one module: those of one training part differ in their weights only."""
    for net in nets[1:]:
        first, own = nets[0].image_inputs, net.image_inputs
        if first is None or own is None:
            continue
        state, expected = own.state_dict(), first.state_dict()
        if all(torch.equal(state[key], expected[key]) for key in expected):
            net.image_inputs = first


def _picture_inputs(
    nets: list[MultiModalFusionModel], embedding: Tensor, has_picture: Tensor, race: Tensor
) -> list[Tensor | None]:
    """What each net sees of the pictures; projected once for all nets that share the projection."""
    projected = {id(net.image_inputs): net.image_inputs for net in nets}
    inputs = {key: None if module is None else module(embedding, has_picture, race) for key, module in projected.items()}
    return [inputs[id(net.image_inputs)] for net in nets]


def _discretised_normal(mean: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """(N, 20) mass of Normal(mean, sigma) around each place; what lies outside 0.5..20.5 goes to the ends."""
    edges = np.concatenate(([-np.inf], np.arange(1.5, N_POSITIONS), [np.inf]))
    probabilities = np.diff(ndtr((edges[None, :] - mean[:, None]) / sigma), axis=1)
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True), dtype=np.float64)
