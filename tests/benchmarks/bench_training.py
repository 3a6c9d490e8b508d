"""Training from embeddings computed once, against the ResNet in the training loop, end to end and in CPU seconds.

The loop as one would first write it reads every PNG, resizes it and puts it through an eager float32 ResNet-18 in every epoch.
Ours reads and embeds every picture once and trains from memory; reading and embedding are counted on our side. Seconds are CPU
seconds of one thread, so that waiting for a busy machine does not count.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ml.checkpoints import Provenance, code_hash
from ml.config import FusionConfig, load_config
from ml.datasets import Pictures, TrainingSet
from ml.encoders.pictures import read_picture
from ml.encoders.torchvision_ops import torchvision_models
from ml.encoders.vision import VisionEncoder
from ml.encoders.weights import LoadedWeights, resolve_weights
from ml.fusion_model import build_model
from ml.traces.axes import race_axes
from ml.traces.laps import lap_trace
from ml.traces.renderer import TraceRenderer
from ml.trainer import MultiModalTrainer, one_thread

T = TypeVar("T")
ROWS, EPOCHS, INPUTS = 2979, 20, 100  # entries of the seasons 2018-2024; the reference's epochs; tabular inputs, about
NAIVE_PICTURES, OUR_PICTURES = 64, 160


def run() -> list[dict[str, Any]]:
    """One row: CPU seconds of 20 epochs over 2,979 cars, ours and with the ResNet in the loop."""
    with one_thread():
        return _measure()


def _measure() -> list[dict[str, Any]]:
    config = load_config("fusion_reference").model_copy(update={"patience": EPOCHS})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = _pictures(folder, OUR_PICTURES)
        some = torch.stack([read_picture(path.read_bytes(), path.name) for path in files[:32]])
        weights = resolve_weights("random", weights_dir=folder / "weights", seed=0, calibration_images=some)
        encoder = VisionEncoder(weights)
        naive_epoch_s = _naive_epoch(config, files[:NAIVE_PICTURES], weights)
        encoder(some[:8])
        embed_s, embedding = _timed(lambda: _embed(encoder, files))
        train_s = _cached_training(config)
        difference = _live_against_cached(config, files[:NAIVE_PICTURES], encoder, embedding[:NAIVE_PICTURES])
    ours_s = embed_s / OUR_PICTURES * ROWS + train_s
    naive_s = naive_epoch_s / NAIVE_PICTURES * ROWS * EPOCHS
    return [
        {
            "name": f"train {EPOCHS} epochs on {ROWS:,} cars, end to end, against the ResNet in the loop",
            "ours_s": ours_s,
            "reference_s": naive_s,
            "ratio": naive_s / ours_s,
            "goal": 50.0,
            "equal": difference <= 1e-5,
            "detail": (
                f"CPU seconds of one thread; naive: one epoch of {NAIVE_PICTURES} pictures took {naive_epoch_s:.2f} s, times "
                f"rows and epochs; ours: {OUR_PICTURES} pictures read and embedded in {embed_s:.2f} s, times rows, plus "
                f"{train_s:.2f} s for {EPOCHS} epochs "
                f"over {ROWS:,} rows; equal: losses with the encoder in the loop and from its cached embeddings differ by "
                f"{difference:.1e} at most"
            ),
        }
    ]


def _pictures(folder: Path, n: int) -> list[Path]:
    """`n` rendered traces of synthetic races of 20 cars at half distance."""
    renderer, rng = TraceRenderer(), np.random.default_rng(0)
    files: list[Path] = []
    laps = np.arange(1, 31)
    while len(files) < n:
        speeds = 210.0 - 0.15 * np.arange(20)[:, None] + 0.05 * laps + rng.normal(0.0, 0.5, (20, 30))
        traces = {f"car_{car}": lap_trace(laps, speeds[car]) for car in range(20)}
        axes = race_axes(traces, 60)
        for driver_id, trace in traces.items():
            files.append(folder / f"{len(files):04d}.png")
            files[-1].write_bytes(renderer.render(trace.lap_numbers, trace.speeds_kph, axes, title=driver_id))
    return files[:n]


def _examples(n: int, *, embedding: Tensor | None = None, pictures: Pictures | None = None) -> TrainingSet:
    generator = torch.Generator().manual_seed(0)
    race, position = torch.arange(n) // 20, torch.arange(n) % 20 + 1
    tabular = torch.randn(n, INPUTS, generator=generator)
    tabular[:, 0] = (position - 10.5) / 5  # something to learn: a loss that does not fall would be tried again
    return TrainingSet(
        tabular=tabular,
        embedding=embedding,
        pictures=pictures,
        has_picture=torch.ones(n, dtype=torch.bool),
        race=race,
        position=position,
        finished=torch.ones(n, dtype=torch.bool),
        race_ids=np.array([f"race {code}" for code in race.tolist()], dtype=object),
        driver_ids=np.array([f"car {row % 20}" for row in range(n)], dtype=object),
        input_names=tuple(f"input {column}" for column in range(INPUTS)),
    )


def _trainer(
    config: FusionConfig, examples: TrainingSet, validation: TrainingSet, vision: nn.Module | None = None
) -> MultiModalTrainer:
    model = build_model(config, INPUTS, examples, seed=0, vision=vision)
    provenance = Provenance(config.model_dump(mode="json"), config.hash(), "", (), "", code_hash(), "", {})
    return MultiModalTrainer(model, examples, validation, provenance=provenance)


def _naive_epoch(config: FusionConfig, files: list[Path], weights: LoadedWeights) -> float:
    network: nn.Module = torchvision_models().resnet18(weights=None)
    network.fc = nn.Identity()
    network.load_state_dict(weights.state_dict)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)

    def read(rows: NDArray[np.int64]) -> Tensor:
        images = []
        for row in rows:
            with Image.open(files[int(row)]) as opened:
                small = np.array(opened.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))
            images.append((torch.from_numpy(small).permute(2, 0, 1).float() / 255 - mean) / std)
        return torch.stack(images)

    trainer = _trainer(config, _examples(len(files), pictures=read), _examples(20, embedding=torch.zeros(20, 512)), network)
    trainer.train_epoch()
    return min(_timed(trainer.train_epoch)[0] for _ in range(2))


def _embed(encoder: VisionEncoder, files: list[Path]) -> Tensor:
    parts = (files[start : start + 32] for start in range(0, len(files), 32))
    return torch.cat([encoder(torch.stack([read_picture(path.read_bytes(), path.name) for path in part])) for part in parts])


def _cached_training(config: FusionConfig) -> float:
    embedding = torch.randn(ROWS, 512, generator=torch.Generator().manual_seed(1))
    validation = _examples(400, embedding=embedding[:400])
    _trainer(config.model_copy(update={"epochs": 1}), validation, validation).train()
    return _timed(lambda: _trainer(config, _examples(ROWS, embedding=embedding), validation).train())[0]


def _live_against_cached(config: FusionConfig, files: list[Path], encoder: VisionEncoder, embedding: Tensor) -> float:
    """Largest difference of any loss over two epochs."""
    config = config.model_copy(update={"epochs": 2})

    def read(rows: NDArray[np.int64]) -> Tensor:
        return torch.stack([read_picture(files[int(row)].read_bytes(), files[int(row)].name) for row in rows])

    losses = []
    for examples, vision in ((_examples(len(files), pictures=read), encoder), (_examples(len(files), embedding=embedding), None)):
        result = _trainer(config, examples, examples, vision).train()
        losses.append([(epoch.train_loss, epoch.validation_loss) for epoch in result.epochs])
    return float(np.abs(np.array(losses[0]) - np.array(losses[1])).max())


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    started = time.process_time()
    result = work()
    return time.process_time() - started, result
