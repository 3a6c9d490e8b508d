"""Tyres, incidents, qualifying, weather, classification, flags: each against what it promises."""

from itertools import pairwise

import numpy as np
import pytest

from pipelines.simulator import circuits, field, flags, incidents, strategy, traffic, tyres
from pipelines.simulator.classification import classify
from pipelines.simulator.incidents import Control
from pipelines.simulator.qualifying import simulate_qualifying
from pipelines.simulator.race import RaceLog
from pipelines.simulator.weather import MINUTES_BEFORE, simulate_weather


def log_of(clock, *, out_lap=None, control=None, since=None):
    """A race log of one race with the given clocks (L, D)."""
    clock = np.array([clock], dtype=float)
    _, laps, drivers = clock.shape
    shape = clock.shape
    return RaceLog(
        laps=np.array([laps]),
        clock_s=clock,
        compound=np.zeros(shape, dtype=int),
        age_laps=np.zeros(shape, dtype=int),
        fresh=np.zeros(shape, dtype=bool),
        stint=np.ones(shape, dtype=int),
        in_lap=np.zeros(shape, dtype=bool),
        lane_s=np.zeros(shape),
        free_s=np.zeros(shape),
        control=np.array([control if control is not None else [1] * laps]),
        since=np.array([since if since is not None else [0.0] * laps]),
        wetness=np.zeros((1, laps)),
        out_lap=np.array([out_lap if out_lap is not None else [strategy.NEVER] * drivers]),
        out_kind=np.zeros((1, drivers), dtype=int),
        out_detail=np.zeros((1, drivers)),
    )


class TestTyres:
    def test_softer_is_faster_new_and_wears_faster(self):
        ages = np.array([0.0, 100.0])
        effect = {
            c: tyres.lap_effect_pct(np.full(2, c), ages, np.ones(2), np.zeros(2)) for c in (tyres.SOFT, tyres.MEDIUM, tyres.HARD)
        }
        assert effect[tyres.SOFT][0] < effect[tyres.MEDIUM][0] < effect[tyres.HARD][0]
        assert np.diff(effect[tyres.SOFT])[0] > np.diff(effect[tyres.MEDIUM])[0] > np.diff(effect[tyres.HARD])[0] > 0

    def test_beyond_its_life_a_set_falls_off_the_cliff(self):
        life = tyres.LIFE_KM[tyres.MEDIUM]
        ages = np.array([life - 20, life - 10, life + 40, life + 50])
        effect = tyres.lap_effect_pct(np.full(4, tyres.MEDIUM), ages, np.ones(4), np.zeros(4))
        assert effect[3] - effect[2] > 3 * (effect[1] - effect[0])

    @pytest.mark.parametrize(("wetness", "best"), [(0.0, 0), (0.2, 0), (0.25, 1), (0.7, 1), (0.85, 2)])
    def test_the_right_tyre_follows_the_water(self, wetness, best):
        assert tyres.best_for_water(np.array([wetness]))[0] == best

    def test_the_softest_slick_that_lasts_is_chosen(self):
        chosen = tyres.slick_for_distance(np.array([90.0, 130.0, 200.0]), np.ones(3), np.zeros(3))
        assert chosen.tolist() == [tyres.SOFT, tyres.MEDIUM, tyres.HARD]


class TestIncidents:
    def found(self, accident=0.0, failure=0.0, answer=0.5, spin=0.9, running=20):
        return incidents.lap_incidents(
            running=np.arange(20)[None] < running,
            accident_hazard=np.full((1, 20), accident),
            failure_hazard=np.full((1, 20), failure),
            luck_accident=np.linspace(0.001, 0.999, 20)[None],
            luck_failure=np.linspace(0.999, 0.001, 20)[None],
            luck_answer=np.array([answer]),
            luck_spin=np.array([spin]),
        )

    def test_nothing_happens_without_hazard(self):
        found = self.found()
        assert not found.accident.any()
        assert found.answer[0] == Control.GREEN

    @pytest.mark.parametrize(
        ("luck", "answer"), [(0.01, Control.RED), (0.3, Control.SAFETY_CAR), (0.6, Control.VSC), (0.9, Control.YELLOW)]
    )
    def test_race_control_answers_an_accident_by_its_gravity(self, luck, answer):
        assert self.found(accident=0.02, answer=luck).answer[0] == answer

    def test_the_graver_answer_wins(self):
        assert self.found(accident=0.02, failure=0.02, answer=0.01).answer[0] == Control.RED

    def test_the_last_cars_running_do_not_retire(self):
        assert not self.found(accident=1.0, failure=1.0, running=incidents.LEAST_RUNNING - 1).accident.any()


class TestQualifying:
    def run(self, pace):
        return simulate_qualifying(np.array([90.0]), np.array([pace]), np.ones((1, 20)), [np.random.default_rng(3)])

    def test_parts_have_twenty_fifteen_and_ten_cars(self):
        result = self.run(np.linspace(0, 3, 20))
        counts = (~np.isnan(result.times_s[0])).sum(axis=1)
        assert counts[0] >= 18
        assert counts[1:].tolist() == [15, 10]

    def test_the_sheet_follows_the_last_part_each_driver_reached(self):
        result = self.run(np.linspace(0, 3, 20))
        by_place = np.argsort(result.position[0])
        assert (np.diff(result.times_s[0, 2][by_place[:10]]) >= 0).all()
        assert (np.diff(result.times_s[0, 1][by_place[10:15]]) >= 0).all()

    def test_every_place_on_the_grid_is_taken_once_and_pit_lane_starters_are_last(self):
        for seed in range(30):
            result = simulate_qualifying(np.array([90.0]), np.zeros((1, 20)), np.ones((1, 20)), [np.random.default_rng(seed)])
            assert sorted(result.grid[0]) == list(range(1, 21))
            lane = result.pit_lane[0]
            if lane.any():
                assert result.grid[0][lane].min() > result.grid[0][~lane].max()
                assert (np.argsort(result.grid[0][lane]) == np.argsort(result.position[0][lane])).all()


class TestWeather:
    def test_track_is_dry_where_it_never_rained_and_wet_after_long_rain(self):
        many = [circuits.CIRCUITS[8]] * 60
        weather = simulate_weather(many, [np.random.default_rng(seed) for seed in range(60)])
        never = ~weather.raining.any(axis=1)
        assert never.any()
        assert not never.all()
        assert (weather.wetness[never] == 0).all()
        assert weather.wetness[~never].max() > 0.3
        assert ((weather.wetness >= 0) & (weather.wetness <= 1)).all()

    def test_wetness_is_read_at_the_minute_of_the_session_clock(self):
        weather = simulate_weather([circuits.CIRCUITS[8]], [np.random.default_rng(0)])
        weather.wetness[0] = np.arange(weather.wetness.shape[1]) / 1000.0
        assert weather.wetness_at(np.array([[0.0, 59.9, 60.0]]))[0].tolist() == [
            MINUTES_BEFORE / 1000.0,
            MINUTES_BEFORE / 1000.0,
            (MINUTES_BEFORE + 1) / 1000.0,
        ]


class TestClassification:
    def test_order_is_that_of_the_clocks_and_lapped_cars_stop_at_the_flag(self):
        #        car 0 wins, car 1 second, car 2 is lapped: its third lap would end after the flag
        result = classify(log_of([[90, 91, 120], [180, 183, 240], [270, 276, 360], [360, 369, 480]]))
        assert result.order[0].tolist() == [1, 2, 3]
        assert result.laps_done[0].tolist() == [4, 4, 3]
        assert result.flag_ms[0] == 360_000
        assert result.points[0].tolist() == [25.0, 18.0, 15.0]

    def test_retirements_come_last_by_laps_and_non_starters_after_them(self):
        out = traffic.OUT
        clock = [[90, 91, 92, out], [180, out, 184, out], [270, out, out, out]]
        result = classify(log_of(clock, out_lap=[strategy.NEVER, 2, 3, 0]))
        assert result.order[0].tolist() == [1, 3, 2, 4]
        assert result.laps_done[0].tolist() == [3, 1, 2, 0]
        assert result.classified[0].tolist() == [True, False, True, False]  # two of three laps are 90 %, rounded down
        assert result.retired[0].tolist() == [False, True, True, True]

    def test_a_car_that_would_have_stopped_after_the_flag_finished(self):
        result = classify(log_of([[90, 170], [180, 340], [270, 510]], out_lap=[strategy.NEVER, 3]))
        assert result.laps_done[0].tolist() == [3, 2]
        assert not result.retired[0, 1]


class TestFlags:
    leader = np.array([100_000, 200_000, 300_000, 400_000, 500_000])

    def line(self, control, since):
        log = log_of(np.zeros((5, 1)), control=control, since=since)
        return flags.timeline(log, 0, self.leader, 90_000.0)

    def test_a_safety_car_lasts_to_the_end_of_its_last_lap(self):
        line = self.line([1, 4, 4, 1, 1], [0, 0.5, 0, 0, 0])
        assert line.code == ("1", "4", "1")
        assert line.at_ms.tolist() == [0, 150_000, 300_000]

    def test_two_calls_in_a_row_are_two(self):
        assert self.line([1, 4, 4, 1, 1], [0, 0.5, 0.3, 0, 0]).code == ("1", "4", "1", "4", "1")

    def test_a_lap_sees_what_was_in_force_from_its_start_to_its_end(self):
        line = self.line([1, 6, 6, 1, 1], [0, 0.5, 0, 0, 0])
        start, end = np.array([0, 101_000, 201_000, 301_000]), np.array([101_000, 201_000, 301_000, 401_000])
        assert line.seen(start, end).tolist() == ["1", "16", "671", "1"]


class TestField:
    def test_the_field_is_twenty_different_people_in_ten_teams(self):
        for season, _ in zip(field.fields(11), range(30), strict=False):
            assert len({d.driver_id for d in season.drivers}) == len({d.code for d in season.drivers}) == 20
            assert len({d.car_number for d in season.drivers}) == 20
            assert np.bincount(season.team).tolist() == [2] * 10

    def test_cars_keep_part_of_their_advantage_over_the_winter(self):
        worlds = [season.car_pct for season, _ in zip(field.fields(5), range(50), strict=False)]
        kept = np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairwise(worlds)])
        assert 0.4 < kept < 0.95


def test_circuits_are_different_and_plausible():
    assert len(circuits.CIRCUITS) >= 24
    assert len({c.circuit_id for c in circuits.CIRCUITS}) == len(circuits.CIRCUITS)
    for circuit in circuits.CIRCUITS:
        speed = 3.6e3 * circuit.length_km / circuit.lap_s
        assert 150 < speed < 260, circuit.circuit_id
        assert 44 <= circuit.laps <= 78, circuit.circuit_id
        assert circuit.laps * circuit.length_km >= 260
