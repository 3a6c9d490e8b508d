"""Training from embeddings computed once, against the ResNet in the training loop, end to end and in CPU seconds.

The loop as one would first write it reads every PNG, resizes it and puts it through an eager float32 ResNet-18 in every epoch.
Ours reads and embeds every picture once and trains from memory; reading and embedding are counted on our side. The encoder has
random weights and the input encoding of a taught one, so it runs in the same arithmetic: speed does not depend on the values.
Seconds are CPU seconds of one thread, so that waiting for a busy machine does not count; the two sides take turns.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
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
from ml.encoders import pretrain, transforms
from ml.encoders.pictures import read_picture
from ml.encoders.torchvision_ops import torchvision_models
from ml.encoders.vision import VisionEncoder
from ml.encoders.weights import LoadedWeights, state_sha256
from ml.fusion_model import build_model
from ml.torch_threads import one_thread
from ml.traces.axes import race_axes
from ml.traces.laps import lap_trace
from ml.traces.renderer import TraceRenderer
from ml.trainer import MultiModalTrainer

T = TypeVar("T")
INPUTS = 100  # tabular inputs, about


@dataclass(frozen=True)
class Size:
    """How much is trained on, and how many pictures are timed to tell how long all of them take.

    Attributes:
        rows: entries of the seasons 2018-2024.
        epochs: the reference design's.
        naive_pictures: pictures in the naive epoch that is timed.
        our_pictures: pictures read and embedded.
        repeats: turns of each side; the quickest counts.
    """

    rows: int = 2979
    epochs: int = 20
    naive_pictures: int = 64
    our_pictures: int = 160
    repeats: int = 3


_QUICK = Size(rows=60, epochs=2, naive_pictures=8, our_pictures=8, repeats=1)


def run(*, quick: bool = False) -> list[dict[str, Any]]:
    """One row: CPU seconds of 20 epochs over 2,979 cars, ours and with the ResNet in the loop."""
    with one_thread():
        return _measure(_QUICK if quick else Size())


def _measure(size: Size) -> list[dict[str, Any]]:
    config = load_config("fusion_reference").model_copy(update={"patience": size.epochs, "epochs": size.epochs})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = _pictures(folder, size.our_pictures)
        some = torch.stack([read_picture(path.read_bytes(), path.name) for path in files[:32]])
        state = pretrain.random_state(0, some, transform=transforms.TRACE)
        weights = LoadedWeights("file", state, state_sha256(state), "", transforms.TRACE)
        encoder = VisionEncoder(weights)
        in_loop = files[: size.naive_pictures]
        naive_epoch = _naive_epoch(config, in_loop, weights)
        naive_epoch()
        embedding = _embed(encoder, files)
        turns = [(_timed(naive_epoch)[0], _timed(lambda: _embed(encoder, files))[0]) for _ in range(size.repeats)]
        naive_epoch_s, embed_s = (min(side) for side in zip(*turns, strict=True))
        train_s = _cached_training(config, size.rows)
        difference = _live_against_cached(config, in_loop, encoder, embedding[: len(in_loop)])
    ours_s = embed_s / size.our_pictures * size.rows + train_s
    naive_s = naive_epoch_s / size.naive_pictures * size.rows * size.epochs
    return [
        {
            "name": f"train {size.epochs} epochs on {size.rows:,} cars, end to end, against the ResNet in the loop",
            "ours_s": ours_s,
            "reference_s": naive_s,
            "ratio": naive_s / ours_s,
            "goal": 50.0,
            "equal": difference <= 1e-5,
            "detail": (
                f"CPU seconds of one thread; naive: one epoch of {size.naive_pictures} pictures took {naive_epoch_s:.2f} s, "
                f"times rows and epochs; ours: {size.our_pictures} pictures read and embedded in {embed_s:.2f} s "
                f"({encoder.runs_in}), times rows, plus {train_s:.2f} s for {size.epochs} epochs over {size.rows:,} rows; equal: "
                "losses with the encoder in the loop and from its cached embeddings differ by "
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


def _naive_epoch(config: FusionConfig, files: list[Path], weights: LoadedWeights) -> Callable[[], Any]:
    """One epoch over `files` as one would first write it, to be called."""
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
    return trainer.train_epoch


def _embed(encoder: VisionEncoder, files: list[Path]) -> Tensor:
    parts = (files[start : start + 32] for start in range(0, len(files), 32))
    return torch.cat([encoder(torch.stack([read_picture(path.read_bytes(), path.name) for path in part])) for part in parts])


def _cached_training(config: FusionConfig, rows: int) -> float:
    embedding = torch.randn(rows, 512, generator=torch.Generator().manual_seed(1))
    validation = _examples(min(400, rows), embedding=embedding[:400])
    _trainer(config.model_copy(update={"epochs": 1}), validation, validation).train()
    return _timed(lambda: _trainer(config, _examples(rows, embedding=embedding), validation).train())[0]


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
