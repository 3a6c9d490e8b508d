"""GET /healthz and /readyz."""

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse

from serving.state import ServingState, get_state

router = APIRouter(tags=["health"])


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(state: Annotated[ServingState, Depends(get_state)]) -> JSONResponse:
    """Every part that answers need is there."""
    return JSONResponse({"status": "ready", "parts": {"model": {"ok": True, "version": state.models.champion.version}}})
