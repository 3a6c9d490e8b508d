"""torchvision's ResNet-18 without its last layer: building it, folding BatchNorm away, and its pooled features."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ml.encoders.torchvision_ops import torchvision_models
from ml.errors import ModelContractError


def build_network(state_dict: dict[str, Tensor]) -> nn.Module:
    """torchvision's ResNet-18 without its last layer, in eval mode, channels last.

    Raises:
        ModelContractError: names or shapes are not those of a ResNet-18.
    """
    network: nn.Module = torchvision_models().resnet18(weights=None)
    network.fc = nn.Identity()
    wanted = {name: tensor for name, tensor in state_dict.items() if not name.startswith("fc.")}
    try:
        network.load_state_dict(wanted)
    except RuntimeError as error:
        raise ModelContractError(f"weights: got {len(wanted)} tensors, expected a ResNet-18's: {error}") from error
    return channels_last(network).eval()


def channels_last(network: nn.Module) -> nn.Module:
    """`network` with its weights laid out for channels-last pictures, a third faster on a CPU."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def pooled(network: Any, inputs: Tensor) -> Tensor:
    """(B, 3, S, S) -> (B, 512) float32: the mean of the last layer over the picture, summed in float32."""
    hidden = network.maxpool(network.relu(network.bn1(network.conv1(inputs))))
    hidden = network.layer4(network.layer3(network.layer2(network.layer1(hidden))))
    return hidden.float().mean(dim=(2, 3))  # type: ignore[no-any-return]


def fold_batchnorm(network: nn.Module) -> nn.Module:
    """A copy computing the same with each BatchNorm multiplied into the convolution before it."""
    folded: Any = copy.deepcopy(network).eval()
    folded.conv1, folded.bn1 = fuse_conv_bn_eval(folded.conv1, folded.bn1), nn.Identity()
    for layer in (folded.layer1, folded.layer2, folded.layer3, folded.layer4):
        for block in layer:
            block.conv1, block.bn1 = fuse_conv_bn_eval(block.conv1, block.bn1), nn.Identity()
            block.conv2, block.bn2 = fuse_conv_bn_eval(block.conv2, block.bn2), nn.Identity()
            if block.downsample is not None:
                block.downsample = fuse_conv_bn_eval(block.downsample[0], block.downsample[1])
    return folded  # type: ignore[no-any-return]


def cpu_has_bf16() -> bool:
    """The processor multiplies bfloat16 natively; where it does not, bfloat16 is emulated and slower than float32."""
    if not torch.backends.mkldnn.is_available():
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
