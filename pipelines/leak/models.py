"""The models a home serves, loaded without touching the home."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import mlflow

from feature_repo.errors import MissingInputError
from feature_repo.settings import Settings
from ml.registry import BASELINE, CHALLENGER, CHAMPION, MODEL_NAME, aliases_of
from ml.served_model import DESCRIPTION, ServedModel


def served_models(settings: Settings, folder: Path) -> list[ServedModel]:
    """The champion, or the baseline where there is none, and the challenger, each once; [] where nothing is registered.

    MLflow migrates a database when it opens one, and notes something beside a model when it loads it. So a local registry is
    opened as a copy in `folder`, and models are copied there before they are read.

    Args:
        settings: the home.
        folder: scratch folder for the copies; a loaded model reads its encoder from there later.
    """
    with _registry(settings, folder) as uri:
        if uri is None:
            return []
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        aliases = aliases_of(client)
        answering = aliases.get(CHAMPION, aliases.get(BASELINE))
        versions = dict.fromkeys(version for version in (answering, aliases.get(CHALLENGER)) if version is not None)
        return [_load(version, folder / f"version_{version}") for version in versions]


def _load(version: str, folder: Path) -> ServedModel:
    folder.mkdir(parents=True)
    mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{MODEL_NAME}/{version}", dst_path=str(folder))
    described = sorted(folder.rglob(DESCRIPTION))
    if not described:
        raise MissingInputError(
            f"{MODEL_NAME} version {version}: holds no {DESCRIPTION}; run `pitwall train` and `pitwall promote`"
        )
    return ServedModel(described[0].parent)


@contextmanager
def _registry(settings: Settings, folder: Path) -> Iterator[str | None]:
    """URI of the registry to read: a server as it is, a local database as a copy; None where there is none."""
    uri: str | None = settings.mlflow_tracking_uri
    if uri is None and (settings.home / "mlflow.db").exists():
        copy = folder / "mlflow.db"
        source = sqlite3.connect(f"file:{settings.home / 'mlflow.db'}?mode=ro", uri=True)
        with closing(source), closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        uri = f"sqlite:///{copy}"
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    try:
        if uri is not None:
            mlflow.set_tracking_uri(uri)
            mlflow.set_registry_uri(uri)
        yield uri
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])
