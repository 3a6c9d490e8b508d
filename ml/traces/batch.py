"""Renders many races, in this process or in a few others, with the same bytes either way."""

import functools
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

from ml.traces.axes import RaceAxes
from ml.traces.laps import LapTrace
from ml.traces.renderer import TraceRenderer


def picture_title(race_id: str, race_name: str, driver_name: str, *, is_simulated: bool) -> str:
    """The title of a car's picture, the same whoever draws it: batch and live pictures of one moment are equal bytes."""
    return f"{race_id} {race_name}{' SIMULATED' if is_simulated else ''}, {driver_name}"


@dataclass(frozen=True)
class Drawing:
    """One picture to draw: whose, which laps, under which title."""

    driver_id: str
    trace: LapTrace
    title: str


@dataclass(frozen=True)
class RaceJob:
    """The pictures of one race at one moment; they share their axes."""

    race_id: str
    axes: RaceAxes
    drawings: tuple[Drawing, ...]


def render_races(jobs: Sequence[RaceJob], *, processes: int = 1) -> Iterator[tuple[RaceJob, list[bytes]]]:
    """Each job with its PNGs, in the order of the jobs and of their drawings.

    Args:
        jobs: races to draw.
        processes: how many processes draw; 1 draws here. Starting others costs about a second, so they pay from some hundred
            pictures on.
    """
    if processes <= 1 or len(jobs) < 2:
        for job in jobs:
            yield job, _render(job)
        return
    # Started afresh: a fork would copy whatever threads and locks torch and Arrow hold in this process.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context, initializer=_end_with_parent) as pool:
        yield from zip(jobs, pool.map(_render, jobs), strict=True)


@functools.cache
def _renderer() -> TraceRenderer:
    return TraceRenderer()


def _render(job: RaceJob) -> list[bytes]:
    renderer = _renderer()
    return [
        renderer.render(drawing.trace.lap_numbers, drawing.trace.speeds_kph, job.axes, title=drawing.title)
        for drawing in job.drawings
    ]


def _end_with_parent() -> None:
    """A worker of a killed parent would wait for work for ever: it holds both ends of its own queue."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
