"""The leak probe on many moments: how much is compared, that all of it is equal, and what a moment costs.

A home is made for it: simulated seasons, every step up to trained models with an encoder of seeded random weights. Moments are
chosen by the seed among ends of laps, instants in the middle of laps, lights out and the half hour before. At each the home is
asked for everything it says, then asked again as computed anew from a lake without its future, and from one with another future.
The reference is what the same answers cost without the probe: asking the home once. `equal`: not one bit differs.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from feature_repo.settings import Settings
from feature_repo.spine import load_moments, resolve_moment
from ml.served_model import ServedModel
from ml.torch_threads import one_thread
from pipelines.flows import run_step
from pipelines.ingest.run import ingest
from pipelines.ingest.simulator import SimulatorSource
from pipelines.leak.answer import ask
from pipelines.leak.probe import choose_moments, linked_home, probe

MODELS = ("ensemble", "fusion_best")


def run(*, quick: bool = False) -> list[dict[str, Any]]:
    """One row: seconds a moment with both ways of taking the future away, against asking once."""
    with tempfile.TemporaryDirectory() as folder, one_thread():
        settings = Settings(home=Path(folder) / "home", encoder="random", threads=1, seed=7)
        source = SimulatorSource(seasons=1 if quick else 3, races=2 if quick else 8, seed=settings.seed)
        ingest(settings, source, source.years)
        for step in ("features", "apply", "traces", "embed", "train"):
            run_step(step, settings)
        return [_measure(settings, Path(folder) / "linked", n_moments=2 if quick else 40)]


def _measure(settings: Settings, scratch: Path, *, n_moments: int) -> dict[str, Any]:
    models = [ServedModel(settings.models_dir / name) for name in MODELS]
    moments = choose_moments(settings, n_moments, seed=settings.seed)
    home = linked_home(settings, scratch)
    calendar = load_moments(settings)
    started = time.perf_counter()
    for race_id, moment in moments:
        ask(home, race_id, resolve_moment(calendar, race_id, moment).as_of, models)
    once = (time.perf_counter() - started) / n_moments
    found = probe(settings, moments, models=models)
    a_moment = found.seconds / n_moments
    compared = ", ".join(f"{count:,} {what}" for what, count in vars(found.counts).items())
    return {
        "name": f"probe {n_moments} moments for leaks, a moment",
        "ours_s": a_moment,
        "reference_s": once,
        "ratio": once / a_moment,
        "goal": None,
        "equal": not found.leaks,
        "detail": f"compared {compared} of {len(calendar['race_id'].unique())} races; {len(found.leaks)} differ"
        + "".join(f"; {leak}" for leak in found.leaks[:3]),
    }


if __name__ == "__main__":
    for row in run():
        print(
            f"{row['name']}: {row['ours_s']:.1f} s, asked once {row['reference_s']:.1f} s; equal {row['equal']}; {row['detail']}"
        )
