"""Place probabilities that are consistent within a race and know that cars retire."""

from dataclasses import replace

import numpy as np

from ml.metrics import log_loss
from ml.placing import Placing, consistent, fit_placing, sharpen


def test_consistent_gives_each_place_once() -> None:
    rng = np.random.default_rng(3)
    race = np.repeat([0, 1], [20, 18])
    result = consistent(rng.dirichlet(np.ones(20), size=38), race)
    np.testing.assert_allclose(result.sum(axis=1), 1.0)
    np.testing.assert_allclose(result[:20].sum(axis=0), 1.0, atol=0.02)
    assert (result[20:, 18:] == 0).all()


def test_a_race_alone_is_made_consistent_as_it_is_among_others() -> None:
    rng = np.random.default_rng(1)
    race = np.repeat([4, 2, 9], [3, 20, 7])
    probabilities = rng.dirichlet(np.ones(20), len(race))
    whole = consistent(probabilities, race)
    for code in (4, 2, 9):
        np.testing.assert_array_equal(consistent(probabilities[race == code], race[race == code]), whole[race == code])


def test_sharpening_makes_the_likeliest_likelier_and_keeps_rows_whole() -> None:
    race = np.zeros(20, dtype=np.int64)
    before = consistent(np.random.default_rng(7).dirichlet(np.ones(20), size=20), race)
    after = sharpen(before, race, 2.0)
    np.testing.assert_allclose(after.sum(axis=1), 1.0)
    assert after.max(axis=1).mean() > before.max(axis=1).mean() + 0.05
    np.testing.assert_allclose(sharpen(before, race, 1.0), before, atol=2e-3)


def test_placing_finds_the_scale_and_the_retirements() -> None:
    """Orders drawn from known strengths, a fifth of the cars thrown to the back: both are found."""
    rng = np.random.default_rng(4)
    race = np.repeat(np.arange(16), 20)
    strength = rng.normal(size=320)
    retired = rng.random(320) < 0.2
    score = 2.0 * strength + rng.gumbel(size=320) - 100.0 * retired
    position = np.concatenate([np.argsort(np.argsort(-score[race == code])) + 1 for code in range(16)])
    placing = fit_placing(strength, race=race, position=position, retired_position=position[retired])
    assert 1.0 < placing.scale < 4.0
    assert placing.tail_share >= 0.2
    assert placing.tail[15:].sum() > 0.8
    order_only = replace(placing, tail_share=0.0)
    assert log_loss(placing(strength, race), position) < log_loss(order_only(strength, race), position) - 0.02
    assert log_loss(placing(strength, race), position) < np.log(20) - 0.1


def test_placing_survives_json() -> None:
    placing = Placing(1.5, 0.2, np.linspace(0.0, 0.1, 20))
    stored = Placing.from_dict(placing.to_dict())
    strength, race = np.arange(20.0), np.zeros(20, dtype=np.int64)
    np.testing.assert_array_equal(stored(strength, race), placing(strength, race))
