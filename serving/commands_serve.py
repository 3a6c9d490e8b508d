"""The command `pitwall serve`: the HTTP service in one or more processes."""

import logging
import os
import signal
import tempfile
from contextlib import ExitStack
from typing import Annotated

import typer

from feature_repo.console import configure_logging, err
from feature_repo.options import Home, settings_of
from feature_repo.settings import Settings
from serving.metrics import MULTIPROCESS_DIR

DRAIN_SECONDS = 20

HEALTHCHECK_SECONDS = 60
"""A worker process that gives no sign for that long is ended and begun anew; on a busy machine, starting takes more than 5 s."""

MLFLOW_LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
"""How long (seconds) and how often again a service asks MLflow, where the environment does not say. MLflow's own defaults hold a
thread for minutes once its server is gone, and the service asks again by itself."""


def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes; each holds store and models of its own.")] = 1,
    home: Home = None,
) -> None:
    """Serve lookups, predictions and pages over HTTP until it is told to stop; SIGTERM lets answers under way finish."""
    import uvicorn

    settings = settings_of(home)
    for name, value in MLFLOW_LIMITS.items():
        os.environ[name] = os.environ.get(name) or value
    os.environ["PITWALL_HOME"] = str(settings.home)  # worker processes build their settings themselves
    # Having drained, uvicorn sends itself the signal again: without a handler of ours an orderly end would look like a crash.
    signal.signal(signal.SIGTERM, lambda *_: None)
    err.print(f"serving {settings.home} on http://{host}:{port}", highlight=False)
    with ExitStack() as until_the_end:
        if workers > 1:
            counts = tempfile.TemporaryDirectory(prefix="pitwall-metrics-", ignore_cleanup_errors=True)
            os.environ[MULTIPROCESS_DIR] = until_the_end.enter_context(counts)
        uvicorn.run(
            "serving.commands_serve:app_of_environment",
            factory=True,
            host=host,
            port=port,
            workers=workers,
            access_log=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            timeout_worker_healthcheck=HEALTHCHECK_SECONDS,
        )


def app_of_environment() -> object:
    """The application with the settings of the environment: what each worker process runs."""
    from serving.app import create_app

    configure_logging(verbose=False)
    logging.getLogger("serving").setLevel(logging.INFO)  # which model answers, and why another does not
    return create_app(Settings(), own_process=True)
