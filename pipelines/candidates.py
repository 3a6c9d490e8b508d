"""Which models are trained and compared, under which names, and how each is made anew for a fold.

The candidate is `fusion_best`; beside it always the reference design as written, the candidate's tabular twin (same net, no
pictures), the tabular baseline, and the trivial predictors.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from feature_repo.files import sha256_json
from feature_repo.settings import Settings
from ml.baselines import GridOrder, OrderAtMoment
from ml.config import FusionConfig, load_config
from ml.ensemble import EnsemblePredictor
from ml.fusion_model import FusionPredictor
from ml.rows import PositionModel
from pipelines.steps import code_hash

CANDIDATE = "fusion_best"
REFERENCE = "fusion_reference"
TWIN = "tabular_twin"
BASELINE = "ensemble"
GRID_ORDER, ORDER_AT_MOMENT = "grid_order", "order_at_moment"

TRAINED = (CANDIDATE, REFERENCE, TWIN, BASELINE)
"""The models that `train` fits on everything known and keeps."""

ModelFactory = Callable[[int], PositionModel]


def fusion_config(name: str) -> FusionConfig:
    """The configuration behind a fusion model's name; the twin is derived from the candidate, so they cannot drift apart."""
    return load_config(CANDIDATE).twin(TWIN) if name == TWIN else load_config(name)


def recipe(settings: Settings, name: str, *, encoder: str) -> str:
    """Hash of all that decides what a trained model becomes besides its data: configuration, code, seed and encoder."""
    return sha256_json(
        {
            "config": None if name == BASELINE else fusion_config(name).hash(),
            "encoder": encoder,
            "seed": settings.seed,
            "moment": settings.moment,
            "code": code_hash("ml", "pipelines/candidates.py"),
        }
    )


def make_model(settings: Settings, name: str, *, encoder: str, checkpoint_dir: Path | None = None) -> PositionModel:
    """An unfitted model.

    Args:
        settings: threads and seed.
        name: one of the names above.
        encoder: key of the encoder that made the embeddings, recorded with models that use pictures.
        checkpoint_dir: where training checkpoints go; None keeps none.
    """
    torch.set_num_threads(settings.threads)
    if name == BASELINE:
        return EnsemblePredictor(seed=settings.seed, threads=settings.threads)
    if name == GRID_ORDER:
        return GridOrder()
    if name == ORDER_AT_MOMENT:
        return OrderAtMoment()
    config = fusion_config(name)
    return FusionPredictor(config, encoder_identity=encoder, checkpoint_dir=checkpoint_dir, resume=checkpoint_dir is not None)


def factories(settings: Settings, *, encoder: str) -> dict[str, ModelFactory]:
    """Every model of the comparison as a function of the test season, in the order they are reported."""

    def factory(name: str) -> ModelFactory:
        return lambda _season: make_model(settings, name, encoder=encoder)

    return {name: factory(name) for name in (*TRAINED, GRID_ORDER, ORDER_AT_MOMENT)}
