"""A home in which the whole loop has run once on a few simulated races, and how two homes are compared."""

import hashlib
import importlib
import json
import shutil
import sqlite3
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlflow
from loop_setup import Loop, loop_settings

from feature_repo.files import read_json
from feature_repo.settings import Settings
from feature_repo.store import apply, online_path, open_store
from ml.served_model import ServedModel
from pipelines.candidates import CANDIDATE
from pipelines.registry import MODEL_NAME, champion_history
from serving.prediction import ModelInUse
from serving.predictor import Predictor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    importlib.import_module("mlflow.pyfunc")  # warns while it is loaded


_NOT_COPIED = shutil.ignore_patterns("*.db*", "*.lock", "mlartifacts", "checkpoints", "models", "weights")
_DATABASES = {".db", ".db-wal", ".db-shm", ".db-journal", ".lock"}


def tree(folder: Path, *, besides: Iterable[str] = ()) -> dict[str, str]:
    """Path below `folder` -> hash of the content, without databases, locks and what MLflow notes beside a model when it loads it.

    Args:
        folder: whose files.
        besides: top-level names left out.
    """
    left_out = set(besides)
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(_canonical(path)).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.suffix not in _DATABASES
        and path.name not in (".lock", "registered_model_meta")
        and path.relative_to(folder).parts[0] not in left_out
    }


def online_rows(settings: Settings) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of the online store by table, sorted: key and packed row."""
    with sqlite3.connect(f"file:{online_path(settings)}?mode=ro", uri=True) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        return {
            name: sorted(connection.execute(f'SELECT entity_key, value FROM "{name}"').fetchall())
            for name in names
            if name.startswith("pitwall_")
        }


def registry_state(settings: Settings) -> dict[str, Any]:
    """Versions with role, model and verdict, aliases, and the champion's history, without ids and times."""
    client = mlflow.MlflowClient(tracking_uri=settings.mlflow_uri, registry_uri=settings.mlflow_uri)
    versions = client.search_model_versions(f"name = '{MODEL_NAME}'")
    tags = ("pitwall.model", "pitwall.role", "pitwall.recipe", "gate.verdict", "gate.inputs_sha256")
    return {
        "versions": sorted([str(version.version), *[version.tags.get(tag) for tag in tags]] for version in versions),
        "aliases": {name: str(version) for name, version in client.get_registered_model(MODEL_NAME).aliases.items()},
        "history": [(move.version, move.previous, move.reason) for move in champion_history(client)],
    }


def content(settings: Settings) -> dict[str, Any]:
    """What a home holds, as far as two homes that did the same work must agree on it.

    Left out are the descriptions of models, which hold how long an epoch took and the hash of the encoder's file (its header has
    no fixed order), and the recipes made of them: every array of a model and its answers are compared themselves.
    """
    home, registry = settings.home, registry_state(settings)
    models = {name: digest for name, digest in tree(settings.models_dir).items() if not name.endswith("model.json")}
    registry["versions"] = [
        [version, model, role, verdict, inputs] for version, model, role, _, verdict, inputs in registry["versions"]
    ]
    evaluation = read_json(settings.reports_dir / "evaluation.json")
    return {
        **{name: tree(home / name) for name in ("lake", "features", "multimodal", "embeddings", "weights")},
        "models": models,
        "evidence": read_json(settings.reports_dir / "evidence.json"),
        "evaluation": {key: value for key, value in evaluation.items() if key != "seconds"},
        "online": online_rows(settings),
        "registry": registry,
    }


def copy_of(loop: Loop, home: Path) -> Settings:
    """A copy of the home that can be changed: applied anew, because a Feast registry knows the folder it reads.

    Trained models stay where they are; versions in the copied registry still point there.
    """
    shutil.copytree(loop.settings.home, home, ignore=_NOT_COPIED)
    for name in ("mlflow.db", "online_store.db"):  # by SQLite itself: another test may be reading
        with sqlite3.connect(loop.settings.home / name) as one, sqlite3.connect(home / name) as two:
            one.backup(two)
    settings = loop_settings(home)
    apply(settings)
    return settings


def candidate_predictor(settings: Settings, *, model: Path | None = None) -> Predictor:
    """A predictor with the trained candidate, which looks at pictures, whatever the gate said of it.

    Args:
        settings: the home whose features are asked.
        model: another home's model folder.
    """
    served = ServedModel(model or settings.models_dir / CANDIDATE)
    encoder = None if served.identity is None else served.identity.to_json()
    in_use = ModelInUse(served.name, "0", "candidate", served.origin.feature_service, encoder, "")
    return Predictor(settings, open_store(settings), served, in_use)


def one_object(text: str) -> dict[str, Any]:
    """The one JSON object that `text` is; anything before, after or beside it fails."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    value = json.loads(text, parse_constant=refuse)
    assert isinstance(value, dict)
    assert text.count("\n") == 1, "one object on one line"
    return value


def _canonical(path: Path) -> bytes:
    """The bytes of a file; of a safetensors file with its header sorted, because the library writes it in any order."""
    raw = path.read_bytes()
    if path.suffix != ".safetensors":
        return raw
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.dumps(json.loads(raw[8:end]), sort_keys=True).encode() + raw[end:]
