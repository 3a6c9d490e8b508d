"""Teach a ResNet-18 on simulated traces to redraw the curve it sees and to state its statistics.

From the 512 pooled features a linear layer must give the heights of the curve along the race and of its mean line, last laps,
quantiles and slope, so whatever a picture says about pace ends up linearly readable from its embedding. Heights are counted in
pixels of the 224x224 input. Within a race the differences between cars count once more, because a race is decided by differences.
Same seed and same machine, same weights: the number of steps is fixed and nothing looks at a clock. No real race is ever drawn.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional

from feature_repo.files import sha256_json
from feature_repo.progress import Progress
from ml.encoders import transforms
from ml.encoders.curves import CurveRace, simulate_race
from ml.encoders.pictures import read_picture
from ml.encoders.resnet import cpu_has_bf16, pooled
from ml.encoders.torchvision_ops import torchvision_models
from ml.torch_threads import torch_threads
from ml.traces.axes import RaceAxes, race_axes
from ml.traces.laps import LapTrace, lap_trace
from ml.traces.renderer import LAYOUT_VERSION, TraceRenderer

N_HEIGHTS = 48
STATISTICS = (
    "mean", "last5", "mean_clipped", "last", "lowest", "highest", "drawn", "clipped_share", "spread", "slope",
    "q10", "q25", "median", "q75", "q90",
)  # fmt: skip
# Pixels of the 224x224 input from the bottom to the top of the speed axis.
AXIS_PX = 185.0
# What an error of one pixel costs: absolutely, and once more in the differences between the cars of a race.
_COST = dict.fromkeys(STATISTICS, 0.5) | {"mean": 4.0, "last5": 2.0, "mean_clipped": 1.0, "last": 1.0, "lowest": 0.3,
                                          "highest": 0.3, "median": 1.0}  # fmt: skip
_COST_IN_RACE = dict.fromkeys(STATISTICS, 0.5) | {"mean": 6.0, "last5": 3.0, "mean_clipped": 1.0, "last": 1.0, "lowest": 0.0,
                                                  "highest": 0.0, "drawn": 0.0, "clipped_share": 0.0, "median": 2.0}  # fmt: skip
_COST_HEIGHTS = 4.0
_CALIBRATION_PICTURES = 320


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights besides the seed.

    Attributes:
        version: raised with any change of this module or of `curves` that changes weights.
        races: simulated races drawn; each picture is seen about `steps * 32 / (races * 20)` times.
        cars: cars of a race.
        coarse_steps: first steps on pictures of half the size, four times cheaper.
        fine_steps: then steps on pictures of full size.
        settled_steps: last steps with BatchNorm's statistics measured afresh and then fixed: the network is taught as it will
            be used.
        races_a_step: races in a batch.
        cars_a_step: of each of these races.
        coarse_lr: peak of the coarse steps; each phase is one rise and fall of AdamW's learning rate.
        fine_lr: of the fine steps.
        settled_lr: of the settled steps.
        head_lr_factor: the linear layer starts at zero and gives pixels, so it must move further.
        held_out_races: races, never taught, for the reported metrics.
    """

    version: int = 3
    races: int = 220
    cars: int = 20
    coarse_steps: int = 260
    fine_steps: int = 90
    settled_steps: int = 20
    races_a_step: int = 4
    cars_a_step: int = 8
    coarse_lr: float = 3e-3
    fine_lr: float = 1.5e-3
    settled_lr: float = 5e-4
    head_lr_factor: float = 8.0
    held_out_races: int = 12

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.coarse_steps + self.fine_steps + self.settled_steps


@dataclass(frozen=True)
class Taught:
    """A taught encoder.

    Attributes:
        state_dict: of the ResNet-18, without its last layer.
        metrics: on held-out simulated races: for each statistic RMSE in pixels within a race (`<name>_rmse_px`) and mean rank
            correlation within a race (`<name>_rank`), both of the linear layer that was taught along.
        drawings: how many pictures it was taught on.
        seconds: wall time.
    """

    state_dict: dict[str, Tensor]
    metrics: dict[str, float]
    drawings: int
    seconds: float


@dataclass(frozen=True)
class DrawnRace:
    """Pictures of one simulated race and what a perfect reader would read from them.

    Attributes:
        pictures: (cars, 3, 224, 224) uint8.
        targets: (cars, statistics + heights) float32, pixels.
        mask: (cars, statistics + heights) float32, 0 where the curve has no height.
    """

    pictures: Tensor
    targets: Tensor
    mask: Tensor


DEFAULT = Recipe()


def recipe_sha256(seed: int, recipe: Recipe = DEFAULT) -> str:
    """Hash of what the weights depend on: recipe, seed, input encoding and how pictures look."""
    return sha256_json({**asdict(recipe), "seed": seed, "transform": transforms.TRACE, "layout": LAYOUT_VERSION})


def teach(*, seed: int, recipe: Recipe = DEFAULT, threads: int | None = None, progress: Progress | None = None) -> Taught:
    """Draw simulated races and teach a fresh ResNet-18 on them.

    Args:
        seed: of the races, the initialisation and the order of steps.
        recipe: sizes and costs.
        threads: CPU threads; default torch's.
        progress: called with ("teach", steps done, steps).
    """
    started = time.perf_counter()
    with _repeatable(seed, threads):
        races = [draw_race(np.random.default_rng([seed, number]), cars=recipe.cars) for number in range(recipe.races)]
        network, head = _fresh()
        _fit(network, head, races, recipe=recipe, rng=np.random.default_rng([seed, recipe.races]), progress=progress)
        beyond = range(1_000_000, 1_000_000 + recipe.held_out_races)
        held_out = [draw_race(np.random.default_rng([seed, number]), cars=recipe.cars) for number in beyond]
        metrics = measure(network, head, held_out)
    state = {name: tensor.detach().clone().contiguous() for name, tensor in network.state_dict().items()}
    seconds = time.perf_counter() - started
    logger.info(
        "encoder_taught steps=%d drawings=%d mean_rmse_px=%.2f mean_rank=%.4f seconds=%.1f",
        recipe.steps, recipe.races * recipe.cars, metrics["mean_rmse_px"], metrics["mean_rank"], seconds,
    )  # fmt: skip
    return Taught(state, metrics, recipe.races * recipe.cars, round(seconds, 1))


def random_state(seed: int, images: Tensor | None = None, *, transform: str) -> dict[str, Tensor]:
    """Weights of an untrained ResNet-18 whose BatchNorm statistics fit traces.

    Without this one pass its features say next to nothing: the statistics of a fresh network are those of white noise.

    Args:
        seed: of the initialisation, and of the simulated traces.
        images: (N, 3, H, W) uint8 to calibrate on; default 3 simulated races.
        transform: input encoding.
    """
    with _repeatable(seed, None):
        network, _ = _fresh()
        if images is None:
            images = torch.cat([draw_race(np.random.default_rng([seed, number]), cars=20).pictures for number in range(3)])
        _calibrate(network, transforms.resize(images), transform)
    return {name: tensor.detach().clone().contiguous() for name, tensor in network.state_dict().items()}


def draw_race(rng: np.random.Generator, *, cars: int) -> DrawnRace:
    """A simulated race of which all `cars` have a lap to draw, through the same renderer and decoder as real ones."""
    race = simulate_race(rng, n_cars=cars)
    while len(race.lap_numbers) < cars:
        race = simulate_race(rng, n_cars=cars)
    laps_of_cars = zip(race.lap_numbers, race.speeds_kph, strict=True)
    traces = {f"car_{number:02d}": lap_trace(laps, speeds) for number, (laps, speeds) in enumerate(laps_of_cars)}
    axes = race_axes(traces, race.scheduled_laps)
    renderer = TraceRenderer()
    title = _title(rng)
    pictures = [
        read_picture(renderer.render(trace.lap_numbers, trace.speeds_kph, axes, title=f"{title}, {name}"), name)
        for name, trace in traces.items()
    ]
    answers = [targets(trace, axes) for trace in traces.values()]
    return DrawnRace(
        torch.stack(pictures),
        torch.from_numpy(np.stack([values for values, _ in answers])),
        torch.from_numpy(np.stack([mask for _, mask in answers])),
    )


def _title(rng: np.random.Generator) -> str:
    """Letters in the place of a title, of changing length, so that the network learns to pass over it."""
    letters = rng.integers(97, 123, int(rng.integers(10, 40)))
    return f"{rng.integers(1950, 2100)}_{rng.integers(1, 25):02d} " + "".join(map(chr, letters))


def targets(trace: LapTrace, axes: RaceAxes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What there is to read from a picture, pixels of the 224x224 input, and which of it is drawn at all."""
    span = axes.speed_high_kph - axes.speed_low_kph
    height = np.clip((trace.speeds_kph - axes.speed_low_kph) / span, 0.0, 1.0)
    along = trace.lap_numbers / axes.max_lap
    slope = np.polyfit(along - along.mean(), height, 1)[0] if len(height) > 3 else 0.0
    grid = (np.arange(N_HEIGHTS) + 0.5) / N_HEIGHTS
    statistics = [
        float(np.clip((trace.mean_kph - axes.speed_low_kph) / span, 0.0, 1.0)),
        height[-5:].mean(), height.mean(), height[-1], height.min(), height.max(),
        along[-1], (trace.speeds_kph < axes.speed_low_kph).mean(), height.std(), np.clip(slope / 2.0, -1.0, 1.0),
        *np.quantile(height, [0.1, 0.25, 0.5, 0.75, 0.9]),
    ]  # fmt: skip
    drawn = (grid >= along[0]) & (grid <= along[-1])
    values = np.concatenate([statistics, np.interp(grid, along, height)]) * AXIS_PX
    return values.astype(np.float32), np.concatenate([np.ones(len(statistics)), drawn]).astype(np.float32)


def _fresh() -> tuple[nn.Module, nn.Linear]:
    network = torchvision_models().resnet18(weights=None)
    network.fc = nn.Identity()
    head = nn.Linear(512, len(STATISTICS) + N_HEIGHTS)
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, AXIS_PX / 2.0)
    return network.to(memory_format=torch.channels_last), head


def _fit(
    network: nn.Module,
    head: nn.Linear,
    races: list[DrawnRace],
    *,
    recipe: Recipe,
    rng: np.random.Generator,
    progress: Progress | None,
) -> None:
    batches = _batches(races, recipe, rng)
    done = _Counter(progress, recipe.steps)
    network.train()
    _phase(network, head, batches, recipe, recipe.coarse_steps, recipe.coarse_lr, done, coarse=True)
    _phase(network, head, batches, recipe, recipe.fine_steps, recipe.fine_lr, done)
    # The running statistics come from the last few batches: measure them on more of what will be seen.
    chosen = rng.permutation(recipe.races * recipe.cars)[:_CALIBRATION_PICTURES].tolist()
    seen = torch.stack([races[number // recipe.cars].pictures[number % recipe.cars] for number in chosen])
    _calibrate(network, seen, transforms.TRACE)
    _phase(network, head, batches, recipe, recipe.settled_steps, recipe.settled_lr, done)


class _Counter:
    """Steps done, told to whoever asked."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def step(self, loss: float) -> None:
        self._done += 1
        logger.debug("teach step=%d loss=%.1f", self._done, loss)
        if self._progress is not None:
            self._progress("teach", self._done, self._total)


def _phase(
    network: nn.Module,
    head: nn.Linear,
    batches: Iterator[tuple[Tensor, Tensor, Tensor]],
    recipe: Recipe,
    steps: int,
    rate: float,
    done: _Counter,
    *,
    coarse: bool = False,
) -> None:
    """Optimiser steps under one rise and fall of the learning rate."""
    rates = [rate, rate * recipe.head_lr_factor]
    groups = [{"params": network.parameters(), "lr": rates[0]}, {"params": head.parameters(), "lr": rates[1]}]
    optimiser = torch.optim.AdamW(groups, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rates, total_steps=max(steps, 2), pct_start=0.15, div_factor=10.0, final_div_factor=100.0
    )
    for _ in range(steps):
        pictures, answers, mask = next(batches)
        if coarse:
            pictures = functional.interpolate(pictures, scale_factor=0.5, mode="bilinear", antialias=True)
        loss = _loss(head(_features(network, pictures)), answers, mask, recipe.cars_a_step)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 100.0)
        optimiser.step()
        schedule.step()
        done.step(loss.item())


def _batches(races: list[DrawnRace], recipe: Recipe, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Some cars of some races, endlessly; every race comes once before any comes again."""
    order: list[int] = []
    while True:
        if len(order) < recipe.races_a_step:
            order = rng.permutation(len(races)).tolist()
        chosen = [(races[order.pop()], rng.permutation(recipe.cars)[: recipe.cars_a_step]) for _ in range(recipe.races_a_step)]
        yield (
            torch.cat([race.pictures[index] for race, index in chosen]),
            torch.cat([race.targets[index] for race, index in chosen]),
            torch.cat([race.mask[index] for race, index in chosen]),
        )


def _features(network: nn.Module, pictures: Tensor) -> Tensor:
    """(B, 512) float32; the convolutions in bfloat16, twice as fast where the processor has it."""
    with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bf16()):
        return pooled(network, transforms.encode_input(pictures, transforms.TRACE))


def _loss(read: Tensor, answers: Tensor, mask: Tensor, cars: int) -> Tensor:
    """Huber cost per picture: of each value, and of its difference from the mean over the race's cars."""
    cost = torch.tensor([_COST[name] for name in STATISTICS] + [_COST_HEIGHTS / N_HEIGHTS] * N_HEIGHTS)
    in_race = torch.tensor([_COST_IN_RACE[name] for name in STATISTICS])
    absolute = functional.smooth_l1_loss(read, answers, beta=1.0, reduction="none") * mask
    n = len(STATISTICS)
    ours, theirs = (values[:, :n].reshape(-1, cars, n) for values in (read, answers))
    relative = functional.smooth_l1_loss(
        ours - ours.mean(dim=1, keepdim=True), theirs - theirs.mean(dim=1, keepdim=True), beta=0.3, reduction="none"
    )
    return (absolute * cost).sum(dim=1).mean() + (relative * in_race).sum(dim=2).mean()


@torch.no_grad()
def measure(network: nn.Module, head: nn.Linear, races: list[DrawnRace]) -> dict[str, float]:
    """How well the taught linear layer reads races it never saw (see `Taught.metrics`)."""
    network.eval()
    errors, ranks = [], []
    for race in races:
        read = head(_features(network, race.pictures))[:, : len(STATISTICS)].numpy()
        true = race.targets[:, : len(STATISTICS)].numpy()
        errors.append((read - read.mean(axis=0)) - (true - true.mean(axis=0)))
        ranks.append([_rank_correlation(read[:, k], true[:, k]) for k in range(len(STATISTICS))])
    rmse = np.sqrt(np.mean(np.square(np.concatenate(errors)), axis=0))
    metrics = {f"{name}_rmse_px": round(float(rmse[k]), 4) for k, name in enumerate(STATISTICS)}
    for name, of_races in zip(STATISTICS, np.array(ranks).T, strict=True):
        known = of_races[np.isfinite(of_races)]
        if len(known):
            metrics[f"{name}_rank"] = round(float(known.mean()), 4)
    return metrics


def _rank_correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Spearman's rank correlation; NaN where one of the two has no differences (one lap drawn: no slope)."""
    left, right = rankdata(a), rankdata(b)
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return float("nan")
    return float(np.corrcoef(left, right)[0, 1])


@torch.no_grad()
def _calibrate(network: nn.Module, images: Tensor, transform: str) -> None:
    """Set BatchNorm's running statistics to the averages over `images`."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
    network.train()
    for start in range(0, len(images), 20):
        with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bf16()):
            pooled(network, transforms.encode_input(images[start : start + 20], transform))
    for norm in norms:
        norm.momentum = 0.1
    network.eval()


@contextmanager
def _repeatable(seed: int, threads: int | None) -> Iterator[None]:
    """Fix torch's seed and threads inside, and give the process its own back afterwards."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        with torch_threads(threads or torch.get_num_threads()):
            yield
    finally:
        torch.set_rng_state(state)


__all__ = ["DEFAULT", "CurveRace", "DrawnRace", "Recipe", "Taught", "draw_race", "random_state", "recipe_sha256", "teach"]
