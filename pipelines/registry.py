"""Logging trained models as versions of the MLflow registry; everything else about the registry is in `ml.registry`."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np

from ml.registry import (
    BASELINE,
    CHALLENGER,
    CHAMPION,
    MODEL_NAME,
    ChampionMove,
    alias_version,
    champion_history,
    effective_history,
    get_version,
    move_champion,
    open_registry,
    registry_lock,
    rollback,
    standing_promotions,
    stored_record,
)

__all__ = [
    "BASELINE",
    "CHALLENGER",
    "CHAMPION",
    "MODEL_NAME",
    "ChampionMove",
    "alias_version",
    "champion_history",
    "effective_history",
    "experiment_id",
    "get_version",
    "log_version",
    "move_champion",
    "open_registry",
    "registry_lock",
    "rollback",
    "standing_promotions",
    "stored_record",
]

logger = logging.getLogger(__name__)


def experiment_id(client: mlflow.MlflowClient) -> str:
    """Id of the one experiment that versions are logged to."""
    return str(client.get_experiment_by_name(MODEL_NAME).experiment_id)


def log_version(
    client: mlflow.MlflowClient,
    *,
    model_dir: Path,
    input_example: Mapping[str, np.ndarray],
    run_name: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    reports: list[Path],
) -> str:
    """Log a model directory as a new version of `finish_position`, with its parameters, metrics and reports.

    Args:
        model_dir: what `ml.pyfunc_model` loads: weights, preprocessing, `served_model.json`; no pickle.
        input_example: arrays by input name; the signature enforced at prediction comes from it (first axis free).
        reports: files stored with the run.
    Returns:
        The version number as MLflow gives it, such as `"3"`.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def spec(name: str, array: np.ndarray) -> TensorSpec:
        # pictures of any size are resized by the encoder; everything else has a fixed width
        shape = (-1, -1, -1, 3) if name == "image" else (-1, *array.shape[1:])
        return TensorSpec(array.dtype, shape, name)

    signature = ModelSignature(
        inputs=Schema([spec(name, array) for name, array in input_example.items()]),
        outputs=Schema([TensorSpec(np.dtype("float64"), (-1, 20))]),
    )
    entry = Path(__file__).resolve().parent.parent / "ml" / "pyfunc_entry.py"
    with mlflow.start_run(experiment_id=experiment_id(client), run_name=run_name) as run:
        mlflow.log_params({name: str(value)[:500] for name, value in params.items()})
        mlflow.log_metrics(dict(metrics))
        mlflow.set_tags(dict(tags))
        for report in reports:
            mlflow.log_artifact(str(report), artifact_path="reports")
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(entry),
            artifacts={"model_dir": str(model_dir)},
            signature=signature,
            pip_requirements=["pitwall"],
        )
    # One call with all tags: a version is either there with its recipe or not there.
    created = client.create_model_version(
        MODEL_NAME, source=logged.model_uri, run_id=run.info.run_id, tags=dict(tags), model_id=logged.model_id
    )
    version = str(created.version)
    logger.info("model_version_logged version=%s run=%s", version, run_name)
    return version
