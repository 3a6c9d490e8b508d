"""The race's common axes: zoomed on racing laps, with the means inside, whatever went wrong in the race."""

import numpy as np
import pytest

from ml.errors import InvalidLapDataError
from ml.traces.axes import RaceAxes, race_axes, ticks
from ml.traces.laps import LapTrace, lap_trace


def field(speeds_of_car: list[list[float]]) -> dict[str, LapTrace]:
    return {f"car_{car}": lap_trace(range(1, len(speeds) + 1), speeds) for car, speeds in enumerate(speeds_of_car)}


def racing(n_laps: int = 30, n_cars: int = 20, fast: float = 210.0) -> list[list[float]]:
    rng = np.random.default_rng(3)
    return [(fast - 0.2 * car + rng.normal(0, 0.4, n_laps)).tolist() for car in range(n_cars)]


def test_a_small_pace_difference_is_many_pixels() -> None:
    cars = racing()
    for number, car in enumerate(cars):
        car[0] -= 30.0
        car[10 + number % 7] -= 50.0  # pit laps
    axes = race_axes(field(cars), 60)
    means = [np.mean(car) for car in cars]
    assert all(axes.speed_low_kph < mean < axes.speed_high_kph for mean in means)
    assert 0.2 * 496 / (axes.speed_high_kph - axes.speed_low_kph) > 5
    assert axes.max_lap == 60


def test_a_red_flag_lap_does_not_ruin_the_axis() -> None:
    cars = racing()
    for car in cars:
        car[12] = 6.0
    axes = race_axes(field(cars), 60)
    assert axes.speed_low_kph > 190.0
    assert all(axes.speed_low_kph < np.mean(car) for car in cars)


def test_a_car_that_crept_round_does_not_set_the_scale() -> None:
    cars = racing()
    usual = race_axes(field(cars), 60)
    assert race_axes(field([*cars, [90.0, 80.0]]), 60) == usual
    assert race_axes(field([*cars, [120.0] * 30]), 60).speed_low_kph > usual.speed_low_kph - 5


def test_a_lap_cut_short_does_not_set_the_top() -> None:
    cars = racing()
    cars[3][20] = 292.0
    assert race_axes(field(cars), 60).speed_high_kph < 220.0


def test_order_of_cars_does_not_matter() -> None:
    cars = field(racing())
    assert race_axes(dict(reversed(cars.items())), 60) == race_axes(cars, 60)


@pytest.mark.parametrize("cars", [[[0.0]], [[0.0, 0.0], [0.0]], [[200.0]], [[120.0, 230.0]], [[5.0] * 3, [200.0]]])
def test_degenerate_races_have_axes(cars: list[list[float]]) -> None:
    axes = race_axes(field(cars), 1)
    assert 0 <= axes.speed_low_kph < axes.speed_high_kph
    assert axes.max_lap == max(len(car) for car in cars)


def test_no_cars_is_an_error() -> None:
    with pytest.raises(InvalidLapDataError, match="no cars"):
        race_axes({}, 60)


@pytest.mark.parametrize("wrong", [(0, 1.0, 2.0), (5, 2.0, 2.0), (5, -1.0, 2.0), (5, 1.0, float("nan")), (5, 1.0, float("inf"))])
def test_impossible_axes_are_refused(wrong: tuple[int, float, float]) -> None:
    with pytest.raises(InvalidLapDataError, match="RaceAxes"):
        RaceAxes(*wrong)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (203, 213), (0, 78), (0, 999), (184, 299), (119, 122)])
def test_ticks_are_whole_inside_and_not_too_many(low: float, high: float) -> None:
    values = ticks(low, high, 11)
    assert 2 <= len(values) <= 11
    assert low <= values[0]
    assert values[-1] <= high
    assert (values == np.round(values)).all()
