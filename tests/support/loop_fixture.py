"""The fixture `loop`, for every folder of tests that asks the one trained home: its conftest imports it from here."""

import os
import time
import warnings

import filelock
import pytest
from loop_setup import Loop, loop_settings, loop_source

from feature_repo.files import read_json, write_json
from pipelines.flows import run_all


@pytest.fixture(scope="session")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Loop:
    """Every step on 12 simulated races (35 s of CPU), once for all test processes. Whoever needs to change it copies it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    settings, done = loop_settings(shared / "loop" / "home"), shared / "loop" / "steps.json"
    with filelock.FileLock(shared / "loop.lock"):
        if not done.exists():
            source = loop_source()
            started = time.perf_counter()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", module="mlflow")
                steps = [vars(outcome) for outcome in run_all(settings, source, source.years)]
            write_json(done, {"steps": steps, "seconds": time.perf_counter() - started})
    return Loop(settings, **read_json(done))
