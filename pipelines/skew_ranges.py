"""What the model in use was trained on, feature by feature, as its description says."""

import tempfile
from pathlib import Path
from typing import Any

import mlflow

from feature_repo.files import read_json
from feature_repo.settings import Settings
from ml.served_model import DESCRIPTION, FeatureSpec, is_served_model
from pipelines.candidates import CANDIDATE
from pipelines.registry import CHAMPION, MODEL_NAME, alias_version, get_version, open_registry


def training_specs(settings: Settings) -> tuple[dict[str, FeatureSpec], str | None]:
    """The features of the champion with their ranges in training, and whose they are.

    Without a champion those of the trained candidate; without either, or of a model from before ranges were kept, none and None.
    """
    found = _champion(settings)
    if found is None and is_served_model(settings.models_dir / CANDIDATE):
        found = read_json(settings.models_dir / CANDIDATE / DESCRIPTION), f"trained candidate {CANDIDATE}"
    if found is None:
        return {}, None
    description, whose = found
    specs = [FeatureSpec.from_json(stored) for stored in description["features"]]
    ranged = {spec.name: spec for spec in specs if spec.distinct is not None}
    return ranged, whose if ranged else None


def _champion(settings: Settings) -> tuple[dict[str, Any], str] | None:
    if settings.mlflow_tracking_uri is None and not (settings.home / "mlflow.db").exists():
        return None
    client = open_registry(settings)
    version = alias_version(client, CHAMPION)
    if version is None:
        return None
    name = get_version(client, version).tags["pitwall.model"]
    uri = f"models:/{MODEL_NAME}/{version}/artifacts/{name}/{DESCRIPTION}"
    with tempfile.TemporaryDirectory() as folder:
        path = mlflow.artifacts.download_artifacts(uri, dst_path=folder, tracking_uri=settings.mlflow_uri)
        return read_json(Path(path)), f"champion version {version}"
