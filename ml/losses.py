"""The losses of the fusion model: cross-entropy over places, squared error of the place, likelihood of the finishing order."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ml.config import FusionConfig
from ml.rows import N_POSITIONS

MEAN_POSITION = (N_POSITIONS + 1) / 2
SPREAD_POSITION = math.sqrt((N_POSITIONS**2 - 1) / 12)  # standard deviation of 1..20


def training_loss(config: FusionConfig, output: Tensor, position: Tensor, finished: Tensor, race: Tensor) -> Tensor:
    """The loss `config.loss` asks for, a scalar mean (over rows; listwise: over places decided).

    Args:
        config: names the loss and its label options.
        output: (B, 20) for cross_entropy, else (B, 1).
        position: (B,) int64, 1..20.
        finished: (B,) bool, classified.
        race: (B,) int64; for listwise the batch holds whole races.
    """
    if config.loss == "cross_entropy":
        return cross_entropy(output, position, smoothing_places=config.label_smoothing_places)
    if config.loss == "mse":
        return squared_error(output.squeeze(1), position)
    return plackett_luce(output.squeeze(1), position, finished, race, rank_retired=config.rank_retired)


def cross_entropy(logits: Tensor, position: Tensor, *, smoothing_places: float = 0.0) -> Tensor:
    """Mean cross-entropy over places.

    Args:
        logits: (B, 20).
        position: (B,) 1..20.
        smoothing_places: standard deviation, in places, of the Gaussian that the target is spread with; 0 = exactly the place.
    """
    if smoothing_places <= 0:
        return F.cross_entropy(logits, position - 1)
    places = torch.arange(1, N_POSITIONS + 1, device=logits.device)
    distance = (places[None, :] - position[:, None]) / smoothing_places
    target = torch.softmax(-0.5 * distance**2, dim=1).to(logits.dtype)
    return F.cross_entropy(logits, target)


def squared_error(prediction: Tensor, position: Tensor) -> Tensor:
    """Mean squared error of the place in standard deviations of 1..20 (prediction 0 is place 10.5)."""
    return F.mse_loss(prediction, (position.to(prediction.dtype) - MEAN_POSITION) / SPREAD_POSITION)


def plackett_luce(scores: Tensor, position: Tensor, finished: Tensor, race: Tensor, *, rank_retired: bool = True) -> Tensor:
    """Mean negative log likelihood of the finishing orders, over the places decided.

    Each place is a softmax choice among the cars not yet placed. The last car of a race has no choice left and counts nothing.

    Args:
        scores: (B,) log strengths.
        position: (B,) finishing order, distinct within a race.
        finished: (B,) classified.
        race: (B,) race of each row; rows of a race need not be adjacent.
        rank_retired: False: choices of cars that were not classified do not count (they stay in the field that others beat).
    """
    order = torch.argsort(race * (N_POSITIONS + 1) + position)
    _, sizes = torch.unique_consecutive(race[order], return_counts=True)
    n_races, widest = len(sizes), int(sizes.max())
    present = torch.arange(widest, device=scores.device)[None, :] < sizes[:, None]
    # padding sits behind the last car; exp(-1e4) is 0 in float32, and unlike -inf it has a defined gradient
    arranged = scores.new_full((n_races, widest), -1e4).masked_scatter(present, scores[order])
    field = torch.logcumsumexp(arranged.flip(1), dim=1).flip(1)
    counted = present & (torch.arange(widest, device=scores.device)[None, :] < sizes[:, None] - 1)
    if not rank_retired:
        counted &= torch.zeros_like(present).masked_scatter(present, finished[order])
    terms = torch.where(counted, field - arranged, 0.0)
    return terms.sum() / counted.sum().clamp(min=1)


def uninformed_loss(config: FusionConfig, position: Tensor, finished: Tensor, race: Tensor) -> float:
    """The loss of a model that says the same about every car: what training has to fall below.

    Args:
        config: names the loss.
        position: (N,) 1..20.
        finished: (N,) bool.
        race: (N,) int64.
    """
    output = torch.zeros(len(position), n_outputs(config), device=position.device)
    return float(training_loss(config, output, position, finished, race))


def n_outputs(config: FusionConfig) -> int:
    """20 logits for cross_entropy, else one number a car."""
    return N_POSITIONS if config.loss == "cross_entropy" else 1


def strength(config: FusionConfig, output: Tensor) -> Tensor:
    """(B,) one number a car, higher = ahead, whatever the loss: for ranking within a race.

    Args:
        config: names the loss.
        output: the model's output.
    """
    if config.loss == "cross_entropy":
        places = torch.arange(1, N_POSITIONS + 1, dtype=output.dtype, device=output.device)
        return -(torch.softmax(output, dim=1) @ places)
    return -output.squeeze(1) if config.loss == "mse" else output.squeeze(1)
