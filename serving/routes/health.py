"""GET /healthz, /readyz and /metrics."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST

from serving.http_errors import RETRY_AFTER_S
from serving.readiness import parts_of
from serving.reply import json_reply
from serving.schemas import ReadyResponse
from serving.state import ServingState, get_state

router = APIRouter(tags=["health"])
State = Annotated[ServingState, Depends(get_state)]


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz", response_model=ReadyResponse, responses={503: {"model": ReadyResponse}})
def readyz(state: State) -> Response:
    """Whether every part that answers need is there; 503 with the part that fails."""
    parts = parts_of(state)
    ready = all(part.ok for part in parts.values())
    body = {"status": "ready" if ready else "not ready", "parts": parts}
    return json_reply(body, status=200 if ready else 503, headers={} if ready else {"Retry-After": str(RETRY_AFTER_S)})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(state: State) -> Response:
    """What Prometheus reads."""
    return Response(state.metrics.page(state.gauges), media_type=CONTENT_TYPE_LATEST)
