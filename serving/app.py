"""The HTTP service over one Pitwall home: `create_app(settings)`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import anyio.to_thread
from fastapi import FastAPI

from feature_repo.settings import Settings
from serving.beside import Beside
from serving.http_errors import add_error_handlers
from serving.limits import BodyLimit, Timed
from serving.prediction_log import PredictionLog
from serving.routes import features, health, live, models, pages, predict, races
from serving.schemas import ErrorBody
from serving.state import ServingState

THREADS = 40
"""Requests in work at once; the others wait for a thread. Few of them compute at the same time, see `serving.gate`."""

_DESCRIPTION = """Features, predictions and models of one Pitwall home.

Every answer says the instant it is about (`as_of`). Errors are `{"error": {"type", "message", "hint"}}`: 404 for what does not
exist, 409 for what cannot be done now, 413 for a body that is too large, 422 for a malformed request, 503 with `Retry-After`
while a part of the service is missing (`/readyz` says which)."""
_ERRORS = {status: {"model": ErrorBody} for status in (404, 409, 413, 422, 503)}


def create_app(settings: Settings) -> FastAPI:
    """The application: store and models are opened when it starts, and closed when it ends.

    Args:
        settings: which home.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        app.state.serving = await anyio.to_thread.run_sync(ServingState, settings)
        Beside(app.state.serving, PredictionLog(settings))
        try:
            with live.ended_by_signals(app):
                yield
        finally:
            await anyio.to_thread.run_sync(app.state.serving.close)

    app = FastAPI(
        title="Pitwall",
        version=version("pitwall"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        responses=_ERRORS,  # type: ignore[arg-type]  # int keys are status codes
    )
    add_error_handlers(app)
    for router in (features.router, predict.router, races.router, models.router, live.router, health.router, pages.router):
        app.include_router(router)
    app.add_middleware(BodyLimit, limit_bytes=settings.body_limit_kib * 1024)
    app.add_middleware(Timed, state=app.state)  # added last: the outermost
    return app
