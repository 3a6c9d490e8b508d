"""What must hold for every picture: no lap after the moment reaches it, and nothing drawn before it does."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from trace_home import Lap, even_race, pictures, write_home

from feature_repo.settings import Settings
from ml.traces.axes import RaceAxes, race_axes
from ml.traces.laps import LapTrace, lap_trace
from ml.traces.palette import palette
from ml.traces.renderer import TraceRenderer
from pipelines.traces import render_traces

quick = hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SCHEDULED, MOMENT_LAP, CARS = 12, 6, 4
RENDERER = TraceRenderer()

speeds_kph = st.one_of(st.floats(0.0, 320.0), st.sampled_from([0.0, 6.0, 200.0, 210.5]))
traces = st.dictionaries(st.integers(1, 100), speeds_kph, min_size=1, max_size=60).map(
    lambda laps: lap_trace(list(laps), list(laps.values()))
)
axes = st.builds(
    lambda last, low, span: RaceAxes(last, float(low), float(low + span)),
    st.integers(100, 120),
    st.integers(0, 300),
    st.integers(2, 150),
)
titles = st.text(max_size=30)
drawings = st.tuples(traces, axes, titles)


def render(drawing: tuple[LapTrace, RaceAxes, str], renderer: TraceRenderer = RENDERER) -> bytes:
    trace, shared, title = drawing
    return renderer.render(trace.lap_numbers, trace.speeds_kph, shared, title=title)


@quick
@given(drawings, drawings)
def test_drawing_another_picture_in_between_changes_nothing(first: tuple, second: tuple) -> None:
    before = render(first)
    render(second)
    assert render(first) == before
    assert render(first, TraceRenderer()) == before


@quick
@given(drawings)
def test_fast_drawing_is_the_full_redraw_and_the_palette_is_near(drawing: tuple) -> None:
    trace, shared, title = drawing
    fast = RENDERER.blit(trace.lap_numbers, trace.speeds_kph, shared, title=title)
    assert (fast == RENDERER.redraw(trace.lap_numbers, trace.speeds_kph, shared, title=title)).all()
    error = np.abs(
        RENDERER.render_pixels(trace.lap_numbers, trace.speeds_kph, shared, title=title).astype(int) - fast[..., :3]
    ).max(axis=2)
    # Two inks blend within 10 levels; where three meet (a marker's edge on the line) a few pixels are further off.
    assert error.max() <= 48
    assert (error > 12).mean() < 0.001
    assert len(palette()) == 256


@quick
@given(st.dictionaries(st.sampled_from([f"car_{n}" for n in range(6)]), traces, min_size=1), st.integers(1, 100), st.randoms())
def test_axes_do_not_depend_on_the_order_of_cars_and_hold_the_usual_means(cars: dict, scheduled: int, random: object) -> None:
    shared = race_axes(cars, scheduled)
    names = list(cars)
    random.shuffle(names)  # type: ignore[attr-defined]
    assert race_axes({name: cars[name] for name in names}, scheduled) == shared
    assert shared.max_lap >= max(int(trace.lap_numbers[-1]) for trace in cars.values())
    most = max(len(trace.lap_numbers) for trace in cars.values())
    usual = [trace.mean_kph for trace in cars.values() if len(trace.lap_numbers) * 2 >= most]
    assert shared.speed_low_kph <= float(np.median(usual))


future_laps = st.lists(
    st.builds(
        Lap,
        lap=st.integers(1, SCHEDULED),
        speed_kph=st.floats(1.0, 300.0, width=32),
        end_s=st.floats(0.1, 5000.0),
        created_s=st.none() | st.floats(0.1, 5000.0),
    ),
    max_size=6,
    unique_by=lambda lap: lap.lap,
)


@pytest.fixture(scope="module")
def reference() -> tuple[dict[str, list[Lap]], float, dict[str, bytes]]:
    """A race, the instant of its moment, and its pictures."""
    race = even_race(CARS, SCHEDULED)
    as_of = min(laps[MOMENT_LAP - 1].end_s for laps in race.values())
    return race, as_of, draw(race, race)


def draw(race: dict[str, list[Lap]], leaders: dict[str, list[Lap]]) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        home = Settings(home=Path(folder))
        write_home(home, {"2024_08": race}, scheduled_laps=SCHEDULED, moments_from={"2024_08": leaders})
        report = render_traces(home, moment=f"lap:{MOMENT_LAP}")
        assert not report.failed
        return pictures(home)


@quick
@given(st.data())
def test_nothing_after_the_moment_changes_any_byte(reference: tuple, data: st.DataObject) -> None:
    """Laps that end later are replaced, added and deleted, and laps that became known later turn up; no byte changes."""
    race, as_of, wanted = reference
    changed = {}
    for driver_id, laps in race.items():
        past = [lap for lap in laps if lap.end_s <= as_of]
        kept = [lap for lap in laps if lap.end_s > as_of and data.draw(st.booleans())]
        added = []
        for lap in data.draw(future_laps):
            if data.draw(st.booleans()):
                added.append(Lap(lap.lap, lap.speed_kph, as_of + lap.end_s, lap.created_s and as_of + lap.end_s + lap.created_s))
            else:  # it ended by the moment, but that was known only later
                added.append(Lap(lap.lap, lap.speed_kph, as_of * lap.end_s / 5000.0, as_of + 1.0 + (lap.created_s or 0.0)))
        changed[driver_id] = past + kept + added
    assert draw(changed, race) == wanted
