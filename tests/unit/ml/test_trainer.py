"""The trainer: resumes bit for bit, survives memory running out, notices a loss that does not fall, names a bad batch."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import make_rows
from PIL import Image
from torch import Tensor, nn

from ml.checkpoints import Provenance
from ml.config import FusionConfig
from ml.dataset_cache import DatasetCacheBuilder
from ml.datasets import MultiModalDataset, TrainingSet, rows_hash
from ml.encoders.vision import VisionEncoder
from ml.encoders.weights import resolve_weights
from ml.errors import CheckpointError, ModelConfigError, ModelContractError, NonFiniteLossError, TrainingMemoryError
from ml.fusion_model import build_model
from ml.preprocessing import TabularPreprocessor
from ml.rows import Rows
from ml.trainer import MultiModalTrainer, rank_within
from ml.training_result import TrainingResult

SMALL = FusionConfig(
    name="small", tabular_hidden=(16,), tabular_dim=16, fusion_hidden=(16,), epochs=6, patience=50, checkpoint_every=2, seed=3
)
LISTWISE = SMALL.model_copy(
    update={
        "loss": "listwise",
        "race_relative_tabular": True,
        "race_relative_embedding": True,
        "embedding_pca": 8,
        "embedding_scaling": "common",
        "races_per_batch": 2,
        "schedule": "cosine",
        "picture_dropout": 0.2,
        "weight_decay": 0.01,
        "gradient_clip": 1.0,
    }
)


@pytest.fixture(scope="module")
def train() -> Rows:
    return make_rows(np.random.default_rng(0), 8, n_cars=12)


@pytest.fixture(scope="module")
def validation() -> Rows:
    return make_rows(np.random.default_rng(1), 3, n_cars=12, first_season=2030)


def provenance(config: FusionConfig, rows: Rows) -> Provenance:
    return Provenance(config.model_dump(mode="json"), config.hash(), "service", (), rows_hash(rows), "code", "", {})


def make_trainer(
    config: FusionConfig, train: Rows, validation: Rows, folder: Path | None = None, *, learning_rate: float | None = None
) -> MultiModalTrainer:
    if learning_rate is not None:
        config = config.model_copy(update={"learning_rate": learning_rate})
    fitted = TabularPreprocessor.fit(train.features, train.race_code, config)
    train_set, validation_set = (TrainingSet.from_rows(rows, fitted) for rows in (train, validation))
    model = build_model(config, fitted.width, train_set, seed=config.seed)
    return MultiModalTrainer(
        model, train_set, validation_set, provenance=provenance(config, train), seed=config.seed, checkpoint_dir=folder
    )


def assert_same(one: MultiModalTrainer, a: TrainingResult, other: MultiModalTrainer, b: TrainingResult) -> None:
    assert a == b
    state, again = one.model.own_state(), other.model.own_state()
    assert all(torch.equal(state[key], again[key]) for key in state)


@pytest.mark.parametrize("config", [SMALL, LISTWISE, SMALL.model_copy(update={"loss": "mse"})])
def test_learns_and_repeats_exactly(config: FusionConfig, train: Rows, validation: Rows) -> None:
    one, other = make_trainer(config, train, validation), make_trainer(config, train, validation)
    a, b = one.train(), other.train()
    assert_same(one, a, other, b)
    assert a.fell
    assert len(a.epochs) == 6
    assert a.epochs[-1].train_loss < a.epochs[0].train_loss
    assert a.best_validation_loss == min(epoch.validation_loss for epoch in a.epochs)
    assert a.epochs[0].picture_share == pytest.approx(train.has_picture.mean())
    assert one.validate().loss == pytest.approx(a.best_validation_loss)  # the model holds the best epoch


def test_another_seed_is_another_training(train: Rows, validation: Rows) -> None:
    a = make_trainer(SMALL, train, validation).train()
    b = make_trainer(SMALL.model_copy(update={"seed": 4}), train, validation).train()
    assert a.epochs[0].train_loss != b.epochs[0].train_loss


def test_nobody_elses_random_numbers_or_threads_move(train: Rows, validation: Rows) -> None:
    torch.manual_seed(11)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    make_trainer(SMALL, train, validation).train()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("config", [SMALL, LISTWISE])
@pytest.mark.parametrize("stop_in_epoch", [3, 4, 6])
def test_an_interrupted_training_resumes_to_the_same_bits(
    config: FusionConfig, stop_in_epoch: int, train: Rows, validation: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_trainer(config, train, validation, tmp_path / "whole")
    expected = whole.train()
    broken = make_trainer(config, train, validation, tmp_path / "broken")
    real, calls = broken._step, 0

    def interrupted(rows: Tensor) -> tuple[float, Tensor]:
        nonlocal calls
        calls += 1
        if broken._progress.epoch == stop_in_epoch - 1 and calls % 3 == 2:
            raise KeyboardInterrupt
        return real(rows)

    monkeypatch.setattr(broken, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    torch.manual_seed(99)  # another process: another state of the generator
    resumed = make_trainer(config, train, validation, tmp_path / "broken")
    result = resumed.train(resume=True)
    assert_same(whole, expected, resumed, result)
    assert sorted(path.name for path in (tmp_path / "broken").iterdir()) == sorted(
        path.name for path in (tmp_path / "whole").iterdir()
    )
    a, b = (torch.load(tmp_path / run / "final_model.pt", weights_only=True) for run in ("whole", "broken"))
    assert all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"])


def test_early_stopping_state_is_resumed(train: Rows, validation: Rows, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"learning_rate": 0.02, "epochs": 40, "patience": 3})
    whole = make_trainer(config, train, validation, tmp_path)
    expected = whole.train()
    assert expected.stopped_early
    assert expected.best_epoch == len(expected.epochs) - 3
    resumed = make_trainer(config, train, validation, tmp_path)
    assert_same(whole, expected, resumed, resumed.train(resume=True))


def test_checkpoints_are_where_they_should_be(train: Rows, validation: Rows, tmp_path: Path) -> None:
    make_trainer(SMALL.model_copy(update={"epochs": 20, "checkpoint_every": 10}), train, validation, tmp_path).train()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        f"{stem}.{end}" for stem in ("epoch_010", "epoch_020", "best_model", "final_model") for end in ("pt", "json")
    }


def test_other_data_configuration_or_seed_is_not_resumed(
    train: Rows, validation: Rows, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_trainer(SMALL, train, validation, tmp_path).train()
    other = make_trainer(SMALL.model_copy(update={"dropout": 0.1}), train, validation, tmp_path)
    with pytest.raises(CheckpointError, match="config_hash"):
        other.load_checkpoint(tmp_path / "epoch_006.pt")
    with pytest.raises(CheckpointError, match="weights only"):
        other.load_checkpoint(tmp_path / "best_model.pt")
    with caplog.at_level(logging.WARNING):
        result = other.train(resume=True)
    assert "not_resumed" in caplog.text
    fresh = make_trainer(SMALL.model_copy(update={"dropout": 0.1}), train, validation)
    assert_same(other, result, fresh, fresh.train())


@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: not enough memory"), MemoryError(), torch.cuda.OutOfMemoryError("x")]
)
def test_out_of_memory_halves_the_batch(
    error: BaseException, train: Rows, validation: Rows, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(SMALL, train, validation)
    real, seen = trainer._step, []

    def hungry(rows: Tensor) -> tuple[float, Tensor]:
        if len(rows) > 8:
            raise error
        seen.append(rows)
        return real(rows)

    monkeypatch.setattr(trainer, "_step", hungry)
    with caplog.at_level(logging.WARNING):
        trainer.train_epoch()
    assert sorted(torch.cat(seen).tolist()) == list(range(len(train)))  # every row once
    assert caplog.text.count("out_of_memory") == 2  # 32 -> 16 -> 8
    assert "16 -> 8" in caplog.text


def test_out_of_memory_with_a_batch_of_one_stops(train: Rows, validation: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(LISTWISE, train, validation)

    def full(_: Tensor) -> tuple[float, Tensor]:
        raise MemoryError

    monkeypatch.setattr(trainer, "_step", full)
    with pytest.raises(TrainingMemoryError, match="batch of 1"):
        trainer.train()


def test_other_runtime_errors_are_not_taken_for_memory(train: Rows, validation: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(SMALL, train, validation)

    def broken(_: Tensor) -> tuple[float, Tensor]:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(trainer, "_step", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        trainer.train()


def test_a_loss_that_does_not_fall_is_explained_and_retried_once(
    train: Rows, validation: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        result = make_trainer(SMALL, train, validation, learning_rate=1e-9).train()
    assert result.retried
    assert result.fell
    assert {epoch.learning_rate for epoch in result.epochs} == {5e-4}
    assert "learning_rate=1e-09" in caplog.text
    assert "gradient_norms" in caplog.text
    assert "grid_position" in caplog.text or "noise" in caplog.text or "points" in caplog.text
    assert caplog.text.count("retry_learning_rate") == 1


def test_a_retry_that_fails_too_is_reported(train: Rows, validation: Rows, caplog: pytest.LogCaptureFixture) -> None:
    config = SMALL.model_copy(update={"learning_rate": 1e-9, "retry_learning_rate": 1e-9})
    with caplog.at_level(logging.ERROR):
        result = make_trainer(config, train, validation).train()
    assert not result.fell
    assert "loss_did_not_fall attempts=2" in caplog.text


def test_a_non_finite_loss_names_its_batch(train: Rows, validation: Rows) -> None:
    trainer = make_trainer(LISTWISE.model_copy(update={"races_per_batch": 1}), train, validation)
    trainer._train.tabular[30] = float("nan")  # the third race: 12 cars each
    with pytest.raises(NonFiniteLossError, match=r"races 2018_03: .*2018_03/driver_06"):
        trainer.train()


class SmallVision(nn.Module):
    """A frozen stand-in for the picture encoder."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(8), nn.Flatten()
        )

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


@pytest.mark.parametrize("config", [SMALL, LISTWISE])
def test_live_pictures_and_cached_embeddings_give_the_same_losses(config: FusionConfig, train: Rows, validation: Rows) -> None:
    vision = SmallVision().eval()
    fitted = TabularPreprocessor.fit(train.features, train.race_code, config)
    live, cached = [], []
    for seed, rows in enumerate((train, validation)):
        pictures = torch.rand(len(rows), 3, 24, 24, generator=torch.Generator().manual_seed(seed))
        base = TrainingSet.from_rows(rows, fitted, pictures=pictures.__getitem__)
        live.append(base)
        with torch.no_grad():
            embedding = vision(pictures) * base.has_picture[:, None]
        cached.append(TrainingSet.from_rows(_with_embedding(rows, embedding), fitted))
    results = []
    for sets, encoder in ((live, SmallVision()), (cached, None)):
        model = build_model(config, fitted.width, sets[0], seed=1, vision=encoder)
        results.append(MultiModalTrainer(model, *sets, provenance=provenance(config, train), seed=1).train())
    a, b = ([(epoch.train_loss, epoch.validation_loss) for epoch in result.epochs] for result in results)
    np.testing.assert_allclose(a, b, atol=1e-5, rtol=0)


def _with_embedding(rows: Rows, embedding: Tensor) -> Rows:
    parts = {
        name: getattr(rows, name)
        for name in ("keys", "features", "position", "finished", "has_picture", "picture_sha256", "order")
    }
    return Rows(**parts, embedding=embedding.numpy())


def test_sets_that_cannot_be_trained_on_are_refused(train: Rows, validation: Rows) -> None:
    config = SMALL.model_copy(update={"race_relative_embedding": True})
    fitted = TabularPreprocessor.fit(train.features, train.race_code, config)
    live = TrainingSet.from_rows(train, fitted, pictures=lambda index: torch.zeros(len(index), 3, 8, 8))
    model = build_model(SMALL, fitted.width, live, seed=0)
    with pytest.raises(ModelContractError, match="encoder"):
        MultiModalTrainer(model, live, live, provenance=provenance(SMALL, train))
    model = build_model(config, fitted.width, live, seed=0, vision=SmallVision())
    with pytest.raises(ModelConfigError, match="cuts races apart"):
        MultiModalTrainer(model, live, live, provenance=provenance(config, train))
    nothing = TrainingSet.from_rows(validation.take(np.zeros(len(validation), dtype=bool)), fitted)
    with pytest.raises(ModelContractError, match="0 examples"):
        MultiModalTrainer(model, nothing, live, provenance=provenance(config, train))


def test_rank_within_races_in_any_order() -> None:
    strengths, race = np.array([0.1, 9.0, 5.0, 3.0, 7.0]), np.array([1, 0, 1, 0, 0])
    assert rank_within(strengths, race).tolist() == [2, 1, 1, 3, 2]


def test_reading_pictures_in_every_step_equals_the_cached_embeddings_of_the_real_encoder(tmp_path: Path) -> None:
    """From PNG files through the real ResNet-18, against the embeddings of the same files computed once."""
    config = LISTWISE.model_copy(update={"epochs": 2, "embedding_pca": 4})
    rows = make_rows(np.random.default_rng(4), 2, n_cars=4)
    rng = np.random.default_rng(5)
    paths = {}
    for race, driver in zip(rows.keys["race_id"], rows.keys["driver_id"], strict=True):
        path = tmp_path / race / f"{driver}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
        paths[(race, driver)] = f"{race}/{driver}.png"
    DatasetCacheBuilder(tmp_path / "cache.json", tmp_path).build_cache(rows, image_paths=paths, newest_created="2024-01-01")
    fitted = TabularPreprocessor.fit(rows.features, rows.race_code, config)
    dataset = MultiModalDataset(tmp_path / "cache.json", tmp_path, preprocessor=fitted)
    some = torch.from_numpy(rng.integers(0, 256, (4, 3, 224, 224), dtype=np.uint8))
    encoder = VisionEncoder(resolve_weights("random", weights_dir=tmp_path / "weights", seed=0, calibration_images=some))
    embedding = np.zeros((len(rows), 512), dtype=np.float32)
    for i in np.flatnonzero(rows.has_picture):
        embedding[i] = encoder.encode_single(tmp_path / paths[tuple(rows.keys.loc[i, ["race_id", "driver_id"]])]).numpy()
    losses = []
    for examples, vision in (
        (dataset.training_set(live=True), encoder),
        (dataset.training_set(live=False, embedding=embedding), None),
    ):
        model = build_model(config, fitted.width, examples, seed=0, vision=vision)
        result = MultiModalTrainer(model, examples, examples, provenance=provenance(config, rows)).train()
        losses.append([(epoch.train_loss, epoch.validation_loss) for epoch in result.epochs])
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-5, rtol=0)
