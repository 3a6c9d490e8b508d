"""The frozen picture encoder: any picture in, 512 numbers out, never changed by training.

It is torchvision's ResNet-18 without its last layer. Which weights it holds and how pictures are put into it is its identity,
which travels with every embedding, checkpoint and report. BatchNorm is folded into the convolutions, and on a processor with
bfloat16 arithmetic trace-taught weights run in it; docs/encoder.md has what that costs in precision and gains in speed.
"""

import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn

from feature_repo.files import sha256_json
from ml.encoders import transforms
from ml.encoders.resnet import build_network, channels_last, cpu_has_bf16, fold_batchnorm, pooled
from ml.encoders.weights import LoadedWeights, load_weights_file
from ml.errors import DamagedPictureError, ModelContractError

EMBEDDING_DIM = 512
# Pictures go through the network this many at a time. Larger batches are slower on a CPU (the activations leave its caches).
CHUNK = 8

Precision = Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True)
class EncoderIdentity:
    """What an embedding depends on besides the picture.

    Attributes:
        kind: `imagenet`, `file`, `trace` or `random`.
        weights_sha256: of names, shapes and values of the weights (not of the file they came in).
        transform: how pictures become the network's input, with its version.
    """

    kind: str
    weights_sha256: str
    transform: str

    @property
    def key(self) -> str:
        """16 hexadecimal digits that name this identity in paths and records."""
        return sha256_json(self.to_json())[:16]

    def to_json(self) -> dict[str, str]:
        """`EncoderIdentity(**identity.to_json())` is the same identity."""
        return asdict(self)


class VisionEncoder(nn.Module):
    """Frozen ResNet-18 -> 512 features. Always in eval mode; no parameter takes a gradient, no BatchNorm statistic moves."""

    def __init__(self, weights: LoadedWeights, *, precision: Precision = "auto") -> None:
        """An encoder with `weights`.

        Args:
            weights: from `resolve_weights` or `load_weights_file`.
            precision: `bf16`, `fp32`, or `auto`: bf16 for trace-taught weights where the device has it.
        Raises:
            ModelContractError: the weights are not those of a ResNet-18.
        """
        super().__init__()
        self.identity = EncoderIdentity(weights.kind, weights.sha256, weights.transform)
        self.note = weights.note
        self._precision = precision
        self.network = build_network(weights.state_dict)
        self.network.requires_grad_(requires_grad=False)
        self.train(mode=False)

    @classmethod
    def from_file(cls, path: Path, identity: EncoderIdentity, *, precision: Precision = "auto") -> "VisionEncoder":
        """The encoder of `identity` from its weights file.

        Raises:
            MissingInputError: there is no such file.
            DamagedFileError: the file cannot be read or holds other weights.
        """
        return cls(load_weights_file(path, expected=identity.weights_sha256, kind=identity.kind, transform=identity.transform),
                   precision=precision)  # fmt: skip

    def train(self, mode: bool = True) -> "VisionEncoder":
        """Stays in eval mode whatever is asked: in train mode BatchNorm would change the frozen network."""
        del mode
        return super().train(mode=False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) pictures, uint8 or floats in 0..1 -> (B, 512) float32 on the encoder's device.

        A picture's embedding does not depend on the pictures beside it.

        Raises:
            ValueError: another shape or type, or floats outside 0..1.
        """
        device = next(self.network.parameters()).device
        images = transforms.as_uint8(images)
        embedded = torch.empty(len(images), EMBEDDING_DIM, dtype=torch.float32, device=device)
        for start in range(0, len(images), CHUNK):
            chunk = transforms.resize(images[start : start + CHUNK].to(device))
            inputs = transforms.encode_input(chunk, self.identity.transform)
            embedded[start : start + CHUNK] = self._features(inputs)
        return embedded

    def encode_single(self, image: Image.Image | str | os.PathLike[str] | ArrayLike | Tensor) -> Tensor:
        """(512,) float32 of one picture: a path, a PIL image, an (H, W, 3) array or a (3, H, W) tensor.

        Raises:
            DamagedPictureError: a file that is no readable picture.
            ValueError: an array or tensor of another shape or type.
        """
        return self.forward(to_tensor(image)[None])[0]

    def embed_arrays(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, 3) uint8 RGB -> (N, 512) float32."""
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            raise ModelContractError(f"images: got {images.dtype} {images.shape}, expected uint8 (N, height, width, 3)")
        return np.asarray(self.forward(torch.from_numpy(images).permute(0, 3, 1, 2)).cpu().numpy(), dtype=np.float32)

    @property
    def runs_in(self) -> torch.dtype:
        """The arithmetic that `forward` uses on the device the encoder is on."""
        if self._precision != "auto":
            return torch.bfloat16 if self._precision == "bf16" else torch.float32
        if self.identity.transform != transforms.TRACE:
            return torch.float32  # only trace-taught features were found to keep their differences in bfloat16
        device = next(self.network.parameters()).device
        has_bf16 = torch.cuda.is_bf16_supported() if device.type == "cuda" else cpu_has_bf16()
        return torch.bfloat16 if has_bf16 else torch.float32

    def _features(self, inputs: Tensor) -> Tensor:
        dtype = self.runs_in
        return pooled(self._folded[dtype].to(inputs.device), inputs.to(dtype))

    @cached_property
    def _folded(self) -> "_FoldedNetworks":
        return _FoldedNetworks(self.network)


class _FoldedNetworks:
    """The network with BatchNorm folded in, one copy per arithmetic; no Module, so that the copies stay out of the state dict."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._copies: dict[torch.dtype, nn.Module] = {}

    def __getitem__(self, dtype: torch.dtype) -> nn.Module:
        if dtype not in self._copies:
            self._copies[dtype] = channels_last(fold_batchnorm(self._network).to(dtype))
        return self._copies[dtype]


def to_tensor(image: Image.Image | str | os.PathLike[str] | ArrayLike | Tensor) -> Tensor:
    """(3, H, W) uint8 or float of one picture in any of the forms callers hold.

    Raises:
        DamagedPictureError: a file that is missing or no readable picture.
        ValueError: an array that is not (H, W, 3).
    """
    if isinstance(image, Tensor):
        return image
    if isinstance(image, str | os.PathLike):
        try:
            with Image.open(image) as opened:
                return to_tensor(opened)
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise DamagedPictureError(f"{os.fspath(image)}: got no readable picture, expected a PNG: {error}") from error
    if isinstance(image, Image.Image):
        image = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"image: got an array of shape {array.shape}, expected (height, width, 3)")
    return torch.from_numpy(array.copy() if not array.flags.writeable else array).permute(2, 0, 1)
