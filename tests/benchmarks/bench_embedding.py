"""Embedding pictures against torchvision's ResNet-18 as it comes: eager, float32, batches of 32.

Both start from the PNG's bytes. Seconds are processor seconds of one thread, so that a shared machine changes them little; the
two sides take turns. `equal` is whether the embeddings agree: cosine, after taking the mean embedding away (plain cosine hides
damage from low precision), at least 0.9999 on average. `python -m tests.benchmarks.bench_embedding` prints the table of the
network alone in docs/benchmarks.md.
"""

import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from feature_repo.settings import Settings
from ml.encoders import transforms
from ml.encoders.curves import simulate_race
from ml.encoders.pictures import read_picture
from ml.encoders.resnet import build_network, channels_last, fold_batchnorm, pooled
from ml.encoders.torchvision_ops import torchvision_models
from ml.encoders.vision import VisionEncoder
from ml.encoders.weights import LoadedWeights, resolve_weights
from ml.traces.axes import race_axes
from ml.traces.laps import lap_trace
from ml.traces.renderer import TraceRenderer

_RACES, _REPEATS, _GOAL, _LEAST_COSINE = 4, 3, 2.5, 0.9999


def _pngs() -> list[bytes]:
    """Pictures of simulated races, as the store holds them."""
    pngs = []
    for number in range(_RACES):
        race = simulate_race(np.random.default_rng([11, number]))
        traces = {str(i): lap_trace(*car) for i, car in enumerate(zip(race.lap_numbers, race.speeds_kph, strict=True))}
        axes, renderer = race_axes(traces, race.scheduled_laps), TraceRenderer()
        pngs += [renderer.render(t.lap_numbers, t.speeds_kph, axes, title=f"2024_01 car {name}") for name, t in traces.items()]
    return pngs


def _weights() -> tuple[LoadedWeights, str]:
    """The taught encoder of this home; taught first (minutes, once) where there is none."""
    settings = Settings()
    weights = resolve_weights("trace", weights_dir=settings.weights_dir, seed=settings.seed, threads=settings.threads)
    return weights, "this home's taught encoder"


def _reference(weights: LoadedWeights) -> Callable[[list[bytes]], Tensor]:
    network = torchvision_models().resnet18(weights=None)
    network.fc = nn.Identity()
    network.load_state_dict({name: tensor for name, tensor in weights.state_dict.items() if not name.startswith("fc.")})
    network.eval()

    @torch.no_grad()
    def embed(pngs: list[bytes]) -> Tensor:
        parts = []
        for start in range(0, len(pngs), 32):
            arrays = [np.array(Image.open(BytesIO(png)).convert("RGB")) for png in pngs[start : start + 32]]
            images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
            small = functional.interpolate(images, size=(224, 224), mode="bilinear", antialias=True)
            parts.append(network(transforms.encode_input(small, weights.transform).contiguous()))
        return torch.cat(parts)

    return embed


def _ours(weights: LoadedWeights) -> Callable[[list[bytes]], Tensor]:
    encoder = VisionEncoder(weights)

    def embed(pngs: list[bytes]) -> Tensor:
        return torch.cat(
            [encoder(torch.stack([read_picture(png, "") for png in pngs[s : s + 32]])) for s in range(0, len(pngs), 32)]
        )

    return embed


def _seconds(embed: Callable[[Any], Tensor], given: Any) -> float:
    started = time.process_time()
    embed(given)
    return time.process_time() - started


def centred_cosine(ours: Tensor, reference: Tensor) -> Tensor:
    """(N,) cosine of each pair after the reference's mean embedding is taken away from both."""
    middle = reference.mean(dim=0)
    return functional.cosine_similarity(ours - middle, reference - middle, dim=1)


def run() -> list[dict[str, Any]]:
    """One row: seconds a picture, from PNG bytes to the embedding."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pngs, (weights, what) = _pngs(), _weights()
        ours, reference = _ours(weights), _reference(weights)
        cosine = centred_cosine(ours(pngs), reference(pngs))
        pairs = [(_seconds(ours, pngs), _seconds(reference, pngs)) for _ in range(_REPEATS)]
    finally:
        torch.set_num_threads(threads)
    ours_s, reference_s = (min(side) / len(pngs) for side in zip(*pairs, strict=True))
    return [
        {
            "name": "embed a picture, from PNG bytes, against eager float32 torchvision, per core",
            "ours_s": ours_s,
            "reference_s": reference_s,
            "ratio": reference_s / ours_s,
            "goal": _GOAL,
            "equal": bool(cosine.mean() >= _LEAST_COSINE),
            "detail": f"centred cosine mean {cosine.mean():.6f}, lowest {cosine.min():.6f} of {len(pngs)}; {what}",
        }
    ]


@torch.no_grad()
def variants() -> list[dict[str, Any]]:
    """The network alone in several ways: pictures a second on one thread, and centred cosine against the first."""
    pngs, (weights, _) = _pngs(), _weights()
    inputs = transforms.encode_input(torch.stack([read_picture(png, "") for png in pngs]), weights.transform)
    plain = build_network(weights.state_dict).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    last = build_network(weights.state_dict)
    folded = channels_last(fold_batchnorm(last))
    half = channels_last(fold_batchnorm(last).bfloat16())

    def autocast(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return pooled(last, x)

    ways: list[tuple[str, int, Callable[[Tensor], Tensor]]] = [
        ("eager float32, batch 32 (reference)", 32, lambda x: pooled(plain, x.contiguous())),
        ("channels-last float32", 32, lambda x: pooled(last, x)),
        ("channels-last float32, BatchNorm folded, batch 8", 8, lambda x: pooled(folded, x)),
        ("channels-last bfloat16 autocast", 32, autocast),
        ("channels-last bfloat16, BatchNorm folded, batch 8 (used)", 8, lambda x: pooled(half, x.bfloat16())),
    ]
    torch.set_num_threads(1)
    rows, expected = [], None
    for name, batch, way in ways:

        def embed(x: Tensor, way: Callable[[Tensor], Tensor] = way, batch: int = batch) -> Tensor:
            return torch.cat([way(x[start : start + batch]) for start in range(0, len(x), batch)])

        got = embed(inputs)
        expected = got if expected is None else expected
        cosine = centred_cosine(got, expected)
        rate = len(pngs) / min(_seconds(embed, inputs) for _ in range(_REPEATS))
        rows.append({"name": name, "per_second": rate, "mean": float(cosine.mean()), "lowest": float(cosine.min())})
    return rows


if __name__ == "__main__":
    for row in run():
        print(f"{row['name']}: {row['ratio']:.2f} times (goal {row['goal']}), equal {row['equal']}; {row['detail']}")
    for row in variants():
        print(f"| {row['name']} | {row['per_second']:.1f} | {row['mean']:.6f} | {row['lowest']:.6f} |")
