"""Losses agree with their definitions written out."""

import math

import numpy as np
import pytest
import torch

from ml.config import FusionConfig
from ml.losses import cross_entropy, plackett_luce, squared_error, strength, uninformed_loss


def listwise_by_hand(scores: list[float], position: list[int], race: list[int], counted: list[bool]) -> float:
    terms = []
    for code in sorted(set(race)):
        rows = sorted((i for i in range(len(race)) if race[i] == code), key=lambda i: position[i])
        for k, row in enumerate(rows[:-1]):
            if counted[row]:
                terms.append(math.log(sum(math.exp(scores[j]) for j in rows[k:])) - scores[row])
    return sum(terms) / len(terms)


@pytest.mark.parametrize("rank_retired", [True, False])
def test_listwise_equals_its_definition_with_races_of_different_size_mixed_up(rank_retired: bool) -> None:
    rng = np.random.default_rng(0)
    race = np.repeat([4, 1, 9], [5, 3, 7])
    position = np.concatenate([rng.permutation(n) + 1 for n in (5, 3, 7)])
    finished = position <= 4
    scores = rng.normal(size=15) * 3
    mixed = rng.permutation(15)
    got = plackett_luce(
        *(torch.from_numpy(array[mixed]) for array in (scores, position, finished, race)),
        rank_retired=rank_retired,
    )
    counted = list(finished) if not rank_retired else [True] * 15
    assert float(got) == pytest.approx(listwise_by_hand(list(scores), list(position), list(race), counted))


def test_listwise_gradient_is_finite_with_padding() -> None:
    scores = torch.zeros(5, requires_grad=True)
    plackett_luce(
        scores, torch.tensor([1, 2, 1, 2, 3]), torch.ones(5, dtype=torch.bool), torch.tensor([0, 0, 1, 1, 1])
    ).backward()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert scores.grad.abs().sum() > 0


def test_retired_cars_order_does_not_count_when_not_ranked() -> None:
    scores = torch.tensor([0.3, 1.0, -2.0, 0.5])
    finished = torch.tensor([True, True, False, False])
    race = torch.zeros(4, dtype=torch.int64)
    one = plackett_luce(scores, torch.tensor([1, 2, 3, 4]), finished, race, rank_retired=False)
    other = plackett_luce(scores, torch.tensor([1, 2, 4, 3]), finished, race, rank_retired=False)
    assert float(one) == pytest.approx(float(other))
    assert float(plackett_luce(scores, torch.tensor([1, 2, 3, 4]), finished, race)) != pytest.approx(
        float(plackett_luce(scores, torch.tensor([1, 2, 4, 3]), finished, race))
    )


def test_cross_entropy_of_no_knowledge_is_ln_20() -> None:
    assert float(cross_entropy(torch.zeros(4, 20), torch.tensor([1, 5, 20, 7]))) == pytest.approx(math.log(20))


def test_smoothing_prefers_a_near_miss() -> None:
    near, far = torch.zeros(1, 20), torch.zeros(1, 20)
    near[0, 5], far[0, 15] = 3.0, 3.0  # place 6 and place 16, the truth is 5
    truth = torch.tensor([5])
    assert float(cross_entropy(near, truth)) == pytest.approx(float(cross_entropy(far, truth)))
    assert cross_entropy(near, truth, smoothing_places=1.0) < cross_entropy(far, truth, smoothing_places=1.0)


def test_squared_error_of_the_mean_is_one() -> None:
    assert float(squared_error(torch.zeros(20), torch.arange(1, 21))) == pytest.approx(1)


@pytest.mark.parametrize(("loss", "expected"), [("cross_entropy", math.log(20)), ("mse", 1.0), ("listwise", None)])
def test_uninformed_loss(loss: str, expected: float | None) -> None:
    config = FusionConfig(name="x", loss=loss)  # type: ignore[arg-type]
    got = uninformed_loss(config, torch.arange(1, 21), torch.ones(20, dtype=torch.bool), torch.zeros(20, dtype=torch.int64))
    assert got == pytest.approx(expected if expected is not None else math.lgamma(21) / 19)


def test_strength_points_forward_for_every_loss() -> None:
    front, back = torch.zeros(1, 20), torch.zeros(1, 20)
    front[0, 0], back[0, 19] = 5.0, 5.0
    outputs = {
        "cross_entropy": (front, back),
        "mse": (torch.tensor([[-1.0]]), torch.tensor([[1.0]])),
        "listwise": (torch.tensor([[1.0]]), torch.tensor([[-1.0]])),
    }
    for loss, (ahead, behind) in outputs.items():
        config = FusionConfig(name="x", loss=loss)  # type: ignore[arg-type]
        assert strength(config, ahead) > strength(config, behind)
