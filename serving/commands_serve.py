"""The command `pitwall serve`: the HTTP service in one or more processes."""

import logging
import os
import signal
import tempfile
from contextlib import suppress
from typing import Annotated

import typer

from feature_repo.console import configure_logging, err
from feature_repo.options import Home, settings_of
from feature_repo.settings import Settings
from serving.metrics import MULTIPROCESS_DIR

DRAIN_SECONDS = 20

STARTUP_FAILURE = 3
"""Exit code of a service, and of a process of it, whose home cannot be opened."""

HEALTHCHECK_SECONDS = 20
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
    from uvicorn.supervisors import Multiprocess

    settings = settings_of(home)
    for name, value in MLFLOW_LIMITS.items():
        os.environ[name] = os.environ.get(name) or value
    os.environ["PITWALL_HOME"] = str(settings.home)  # worker processes build their settings themselves
    # Having drained, uvicorn sends itself the signal again: without a handler of ours an orderly end would look like a crash.
    signal.signal(signal.SIGTERM, lambda *_: None)
    err.print(f"serving {settings.home} on http://{host}:{port}", highlight=False)
    config = uvicorn.Config(
        "serving.commands_serve:app_of_environment",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        access_log=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        timeout_worker_healthcheck=HEALTHCHECK_SECONDS,
    )
    if workers == 1:
        server = uvicorn.Server(config)
        with suppress(KeyboardInterrupt):  # Ctrl+C, of which uvicorn tells again after it drained
            server.run()
        failed = not server.started
    else:
        with tempfile.TemporaryDirectory(prefix="pitwall-metrics-", ignore_cleanup_errors=True) as counts:
            os.environ[MULTIPROCESS_DIR] = counts
            supervisor = Multiprocess(config, [config.bind_socket()])
            supervisor.run()
            failed = any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes)
    if failed:
        raise typer.Exit(STARTUP_FAILURE)


def app_of_environment() -> object:
    """The application with the settings of the environment: what each worker process runs."""
    from serving.app import create_app

    configure_logging(verbose=False)
    logging.getLogger("serving").setLevel(logging.INFO)  # which model answers, and why another does not
    return create_app(Settings(), own_process=True)
