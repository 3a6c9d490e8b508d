"""The HTTP service over one Pitwall home: `create_app(settings)`."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import anyio
import anyio.to_thread
from fastapi import FastAPI

from feature_repo.settings import Settings
from serving.beside import Beside
from serving.http_errors import add_error_handlers, without_impossible_errors
from serving.limits import BodyLimit, Timed
from serving.prediction_log import PredictionLog
from serving.readiness import Readiness
from serving.routes import features, health, live, models, pages, predict, races
from serving.schemas.answers import ErrorBody
from serving.shared_gauges import SharedGauges
from serving.state import ServingState

THREADS = 40
"""Requests in work at once; the others wait for a thread. Few of them compute at the same time, see `serving.gate`."""

HEALTH_THREADS = 4
"""Threads for `/readyz` and `/metrics` alone, so that these answer when the others all wait for a store."""

_DESCRIPTION = """Features, predictions and models of one Pitwall home.

Every answer says the instant it is about (`as_of`). Errors are `{"error": {"type", "message", "hint"}}`: 400 for a body that
cannot be read, 404 for what does not exist, 409 for what cannot be done now, 413 for a body that is too large, 422 for a
malformed request, 503 with `Retry-After` while a part of the service is missing (`/readyz` says which)."""
_ERRORS = {status: {"model": ErrorBody} for status in (400, 404, 409, 413, 422, 503)}


def create_app(settings: Settings, *, own_process: bool = False) -> FastAPI:
    """The application: store and models are opened when it starts, and closed when it ends.

    Args:
        settings: which home.
        own_process: the process does nothing else. What is there after the start, 600,000 objects, is then never looked through
            for garbage again, which would stop every answer for 0.4 s.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        app.state.serving = state = await anyio.to_thread.run_sync(ServingState, settings)
        app.state.readiness, app.state.health_threads = Readiness(state), anyio.CapacityLimiter(HEALTH_THREADS)
        log = PredictionLog(settings)
        log.on_count = state.metrics.count_logged
        Beside(state, log)
        SharedGauges(state)
        if own_process:
            gc.collect()
            gc.freeze()
        try:
            with live.ended_by_signals(app):
                yield
        finally:
            await anyio.to_thread.run_sync(state.close)

    app = FastAPI(
        title="Pitwall",
        version=version("pitwall"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # /docs is a page of ours: Swagger's loads its viewer from a CDN
        redoc_url=None,
        responses=_ERRORS,  # type: ignore[arg-type]  # int keys are status codes
    )
    add_error_handlers(app, page=pages.error_page)
    for router in (features.router, predict.router, races.router, models.router, live.router, health.router, pages.router):
        app.include_router(router)
    described = app.openapi
    app.openapi = lambda: without_impossible_errors(described())  # type: ignore[method-assign]
    app.add_middleware(BodyLimit, limit_bytes=settings.body_limit_kib * 1024)
    app.add_middleware(Timed, state=app.state)  # added last: the outermost
    return app
