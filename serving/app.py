"""The HTTP service over one Pitwall home: `create_app(settings)`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from feature_repo.errors import BadUsageError, PitwallError
from feature_repo.settings import Settings
from serving.routes import health, predict
from serving.state import ServingState


def create_app(settings: Settings) -> FastAPI:
    """The application: store and models are opened when it starts, and closed when it ends.

    Args:
        settings: which home.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.serving = ServingState(settings)
        try:
            yield
        finally:
            app.state.serving.close()

    app = FastAPI(title="Pitwall", lifespan=lifespan)
    app.state.settings = settings
    for router in (predict.router, health.router):
        app.include_router(router)

    @app.exception_handler(PitwallError)
    async def _named(_request: Request, error: PitwallError) -> JSONResponse:
        code = 422 if isinstance(error, BadUsageError) else 404 if isinstance(error, LookupError) else 503
        body = {"error": {"type": type(error).__name__, "message": str(error), "hint": ""}}
        return JSONResponse(body, status_code=code)

    return app
