"""The whole loop as a short list of steps, each an ordinary function that skips what is up to date.

    ingest -> features -> apply -> materialize -> traces -> embed -> train -> evaluate -> promote

Every step reads what the one before wrote and can be run alone. A run that was killed is run again: it does what is left.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from feature_repo.console import json_value
from feature_repo.progress import Progress
from feature_repo.settings import Settings
from pipelines.ingest.base import Source
from pipelines.ingest.run import ingest

STEPS = ("ingest", "features", "apply", "materialize", "traces", "embed", "train", "evaluate", "promote")


@dataclass(frozen=True)
class StepOutcome:
    """How one step went.

    Attributes:
        step: its name.
        seconds: wall time.
        peak_mib: largest memory of this process so far, MiB (child processes not counted).
        report: what the step reported.
    """

    step: str
    seconds: float
    peak_mib: float
    report: dict[str, Any]


def run_all(
    settings: Settings,
    source: Source,
    seasons: Sequence[int],
    *,
    progress: Callable[[str], Progress] | None = None,
    on_step: Callable[[StepOutcome], None] | None = None,
) -> list[StepOutcome]:
    """Every step in order. Safe to repeat: with nothing changed, nothing is computed again.

    Args:
        settings: which home.
        source: where races come from.
        seasons: seasons to ingest.
        progress: given a step's name, returns the callback that the step reports its progress to.
        on_step: told after each step.
    """
    outcomes = []
    for step in STEPS:
        started = time.perf_counter()
        tell = progress(step) if progress else None
        report = (
            ingest(settings, source, seasons, progress=tell).to_json() if step == "ingest" else run_step(step, settings, tell)
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024.0 if sys.platform != "darwin" else 1024.0**2)
        outcome = StepOutcome(step, round(time.perf_counter() - started, 2), round(peak, 1), report)
        outcomes.append(outcome)
        if on_step is not None:
            on_step(outcome)
    return outcomes


def run_step(step: str, settings: Settings, progress: Progress | None = None) -> dict[str, Any]:
    """One step after `ingest` by name; its report as JSON.

    Imports are here because torch, MLflow and Feast cost seconds that a step without them need not pay.
    """
    if step == "features":
        from pipelines.features.build import build_features

        return as_json(build_features(settings, progress=progress))
    if step == "apply":
        from feature_repo.store import apply

        return as_json(apply(settings))
    if step == "materialize":
        from pipelines.materialize import materialize

        return as_json(materialize(settings, progress=progress))
    if step == "traces":
        from pipelines.traces import render_traces

        return as_json(render_traces(settings, progress=progress))
    if step == "embed":
        from pipelines.embeddings import embed_traces

        return as_json(embed_traces(settings, progress=progress))
    if step == "train":
        from pipelines.training import train

        return train(settings, progress=progress).to_json()
    if step == "evaluate":
        from pipelines.evaluation import evaluate

        return evaluate(settings, progress=progress)
    if step == "promote":
        from pipelines.promotion import promote

        return promote(settings).to_json()
    raise ValueError(f"step: got {step!r}, expected one of {', '.join(STEPS[1:])}")


def as_json(report: Any) -> dict[str, Any]:
    """A step's report as JSON: its own form if it has one, else its fields."""
    if hasattr(report, "to_json"):
        return dict(report.to_json())
    if is_dataclass(report) and not isinstance(report, type):
        return dict(json.loads(json.dumps(asdict(report), default=json_value)))
    raise TypeError(f"report: got {type(report).__name__}, expected a dataclass")
