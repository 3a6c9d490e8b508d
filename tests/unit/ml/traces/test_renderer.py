"""What a picture shows and where, and that the fast way of drawing it is the slow way pixel for pixel."""

import hashlib
import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from ml.errors import InvalidLapDataError
from ml.traces.axes import RaceAxes
from ml.traces.palette import BEST, CLIPPED, MEAN, TRACE, WORST
from ml.traces.renderer import TraceRenderer

AXES = RaceAxes(max_lap=60, speed_low_kph=195.0, speed_high_kph=215.0)
LAPS = np.arange(1, 31)
SPEEDS = 208.0 + np.sin(LAPS / 3.0)
TITLE = "2024_08 Monaco Grand Prix, max_verstappen"
LEFT, RIGHT, TOP, BOTTOM = 64, 788, 54, 550  # plot area, rows from the top


@pytest.fixture(scope="module")
def renderer() -> TraceRenderer:
    return TraceRenderer()


def decode(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def rows_of(pixels: np.ndarray, colour: tuple[int, int, int], column: int) -> np.ndarray:
    """Rows of the plot area whose pixel at `column` is nearly `colour`."""
    distance = np.abs(pixels[TOP:BOTTOM, column].astype(int) - colour).max(axis=1)
    return np.flatnonzero(distance < 24) + TOP


def row_of_speed(speed: float) -> float:
    return BOTTOM - (speed - AXES.speed_low_kph) / (AXES.speed_high_kph - AXES.speed_low_kph) * (BOTTOM - TOP)


def column_of_lap(lap: float) -> int:
    return round(LEFT + lap * (RIGHT - LEFT) / (AXES.max_lap + 0.5))


def test_png_is_800x600_with_one_palette(renderer: TraceRenderer) -> None:
    first = Image.open(io.BytesIO(renderer.render(LAPS, SPEEDS, AXES, title=TITLE)))
    second = Image.open(io.BytesIO(renderer.render([5], [0.0], AXES)))
    assert first.size == (800, 600)
    assert first.mode == "P"
    assert first.getpalette() == second.getpalette()


def test_pixels_are_what_the_png_decodes_to(renderer: TraceRenderer) -> None:
    pixels = renderer.render_pixels(LAPS, SPEEDS, AXES, title=TITLE)
    assert pixels.shape == (600, 800, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == decode(renderer.render(LAPS, SPEEDS, AXES, title=TITLE))).all()


@pytest.mark.parametrize(
    ("laps", "speeds"),
    [
        (LAPS, SPEEDS),
        ([1], [208.0]),
        (np.arange(1, 101), np.full(100, 205.0)),
        ([1, 2, 5, 9, 10], [200.0, 201.0, 214.0, 213.0, 0.0]),
        (LAPS, np.zeros(30)),
    ],
)
def test_fast_drawing_equals_full_redraw(renderer: TraceRenderer, laps: np.ndarray, speeds: np.ndarray) -> None:
    axes = RaceAxes(max_lap=max(60, len(laps)), speed_low_kph=195.0, speed_high_kph=215.0)
    renderer.render([3, 4], [196.0, 214.0], AXES, title="something else before")
    fast = renderer.blit(laps, speeds, axes, title=TITLE)
    assert (fast == renderer.redraw(laps, speeds, axes, title=TITLE)).all()


def test_mean_is_a_line_across_the_plot_at_the_arithmetic_mean(renderer: TraceRenderer) -> None:
    speeds = SPEEDS.copy()
    speeds[4] = 60.0  # drags the mean although it lies below the axis
    pixels = renderer.render_pixels(LAPS, speeds, AXES)
    for column in (column_of_lap(35), column_of_lap(58)):
        assert abs(rows_of(pixels, MEAN, column).mean() - row_of_speed(speeds.mean())) < 1.0
        assert len(rows_of(pixels, MEAN, column)) in (3, 4, 5)


def test_mean_below_the_axis_lies_on_its_edge(renderer: TraceRenderer) -> None:
    pixels = renderer.render_pixels(LAPS, np.full(30, 50.0), AXES)
    assert (rows_of(pixels, MEAN, column_of_lap(50)) >= BOTTOM - 3).all()


def test_line_is_where_the_laps_are(renderer: TraceRenderer) -> None:
    pixels = renderer.render_pixels(LAPS, np.full(30, 200.0), RaceAxes(60, 195.0, 215.0))
    # The mean of a flat line lies under it.
    assert abs(rows_of(pixels, TRACE, column_of_lap(20)).mean() - row_of_speed(200.0)) < 1.0
    assert len(rows_of(pixels, TRACE, column_of_lap(45))) == 0


def test_missing_laps_are_a_gap_and_a_lone_lap_a_dot(renderer: TraceRenderer) -> None:
    laps = np.array([1, 2, 3, 10, 17, 18, 19])
    pixels = renderer.render_pixels(laps, np.array([200.0, 200, 200, 212, 200, 200, 205]), AXES)
    assert len(rows_of(pixels, TRACE, column_of_lap(6))) == 0
    assert len(rows_of(pixels, TRACE, column_of_lap(14))) == 0
    unmarked = renderer.render_pixels([1, 2, 3, 10, 17, 18, 19], [200.0, 200, 200, 204, 200, 200, 212], AXES)
    assert 5 <= len(rows_of(unmarked, TRACE, column_of_lap(10))) <= 9


def test_slow_laps_are_marked_on_the_bottom_edge(renderer: TraceRenderer) -> None:
    speeds = SPEEDS.copy()
    speeds[[9, 19]] = 120.0, 90.0
    pixels = renderer.render_pixels(LAPS, speeds, AXES)
    marker = rows_of(pixels, CLIPPED, column_of_lap(10))
    assert len(marker) > 0
    assert (marker > BOTTOM - 14).all()
    assert (rows_of(pixels, WORST, column_of_lap(20)) > BOTTOM - 20).all()
    assert len(rows_of(pixels, WORST, column_of_lap(20))) > 5


def test_fastest_lap_is_marked(renderer: TraceRenderer) -> None:
    speeds = np.full(30, 200.0)
    speeds[11] = 212.0
    pixels = renderer.render_pixels(LAPS, speeds, AXES)
    assert abs(rows_of(pixels, BEST, column_of_lap(12)).mean() - row_of_speed(212.0)) < 4


def test_text_is_drawn_and_long_or_odd_titles_fit(renderer: TraceRenderer) -> None:
    plain = renderer.render_pixels(LAPS, SPEEDS, AXES)
    for title in (TITLE, "São Paulo $x_1$ \n\x00 \\frac", "W" * 500):
        pixels = renderer.render_pixels(LAPS, SPEEDS, AXES, title=title)
        assert (pixels[:40] != plain[:40]).any()
        assert (pixels[60:] == plain[60:]).all()
        assert (pixels[:40, :60] == 255).all()
        assert (pixels[:, 798:] == 255).all()


def test_two_close_means_differ_after_resizing_to_224(renderer: TraceRenderer) -> None:
    def mean_row(speed: float) -> float:
        image = Image.fromarray(renderer.render_pixels(LAPS, np.full(30, speed), AXES)).resize(
            (224, 224), Image.Resampling.BILINEAR
        )
        weight = np.clip(np.asarray(image).astype(float) @ [1.0, 0.0, -1.0], 0, None)[25:200, 150:215]
        return float((weight * np.arange(len(weight))[:, None]).sum() / weight.sum())

    assert mean_row(205.0) - mean_row(205.5) > 3.0  # half a km/h is more than three of 224 rows


def test_bytes_repeat_in_another_process_with_another_style(renderer: TraceRenderer, tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text(
        "font.size: 20\naxes.facecolor: black\nfigure.dpi: 55\nlines.antialiased: False\npath.simplify: False\n"
        "lines.linestyle: --\nlines.marker: x\nfigure.facecolor: red\npath.snap: False\nagg.path.chunksize: 7\n"
    )
    script = (
        "import hashlib, numpy as np\n"
        "from ml.traces.renderer import TraceRenderer\n"
        "from ml.traces.axes import RaceAxes\n"
        "laps = np.arange(1, 31)\n"
        f"png = TraceRenderer().render(laps, 208.0 + np.sin(laps / 3.0), RaceAxes(60, 195.0, 215.0), title={TITLE!r})\n"
        "raise SystemExit(hashlib.sha256(png).hexdigest())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")},
        capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parents[4],
    )  # fmt: skip
    assert done.stderr.strip() == hashlib.sha256(renderer.render(LAPS, SPEEDS, AXES, title=TITLE)).hexdigest()


def test_style_changed_later_in_the_process_changes_nothing(renderer: TraceRenderer) -> None:
    before = renderer.render(LAPS, SPEEDS, AXES, title=TITLE)
    with matplotlib.rc_context({"path.simplify": False, "agg.path.chunksize": 5, "font.size": 30, "lines.antialiased": False}):
        assert renderer.render(LAPS, SPEEDS, AXES, title=TITLE) == before
        assert TraceRenderer().render(LAPS, SPEEDS, AXES, title=TITLE) == before
        assert matplotlib.rcParams["agg.path.chunksize"] == 5


def test_threads_may_share_a_renderer(renderer: TraceRenderer) -> None:
    wanted = [TraceRenderer().render(LAPS[:n], SPEEDS[:n], AXES) for n in range(1, 9)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda n: renderer.render(LAPS[: n % 8 + 1], SPEEDS[: n % 8 + 1], AXES), range(40)))
    assert got == [wanted[n % 8] for n in range(40)]


@pytest.mark.parametrize("speeds", [[], [float("nan")], [-1.0], [None], ["x"]])
def test_bad_laps_are_refused_before_drawing(renderer: TraceRenderer, speeds: list[object]) -> None:
    with pytest.raises(InvalidLapDataError):
        renderer.render(range(1, len(speeds) + 1), speeds, AXES)
