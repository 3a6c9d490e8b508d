"""One run of the whole loop, shared by every test that asks for it, and the command line called in this process."""

import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from loop_fixture import loop
from loop_setup import Pitwall, loop_environment

from pipelines import cli

__all__ = ["loop", "pitwall"]


@dataclass(frozen=True)
class Said:
    """How a command ended: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def pitwall(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Pitwall]:
    """`pitwall("status", "--json", home=...)`: the console script's `main` in this process, with the settings of the loop.

    What it does to logging is undone afterwards; the working directory is an empty folder.
    """
    monkeypatch.chdir(tmp_path)
    packages = [logging.getLogger(name) for name in ("feature_repo", "ml", "pipelines", "serving", "mlflow", "alembic", "feast",
                                                     "torch", "matplotlib", "py.warnings")]  # fmt: skip
    levels, root = [logger.level for logger in packages], logging.getLogger()
    handlers, root_level = list(root.handlers), root.level

    def call(*arguments: str, home: Path | None = None) -> Said:
        for name in [name for name in os.environ if name.startswith("PITWALL_")]:
            monkeypatch.delenv(name)
        environment = loop_environment(home or tmp_path / "home")
        for name, value in environment.items():
            if name.startswith("PITWALL_") and not (name == "PITWALL_HOME" and home is None):
                monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["pitwall", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        code = ended.value.code
        return Said(code if isinstance(code, int) else 0 if code is None else 1, out, err)

    yield call
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(root_level)
    for logger, level in zip(packages, levels, strict=True):
        logger.setLevel(level)
