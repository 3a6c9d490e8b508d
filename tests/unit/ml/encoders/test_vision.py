"""The frozen encoder: stays frozen, reads every form of a picture alike, and embeds each picture by itself."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from feature_repo.errors import DamagedFileError, MissingInputError
from ml.encoders import transforms
from ml.encoders.pictures import read_picture
from ml.encoders.resnet import build_network, cpu_has_bf16, fold_batchnorm, pooled
from ml.encoders.vision import EncoderIdentity, VisionEncoder
from ml.encoders.weights import LoadedWeights, state_sha256, store_weights
from ml.errors import DamagedPictureError, ModelContractError
from ml.torch_threads import torch_threads
from ml.traces import palette


@pytest.fixture(scope="module")
def weights() -> LoadedWeights:
    """Random weights with BatchNorm statistics that are not the identity, so that folding has something to fold."""
    from ml.encoders.torchvision_ops import torchvision_models

    torch.manual_seed(3)
    state = torchvision_models().resnet18(weights=None).state_dict()
    for name, tensor in state.items():
        if name.endswith("running_mean"):
            tensor.normal_(0.0, 0.1)
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
    return LoadedWeights("random", state, state_sha256(state), "for tests", transforms.TRACE)


@pytest.fixture(scope="module")
def encoder(weights) -> VisionEncoder:
    return VisionEncoder(weights)


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """(11, 3, 60, 80) uint8: white with a line each, at different heights."""
    images = torch.full((11, 3, 60, 80), 255, dtype=torch.uint8)
    for number in range(11):
        images[number, :, 4 + 5 * number, 8 : 70 - 3 * number] = torch.tensor(palette.TRACE, dtype=torch.uint8)[:, None]
        images[number, :, 30 + number, 8:70] = torch.tensor(palette.MEAN, dtype=torch.uint8)[:, None]
    return images


def test_shape_type_and_no_gradient(encoder, pictures):
    embedded = encoder(pictures)
    assert embedded.shape == (11, 512)
    assert embedded.dtype == torch.float32
    assert not embedded.requires_grad
    assert torch.isfinite(embedded).all()
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_different_pictures_differ(encoder, pictures):
    embedded = encoder(pictures)
    centred = embedded - embedded.mean(dim=0)
    assert (centred.norm(dim=1) > 1e-3 * embedded.norm(dim=1)).all()


@pytest.mark.parametrize("precision", ["auto", "bf16", "fp32"])
def test_an_embedding_does_not_depend_on_its_batch(weights, pictures, precision):
    encoder = VisionEncoder(weights, precision=precision)
    together = encoder(pictures)
    alone = torch.cat([encoder(picture[None]) for picture in pictures])
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(together[order], encoder(pictures[order]), rtol=0, atol=1e-6)


def test_an_epoch_of_training_around_it_leaves_every_bit(weights, pictures):
    encoder = VisionEncoder(weights)
    model = nn.Sequential(encoder, nn.Linear(512, 4))
    before = copy.deepcopy(encoder.state_dict())
    embedded = encoder(pictures)
    model.train()
    assert not encoder.training
    assert not any(module.training for module in encoder.modules())
    optimiser = torch.optim.Adam(model[1].parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        model(pictures).square().mean().backward()
        optimiser.step()
    after = encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(embedded, encoder(pictures))


def test_all_forms_of_a_picture_give_the_same_embedding(encoder, pictures, tmp_path):
    picture = pictures[3]
    array = picture.permute(1, 2, 0).numpy()
    path = tmp_path / "picture.png"
    Image.fromarray(array).save(path)
    expected = encoder(picture[None])[0]
    paletted = Image.fromarray(array).quantize(16)
    forms = (picture, picture.float() / 255.0, array, Image.fromarray(array), path, str(path), paletted)
    assert all(torch.equal(encoder.encode_single(form), expected) for form in forms)
    assert torch.equal(encoder.encode_single(read_picture(path.read_bytes(), "picture")), expected)
    np.testing.assert_array_equal(encoder.embed_arrays(array[None])[0], expected.numpy())


@pytest.mark.parametrize("size", [(600, 800), (33, 517), (224, 224), (1, 1)])
def test_any_size_is_resized_whole(encoder, size):
    image = torch.full((1, 3, *size), 255, dtype=torch.uint8)
    assert transforms.resize(image).shape == (1, 3, 224, 224)
    corner = image.clone()
    # A crop of the middle would not see it. In the curve's colour: black, as text is, is no ink to `trace-v1`.
    corner[..., : max(1, size[0] // 8), -max(1, size[1] // 8) :] = torch.tensor(palette.TRACE, dtype=torch.uint8).view(1, 3, 1, 1)
    assert not torch.equal(encoder(image), encoder(corner))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 8, 8), "expected \\(B, 3, H, W\\)"),
        (torch.zeros(3, 8, 8), "expected \\(B, 3, H, W\\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int64), "expected uint8"),
        (torch.full((2, 3, 8, 8), 200.0), "outside 0..1"),
        (torch.full((2, 3, 8, 8), float("nan")), "outside 0..1"),
    ],
)
def test_what_is_no_picture_is_refused(encoder, images, message):
    with pytest.raises(ValueError, match=message):
        encoder(images)


def test_a_file_that_is_no_picture_is_named(encoder, tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    with pytest.raises(DamagedPictureError, match=r"broken\.png"):
        encoder.encode_single(path)
    with pytest.raises(DamagedPictureError, match=r"nowhere\.png"):
        encoder.encode_single(tmp_path / "nowhere.png")


def test_an_empty_batch_is_no_error(encoder):
    assert encoder(torch.zeros(0, 3, 60, 80, dtype=torch.uint8)).shape == (0, 512)


def test_fp32_equals_torchvisions_own_forward(weights, pictures):
    from ml.encoders.torchvision_ops import torchvision_models

    reference = torchvision_models().resnet18(weights=None)
    reference.load_state_dict(weights.state_dict)
    reference.fc = nn.Identity()
    with torch.no_grad():
        expected = reference.eval()(transforms.encode_input(transforms.resize(pictures), transforms.TRACE))
    torch.testing.assert_close(VisionEncoder(weights, precision="fp32")(pictures), expected, rtol=1e-4, atol=1e-4)


def test_folding_batchnorm_changes_nothing_but_rounding(weights, pictures):
    network = build_network(weights.state_dict)
    inputs = transforms.encode_input(transforms.resize(pictures), transforms.IMAGENET)
    with torch.no_grad():
        torch.testing.assert_close(pooled(fold_batchnorm(network), inputs), pooled(network, inputs), rtol=1e-4, atol=1e-4)


def test_identity_names_kind_weights_and_transform(weights, encoder):
    identity = encoder.identity
    assert identity == EncoderIdentity("random", weights.sha256, transforms.TRACE)
    assert EncoderIdentity(**identity.to_json()) == identity
    others = {
        EncoderIdentity("trace", weights.sha256, transforms.TRACE).key,
        EncoderIdentity("random", "0" * 64, transforms.TRACE).key,
        EncoderIdentity("random", weights.sha256, transforms.IMAGENET).key,
    }
    assert len(identity.key) == 16
    assert len(others | {identity.key}) == 4


def test_from_file_checks_the_weights(weights, encoder, pictures, tmp_path):
    stored = store_weights(weights, tmp_path / "weights.safetensors")
    again = VisionEncoder.from_file(stored.file, encoder.identity)
    assert again.identity == encoder.identity
    assert torch.equal(again(pictures), encoder(pictures))
    with pytest.raises(DamagedFileError, match="expected 000000000000"):
        VisionEncoder.from_file(stored.file, EncoderIdentity("random", "0" * 64, transforms.TRACE))
    stored.file.write_bytes(stored.file.read_bytes()[:1000])
    with pytest.raises(DamagedFileError, match=r"weights\.safetensors"):
        VisionEncoder.from_file(stored.file, encoder.identity)
    with pytest.raises(MissingInputError, match="pitwall embed"):
        VisionEncoder.from_file(tmp_path / "gone.safetensors", encoder.identity)


def test_weights_of_another_network_are_refused(weights):
    state = {name: tensor for name, tensor in weights.state_dict.items() if not name.startswith("layer4")}
    with pytest.raises(ModelContractError, match="ResNet-18"):
        VisionEncoder(LoadedWeights("file", state, "x", "", transforms.IMAGENET))


def test_trace_transform_separates_the_inks_of_the_renderer():
    """The transform's colours are the renderer's; a renderer with other inks needs a new transform version."""
    image = torch.full((1, 3, 224, 224), 255, dtype=torch.uint8)
    image[0, :, 50] = torch.tensor(palette.TRACE, dtype=torch.uint8)[:, None]
    image[0, :, 150] = torch.tensor(palette.MEAN, dtype=torch.uint8)[:, None]
    image[0, :, 200] = 222  # grey grid
    curve_along, curve_height, mean_height = transforms.encode_input(image, transforms.TRACE)[0, :, :, 100]
    height, along = 2.0 - 2.0 * (torch.arange(224) + 0.5) / 224, 0.5 + 100.5 / 224
    expected = torch.zeros(3, 224)
    expected[0, 50], expected[1, 50], expected[2, 150] = 2.0 * along, 2.0 * height[50], 2.0 * height[150]
    torch.testing.assert_close(torch.stack([curve_along, curve_height, mean_height]), expected, atol=2e-5, rtol=0)


def test_unknown_transform_is_refused(pictures):
    with pytest.raises(ValueError, match="imagenet-v1"):
        transforms.encode_input(pictures, "other")


def test_bfloat16_is_for_trace_taught_weights_only(weights):
    plain = LoadedWeights("imagenet", weights.state_dict, weights.sha256, "", transforms.IMAGENET)
    assert VisionEncoder(plain).runs_in == torch.float32
    assert VisionEncoder(weights).runs_in == (torch.bfloat16 if cpu_has_bf16() else torch.float32)
    assert VisionEncoder(plain, precision="bf16").runs_in == torch.bfloat16


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("transform", [transforms.IMAGENET, transforms.TRACE])
def test_an_encoding_depends_neither_on_threads_nor_on_how_pixels_lie_in_memory(transform: str, threads: int) -> None:
    """(N, H, W, 3) arrays arrive as a view, whose sums one thread rounds otherwise: enough to miss a known question."""
    pixels = torch.randint(0, 256, (20, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    view = pixels.permute(0, 3, 1, 2)
    with torch_threads(2):
        expected = transforms.encode_input(view.contiguous(), transform)
    with torch_threads(threads):
        assert torch.equal(transforms.encode_input(view, transform), expected)
