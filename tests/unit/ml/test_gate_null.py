"""The gate under chance: candidates that are no better are rarely promoted, clearly better ones usually are."""

import numpy as np
import pytest
from benchmarks.gate_null import World, draw_hits, promotion_rates

WORLDS = 100


@pytest.mark.parametrize("n_races", [22, 107])
def test_candidates_no_better_are_rarely_promoted(n_races: int) -> None:
    """5 % of 100 worlds is 5; 12 or more would come up four times in a thousand. The absolute error never helps here."""
    first, _ = promotion_rates(World(n_races=n_races, mae_always_better=True), 0.0, tries=1, worlds=WORLDS, seed=3)
    assert first * WORLDS <= 11


def test_three_tries_are_not_three_chances() -> None:
    _, ever = promotion_rates(World(mae_always_better=True), 0.0, tries=3, worlds=40, seed=4)
    assert ever * 40 <= 6


def test_a_third_more_hits_are_promoted_nearly_always() -> None:
    first, _ = promotion_rates(World(), 0.35, tries=1, worlds=60, seed=5)
    assert first > 0.85


def test_simulated_models_are_as_good_and_as_alike_as_measured() -> None:
    """Accuracy 0.171, variance of hits over races 5.2, correlation of two models' hits over races 0.37 (docs/gate.md)."""
    first, second = draw_hits(np.random.default_rng(6), World(n_races=5000), [0.0, 0.2])
    assert first.mean() / 20 == pytest.approx(0.171, abs=0.004)
    assert second.mean() / first.mean() == pytest.approx(1.2, abs=0.03)
    assert first.var() == pytest.approx(5.2, abs=0.4)
    assert np.corrcoef(first, second)[0, 1] == pytest.approx(0.37, abs=0.05)
