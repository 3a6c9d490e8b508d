"""A run in a process of its own, killed on its way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 120.0


def kill_on_the_way(code: str, *arguments: str, folder: Path, when: Callable[[], bool]) -> None:
    """Run Python `code` with `arguments` in `folder`, and kill it as soon as `when` holds; it must not end before."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=folder, env=environment)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not when():
            assert child.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        status = child.wait(timeout=10)
    assert status == -signal.SIGKILL
