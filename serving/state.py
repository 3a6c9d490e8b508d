"""What a serving process holds open between requests, and the one path on which every answer is made."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from feature_repo.settings import Settings
from feature_repo.spine import Moment
from feature_repo.store import open_store
from serving.gate import FairGate
from serving.models import LoadedModel, ModelManager
from serving.predictor import Prediction

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """A prediction and how it came about.

    Attributes:
        prediction: what the model says; only of the drivers asked about.
        model: that answered.
        fallbacks: what was done instead of what was wanted, in order; empty when nothing was.
        stale: feature -> drivers whose value was older than its view allows, and used all the same.
        latency_ms: from the call to the answer, waiting included.
    """

    prediction: Prediction
    model: LoadedModel
    fallbacks: list[str] = field(default_factory=list)
    stale: dict[str, list[str]] = field(default_factory=dict)
    latency_ms: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The prediction as JSON, with `fallbacks`, `stale` and `latency_ms`."""
        return {
            **self.prediction.to_json(),
            "fallbacks": self.fallbacks,
            "stale": self.stale,
            "latency_ms": round(self.latency_ms, 3),
        }


class ServingState:
    """One open store and the loaded models of a home; shared by all threads of the process.

    Args:
        settings: which home.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = open_store(settings)
        self.gate = FairGate(settings.serve_slots)
        self.models = ModelManager(settings, self.store)

    def answer(
        self, race_id: str, moment: Moment | None = None, *, live: bool = False, drivers: Sequence[str] | None = None
    ) -> Answer:
        """The finishing order at a moment of a race, or from the newest state.

        Args:
            race_id: the race.
            moment: default the home's default moment.
            live: from the online store's newest values instead.
            drivers: only these; the race is predicted as a whole either way.
        Raises:
            PitwallError: as `Predictor.predict` and `Predictor.predict_live`.
        """
        started = time.perf_counter()
        model = self.models.current(race_id)
        with self.gate.entered():
            said = model.predictor.predict_live(race_id) if live else model.predictor.predict(race_id, moment)
        return Answer(said, model, latency_ms=(time.perf_counter() - started) * 1e3)

    def close(self) -> None:
        """Stop the background work and write what is buffered."""
        self.models.close()


def get_state(request: Request) -> ServingState:
    """The state of the application that a request came to."""
    state: ServingState = request.app.state.serving
    return state
