"""The fusion model: a picture branch and a tabular branch side by side, then shared layers to the finishing position."""

from typing import Self

import torch
from torch import Tensor, nn

from ml.config import FusionConfig
from ml.embedding_inputs import EmbeddingInputs
from ml.encoders.tabular import TabularEncoder, perceptron
from ml.errors import ModelContractError
from ml.losses import n_outputs
from ml.rows import EMBEDDING_DIM

_VISION_PREFIX = "vision."


class MultiModalFusionModel(nn.Module):
    """concat(picture 512, tabular 128) -> 256 -> 128 -> 20 with ReLU and dropout (widths from the configuration).

    A picture that is missing is masked: whatever stands in its place has no influence on any output, gradient or race mean.

    Args:
        config: widths, dropout, which inputs, which loss (20 outputs for cross-entropy, one for the others).
        tabular_dim: width of the prepared tabular inputs.
        vision: frozen picture encoder, (B, 3, H, W) -> (B, 512); needed only when `forward` is to be given pictures rather than
            embeddings. It is never trained, never leaves eval mode, and its weights are no part of checkpoints.
    """

    def __init__(self, config: FusionConfig, tabular_dim: int, *, vision: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.tabular = TabularEncoder(tabular_dim, config.tabular_dim, hidden=config.tabular_hidden, dropout=config.dropout)
        self.image_inputs = EmbeddingInputs(config) if config.use_pictures else None
        image_dim = self.image_inputs.output_dim if self.image_inputs is not None else 0
        widths = (image_dim + config.tabular_dim, *config.fusion_hidden)
        self.fusion = perceptron(widths, config.dropout)
        self.head = nn.Linear(widths[-1], n_outputs(config))
        self.vision = vision
        if vision is not None:
            vision.requires_grad_(requires_grad=False)
            vision.eval()

    def forward(
        self, images: Tensor | None, tabular: Tensor, *, has_picture: Tensor | None = None, race: Tensor | None = None
    ) -> Tensor:
        """Outputs for a batch of cars.

        Args:
            images: (B, 3, H, W) pictures, or (B, 512) embeddings of them, or None when the whole batch has no picture.
            tabular: (B, T) float32 prepared inputs.
            has_picture: (B,) bool, False where a sample has no picture (its image may hold anything); None = all have one.
            race: (B,) int64, which race a row belongs to; needed by race-relative configurations, races must be whole.
        Returns:
            (B, 20) logits for cross-entropy, (B, 1) otherwise.
        Raises:
            ModelContractError: shapes that do not fit, or pictures without an encoder.
        """
        if self.image_inputs is None or images is None:
            return self.fuse(None, tabular)
        if has_picture is None:
            has_picture = torch.ones(len(tabular), dtype=torch.bool, device=tabular.device)
        if len(images) != len(tabular) or has_picture.shape != (len(tabular),):
            raise ModelContractError(
                f"batch: got {len(images)} images, {len(tabular)} tabular rows and a mask of shape {tuple(has_picture.shape)}, "
                "expected as many of each"
            )
        embedding = self.encode(images, has_picture) if images.ndim == 4 else images
        return self.fuse(self.image_inputs(embedding, has_picture, race), tabular)

    @torch.no_grad()
    def encode(self, pictures: Tensor, has_picture: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 512) by the frozen encoder; rows without a picture are 0 and never reach it.

        Raises:
            ModelContractError: the model was made without an encoder.
        """
        if self.vision is None:
            raise ModelContractError(
                "images: got pictures, but this model has no encoder; pass (B, 512) embeddings or make it with vision=..."
            )
        embedding = torch.zeros(len(pictures), EMBEDDING_DIM, dtype=torch.float32, device=pictures.device)
        if bool(has_picture.any()):
            embedding[has_picture] = self.vision(pictures[has_picture]).float()
        return embedding

    def fuse(self, image_inputs: Tensor | None, tabular: Tensor) -> Tensor:
        """The trainable part: prepared picture inputs (or None) and prepared tabular inputs to outputs.

        Args:
            image_inputs: (B, I) from `self.image_inputs`, zero rows where there is no picture.
            tabular: (B, T).
        """
        if tabular.ndim != 2 or tabular.shape[1] != self.tabular.input_dim:
            raise ModelContractError(f"tabular: got shape {tuple(tabular.shape)}, expected (B, {self.tabular.input_dim})")
        encoded = self.tabular(tabular)
        if self.image_inputs is not None:
            if image_inputs is None:
                image_inputs = encoded.new_zeros(len(encoded), self.image_inputs.output_dim)
            encoded = torch.cat((image_inputs, encoded), dim=1)
        output: Tensor = self.head(self.fusion(encoded))
        return output

    def train(self, mode: bool = True) -> Self:
        """As in torch, but the frozen encoder stays in eval mode, so that its BatchNorm statistics never move."""
        super().train(mode)
        if self.vision is not None:
            self.vision.eval()
        return self

    def train_mode(self) -> Self:
        """Dropout on."""
        return self.train(True)

    def eval_mode(self) -> Self:
        """Dropout off: the same input always gives the same output."""
        return self.eval()

    def own_state(self) -> dict[str, Tensor]:
        """Copies of every weight and buffer except the frozen encoder's, which is identified by its hash instead."""
        return {key: value.detach().clone() for key, value in self.state_dict().items() if not key.startswith(_VISION_PREFIX)}

    def load_own_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `own_state` gave.

        Raises:
            ModelContractError: the state is of a model with other parts or widths.
        """
        expected = {key: value.shape for key, value in self.own_state().items()}
        got = {key: value.shape for key, value in state.items()}
        wrong = sorted(key for key in expected.keys() | got.keys() if expected.get(key) != got.get(key))
        if wrong:
            raise ModelContractError(
                f"state: {', '.join(wrong[:6])} missing, unexpected or of another shape for configuration {self.config.name}; "
                "load it with the configuration it was saved with"
            )
        self.load_state_dict(state, strict=False)
