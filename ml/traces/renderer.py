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
from matplotlib.transforms import IdentityTransform
from numpy.typing import ArrayLike, NDArray

from ml.traces.axes import RaceAxes, race_axes, ticks
from ml.traces.label import Label, text_width
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
_TITLE_SIZE = 17
# All of a process's style that lines in pixel coordinates read, when they are made and when they are drawn.
_LINE_STYLE = {
    key: value for key, value in matplotlib.rcParamsDefault.items() if key.startswith(("lines.", "path.", "markers.", "agg."))
}
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
        self._sheet = _new_sheet()

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
        return np.take(palette(), index[:, 1:], axis=0)  # a quarter of the time of palette()[index]

    def redraw(self, laps: ArrayLike, speeds_kph: ArrayLike, axes: RaceAxes, *, title: str = "") -> ByteArray:
        """(600, 800, 4) uint8 RGBA by drawing every artist from nothing, before the palette: the reference for the fast path."""
        trace = lap_trace(laps, speeds_kph, where=title or "redraw")
        with _own_style():
            sheet = _new_sheet()
            sheet.set_axes(axes)
            sheet.show(trace, title)
            for artist in sheet.moving:
                artist.set_animated(False)
            sheet.canvas.draw()
            return np.array(sheet.canvas.buffer_rgba())

    def blit(self, laps: ArrayLike, speeds_kph: ArrayLike, axes: RaceAxes, *, title: str = "") -> ByteArray:
        """(600, 800, 4) uint8 RGBA of the fast path before the palette; equals `redraw`."""
        trace = lap_trace(laps, speeds_kph, where=title or "blit")
        with _own_style():
            self._draw(trace, axes, title)
            return np.array(self._sheet.canvas.buffer_rgba())

    def _draw(self, trace: LapTrace, axes: RaceAxes, title: str) -> None:
        self._sheet.set_axes(axes)
        self._sheet.blit(trace, title)

    def _index(self, trace: LapTrace, axes: RaceAxes, title: str) -> ByteArray:
        """(600, 801) palette indices with a leading column of PNG filter bytes (0 = none)."""
        self._draw(trace, axes, title)
        return self._sheet.palette_index()


class _Sheet:
    """A figure in pixel coordinates: the part that one race shares, kept as pixels, and the artists that differ per picture.

    It has no `Axes`: building and drawing one took longer than all twenty pictures of a race.
    """

    def __init__(self) -> None:
        self.axes: RaceAxes | None = None
        self.figure = Figure(figsize=(WIDTH / _DPI, HEIGHT / _DPI), dpi=_DPI, facecolor=as_hex(WHITE), edgecolor="none")
        self.canvas = FigureCanvasAgg(self.figure)
        self._shared: list[Artist] = []
        self.mean_line = _line(MEAN, linewidth=4.0 * _PT, solid_capstyle="butt")
        self.trace_line = _line(TRACE, linewidth=4.5 * _PT, solid_capstyle="round", solid_joinstyle="round")
        self.alone = _markers(TRACE, "o", 7.0)
        self.clipped = _markers(CLIPPED, "v", 9.0)
        self.worst = _markers(WORST, "v", 15.0)
        self.best = _markers(BEST, "^", 15.0)
        self.title = Label(_LEFT, 576, INK, size=_TITLE_SIZE, bold=True)
        self.best_text = Label(_LEFT, 553, BEST, size=15)
        self.mean_text = Label((_LEFT + _RIGHT) // 2, 553, MEAN, size=15, align=0.5)
        self.worst_text = Label(_RIGHT, 553, WORST, size=15, align=1.0)
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
        for place, artist in enumerate(self.moving):
            artist.set_animated(True)
            artist.set_zorder(10.0 + place)  # above all that is shared, so that drawing them last is drawing in order
            self.figure.add_artist(artist)

    def set_axes(self, axes: RaceAxes) -> None:
        """Draw and keep what the race's pictures share."""
        if self.axes == axes:
            return
        self.axes = None  # an error half-way must not leave half of it in use
        for artist in self._shared:
            artist.remove()
        self._shared = _shared_artists(axes)
        for place, artist in enumerate(self._shared):
            artist.set_zorder(place / len(self._shared))
            self.figure.add_artist(artist)
        self.canvas.draw()
        self._region = self.canvas.copy_from_bbox(self.figure.bbox)  # type: ignore[attr-defined]
        self._background = self._words().copy()
        self._background_index = np.zeros((HEIGHT, WIDTH + 1), dtype=np.uint8)
        self._background_index[:, 1:] = palette_index(self._background).reshape(HEIGHT, WIDTH)
        self.axes = axes

    def _words(self) -> NDArray[np.uint32]:
        """(480000,) RGBA words of the canvas, a view."""
        return np.frombuffer(self.canvas.buffer_rgba(), dtype="<u4")

    def show(self, trace: LapTrace, title: str) -> None:
        """Give every moving artist this picture's content; nothing of the picture before remains."""
        assert self.axes is not None
        laps, speeds = trace.lap_numbers, trace.speeds_kph
        drawn = np.clip(speeds, self.axes.speed_low_kph, self.axes.speed_high_kph)
        x, y = _x(laps, self.axes), _y(drawn, self.axes)
        mean, worst, best = trace.mean_kph, int(np.argmin(speeds)), int(np.argmax(speeds))
        level = float(_y(min(max(mean, self.axes.speed_low_kph), self.axes.speed_high_kph), self.axes))
        self.mean_line.set_data([_LEFT, _RIGHT], [level, level])

        breaks = np.flatnonzero(np.diff(laps) > 1) + 1
        self.trace_line.set_data(np.insert(x, breaks, np.nan), np.insert(y, breaks, np.nan))
        # A lap between two gaps has no line to lie on.
        starts, ends = np.r_[0, breaks], np.r_[breaks, len(laps)]
        single = starts[ends - starts == 1]
        self.alone.set_data(x[single], y[single])
        self.alone.set_visible(len(single) > 0)

        below = speeds < self.axes.speed_low_kph
        self.clipped.set_data(x[below], np.full(int(below.sum()), _BOTTOM + 5.0))
        self.clipped.set_visible(bool(below.any()))
        self.worst.set_data([x[worst]], [max(y[worst], _BOTTOM + 8.0)])
        self.best.set_data([x[best]], [min(y[best], _TOP - 8.0)])

        span = f"lap {laps[0]}" if len(laps) == 1 else f"laps {laps[0]}-{laps[-1]}"
        name = " ".join(title.split())
        shown = name
        while name and text_width(f"{shown}, {span}", _TITLE_SIZE, bold=True) > _RIGHT - _LEFT:
            name = name[:-1]
            shown = f"{name}…"
        self.title.set_text(f"{shown}, {span}" if shown else span)
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


def _shared_artists(axes: RaceAxes) -> list[Artist]:
    """Grid, frame, ticks and labels, from back to front."""
    across, up = ticks(0.0, axes.max_lap, 12), ticks(axes.speed_low_kph, axes.speed_high_kph, 11)
    columns, rows = np.round(_x(across, axes)), np.round(_y(up, axes))
    grid = [([column, column], [_BOTTOM, _TOP]) for column in columns] + [([_LEFT, _RIGHT], [row, row]) for row in rows]
    marks = [([column, column], [_BOTTOM - 4, _BOTTOM]) for column in columns] + [
        ([_LEFT - 4, _LEFT], [row, row]) for row in rows
    ]
    frame = ([_LEFT, _RIGHT, _RIGHT, _LEFT, _LEFT], [_BOTTOM, _BOTTOM, _TOP, _TOP, _BOTTOM])
    artists: list[Artist] = [_strokes(GRID, grid), _strokes(INK, [*marks, frame])]
    for column, value in zip(columns, across, strict=True):
        artists.append(_labelled(Label(int(column), _BOTTOM - 20, INK, size=14, align=0.5), f"{value:g}"))
    for row, value in zip(rows, up, strict=True):
        artists.append(_labelled(Label(_LEFT - 8, int(row) - 5, INK, size=14, align=1.0), f"{value:g}"))
    middle = (_LEFT + _RIGHT) // 2, (_BOTTOM + _TOP) // 2
    artists.append(_labelled(Label(middle[0], 9, INK, size=15, align=0.5), "Lap"))
    artists.append(_labelled(Label(18, middle[1], INK, size=15, align=0.5, upright=True), "Average lap speed (km/h)"))
    return artists


def _x(laps: NDArray[Any], axes: RaceAxes) -> NDArray[np.float64]:
    """Pixels from the left of lap numbers; half a lap is left free on the right for the last lap's marker."""
    return np.asarray(_LEFT + laps * ((_RIGHT - _LEFT) / (axes.max_lap + 0.5)), dtype=np.float64)


def _y(speeds_kph: NDArray[Any] | float, axes: RaceAxes) -> NDArray[np.float64]:
    """Pixels from the bottom of speeds."""
    scale = (_TOP - _BOTTOM) / (axes.speed_high_kph - axes.speed_low_kph)
    return np.asarray(_BOTTOM + (speeds_kph - axes.speed_low_kph) * scale, dtype=np.float64)


def _line(colour: tuple[int, int, int], **style: Any) -> Line2D:
    """An empty line in pixel coordinates."""
    return Line2D([], [], color=as_hex(colour), transform=IdentityTransform(), **style)


def _markers(colour: tuple[int, int, int], marker: str, pixels: float) -> Line2D:
    return _line(colour, linestyle="none", marker=marker, markersize=pixels * _PT, markeredgewidth=0.0)


def _strokes(colour: tuple[int, int, int], strokes: list[tuple[list[Any], list[Any]]]) -> Line2D:
    """Sharp lines one pixel wide."""
    line = _line(colour, linewidth=1.0 * _PT, linestyle="-", solid_capstyle="butt", antialiased=True, snap=True)
    line.set_data([v for xs, _ in strokes for v in [*xs, np.nan]], [v for _, ys in strokes for v in [*ys, np.nan]])
    return line


def _labelled(label: Label, text: str) -> Label:
    label.set_text(text)
    return label


def _new_sheet() -> _Sheet:
    with matplotlib.style.context("default"):
        return _Sheet()
