"""The models a serving process answers with: the champion, the tabular baseline, and perhaps a challenger."""

import logging
import time
from dataclasses import dataclass, field

from feast import FeatureStore

from feature_repo.settings import Settings
from serving.predictor import Predictor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model version that answers.

    Attributes:
        predictor: asks it.
        version: in the registry.
        role: `champion`, `baseline` or `challenger`.
        loaded_at: UNIX time, seconds.
    """

    predictor: Predictor
    version: str
    role: str
    loaded_at: float = field(default_factory=time.time)


class ModelManager:
    """Loads the models of a home and says which one answers about a race.

    Args:
        settings: which home.
        store: its open store.
    """

    def __init__(self, settings: Settings, store: FeatureStore) -> None:
        predictor = Predictor.open(settings)
        self.champion = LoadedModel(predictor, predictor.model.version, predictor.model.role)
        self.challenger: LoadedModel | None = None
        self.baseline = self.champion

    def current(self, race_id: str) -> LoadedModel:
        """The model that answers about a race: the same one for all requests about it while no model changes."""
        return self.champion

    def close(self) -> None:
        """Stop looking for new models."""
