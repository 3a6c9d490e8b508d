"""The paired bootstrap is deterministic, covers as it says, and behaves at its edges."""

import numpy as np
import pytest
from scipy import stats

from ml.statistics import difference, expanded_level, relative_gain, resample_weights


def test_equal_input_gives_equal_output() -> None:
    rng = np.random.default_rng(1)
    candidate, reference = rng.poisson(5, 107), rng.poisson(4, 107)
    assert relative_gain(candidate, reference) == relative_gain(candidate, reference)
    assert relative_gain(candidate, reference, seed=1) != relative_gain(candidate, reference, seed=2)


def test_estimate_is_the_ratio_of_sums() -> None:
    gain = relative_gain(np.array([5, 6, 7]), np.array([5, 5, 5]))
    assert gain.estimate == pytest.approx(0.2)
    assert gain.n_races == 3


def test_constant_gain_has_no_width() -> None:
    gain = relative_gain(np.full(30, 6), np.full(30, 5))
    assert (gain.low, gain.high, gain.bound) == pytest.approx((0.2, 0.2, 0.2))


def test_lower_is_better_turns_the_sign() -> None:
    gain = relative_gain(np.full(30, 40.0), np.full(30, 50.0), lower_is_better=True)
    assert gain.estimate == pytest.approx(0.2)
    assert gain.bound == pytest.approx(0.2)


def test_pairing_matters() -> None:
    """The same sums, race by race in step or not: in step the difference is far surer."""
    rng = np.random.default_rng(2)
    base = rng.integers(0, 12, 100)
    paired = relative_gain(base + 1, base)
    unpaired = relative_gain(rng.permutation(base + 1), base)
    assert paired.estimate == pytest.approx(unpaired.estimate)
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)


def test_interval_agrees_with_a_t_interval_of_the_difference() -> None:
    rng = np.random.default_rng(3)
    rows = np.full(60, 20)
    first, second = rng.poisson(5, 60), rng.poisson(4, 60)
    ours = difference(first, second, rows)
    per_race = (first - second) / 20
    low, high = stats.t.interval(0.95, 59, loc=per_race.mean(), scale=stats.sem(per_race))
    assert ours.estimate == pytest.approx(per_race.mean())
    assert ours.low == pytest.approx(low, abs=0.15 * (high - low))
    assert ours.high == pytest.approx(high, abs=0.15 * (high - low))


@pytest.mark.parametrize("n_races", [12, 22, 107])
def test_bound_is_exceeded_as_often_as_it_says(n_races: int) -> None:
    """Under no difference, the 95 % bound is above 0 in about 5 % of samples (4000 samples: standard error 0.35 %)."""
    rng = np.random.default_rng(4)
    weights = resample_weights(n_races, 2000, 5)
    gaps = rng.binomial(20, 0.2, (4000, n_races)) - rng.binomial(20, 0.2, (4000, n_races))
    level = expanded_level(0.05, n_races)
    above = np.array([np.quantile(weights @ gap, level) > 0 for gap in gaps])
    assert above.mean() < 0.065


def test_expanded_level_tends_to_the_level() -> None:
    assert expanded_level(0.05, 10) < expanded_level(0.05, 20) < expanded_level(0.05, 100) < 0.05
    assert expanded_level(0.05, 100_000) == pytest.approx(0.05, abs=1e-4)


def test_reference_without_hits_has_no_relative_gain() -> None:
    gain = relative_gain(np.array([1, 2, 3]), np.zeros(3))
    assert np.isnan([gain.estimate, gain.low, gain.high, gain.bound]).all()
    assert gain.to_dict()["estimate"] is None


def test_draws_without_reference_hits_do_not_become_nan() -> None:
    gain = relative_gain(np.array([1, 2, 0]), np.array([1, 0, 0]))
    assert gain.estimate == pytest.approx(2.0)
    assert not np.isnan([gain.low, gain.high, gain.bound]).any()


@pytest.mark.parametrize(
    ("candidate", "reference"),
    [([1], [1]), ([1, 2], [1, 2, 3]), ([1, np.nan], [1, 1]), ([1, -1], [1, 1])],
)
def test_bad_input_is_refused(candidate: list[float], reference: list[float]) -> None:
    with pytest.raises(ValueError, match="relative_gain"):
        relative_gain(np.array(candidate), np.array(reference))


def test_weights_draw_every_race_the_right_number_of_times() -> None:
    weights = resample_weights(17, 500, 1)
    assert weights.shape == (500, 17)
    assert (weights.sum(axis=1) == 17).all()
    with pytest.raises(ValueError, match="read-only"):
        weights[0, 0] = 3
