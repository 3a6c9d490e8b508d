"""Order at the line: who may pass, who is held, who is let through."""

import numpy as np

from pipelines.simulator import traffic


def settle(clock, lap_s, need_s, *, free=None, gap=0.5, line=-np.inf, slots=None):
    drivers = len(clock)
    order, ends = traffic.settle_order(
        slots=np.arange(drivers)[None] if slots is None else np.array([slots]),
        clock=np.array([clock], dtype=float),
        lap_s=np.array([lap_s], dtype=float),
        need_s=np.array([need_s], dtype=float),
        is_free=np.array([free if free is not None else [False] * drivers]),
        gap_s=np.full((1, drivers), gap),
        line_s=np.array([line]),
    )
    return order[0].tolist(), ends[0]


def test_a_faster_car_without_the_advantage_is_held_behind():
    order, ends = settle(clock=[100.0, 99.0], lap_s=[90.0, 89.0], need_s=[2.0, 2.0])
    assert order == [0, 1]
    assert ends[1] == 100.5


def test_a_faster_car_with_the_advantage_passes():
    order, ends = settle(clock=[100.0, 99.0], lap_s=[90.0, 89.0], need_s=[0.5, 0.5])
    assert order == [1, 0]
    assert ends.tolist() == [100.0, 99.0]


def test_a_car_that_is_not_ahead_on_the_clock_does_not_pass():
    order, _ = settle(clock=[100.0, 101.0], lap_s=[90.0, 80.0], need_s=[0.1, 0.1])
    assert order == [0, 1]


def test_a_car_in_the_pit_lane_is_passed_whatever_the_advantage():
    order, _ = settle(clock=[120.0, 99.0, 99.8], lap_s=[110.0, 89.0, 89.0], need_s=[np.inf] * 3, free=[True, False, False])
    assert order == [1, 2, 0]


def test_a_car_may_gain_several_places_in_one_lap():
    order, _ = settle(clock=[100.0, 101.0, 102.0, 98.0], lap_s=[90.0, 90.0, 90.0, 85.0], need_s=[1.0] * 4)
    assert order == [3, 0, 1, 2]


def test_the_train_behind_a_slow_car_is_spaced_by_the_gap():
    _, ends = settle(clock=[100.0, 99.0, 98.0], lap_s=[90.0] * 3, need_s=[np.inf] * 3, gap=0.5)
    assert ends.tolist() == [100.0, 100.5, 101.0]


def test_nobody_crosses_the_line_before_the_safety_car():
    _, ends = settle(clock=[100.0, 101.0], lap_s=[90.0] * 2, need_s=[np.inf] * 2, gap=1.0, line=110.0)
    assert ends.min() >= 110.0
    assert np.diff(ends)[0] >= 1.0


def test_gaps_are_measured_to_the_neighbours_on_the_road():
    slots, clock = np.array([[2, 0, 1]]), np.array([[10.0, 13.0, 8.0]])
    assert traffic.gap_ahead(slots, clock).tolist() == [[2.0, 3.0, np.inf]]
    assert traffic.gap_behind(slots, clock).tolist() == [[3.0, np.inf, 2.0]]


def test_no_pass_is_possible_where_passing_is_not_allowed():
    need = traffic.pass_threshold(np.array([0.5, 0.5]), np.full((2, 3), 0.5), np.array([True, False]))
    assert np.isfinite(need[0]).all()
    assert np.isinf(need[1]).all()


def test_a_car_that_is_out_holds_nobody_even_at_the_head_of_a_restart():
    order, ends = settle(
        clock=[traffic.OUT, 110.0, 110.0], lap_s=[90.0] * 3, need_s=[np.inf] * 3, free=[True, False, False], gap=1.0, line=110.0
    )
    assert order == [1, 2, 0]
    assert ends[1:].tolist() == [110.0, 111.0]
