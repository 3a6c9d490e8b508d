"""The MLflow "model from code" of every registered version: loads a served model folder and answers one race a call.

Input `{"image": uint8 (cars, height, width, 3), "tabular": float32 (cars, features)}` (tabular models: `tabular` only); output
float64 (cars, 20). MLflow runs this file when a version is loaded; nothing is unpickled.
"""

from pathlib import Path
from typing import Any

import mlflow

from ml.served_model import ServedModel


class FinishPositionModel(mlflow.pyfunc.PythonModel):
    """`predict` of one race's cars; the loaded `ServedModel` is at `.served` for callers in the same process."""

    served: ServedModel
    model_dir: Path

    def load_context(self, context: Any) -> None:
        """Open the model folder that was logged."""
        self.model_dir = Path(context.artifacts["model_dir"])
        self.served = ServedModel(self.model_dir)

    # Without type hints: MLflow would turn them into a second, weaker signature beside the logged one.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ARG002
        """(cars, 20) probabilities of the finishing positions."""
        return self.served.predict(model_input["tabular"], model_input.get("image"))


mlflow.models.set_model(FinishPositionModel())
