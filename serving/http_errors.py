"""How what goes wrong is said over HTTP: a status, and `{"error": {"type", "message", "hint"}}`."""

import logging
from collections.abc import Callable
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from feature_repo.errors import BadUsageError, MissingInputError, NotAppliedError, PitwallError
from feature_repo.stores.errors import FeatureRegistryUnavailableError, OnlineStoreUnavailableError
from ml.errors import (
    NothingToRollBackError,
    NotPromotableError,
    RegistryBusyError,
    RegistryUnavailableError,
    StaleChampionError,
)
from serving.errors import (
    NoModelError,
    NotServedOnlineError,
    RaceOverError,
    TokenNotConfiguredError,
    TooManyStreamsError,
    WrongTokenError,
)

RETRY_AFTER_S = 2
_UNTIMELY = ("/v1/predict", "/v1/models/{name}/promote", "/v1/models/{name}/rollback")
"""What can be asked for at the wrong time: 409."""
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (BadUsageError, 422),
    (NotServedOnlineError, 422),
    (WrongTokenError, 401),
    (TokenNotConfiguredError, 503),
    (NotPromotableError, 409),
    (NothingToRollBackError, 409),
    (StaleChampionError, 409),
    (RaceOverError, 409),
    (RegistryBusyError, 503),
    (RegistryUnavailableError, 503),
    (OnlineStoreUnavailableError, 503),
    (FeatureRegistryUnavailableError, 503),
    (NoModelError, 503),
    (TooManyStreamsError, 503),
    (MissingInputError, 503),
    (NotAppliedError, 503),
    (LookupError, 404),
)
_HINTS: tuple[tuple[type[Exception], str], ...] = (
    (OnlineStoreUnavailableError, f"ask again in {RETRY_AFTER_S} s; /readyz says when the store answers"),
    (FeatureRegistryUnavailableError, f"ask again in {RETRY_AFTER_S} s; /readyz says when the registry answers"),
    (NotServedOnlineError, "send `as_of`, an instant in the past"),
    (TokenNotConfiguredError, "start the service with PITWALL_API_TOKEN set"),
    (WrongTokenError, "send the header `Authorization: Bearer <token>`"),
    (NoModelError, "see /v1/models and /readyz"),
    (RegistryUnavailableError, "mend the MLflow server; /v1/models says when the registry answers again"),
    (RegistryBusyError, "ask again once the promotion under way has ended"),
    (LookupError, "see /v1/races, /v1/models and /v1/catalogue for what there is"),
)

logger = logging.getLogger(__name__)


def status_of(error: PitwallError) -> int:
    """The status an error is answered with: 4xx where the request can be mended, 503 where a part of the service is missing."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def error_body(kind: str, message: str, hint: str = "") -> bytes:
    """The JSON of an error."""
    return orjson.dumps({"error": {"type": kind, "message": message, "hint": hint}})


def error_response(error: PitwallError) -> Response:
    """The answer to a request that ended in `error`."""
    status = status_of(error)
    hint = next((hint for kind, hint in _HINTS if isinstance(error, kind)), "")
    waiting_helps = status == 503 and not isinstance(error, TokenNotConfiguredError)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if waiting_helps else {}
    if isinstance(error, WrongTokenError):
        headers["WWW-Authenticate"] = "Bearer"
    return _answer(status, type(error).__name__, str(error), hint, headers)


def add_error_handlers(app: FastAPI, *, page: Callable[[int, str, str], Response]) -> None:
    """Let `app` answer every error in the one form.

    Args:
        app: the application.
        page: an error as a page, for who opens an address of none in a browser: status, kind, message.
    """

    @app.exception_handler(PitwallError)
    async def named(request: Request, error: PitwallError) -> Response:
        if status_of(error) == 500:
            logger.error("request_failed path=%s", request.url.path, exc_info=error)
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, error: RequestValidationError) -> Response:
        return _answer(422, "RequestValidationError", malformed_message(error), "see /docs for the form of requests")

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404 and _wants_page(request):
            return page(404, "NotFound", f"page: got {request.url.path[:120]!r}, which is not among those there are")
        headers = dict(error.headers or {})
        return _answer(error.status_code, "HTTPError", _refusal(request, error, headers), "see /docs for what there is", headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        logger.error("request_failed path=%s", request.url.path, exc_info=error)
        return _answer(500, "InternalError", f"{type(error).__name__}; the log of the service says more")


def without_impossible_errors(spec: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI description in which each operation declares those of the common errors that it can answer."""
    for path, operations in spec["paths"].items():
        for operation in operations.values():
            has_body = "requestBody" in operation
            possible = {
                400: has_body,
                404: has_body or "{" in path,
                409: path in _UNTIMELY,
                413: has_body,
                422: has_body or bool(operation.get("parameters")),
                503: path.startswith("/v1/") or path == "/readyz",
            }
            for status in [status for status, is_possible in possible.items() if not is_possible]:
                operation["responses"].pop(str(status), None)
    return spec


def _refusal(request: Request, error: HTTPException, headers: dict[str, str]) -> str:
    """What the framework itself refused."""
    path = request.url.path[:120]
    said = {
        400: "body: got JSON nested too deeply to be read, or no UTF-8; expected one object as /docs shows it",
        404: f"path: got {path!r}, expected one of those that /openapi.json lists",
        405: f"method: got {request.method} for {path!r}, expected {headers.get('Allow', 'another')}",
    }
    return said.get(error.status_code, str(error.detail))


def _wants_page(request: Request) -> bool:
    """Somebody looks at it: a browser's question, and not for an address of the API."""
    is_api = request.url.path.startswith(("/v1/", "/docs", "/openapi.json"))
    return request.method in ("GET", "HEAD") and not is_api and "text/html" in request.headers.get("accept", "")


def malformed_message(error: RequestValidationError) -> str:
    """What is wrong with a request, the first few places of it."""
    found: list[dict[str, Any]] = list(error.errors())
    said = [f"{'.'.join(str(part) for part in one['loc'])[:120]}: {str(one['msg'])[:300]}" for one in found[:5]]
    more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
    return "; ".join(said) + more


def _answer(status: int, kind: str, message: str, hint: str = "", headers: dict[str, str] | None = None) -> Response:
    return Response(error_body(kind, message, hint), status_code=status, media_type="application/json", headers=headers)
