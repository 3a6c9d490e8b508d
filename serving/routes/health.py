"""GET /healthz, /readyz and /metrics: they answer while every thread for requests is waiting for something."""

from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from serving.http_errors import RETRY_AFTER_S
from serving.readiness import Readiness
from serving.reply import json_reply
from serving.schemas.answers import HealthResponse, ReadyResponse
from serving.state import ServingState, get_state

router = APIRouter(tags=["health"])
State = Annotated[ServingState, Depends(get_state)]


@router.get("/healthz", response_model=HealthResponse)
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz", response_model=ReadyResponse, responses={503: {"model": ReadyResponse}})
async def readyz(request: Request) -> Response:
    """Whether every part that answers need is there; 503 with the part that fails or does not answer within 2 s."""
    readiness: Readiness = request.app.state.readiness
    parts = await anyio.to_thread.run_sync(readiness.parts, limiter=request.app.state.health_threads)
    ready = all(part.ok for part in parts.values())
    body = {"status": "ready" if ready else "not ready", "parts": parts}
    return json_reply(body, status=200 if ready else 503, headers={} if ready else {"Retry-After": str(RETRY_AFTER_S)})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request, state: State) -> Response:
    """What Prometheus reads."""
    page = await anyio.to_thread.run_sync(state.metrics.page, state.gauges, limiter=request.app.state.health_threads)
    return Response(page, media_type=CONTENT_TYPE_LATEST)
