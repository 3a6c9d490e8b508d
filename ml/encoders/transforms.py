"""From a picture of any size to the input of the ResNet: 224x224, never cropped, then one of two named encodings.

`imagenet-v1` is torchvision's normalisation. `trace-v1` is for encoders that were taught on our own traces: it separates the ink
of the curve from the ink of the mean line by their colours and multiplies by the place in the picture, because average pooling
forgets where something was, and where the ink is is all that a trace says.
"""

import torch
from torch import Tensor
from torch.nn import functional

INPUT_PX = 224
IMAGENET = "imagenet-v1"
TRACE = "trace-v1"

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def as_uint8(images: Tensor) -> Tensor:
    """(B, 3, H, W) pictures as uint8; floats are taken as 0..1 and rounded to the 256 levels that pictures have.

    Rounding makes one picture give one embedding, whether it arrives as bytes or as floats.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images: got shape {tuple(images.shape)}, expected (B, 3, H, W)")
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise ValueError(f"images: got {images.dtype}, expected uint8 (0..255) or a float type (0..1)")
    if images.numel() and not bool(((images >= 0.0) & (images <= 1.0)).all()):
        raise ValueError("images: got floats outside 0..1 or NaN; give pictures as uint8 or as floats in 0..1, not normalised")
    return (images.float() * 255.0).round().to(torch.uint8)


def resize(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 -> (B, 3, 224, 224) uint8: the whole picture, antialiased, aspect ratio not kept."""
    if images.shape[-2:] == (INPUT_PX, INPUT_PX):
        return images
    return functional.interpolate(images, size=(INPUT_PX, INPUT_PX), mode="bilinear", antialias=True)


def encode_input(images: Tensor, transform: str) -> Tensor:
    """(B, 3, S, S) uint8 -> (B, 3, S, S) float32, channels last, in the named encoding."""
    images = images.contiguous()  # one order in memory, so that every number of threads rounds alike
    if transform == IMAGENET:
        mean = images.new_tensor(_IMAGENET_MEAN, dtype=torch.float32).view(1, 3, 1, 1)
        std = images.new_tensor(_IMAGENET_STD, dtype=torch.float32).view(1, 3, 1, 1)
        encoded = (images.float() / 255.0 - mean) / std
    elif transform == TRACE:
        encoded = _separate_inks(images)
    else:
        raise ValueError(f"transform: got {transform!r}, expected {IMAGENET!r} or {TRACE!r}")
    return encoded.contiguous(memory_format=torch.channels_last)


# Ink (1 - RGB) of the curve, the mean line and grey (grid, text, spines), one column each.
_CURVE, _MEAN, _GREY = (235, 185, 85), (15, 155, 255), (255, 255, 255)
_UNMIX = torch.linalg.inv(torch.tensor([_CURVE, _MEAN, _GREY], dtype=torch.float64).T / 255.0).float()


def _separate_inks(images: Tensor) -> Tensor:
    """Channels: curve ink times place along the race, curve ink times height, mean-line ink times height.

    The place along runs from 0.5 (left edge) to 1.5, so that ink anywhere counts; height from 2 (top) to 0 (bottom).
    """
    ink = 1.0 - images.float() / 255.0
    amounts = torch.einsum("kc,bchw->bkhw", _UNMIX.to(ink.device), ink)
    rows, columns = images.shape[-2:]
    height = (2.0 - 2.0 * (torch.arange(rows, device=ink.device, dtype=torch.float32) + 0.5) / rows).view(1, 1, rows, 1)
    along = (0.5 + (torch.arange(columns, device=ink.device, dtype=torch.float32) + 0.5) / columns).view(1, 1, 1, columns)
    curve, mean = amounts[:, 0:1], amounts[:, 1:2]
    return torch.cat([curve * along, curve * height, mean * height], dim=1) * 2.0
