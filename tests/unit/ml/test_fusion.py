"""The fusion model: shapes, masks, what is trained and what is frozen."""

import math

import pytest
import torch
from torch import Tensor, nn

from ml.config import FusionConfig, load_config
from ml.encoders.tabular import TabularEncoder
from ml.errors import ModelContractError
from ml.fusion import MultiModalFusionModel
from ml.losses import cross_entropy, training_loss

T = 11
REFERENCE = load_config("fusion_reference")
RELATIVE = FusionConfig(
    name="relative",
    loss="listwise",
    keep_absolute_embedding=True,
    race_relative_embedding=True,
    embedding_pca=6,
    embedding_scaling="common",
)


class SmallVision(nn.Module):
    """A stand-in with BatchNorm and the encoder's contract: (B, 3, H, W) -> (B, 512)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(8), nn.Flatten()
        )

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings, tabular inputs, mask and race of 12 cars of two races."""
    g = torch.Generator().manual_seed(1)
    mask = torch.tensor([True, False, True, True, False, True] * 2)
    return torch.randn(12, 512, generator=g), torch.randn(12, T, generator=g), mask, torch.tensor([0] * 6 + [1] * 6)


def model(config: FusionConfig, vision: nn.Module | None = None) -> MultiModalFusionModel:
    torch.manual_seed(0)
    made = MultiModalFusionModel(config, T, vision=vision)
    if made.image_inputs is not None:
        made.image_inputs.fit(torch.randn(40, 512), torch.ones(40, dtype=torch.bool), torch.arange(40) // 10)
    return made


def test_reference_has_the_widths_of_the_design() -> None:
    made = model(REFERENCE)
    widths = [tuple(layer.weight.shape) for layer in made.modules() if isinstance(layer, nn.Linear)]
    assert widths == [(128, T), (128, 128), (256, 640), (128, 256), (20, 128)]
    assert {layer.p for layer in made.modules() if isinstance(layer, nn.Dropout)} == {0.3}


@pytest.mark.parametrize(("loss", "width"), [("cross_entropy", 20), ("mse", 1), ("listwise", 1)])
def test_output_shape_and_type(batch: tuple[Tensor, ...], loss: str, width: int) -> None:
    images, tabular, mask, race = batch
    made = model(REFERENCE.model_copy(update={"loss": loss}))
    for given in (images, None):
        output = made(given, tabular, has_picture=mask, race=race)
        assert output.shape == (12, width)
        assert output.dtype == torch.float32


def test_tabular_encoder_gives_128() -> None:
    assert TabularEncoder(T)(torch.zeros(3, T)).shape == (3, 128)


def test_initial_loss_is_that_of_chance(batch: tuple[Tensor, ...]) -> None:
    images, tabular, *_ = batch
    made = model(REFERENCE).eval_mode()
    loss = cross_entropy(made(images, tabular), torch.arange(1, 13))
    assert float(loss.detach()) == pytest.approx(math.log(20), abs=0.15)


def test_overfits_eight_samples(batch: tuple[Tensor, ...]) -> None:
    images, tabular, mask, _ = (part[:8] for part in batch)
    made = model(REFERENCE.model_copy(update={"dropout": 0.0}))
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-3)
    position = torch.tensor([3, 14, 15, 9, 2, 6, 5, 8])
    for _ in range(80):
        optimizer.zero_grad()
        loss = cross_entropy(made(images, tabular, has_picture=mask), position)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02


@pytest.mark.parametrize("config", [REFERENCE, RELATIVE])
def test_a_masked_picture_has_no_influence(batch: tuple[Tensor, ...], config: FusionConfig) -> None:
    images, tabular, mask, race = batch
    made = model(config).eval_mode()
    expected = made(images, tabular, has_picture=mask, race=race)
    for garbage in (float("nan"), float("inf"), 1e9):
        other = images.clone()
        other[~mask] = garbage
        assert torch.equal(made(other, tabular, has_picture=mask, race=race), expected)
    other = images.clone()
    other[mask] += 1
    other[mask, 0] += 3  # a shift common to the race would rightly vanish from a race-relative model
    other[0, 1] += 3
    assert not torch.equal(made(other, tabular, has_picture=mask, race=race)[mask], expected[mask])


@pytest.mark.parametrize("config", [REFERENCE, RELATIVE])
def test_a_masked_picture_gets_no_gradient(batch: tuple[Tensor, ...], config: FusionConfig) -> None:
    images, tabular, mask, race = batch
    images.requires_grad_(True)
    model(config)(images, tabular, has_picture=mask, race=race).square().sum().backward()
    assert images.grad is not None
    assert not images.grad[~mask].any()
    assert images.grad[mask].any()


def test_no_images_equals_all_masked(batch: tuple[Tensor, ...]) -> None:
    images, tabular, mask, race = batch
    made = model(RELATIVE).eval_mode()
    nothing = torch.zeros_like(mask)
    assert torch.equal(made(None, tabular), made(images, tabular, has_picture=nothing, race=race))


def test_a_model_without_pictures_ignores_them(batch: tuple[Tensor, ...]) -> None:
    images, tabular, *_ = batch
    made = model(REFERENCE.twin()).eval_mode()
    assert torch.equal(made(images, tabular), made(None, tabular))


def test_pictures_and_their_embeddings_give_the_same(batch: tuple[Tensor, ...]) -> None:
    _, tabular, mask, race = batch
    vision = SmallVision().eval()
    made = model(RELATIVE, vision).eval_mode()
    pictures = torch.rand(12, 3, 32, 32)
    pictures[~mask] = float("nan")
    embedding = torch.zeros(12, 512)
    embedding[mask] = vision(pictures[mask])
    torch.testing.assert_close(
        made(pictures, tabular, has_picture=mask, race=race), made(embedding, tabular, has_picture=mask, race=race)
    )


@pytest.mark.parametrize("config", [REFERENCE, RELATIVE])
def test_gradient_reaches_every_trainable_parameter_and_no_frozen_one(batch: tuple[Tensor, ...], config: FusionConfig) -> None:
    _, tabular, mask, race = batch
    made = model(config, SmallVision()).train_mode()
    position = torch.tensor([1, 2, 3, 4, 5, 6] * 2)
    output = made(torch.rand(12, 3, 32, 32), tabular, has_picture=mask, race=race)
    training_loss(config, output, position, torch.ones(12, dtype=torch.bool), race).backward()
    for name, parameter in made.named_parameters():
        if name.startswith("vision."):
            assert not parameter.requires_grad
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_frozen_statistics_stay_bit_equal_while_training(batch: tuple[Tensor, ...]) -> None:
    _, tabular, *_ = batch
    made = model(REFERENCE, SmallVision())
    before = {name: buffer.clone() for name, buffer in made.named_buffers()}
    made.train_mode()
    assert made.training
    made(torch.rand(12, 3, 32, 32), tabular)
    for name, buffer in made.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_eval_mode_repeats_and_train_mode_does_not(batch: tuple[Tensor, ...]) -> None:
    images, tabular, *_ = batch
    made = model(REFERENCE)
    made.eval_mode()
    assert torch.equal(made(images, tabular), made(images, tabular))
    made.train_mode()
    assert not torch.equal(made(images, tabular), made(images, tabular))


def test_race_relative_embedding_ignores_what_a_race_has_in_common(batch: tuple[Tensor, ...]) -> None:
    images, tabular, mask, race = batch
    made = model(RELATIVE.model_copy(update={"keep_absolute_embedding": False})).eval_mode()
    shifted = images + torch.where(race[:, None] == 0, 5.0, -2.0)
    torch.testing.assert_close(
        made(shifted, tabular, has_picture=mask, race=race),
        made(images, tabular, has_picture=mask, race=race),
        atol=1e-4,
        rtol=1e-4,
    )


def test_own_state_restores_and_leaves_out_the_encoder(batch: tuple[Tensor, ...]) -> None:
    images, tabular, mask, race = batch
    made = model(RELATIVE, SmallVision()).eval_mode()
    state = made.own_state()
    assert not any(key.startswith("vision.") for key in state)
    other = MultiModalFusionModel(RELATIVE, T).eval_mode()
    other.load_own_state(state)
    assert torch.equal(other(images, tabular, has_picture=mask, race=race), made(images, tabular, has_picture=mask, race=race))
    with pytest.raises(ModelContractError, match="another shape"):
        MultiModalFusionModel(REFERENCE, T).load_own_state(state)


def test_wrong_batches_are_refused(batch: tuple[Tensor, ...]) -> None:
    images, tabular, mask, race = batch
    made = model(RELATIVE)
    with pytest.raises(ModelContractError, match="no encoder"):
        made(torch.rand(12, 3, 8, 8), tabular, has_picture=mask, race=race)
    with pytest.raises(ModelContractError, match="race"):
        made(images, tabular, has_picture=mask)
    with pytest.raises(ModelContractError, match="tabular"):
        made(images, tabular[:, :-1], has_picture=mask, race=race)
    with pytest.raises(ModelContractError, match="as many"):
        made(images[:5], tabular, has_picture=mask, race=race)
    with pytest.raises(ModelContractError, match="embedding"):
        made(images[:, :100], tabular, has_picture=mask, race=race)
