"""Draw one car's laps as an 800x600 picture that a person and a ResNet after resizing to 224x224 can both read pace from.

What a race's pictures share (grid, ticks, labels) is drawn once; a picture restores it, draws only its own line, markers and
text on top, and passes the touched pixels through one fixed palette. The result is pixel-identical to redrawing everything and
depends on nothing drawn before.
"""

import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
import PIL
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from ml.traces.axes import RaceAxes, race_axes, ticks
from ml.traces.label import Label
from ml.traces.laps import LapTrace, lap_trace
from ml.traces.palette import (
    BEST,
    CLIPPED,
    GRID,
    HEIGHT,
    INK,
    MEAN,
    TRACE,
    WHITE,
    WIDTH,
    WORST,
    ByteArray,
    as_hex,
    encode_png,
    palette,
    palette_index,
)

__all__ = ["LAYOUT_VERSION", "RENDERER_VERSION", "LapTrace", "RaceAxes", "TraceRenderer", "lap_trace", "race_axes"]

# What a picture shows and where; raise it with any change below, in axes.py or in palette.py.
LAYOUT_VERSION = "1"
# Which bytes come out: the libraries that rasterise and compress are part of it, so that an upgrade re-renders, never conflicts.
RENDERER_VERSION = f"{LAYOUT_VERSION}+mpl{matplotlib.__version__}+pil{PIL.__version__}+zlib{zlib.ZLIB_RUNTIME_VERSION}"

_DPI = 100
_LEFT, _RIGHT, _BOTTOM, _TOP = 64, 788, 50, 546  # plot area, pixels from the lower left
_PT = 72.0 / _DPI  # points a pixel
_TITLE_CHARACTERS = 84
# All of a process's style that drawing a moving line reads; the shared part is drawn under the default style altogether.
_LINE_STYLE = {key: matplotlib.rcParamsDefault[key] for key in ("path.simplify", "path.simplify_threshold", "agg.path.chunksize")}
# rcParams are the process's, not a figure's; two threads must not swap them under each other.
_RC_LOCK = threading.Lock()


@contextmanager
def _own_style() -> Iterator[None]:
    """Draw the same whatever style a matplotlibrc or another part of the process has set."""
    with _RC_LOCK:
        if all(matplotlib.rcParams[key] == value for key, value in _LINE_STYLE.items()):
            yield  # changing and restoring rcParams costs as much as drawing the lines
        else:
            with matplotlib.rc_context(_LINE_STYLE):  # type: ignore[arg-type]
                yield


class TraceRenderer:
    """Renders pictures one after another; keeps the shared part of the last race's axes. Safe to share between threads."""

    def __init__(self) -> None:
        self._axes: RaceAxes | None = None

    def render(self, laps: ArrayLike, speeds_kph: ArrayLike, axes: RaceAxes, *, title: str = "") -> bytes:
        """The picture as PNG bytes: equal input gives equal bytes, in any order and in any process.

        Args:
            laps: (n,) lap numbers, n >= 1; a missing number is a gap in the line.
            speeds_kph: (n,) average lap speed, km/h.
            axes: shared by all cars of the race, from `race_axes`.
            title: race and driver; the laps drawn are added to it.
        Raises:
            InvalidLapDataError: the laps cannot be drawn (see `lap_trace`).
        """
        trace = lap_trace(laps, speeds_kph, where=title or "render")
        with _own_style():
            return encode_png(self._index(trace, axes, title))

    def render_pixels(self, laps: ArrayLike, speeds_kph: ArrayLike, axes: RaceAxes, *, title: str = "") -> ByteArray:
        """The picture as (600, 800, 3) uint8 RGB: exactly what decoding `render`'s PNG gives, without the PNG."""
        trace = lap_trace(laps, speeds_kph, where=title or "render")
        with _own_style():
            index = self._index(trace, axes, title)
        return palette()[index[:, 1:]]

    def redraw(self, laps: ArrayLike, speeds_kph: ArrayLike, axes: RaceAxes, *, title: str = "") -> ByteArray:
        """(600, 800, 4) uint8 RGBA by drawing every artist from nothing, before the palette: the reference for the fast path."""
        trace = lap_trace(laps, speeds_kph, where=title or "redraw")
        with _own_style():
            sheet = _new_sheet(axes)
            sheet.show(trace, title)
            for artist in sheet.moving:
                artist.set_animated(False)
            with matplotlib.style.context("default"):
                sheet.canvas.draw()
            return np.array(sheet.canvas.buffer_rgba())

    def blit(self, laps: ArrayLike, speeds_kph: ArrayLike, axes: RaceAxes, *, title: str = "") -> ByteArray:
        """(600, 800, 4) uint8 RGBA of the fast path before the palette; equals `redraw`."""
        trace = lap_trace(laps, speeds_kph, where=title or "blit")
        with _own_style():
            self._draw(trace, axes, title)
            return np.array(self._sheet.canvas.buffer_rgba())

    def _draw(self, trace: LapTrace, axes: RaceAxes, title: str) -> None:
        if self._axes != axes:
            self._axes = None  # an error while drawing the shared part must not leave half of it behind
            self._sheet = _new_sheet(axes)
            self._axes = axes
        self._sheet.blit(trace, title)

    def _index(self, trace: LapTrace, axes: RaceAxes, title: str) -> ByteArray:
        """(600, 801) palette indices with a leading column of PNG filter bytes (0 = none)."""
        self._draw(trace, axes, title)
        return self._sheet.palette_index()


class _Sheet:
    """The figure of one race's axes: the shared part drawn and kept as pixels, and the artists that differ per picture."""

    def __init__(self, axes: RaceAxes) -> None:
        self.race_axes = axes
        self.figure = Figure(figsize=(WIDTH / _DPI, HEIGHT / _DPI), dpi=_DPI, facecolor=as_hex(WHITE), edgecolor="none")
        self.canvas = FigureCanvasAgg(self.figure)
        self._add_plot()
        self._add_moving()
        self.canvas.draw()
        self._region = self.canvas.copy_from_bbox(self.figure.bbox)  # type: ignore[attr-defined]
        self._background = self._words().copy()
        self._background_index = np.zeros((HEIGHT, WIDTH + 1), dtype=np.uint8)
        self._background_index[:, 1:] = palette_index(self._background).reshape(HEIGHT, WIDTH)

    def _words(self) -> NDArray[np.uint32]:
        """(480000,) RGBA words of the canvas, a view."""
        return np.frombuffer(self.canvas.buffer_rgba(), dtype="<u4")

    def _add_plot(self) -> None:
        """Everything the pictures of the race share."""
        ink, grid = as_hex(INK), as_hex(GRID)
        axes = self.race_axes
        box = (_LEFT / WIDTH, _BOTTOM / HEIGHT, (_RIGHT - _LEFT) / WIDTH, (_TOP - _BOTTOM) / HEIGHT)
        self.plot = self.figure.add_axes(box, facecolor=as_hex(WHITE))
        self.plot.set_xlim(0.0, axes.max_lap + 0.5)
        self.plot.set_ylim(axes.speed_low_kph, axes.speed_high_kph)
        self.plot.set_axisbelow(True)
        self.plot.grid(True, color=grid, linewidth=1.0 * _PT, linestyle="-")
        for axis, values in (
            (self.plot.xaxis, ticks(0.0, axes.max_lap + 0.5, 12)),
            (self.plot.yaxis, ticks(axes.speed_low_kph, axes.speed_high_kph, 11)),
        ):
            axis.set_ticks(values, [f"{value:g}" for value in values])
        self.plot.tick_params(length=3.0, width=1.0 * _PT, color=ink, labelcolor=ink, labelsize=10.0, pad=2.5)
        for spine in self.plot.spines.values():
            spine.set_color(ink)
            spine.set_linewidth(1.0 * _PT)
        self.figure.text(
            (_LEFT + _RIGHT) / 2 / WIDTH, 6 / HEIGHT, "Lap", ha="center", va="bottom", fontsize=11.0, color=ink, parse_math=False
        )
        self.figure.text(
            4 / WIDTH,
            (_BOTTOM + _TOP) / 2 / HEIGHT,
            "Average lap speed (km/h)",
            ha="left",
            va="center",
            rotation=90,
            fontsize=11.0,
            color=ink,
            parse_math=False,
        )

    def _add_moving(self) -> None:
        """What differs per picture; all above the shared part, so that drawing it last is drawing it in order."""

        def line(colour: tuple[int, int, int], zorder: float, **style: Any) -> Line2D:
            artist = Line2D([], [], color=as_hex(colour), zorder=zorder, clip_on=False, animated=True, **style)
            self.plot.add_line(artist)
            return artist

        def markers(colour: tuple[int, int, int], zorder: float, marker: str, pixels: float) -> Line2D:
            return line(colour, zorder, linestyle="none", marker=marker, markersize=pixels * _PT, markeredgewidth=0.0)

        self.mean_line = line(MEAN, 10.0, linewidth=4.0 * _PT, solid_capstyle="butt")
        self.trace_line = line(TRACE, 11.0, linewidth=4.5 * _PT, solid_capstyle="round", solid_joinstyle="round")
        self.alone = markers(TRACE, 12.0, "o", 7.0)
        self.clipped = markers(CLIPPED, 13.0, "v", 9.0)
        self.worst = markers(WORST, 14.0, "v", 15.0)
        self.best = markers(BEST, 15.0, "^", 15.0)
        self.title = Label(_LEFT, 576, INK, size=17, bold=True)
        self.best_text = Label(_LEFT, 553, BEST, size=15)
        self.mean_text = Label((_LEFT + _RIGHT) // 2, 553, MEAN, size=15, align=0.5)
        self.worst_text = Label(_RIGHT, 553, WORST, size=15, align=1.0)
        for label in (self.title, self.best_text, self.mean_text, self.worst_text):
            self.figure.add_artist(label)
        self.moving: tuple[Artist, ...] = (
            self.mean_line,
            self.trace_line,
            self.alone,
            self.clipped,
            self.worst,
            self.best,
            self.title,
            self.best_text,
            self.mean_text,
            self.worst_text,
        )

    def show(self, trace: LapTrace, title: str) -> None:
        """Give every moving artist this picture's content; nothing of the picture before remains."""
        laps, speeds = trace.lap_numbers, trace.speeds_kph
        low, high = self.race_axes.speed_low_kph, self.race_axes.speed_high_kph
        pixel = (high - low) / (_TOP - _BOTTOM)
        drawn = np.clip(speeds, low, high)
        mean, worst, best = trace.mean_kph, int(np.argmin(speeds)), int(np.argmax(speeds))
        level = min(max(mean, low), high)
        self.mean_line.set_data([0.0, self.race_axes.max_lap + 0.5], [level, level])

        breaks = np.flatnonzero(np.diff(laps) > 1) + 1
        self.trace_line.set_data(np.insert(laps.astype(np.float64), breaks, np.nan), np.insert(drawn, breaks, np.nan))
        # A lap between two gaps has no line to lie on.
        starts, ends = np.r_[0, breaks], np.r_[breaks, len(laps)]
        single = starts[ends - starts == 1]
        self.alone.set_data(laps[single], drawn[single])

        below = speeds < low
        self.clipped.set_data(laps[below], np.full(int(below.sum()), low + 5.0 * pixel))
        self.worst.set_data([laps[worst]], [max(drawn[worst], low + 8.0 * pixel)])
        self.best.set_data([laps[best]], [min(drawn[best], high - 8.0 * pixel)])
        self.alone.set_visible(len(single) > 0)
        self.clipped.set_visible(bool(below.any()))

        span = f"lap {laps[0]}" if len(laps) == 1 else f"laps {laps[0]}-{laps[-1]}"
        name = " ".join(title.split())
        if len(name) > _TITLE_CHARACTERS - len(span):
            name = name[: _TITLE_CHARACTERS - len(span) - 1] + "…"
        self.title.set_text(f"{name}, {span}" if name else span)
        self.best_text.set_text(f"max {speeds[best]:.1f} km/h (lap {laps[best]})")
        self.mean_text.set_text(f"mean {mean:.1f} km/h")
        self.worst_text.set_text(f"min {speeds[worst]:.1f} km/h (lap {laps[worst]})")

    def blit(self, trace: LapTrace, title: str) -> None:
        """Put the picture on the canvas: the kept shared part, then this car's artists."""
        self.show(trace, title)
        self.canvas.restore_region(self._region)  # type: ignore[attr-defined]
        renderer = self.canvas.get_renderer()
        for artist in self.moving:
            if artist.get_visible():
                artist.draw(renderer)

    def palette_index(self) -> ByteArray:
        """(600, 801) indices of the canvas; only pixels that differ from the shared part are looked up."""
        words = self._words()
        touched = np.flatnonzero(words != self._background)
        index = self._background_index.copy()
        index.reshape(-1)[touched + touched // WIDTH + 1] = palette_index(words[touched])
        return index


def _new_sheet(axes: RaceAxes) -> _Sheet:
    with matplotlib.style.context("default"):
        return _Sheet(axes)
