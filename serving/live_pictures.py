"""Speed traces drawn for an answer, and their embeddings, which are kept: a picture seen before is neither drawn nor embedded.

Equal laps, axes and title give equal pixels (see `ml.traces.renderer`), so they stand for the picture. Between two laps of a race
a prediction then costs no drawing and no network; when the leader starts a lap, only what changed is drawn.
"""

import functools
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from feast import FeatureStore
from numpy.typing import NDArray

from feature_repo.settings import Settings
from feature_repo.spine import Moment, unknown
from ml.encoders.vision import VisionEncoder
from ml.rows import EMBEDDING_DIM
from ml.traces.axes import race_axes
from ml.traces.batch import picture_title
from ml.traces.laps import LapTrace, lap_trace
from ml.traces.renderer import RaceAxes, TraceRenderer
from serving.past_lookup import lookup_past
from serving.races import Race, cars_at, driver_names, moment_point, race_of

TRACE_SERVICE = "speed_trace_v1"
KEEP = 4096  # pictures; an embedding and its key take 3 kB
_Key = tuple[bytes, bytes, RaceAxes, str]
_Car = tuple[str, str, tuple[Any, ...], tuple[Any, ...]]  # driver_id, name, lap numbers, speeds


@dataclass(frozen=True)
class Drawing:
    """Everything that one picture shows.

    Attributes:
        trace: the car's laps.
        axes: common to the race.
        title: race and driver.
    """

    trace: LapTrace
    axes: RaceAxes
    title: str

    @property
    def key(self) -> _Key:
        """Equal for equal pictures."""
        return self.trace.lap_numbers.tobytes(), self.trace.speeds_kph.tobytes(), self.axes, self.title


def drawings(
    race_id: str, race: Race, names: Mapping[str, str], traces: Mapping[str, NDArray[Any]]
) -> tuple[Drawing | None, ...]:
    """What each car's picture shows; None for a car without a lap.

    Args:
        race_id: the race.
        race: its name and distance.
        names: driver_id -> name.
        traces: `driver_id` and the features of `speed_trace_v1`: the cars of the race at one moment.
    Raises:
        InvalidLapDataError: a car's laps cannot be drawn.
    """
    cars = zip(traces["driver_id"], traces["lap_numbers"], traces["lap_speeds_kph"], strict=True)
    return _drawings(race_id, race, tuple((car, names[car], _as_tuple(laps), _as_tuple(speeds)) for car, laps, speeds in cars))


@functools.lru_cache(maxsize=32)
def _drawings(race_id: str, race: Race, cars: tuple[_Car, ...]) -> tuple[Drawing | None, ...]:
    """Kept for some races: checking every lap and finding the axes take 1 ms a race."""
    drawn = {car: lap_trace(laps, speeds, where=f"{race_id} {car}") for car, _, laps, speeds in cars if laps}
    if not drawn:
        return (None,) * len(cars)
    axes = race_axes(drawn, race.scheduled_laps)
    return tuple(
        Drawing(drawn[car], axes, picture_title(race_id, race.name, name, is_simulated=race.is_simulated))
        if car in drawn
        else None
        for car, name, _, _ in cars
    )


def trace_png(
    settings: Settings, store: FeatureStore, renderer: TraceRenderer, race_id: str, driver_id: str, moment: Moment
) -> bytes | None:
    """The picture of one car at a moment, from the laps that were known then; None for a car without a lap.

    Args:
        settings: which home.
        store: its open store.
        renderer: draws.
        race_id: the race.
        driver_id: the driver.
        moment: of the race.
    Raises:
        UnknownEntityError: no such race, or the driver is not in it.
        InvalidMomentError, NotKnownYetError: the race has no such moment.
    """
    point = moment_point(settings, race_id, moment)
    cars = cars_at(settings, race_id, point.as_of)
    if driver_id not in cars["driver_id"]:
        raise unknown("driver_id", driver_id, cars["driver_id"], where=f" in race {race_id}")
    moments_us = np.full(len(cars["driver_id"]), point.as_of.value // 1000, dtype=np.int64)
    traces = {"driver_id": np.array(cars["driver_id"], dtype=object)} | lookup_past(
        store, TRACE_SERVICE, cars, moments_us
    ).arrays()
    names, race = driver_names(settings, race_id, point.as_of), race_of(settings, race_id, point.as_of)
    drawing = drawings(race_id, race, names, traces)[cars["driver_id"].index(driver_id)]
    if drawing is None:
        return None
    return renderer.render(drawing.trace.lap_numbers, drawing.trace.speeds_kph, drawing.axes, title=drawing.title)


class PictureEmbeddings:
    """Embeddings of drawings by one encoder, the most recently used ones kept. Safe to share between threads.

    Args:
        renderer: draws.
        keep: how many are kept; 0 keeps none.
    """

    def __init__(self, renderer: TraceRenderer, *, keep: int = KEEP) -> None:
        self._renderer = renderer
        self._keep = keep
        self._kept: OrderedDict[_Key, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def embed(self, drawn: Sequence[Drawing | None], encoder: VisionEncoder) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Embeddings of the pictures of a race.

        Args:
            drawn: per car what its picture shows, or None.
            encoder: always the same one.
        Returns:
            (cars, 512) float32, zero where there is no picture, and (cars,) bool: there is one.
        """
        embedding = np.zeros((len(drawn), EMBEDDING_DIM), dtype=np.float32)
        has_picture = np.array([drawing is not None for drawing in drawn], dtype=bool)
        keys = {car: drawing.key for car, drawing in enumerate(drawn) if drawing is not None}
        known = self._recall(keys.values())
        new = [car for car, key in keys.items() if key not in known]
        if new:
            pixels = np.stack([self._pixels(drawn[car]) for car in new])
            known |= dict(zip((keys[car] for car in new), encoder.embed_arrays(pixels), strict=True))
            self._remember({keys[car]: known[keys[car]] for car in new})
        for car, key in keys.items():
            embedding[car] = known[key]
        return embedding, has_picture

    def _pixels(self, drawing: Drawing | None) -> NDArray[np.uint8]:
        assert drawing is not None
        trace = drawing.trace
        return self._renderer.render_pixels(trace.lap_numbers, trace.speeds_kph, drawing.axes, title=drawing.title)

    def _recall(self, keys: Iterable[_Key]) -> dict[_Key, NDArray[np.float32]]:
        with self._lock:
            known = {key: self._kept[key] for key in keys if key in self._kept}
            for key in known:
                self._kept.move_to_end(key)
        return known

    def _remember(self, new: dict[_Key, NDArray[np.float32]]) -> None:
        with self._lock:
            self._kept.update({key: embedding.copy() for key, embedding in new.items()})
            while len(self._kept) > self._keep:
                self._kept.popitem(last=False)


def _as_tuple(values: Any) -> tuple[Any, ...]:
    """Laps of one car as Feast gives them: a list, an array, or None or NaN for none."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    return tuple(values) if isinstance(values, list) else ()
