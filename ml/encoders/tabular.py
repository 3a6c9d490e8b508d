"""The tabular branch: prepared numeric inputs of one car to a vector of fixed width."""

from itertools import pairwise

from torch import Tensor, nn


class TabularEncoder(nn.Module):
    """Linear layers with ReLU and dropout, ending in `output_dim` (128 in the reference design).

    Args:
        input_dim: width of the prepared inputs (`TabularPreprocessor.width`).
        output_dim: width of the vector handed to the fusion.
        hidden: widths between.
        dropout: share of units dropped after every layer while training.
    """

    def __init__(self, input_dim: int, output_dim: int = 128, *, hidden: tuple[int, ...] = (128,), dropout: float = 0.3) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.layers = perceptron((input_dim, *hidden, output_dim), dropout)

    def forward(self, tabular: Tensor) -> Tensor:
        """(B, input_dim) float32 -> (B, output_dim)."""
        encoded: Tensor = self.layers(tabular)
        return encoded


def perceptron(widths: tuple[int, ...], dropout: float) -> nn.Sequential:
    """Linear, ReLU and dropout for each step of `widths`."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)
