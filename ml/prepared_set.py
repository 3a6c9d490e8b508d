"""A training set as the trainer's steps take it: cut into rows or whole races, with picture inputs from cache or live."""

import torch
from torch import Tensor

from ml.datasets import TrainingSet
from ml.errors import ModelContractError
from ml.fusion import MultiModalFusionModel


class PreparedSet:
    """A training set on the device, its picture inputs computed once when they come from cached embeddings.

    Args:
        model: gives the picture inputs, and encodes live pictures.
        examples: the set.
        device: where its tensors go.

    Attributes:
        live: pictures are read and encoded in every step.
    """

    def __init__(self, model: MultiModalFusionModel, examples: TrainingSet, device: torch.device) -> None:
        self.model = model
        self.examples = examples
        self.device = device
        self.tabular = examples.tabular.to(device)
        self.position = examples.position.to(device)
        self.finished = examples.finished.to(device)
        self.race = examples.race.to(device)
        self.has_picture = examples.has_picture.to(device)
        self.live = model.image_inputs is not None and examples.embedding is None
        self._cached: Tensor | None = None
        if model.image_inputs is not None and examples.embedding is not None:
            with torch.no_grad():
                self._cached = model.image_inputs(examples.embedding.to(device), self.has_picture, self.race)
        self._race_rows: list[Tensor] | None = None
        if model.config.whole_races:
            order = torch.argsort(examples.race, stable=True)
            sizes = torch.unique_consecutive(examples.race[order], return_counts=True)[1]
            self._race_rows = list(torch.split(order, sizes.tolist()))

    @property
    def n_units(self) -> int:
        """What batches are counted in: races for the listwise loss, else rows."""
        return len(self._race_rows) if self._race_rows is not None else len(self.examples)

    def rows_of(self, units: Tensor) -> Tensor:
        """Row numbers of the given races or rows."""
        if self._race_rows is None:
            return units
        return torch.cat([self._race_rows[int(unit)] for unit in units])

    def image_inputs(self, rows: Tensor | None) -> Tensor | None:
        """(b, I) prepared picture inputs of the rows (None = all), or None for a model without pictures."""
        if self.model.image_inputs is None:
            return None
        if self._cached is not None:
            return self._cached if rows is None else self._cached[rows]
        index = torch.arange(len(self.examples)) if rows is None else rows
        if self.examples.pictures is None:
            raise ModelContractError("pictures: got None, expected a source of pictures for live encoding")
        pictures = self.examples.pictures(index.numpy()).to(self.device)
        present = self.has_picture[index]
        with torch.no_grad():
            prepared: Tensor = self.model.image_inputs(self.model.encode(pictures, present), present, self.race[index])
        return prepared
