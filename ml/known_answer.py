"""The load test of the gate: a fresh process loads a model, asks it the question stored with it, and compares.

`python -m ml.known_answer MODEL TRACKING_URI` prints one JSON object: `{"loaded", "answered", "largest_difference", "detail"}`.
`MODEL` is an MLflow URI (`models:/finish_position/3`), or the folder of a trained model that is not logged yet.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow
import numpy as np

from ml.evidence import KnownAnswer
from ml.served_model import QUESTION, ServedModel, read_question

Predict = Callable[[dict[str, np.ndarray]], Any]


def ask(model: str) -> KnownAnswer:
    """Load `model` and ask it its stored question; a logged model through MLflow, with its signature enforced."""
    try:
        predict, served, folder = _load(model)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong while loading is the finding
        return KnownAnswer(loaded=False, answered=False, largest_difference=float("nan"), detail=_short(error))
    return ask_loaded(predict, served, folder)


def ask_loaded(predict: Predict, served: ServedModel, folder: Path) -> KnownAnswer:
    """Ask a loaded model the question stored in its folder.

    Args:
        predict: from inputs by name to (cars, 20).
        served: the model; says whether it looks at pictures.
        folder: its model folder.
    """
    try:
        tabular, images, expected = read_question(folder / QUESTION)
        answer = np.asarray(predict({"image": images, "tabular": tabular} if served.uses_pictures else {"tabular": tabular}))
        difference = float(np.abs(answer - expected).max())  # shapes that do not fit together raise here
    except Exception as error:  # noqa: BLE001 - as above, while answering
        return KnownAnswer(loaded=True, answered=False, largest_difference=float("nan"), detail=_short(error))
    return KnownAnswer(loaded=True, answered=True, largest_difference=difference)


def _load(model: str) -> tuple[Predict, ServedModel, Path]:
    if not model.startswith("models:/"):
        served = ServedModel(Path(model))
        return (lambda inputs: served.predict(inputs["tabular"], inputs.get("image"))), served, Path(model)
    loaded = mlflow.pyfunc.load_model(model)
    python_model = loaded.unwrap_python_model()
    return loaded.predict, python_model.served, python_model.model_dir


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]


if __name__ == "__main__":
    mlflow.set_tracking_uri(sys.argv[2])
    mlflow.set_registry_uri(sys.argv[2])
    found = ask(sys.argv[1])
    finite = found.largest_difference if np.isfinite(found.largest_difference) else None
    sys.stdout.write(json.dumps({**asdict(found), "largest_difference": finite}) + "\n")
