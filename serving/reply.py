"""Answers of the JSON API, written without a second check."""

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Response

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_SERIALIZE_DATACLASS


def json_reply(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`body` as JSON: times in ISO 8601, NaN as null."""
    content = orjson.dumps(body, option=_OPTIONS, default=_plain)
    return Response(content, status_code=status, media_type="application/json", headers=dict(headers or {}))


def _plain(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")
