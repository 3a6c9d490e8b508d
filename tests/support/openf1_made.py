"""OpenF1 as it would answer about a season that we invented, fit for the lake: rows by `endpoint?filter`."""

import functools
import json
from pathlib import Path
from typing import Any

from replay_server import Request, Response

SEASON = 2022
FIRST, SECOND, THIRD = 9102, 9202, 9304  # session keys of the races; the second was cancelled
REQUESTS = 2 + 2 * 10  # the calendar; the result of each race held and ten lists about it, of which its result is one
NOTHING = Response(status=404, body={"detail": "No results found."})


@functools.cache
def book() -> dict[str, list[dict[str, Any]]]:
    """`endpoint?filter` -> rows."""
    file = Path(__file__).resolve().parents[1] / "data" / "http" / "openf1_2022.json"
    found: dict[str, list[dict[str, Any]]] = json.loads(file.read_text(encoding="utf-8"))
    return found


def authored(request: Request) -> Response:
    """The invented season, with 404 for what has no rows, as newer versions of the service answer."""
    rows = book().get(f"{request.path.removeprefix('/v1/')}?{request.query}")
    return Response(body=rows) if rows else NOTHING


def unmarked(_: Request) -> Response:
    """`/v1/meetings` of a service that does not say which race was cancelled."""
    return Response(body=[{**row, "is_cancelled": None} for row in book()[f"meetings?year={SEASON}"]])
