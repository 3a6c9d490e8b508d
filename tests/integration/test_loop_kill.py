"""`pitwall run`, killed again and again at chosen instants, ends in the state of a run that was never killed."""

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from loop_home import content
from loop_setup import MLFLOW_WARNS, RUN, Loop, loop_environment, loop_settings

from pipelines.candidates import CANDIDATE

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)

# Where a run dies: module, class or "", function, and at which call. Each run gets further than the one before.
INSTANTS = (
    ("pipelines.features.build", "", "write_parquet", 7),  # features: some tables are new
    ("feature_repo.stores.online_sqlite", "PackedSqliteOnlineStore", "write_rows", 6),  # some views are online, others not
    ("ml.traces.store", "ImageArtifactStore", "_append", 100),  # a picture is there, its record is not
    ("ml.trainer", "MultiModalTrainer", "save_checkpoint", 7),  # the candidate's second net, half trained
    ("pipelines.promotion", "", "_store_record", 1),  # both versions are logged, the verdict is not
)

# One process loads the libraries and forks a `pitwall run` for each instant, then one that nobody kills.
SCRIPT = textwrap.dedent(
    """
    import importlib, json, os, signal, sys, traceback
    for name in ("feast", "mlflow.pyfunc", "torch", "pipelines.cli", "pipelines.embeddings", "pipelines.evaluation",
                 "feature_repo.stores.online_sqlite",
                 "pipelines.features.build", "pipelines.materialize", "pipelines.promotion", "pipelines.traces",
                 "pipelines.training", "ml.trainer", "ml.traces.store"):
        importlib.import_module(name)
    from pipelines import cli

    def run(instant):
        if instant is not None:
            module, owner, function, call = instant
            holder = importlib.import_module(module)
            holder = getattr(holder, owner) if owner else holder
            kept, calls = getattr(holder, function), iter(range(1, call))
            def dying(*args, **kwargs):
                if next(calls, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                return kept(*args, **kwargs)
            setattr(holder, function, dying)
        sys.argv = ["pitwall", *json.loads(sys.argv[2]), "--json"]
        cli.main()

    codes = []
    for instant in [*json.loads(sys.argv[1]), None]:
        child = os.fork()
        if child == 0:
            try:
                run(instant)
            except SystemExit as ended:
                sys.stdout.flush()
                os._exit(ended.code or 0)
            except BaseException:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(70)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    sys.stderr.write("codes " + json.dumps(codes))
    """
)


def test_a_run_killed_five_times_ends_as_a_clean_one(loop: Loop, tmp_path: Path) -> None:
    settings = loop_settings(tmp_path / "home")
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(INSTANTS), json.dumps(RUN)],
        capture_output=True, text=True, check=False, timeout=600, env=loop_environment(settings.home), cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    codes = json.loads(run.stderr.rsplit("codes ", 1)[1])
    assert codes == [-signal.SIGKILL] * len(INSTANTS) + [0], run.stderr
    last = json.loads(run.stdout)
    steps = {step["step"]: step["report"] for step in last["steps"]}
    assert steps["train"]["trained"] == [], "what was trained before the last kill was kept"
    assert not steps["promote"]["already_decided"]

    killed, clean = content(settings), content(loop.settings)
    for part, expected in clean.items():
        assert killed[part] == expected, part
    leftovers = [path for path in settings.home.rglob(".*tmp*") if path.is_file()]
    assert leftovers == []


def test_the_killed_training_had_left_checkpoints_to_resume_from(loop: Loop) -> None:
    """Otherwise the kill above would only have tested that training starts again."""
    written = sorted((loop.settings.checkpoints_dir / CANDIDATE).rglob("epoch_*.pt"))
    assert len(written) > 7
