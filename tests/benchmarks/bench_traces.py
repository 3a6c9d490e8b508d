"""Rendering a race's pictures against `plt.subplots` + `savefig` of the same content, in one process on one core.

Measured on a shared 2-core machine with Matplotlib 3.11: see docs/traces.md for the figure and the command.
"""

import io
import time
from collections.abc import Callable
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt

from ml.traces.axes import RaceAxes, race_axes
from ml.traces.laps import LapTrace, lap_trace
from ml.traces.renderer import TraceRenderer

_CARS, _LAPS, _SCHEDULED = 20, 30, 60
_RACES, _REPEATS = 10, 5


def _race(seed: int) -> dict[str, LapTrace]:
    """A synthetic race at half distance: fuel burning off, noise, a slow first lap, one pit lap."""
    rng = np.random.default_rng(seed)
    laps = np.arange(1, _LAPS + 1)
    traces = {}
    for car in range(_CARS):
        speeds = 210.0 - 0.15 * car + 0.05 * laps + rng.normal(0.0, 0.5, _LAPS)
        speeds[0] -= 25.0
        speeds[rng.integers(10, 25)] -= 35.0
        traces[f"car_{car}"] = lap_trace(laps, speeds)
    return traces


def _naive(trace: LapTrace, axes: RaceAxes, title: str) -> bytes:
    """The picture as one would first write it: a new figure each time."""
    laps, speeds = trace.lap_numbers, trace.speeds_kph
    drawn = np.clip(speeds, axes.speed_low_kph, axes.speed_high_kph)
    figure, plot = plt.subplots(figsize=(8, 6), dpi=100)
    plot.axhline(trace.mean_kph, color="tab:orange", linewidth=3)
    plot.plot(laps, drawn, color="tab:blue", linewidth=3)
    clipped = laps[speeds < axes.speed_low_kph]
    plot.plot(clipped, np.full(len(clipped), axes.speed_low_kph), "v", color="gray")
    best, worst = int(np.argmax(speeds)), int(np.argmin(speeds))
    plot.plot(laps[best], drawn[best], "^", color="green", markersize=10)
    plot.plot(laps[worst], drawn[worst], "v", color="purple", markersize=10)
    plot.set_xlim(0, axes.max_lap)
    plot.set_ylim(axes.speed_low_kph, axes.speed_high_kph)
    plot.set_xlabel("Lap")
    plot.set_ylabel("Average lap speed (km/h)")
    plot.set_title(f"{title}, laps 1-{laps[-1]}")
    plot.grid(True)
    text = f"max {speeds[best]:.1f}  mean {trace.mean_kph:.1f}  min {speeds[worst]:.1f} km/h"
    plot.text(0.02, 0.02, text, transform=plot.transAxes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return buffer.getvalue()


def _seconds(draw: Callable[[LapTrace, RaceAxes, str], Any], races: list[dict[str, LapTrace]]) -> float:
    """CPU seconds of this process for every picture of `races`, axes included: waiting for a busy machine does not count."""
    started = time.process_time()
    for number, traces in enumerate(races):
        axes = race_axes(traces, _SCHEDULED)
        for driver_id, trace in traces.items():
            draw(trace, axes, f"2024_{number + 1:02d} Benchmark Grand Prix, {driver_id}")
    return time.process_time() - started


def run(*, quick: bool = False) -> list[dict[str, Any]]:
    """One row: seconds a picture, ours (PNG bytes, new axes for each race of 20) and naive; the two take turns.

    `equal` is whether every picture is, before the palette, pixel for pixel the one that redrawing everything gives.
    """
    races = [_race(seed) for seed in range(1 if quick else _RACES)]
    renderer = TraceRenderer()

    def ours(trace: LapTrace, axes: RaceAxes, title: str) -> bytes:
        return renderer.render(trace.lap_numbers, trace.speeds_kph, axes, title=title)

    _seconds(ours, races[:1])
    _seconds(_naive, [{"car_0": races[0]["car_0"]}])
    some = [dict(list(races[0].items())[: 2 if quick else _CARS])]
    turns = [(_seconds(ours, races), _seconds(_naive, some)) for _ in range(1 if quick else _REPEATS)]
    ours_s, naive_s = (min(side) for side in zip(*turns, strict=True))
    ours_s, naive_s = ours_s / (len(races) * _CARS), naive_s / len(some[0])
    equal = True
    for traces in races[:2]:
        axes = race_axes(traces, _SCHEDULED)
        for driver_id, trace in list(traces.items())[: 2 if quick else _CARS]:
            fast = renderer.blit(trace.lap_numbers, trace.speeds_kph, axes, title=driver_id)
            equal &= bool(np.array_equal(fast, renderer.redraw(trace.lap_numbers, trace.speeds_kph, axes, title=driver_id)))
    return [
        {
            "name": "render a speed trace, per picture and core, against plt.subplots + savefig",
            "ours_s": ours_s,
            "reference_s": naive_s,
            "ratio": naive_s / ours_s,
            "goal": 15.0,
            "equal": equal,
        }
    ]
