"""Simulated races of curves: repeatable, inside the ranges of real races, honest about the moment."""

import numpy as np
import pytest

from ml.encoders.curves import simulate_race


@pytest.fixture(scope="module")
def races():
    return [simulate_race(np.random.default_rng([3, number])) for number in range(60)]


def test_same_generator_same_race():
    first, again = (simulate_race(np.random.default_rng(5)) for _ in range(2))
    assert first.scheduled_laps == again.scheduled_laps
    assert all(np.array_equal(a, b) for a, b in zip(first.speeds_kph, again.speeds_kph, strict=True))
    other = simulate_race(np.random.default_rng(6))
    assert not np.array_equal(first.speeds_kph[0], other.speeds_kph[0])


def test_laps_count_from_one_and_never_pass_the_leader(races):
    for race in races:
        assert 44 <= race.scheduled_laps <= 78
        assert 1 <= race.lap <= race.scheduled_laps
        assert max(len(laps) for laps in race.lap_numbers) == race.lap
        for laps, speeds in zip(race.lap_numbers, race.speeds_kph, strict=True):
            assert np.array_equal(laps, np.arange(1, len(laps) + 1))
            assert len(speeds) == len(laps)
            assert np.isfinite(speeds).all()
            assert (speeds > 0).all()


def test_every_car_drawn_had_ended_its_last_lap_by_the_moment(races):
    for race in races:
        # Times are distances over speeds, up to the common lap length.
        last_end = [float((1.0 / speeds).sum()) for speeds in race.speeds_kph]
        leader = min(end for end, laps in zip(last_end, race.lap_numbers, strict=True) if len(laps) == race.lap)
        assert max(last_end) <= leader * (1 + 1e-9)


def test_paces_are_those_of_racing_cars(races):
    medians = [np.median(np.concatenate(race.speeds_kph)) for race in races]
    assert min(medians) > 100
    assert max(medians) < 260
    spreads = [np.ptp([np.median(s) for s in race.speeds_kph if len(s) > 20]) / m for race, m in zip(races, medians, strict=True)
               if race.lap > 25]  # fmt: skip
    assert 0.002 < np.median(spreads) < 0.06


def test_what_real_races_show_occurs(races):
    slow = [np.mean(np.concatenate(race.speeds_kph) < 0.93 * np.median(np.concatenate(race.speeds_kph))) for race in races]
    assert 0.02 < np.mean(slow) < 0.3, "pit laps, safety cars and wet laps"
    lapped_or_out = [min(len(laps) for laps in race.lap_numbers) < race.lap for race in races]
    assert np.mean(lapped_or_out) > 0.3
    assert any(min(len(laps) for laps in race.lap_numbers) < race.lap / 2 for race in races), "retirements"
