"""What the net sees of picture embeddings: absolute or relative to the race, projected and scaled as the training part says."""

import logging

import torch
from torch import Tensor, nn

from ml.config import FusionConfig
from ml.errors import ModelContractError
from ml.rows import EMBEDDING_DIM

logger = logging.getLogger(__name__)

_MIN_SPREAD = 1e-6  # a column with less spread than this says nothing; dividing by it would only blow up noise


class EmbeddingInputs(nn.Module):
    """A fixed (never trained) affine map per block, fitted on the training part only.

    Blocks are the embedding itself and the embedding minus the mean over the race's pictures, as the configuration asks. Buffers
    travel in the state dict. A row without a picture is zero in every block and enters no mean.

    Args:
        config: which blocks, how many principal components, what scaling.
    """

    shift: Tensor
    project: Tensor
    fitted: Tensor

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.absolute = config.keep_absolute_embedding
        self.relative = config.race_relative_embedding
        self.scaling = config.embedding_scaling
        self.components = config.embedding_pca
        self.n_blocks = int(self.absolute) + int(self.relative)
        self.block_dim = self.components or EMBEDDING_DIM
        self.output_dim = self.n_blocks * self.block_dim
        self.register_buffer("shift", torch.zeros(self.n_blocks, EMBEDDING_DIM))
        # without principal components the map is diagonal: stored as a vector, applied as a product
        shape = (self.n_blocks, EMBEDDING_DIM, self.components) if self.components else (self.n_blocks, EMBEDDING_DIM)
        self.register_buffer("project", torch.ones(shape))
        self.register_buffer("fitted", torch.tensor(False))

    @torch.no_grad()
    def fit(self, embedding: Tensor, has_picture: Tensor, race: Tensor) -> "EmbeddingInputs":
        """Learn projection and scale from the training part.

        Args:
            embedding: (N, 512) float32.
            has_picture: (N,) bool.
            race: (N,) int64, whole races.
        """
        blocks = self._blocks(embedding, has_picture, race)
        for b, block in enumerate(blocks):
            known = block[has_picture].double()
            if len(known) < 2:
                logger.warning("embedding inputs: %d pictures in the training part, nothing to fit", len(known))
                continue
            self._fit_block(b, known)
        self.fitted.fill_(True)
        return self

    def _fit_block(self, b: int, known: Tensor) -> None:
        plain = self.components is None and self.scaling == "none"
        mean = torch.zeros(EMBEDDING_DIM, dtype=torch.float64) if plain else known.mean(dim=0)
        centred = known - mean
        if self.components:
            covariance = centred.T @ centred / (len(known) - 1)
            variance, axes = torch.linalg.eigh(covariance)
            axes = axes.flip(1)[:, : self.components]
            spread = variance.flip(0)[: self.components].clamp(min=0).sqrt()
            # an axis is defined up to its sign: make the largest loading positive, so that refits agree
            axes = axes * torch.sign(axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)))
            self.project[b] = (axes * self._scale(spread)).float()
        else:
            self.project[b] = self._scale(centred.std(dim=0)).float()
        self.shift[b] = mean.float()

    def _scale(self, spread: Tensor) -> Tensor:
        if self.scaling == "none":
            return torch.ones_like(spread)
        if self.scaling == "common":
            spread = spread.square().mean().sqrt().expand_as(spread)
        return torch.where(spread > _MIN_SPREAD, 1 / spread.clamp(min=_MIN_SPREAD), 0.0)

    def forward(self, embedding: Tensor, has_picture: Tensor, race: Tensor | None) -> Tensor:
        """(B, 512) embeddings -> (B, output_dim) float32, zero where there is no picture.

        Args:
            embedding: (B, 512); rows without a picture may hold anything, NaN included.
            has_picture: (B,) bool.
            race: (B,) int64; needed for race-relative blocks, whose races must be whole.
        Raises:
            ModelContractError: wrong width, or a race-relative block without `race`.
        """
        if embedding.ndim != 2 or embedding.shape[1] != EMBEDDING_DIM:
            raise ModelContractError(f"embedding: got shape {tuple(embedding.shape)}, expected (B, {EMBEDDING_DIM})")
        blocks = self._blocks(embedding, has_picture, race)
        if self.components:
            mapped = [(block - self.shift[b]) @ self.project[b] for b, block in enumerate(blocks)]
        else:
            mapped = [(block - self.shift[b]) * self.project[b] for b, block in enumerate(blocks)]
        return torch.where(has_picture[:, None], torch.cat(mapped, dim=1), 0.0)

    def _blocks(self, embedding: Tensor, has_picture: Tensor, race: Tensor | None) -> list[Tensor]:
        known = torch.where(has_picture[:, None], embedding, 0.0)
        blocks = [known] if self.absolute else []
        if self.relative:
            if race is None:
                raise ModelContractError("race: got None, expected (B,) race numbers: this model compares pictures within a race")
            _, code = torch.unique(race, return_inverse=True)
            n_races = int(code.max()) + 1 if len(code) else 0
            total = known.new_zeros(n_races, EMBEDDING_DIM, dtype=torch.float64).index_add_(0, code, known.double())
            pictures = known.new_zeros(n_races, dtype=torch.float64).index_add_(0, code, has_picture.double())
            mean = (total / pictures.clamp(min=1)[:, None])[code]
            blocks.append(torch.where(has_picture[:, None], (known - mean).to(known.dtype), 0.0))
        return blocks
