"""A warm prediction for a race under way, Feast lookup included, against the same answer without anything kept between calls.

A home is made for it: simulated seasons, every step up to training with an encoder of seeded random weights in the input encoding
and arithmetic of a taught one (how good the models are plays no part here), and an online store that ends at half distance of the
newest race, so that this race is live. The reference reads the home's files, draws every picture, writes it as PNG, reads it back
and embeds it for every answer. Both sides take turns. Seconds are medians of processor seconds of one thread, so that waiting for
a busy machine does not count; `detail` has the wall time. `equal`: the same probabilities, also after the race has gone on by a
lap, which changes the pictures.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from feast import FeatureStore
from numpy.typing import NDArray

from feature_repo.settings import Settings
from feature_repo.spine import Moment, load_entrants, load_moments, resolve_moment
from feature_repo.store import open_store
from ml.assignment import assign_positions
from ml.encoders import pretrain, transforms
from ml.encoders.weights import LoadedWeights, state_sha256, store_weights
from ml.rows import EMBEDDING_DIM
from ml.served_model import ServedModel, decode_pictures, tabular_array
from ml.torch_threads import one_thread
from ml.traces.axes import race_axes
from ml.traces.batch import picture_title
from ml.traces.laps import lap_trace
from ml.traces.renderer import TraceRenderer
from pipelines.flows import run_step
from pipelines.ingest.run import ingest
from pipelines.ingest.simulator import SimulatorSource
from pipelines.materialize import materialize
from serving.lookup import lookup_grid
from serving.prediction import ModelInUse, Prediction
from serving.predictor import TRACE_SERVICE, Predictor

BASELINE, FUSION = "ensemble", "fusion_best"
GOAL_S = 0.012
SAME = 1e-9  # largest difference of a probability


def run(*, quick: bool = False) -> list[dict[str, Any]]:
    """Three rows: the tabular baseline, the fusion model with pictures embedded before, and with every picture new."""
    with tempfile.TemporaryDirectory() as folder, one_thread():
        home = Path(folder)
        settings = Settings(home=home, encoder=str(_weights_file(home / "random.safetensors")), threads=1, seed=7)
        race_id, lap = _make_home(settings, seasons=1 if quick else 2, races=2 if quick else 10)
        return _measure(settings, race_id, lap, repeats=1 if quick else 100)


def _weights_file(path: Path) -> Path:
    pictures = pretrain.draw_race(np.random.default_rng(7), cars=8).pictures
    state = pretrain.random_state(7, pictures, transform=transforms.TRACE)
    store_weights(LoadedWeights("file", state, state_sha256(state), "for a benchmark", transforms.TRACE), path)
    return path


def _make_home(settings: Settings, *, seasons: int, races: int) -> tuple[str, int]:
    """Everything up to trained models, and the newest race live: its id and the lap its leader has completed."""
    source = SimulatorSource(seasons=seasons, races=races, seed=settings.seed)
    ingest(settings, source, source.years)
    for step in ("features", "apply"):
        run_step(step, settings)
    moments = load_moments(settings)
    race_id = str(moments["race_id"].max())
    point = resolve_moment(moments, race_id, Moment.parse("fraction:0.5"))
    materialize(settings, until=point.as_of)
    for step in ("traces", "embed", "train"):
        run_step(step, settings)
    return race_id, point.lap


def _measure(settings: Settings, race_id: str, lap: int, *, repeats: int) -> list[dict[str, Any]]:
    store = open_store(settings)
    baseline, fusion = (_predictor(settings, store, name) for name in (BASELINE, FUSION))
    forgetful = Predictor(settings, store, fusion.served, fusion.model, keep_pictures=0)
    cases = [
        ("tabular baseline", baseline, repeats, GOAL_S),
        ("fusion, pictures embedded before", fusion, repeats, GOAL_S),
        ("fusion, every picture new", forgetful, repeats // 12 + 1, None),
    ]
    rows: list[dict[str, Any]] = []
    differences = []
    for what, predictor, times, goal_s in cases:
        naive = _Naive(settings, store, predictor.served)
        differences.append(_difference(predictor.predict_live(race_id), naive(race_id)))
        ours, reference = _in_turns(predictor.predict_live, naive, race_id, times)
        rows.append(
            {
                "name": f"predict a live race of {_cars(settings, race_id)} cars, Feast lookup included: {what}",
                "ours_s": float(np.median(ours[0])),
                "reference_s": float(np.median(reference[0])),
                "ratio": float(np.median(reference[0]) / np.median(ours[0])),
                "goal": None,
                "goal_s": goal_s,
                "detail": (
                    f"wall p50 {1e3 * np.median(ours[1]):.1f} ms, p95 {1e3 * np.percentile(ours[1], 95):.1f} ms of {len(ours[1])}"
                ),
            }
        )
    materialize(settings, until=resolve_moment(load_moments(settings), race_id, Moment("lap", lap=lap + 1)).as_of)
    for (_, predictor, _, _), row, before in zip(cases, rows, differences, strict=True):
        after = _difference(predictor.predict_live(race_id), _Naive(settings, store, predictor.served)(race_id))
        row["equal"] = max(before, after) <= SAME
        row["detail"] += f"; probabilities differ by {before:.0e}, a lap later by {after:.0e}"
    return rows


def _predictor(settings: Settings, store: FeatureStore, name: str) -> Predictor:
    served = ServedModel(settings.models_dir / name)
    return Predictor(settings, store, served, ModelInUse(name, "0", "benchmark", served.origin.feature_service, None, ""))


class _Naive:
    """An answer as one would first write it: one race from files, online store and pictures to probabilities by driver."""

    def __init__(self, settings: Settings, store: FeatureStore, served: ServedModel) -> None:
        self.settings, self.store, self.served = settings, store, served
        self.renderer = TraceRenderer()

    def __call__(self, race_id: str) -> dict[str, NDArray[np.float64]]:
        entrants, moments = load_entrants(self.settings), load_moments(self.settings)
        names = entrants[entrants["race_id"] == race_id].set_index("driver_id")["driver_name"]
        drivers = sorted(names.index)
        grid = lookup_grid(self.store, race_id=race_id, driver_ids=drivers, service=self.served.origin.feature_service)
        tabular = tabular_array(grid.frame(expired_at=grid.newest()), self.served.specs)
        embedding, has_picture = np.zeros((len(drivers), EMBEDDING_DIM), dtype=np.float32), np.zeros(len(drivers), dtype=bool)
        if self.served.uses_pictures:
            race = moments[moments["race_id"] == race_id].iloc[0]
            traces = lookup_grid(self.store, race_id=race_id, driver_ids=drivers, service=TRACE_SERVICE).frame()
            drawn = {
                row.driver_id: lap_trace(row.lap_numbers, row.lap_speeds_kph)
                for row in traces.itertuples()
                if row.lap_numbers is not None and len(row.lap_numbers)
            }
            axes = race_axes(drawn, int(race["scheduled_laps"]))
            pictures = [
                self.renderer.render(
                    trace.lap_numbers,
                    trace.speeds_kph,
                    axes,
                    title=picture_title(race_id, race["name"], names[driver_id], is_simulated=bool(race["is_simulated"])),
                )
                for driver_id, trace in drawn.items()
            ]
            has_picture = np.array([driver_id in drawn for driver_id in drivers])
            embedding[has_picture] = self.served.encoder().embed_arrays(decode_pictures(pictures))
        probabilities = self.served.predict_embedded(tabular, embedding, has_picture)
        assign_positions(probabilities, np.zeros(len(drivers), dtype=np.int64))
        return dict(zip(drivers, probabilities, strict=True))


def _difference(said: Prediction, expected: dict[str, NDArray[np.float64]]) -> float:
    """Largest difference of any probability; infinite if other drivers were answered."""
    if sorted(driver.driver_id for driver in said.drivers) != sorted(expected):
        return float("inf")
    return max(float(np.abs(np.array(driver.probabilities) - expected[driver.driver_id]).max()) for driver in said.drivers)


_Times = tuple[list[float], list[float]]


def _in_turns(ours: Callable[[str], Any], reference: Callable[[str], Any], race_id: str, times: int) -> tuple[_Times, _Times]:
    """Processor and wall seconds of each call; the reference, which is slower, takes one turn in four."""
    measured: tuple[_Times, _Times] = (([], []), ([], []))
    for turn in range(times):
        for (processor, wall), call in zip(measured, (ours, reference), strict=True):
            if call is reference and turn % 4:
                continue
            wall_started, started = time.perf_counter(), time.process_time()
            call(race_id)
            processor.append(time.process_time() - started)
            wall.append(time.perf_counter() - wall_started)
    return measured


def _cars(settings: Settings, race_id: str) -> int:
    return int((load_entrants(settings)["race_id"] == race_id).sum())


if __name__ == "__main__":
    torch.set_num_threads(1)
    for row in run():
        print(f"{row['name']}: {1e3 * row['ours_s']:.1f} ms against {1e3 * row['reference_s']:.1f} ms; {row['detail']}")
