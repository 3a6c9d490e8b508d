"""The loop that tests share: its races, settings and environment. Light to import: nothing here needs torch, Feast or MLflow."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_repo.settings import Settings

if TYPE_CHECKING:
    from pipelines.ingest.simulator import SimulatorSource

MLFLOW_WARNS = "ignore:::mlflow"
"""Filter for tests that call MLflow: what it says about its own code is not ours to mend."""

SEASONS, RACES, SEED = 3, 4, 7
RUN = ("run", "--source", "simulator", "--seasons", str(SEASONS), "--races", str(RACES), "--seed", str(SEED))
"""The command line of the loop below."""


def loop_settings(home: Path) -> Settings:
    """Settings of the loop: an untrained encoder, so that none has to be taught, and one thread, so that results repeat."""
    return Settings(home=home, encoder="random", threads=1, seed=SEED, moment="fraction:0.5")


def loop_environment(home: Path) -> dict[str, str]:
    """The environment of a `pitwall` process with `loop_settings`: no settings of the developer, and none of Feast's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PITWALL_", "PROMETHEUS_"))}
    chosen = {"PITWALL_HOME": str(home), "PITWALL_ENCODER": "random", "PITWALL_THREADS": "1", "PITWALL_SEED": str(SEED)}
    return {**kept, **chosen, "OMP_NUM_THREADS": "1", "TZ": "UTC"}


def loop_source() -> "SimulatorSource":
    """The races of the loop."""
    from pipelines.ingest.simulator import SimulatorSource  # what it needs takes a second to load

    return SimulatorSource(seasons=SEASONS, races=RACES, seed=SEED)


@dataclass(frozen=True)
class Loop:
    """The home after one run of every step.

    Attributes:
        settings: of the home; tests that share it change nothing in it.
        steps: in order, `step`, `seconds`, `peak_mib`, `report` of each.
        seconds: wall time of all steps.
    """

    settings: Settings
    steps: list[dict[str, Any]]
    seconds: float

    def report(self, step: str) -> dict[str, Any]:
        """What a step reported."""
        return next(outcome["report"] for outcome in self.steps if outcome["step"] == step)


Pitwall = Callable[..., Any]
