"""The HTTP API as a page: every endpoint with its parameters, bodies and examples, from the OpenAPI description alone."""

import json
import shlex
from dataclasses import dataclass
from typing import Any

_METHODS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True)
class Line:
    """A parameter or a field: name, form in words, whether it must be given, what it means."""

    name: str
    form: str
    required: bool
    said: str


@dataclass(frozen=True)
class Body:
    """What is sent or answered.

    Attributes:
        media_type: such as `application/json`.
        name: of its form; empty where it has none.
        said: what it is.
        fields: of a JSON object, in order.
        example: indented JSON; None where there is none.
    """

    media_type: str
    name: str
    said: str
    fields: list[Line]
    example: str | None


@dataclass(frozen=True)
class Reply:
    """An answer by its status."""

    status: str
    said: str
    body: Body | None


@dataclass(frozen=True)
class Endpoint:
    """One method of one path.

    Attributes:
        id: names it on the page.
        method, path: such as `GET` and `/v1/races/{race_id}`.
        said: what it answers, in paragraphs.
        parameters: where each is (`path`, `query`, `header`) and what it is.
        body: to be sent; None for none.
        replies: by status, the success first; the errors that all endpoints have in common are left out.
        curl: a command that asks it; addresses are relative to `$PITWALL`.
    """

    id: str
    method: str
    path: str
    said: list[str]
    parameters: list[tuple[str, Line]]
    body: Body | None
    replies: list[Reply]
    curl: str


@dataclass(frozen=True)
class Page:
    """The API: title, version, description in paragraphs, endpoints by subject, the form of every error with its statuses."""

    title: str
    version: str
    said: list[str]
    groups: dict[str, list[Endpoint]]
    error: Body
    error_statuses: list[str]


def api_page(spec: dict[str, Any]) -> Page:
    """What the page about the API shows.

    Args:
        spec: the application's OpenAPI description, as `FastAPI.openapi` makes it.
    """
    groups: dict[str, list[Endpoint]] = {}
    errors: dict[str, dict[str, Any]] = {}
    for path, methods in spec["paths"].items():
        for method in (name for name in _METHODS if name in methods):
            operation = methods[method]
            errors |= {status: answer for status, answer in operation["responses"].items() if _is_error(answer)}
            groups.setdefault((operation.get("tags") or ["other"])[0], []).append(_endpoint(spec, path, method, operation))
    error = _body(spec, next(iter(errors.values()))["content"])
    assert error is not None
    info = spec["info"]
    return Page(info["title"], info["version"], _paragraphs(info["description"]), groups, error, sorted(errors))


def _endpoint(spec: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> Endpoint:
    parameters = [(one["in"], _line(spec, one["name"], one["schema"], one)) for one in operation.get("parameters", [])]
    body = _body(spec, operation["requestBody"]["content"]) if "requestBody" in operation else None
    replies = [
        Reply(status, "" if status == "200" else answer["description"], _body(spec, answer.get("content", {})))
        for status, answer in sorted(operation["responses"].items())
        if not _is_error(answer)
    ]
    name = f"{method}-{path.strip('/').replace('/', '-').translate(str.maketrans('', '', '{}'))}"
    return Endpoint(
        name, method.upper(), path, _paragraphs(operation.get("description", "")), parameters, body, replies,
        _curl(path, method, operation, body),
    )  # fmt: skip


def _curl(path: str, method: str, operation: dict[str, Any], body: Body | None) -> str:
    """A command with an example for what the path needs and for the body."""
    for one in operation.get("parameters", []):
        if one["in"] == "path":
            path = path.replace(f"{{{one['name']}}}", str(one["schema"]["examples"][0]))
    parts = ["curl -s"]
    if method != "get":
        parts.append(f"-X {method.upper()}")
    if operation.get("security"):
        parts.append('-H "Authorization: Bearer $PITWALL_API_TOKEN"')
    if body is not None:
        sent = json.dumps(json.loads(body.example or "{}"), ensure_ascii=False)
        parts.append(f"-H 'Content-Type: {body.media_type}' -d {shlex.quote(sent)}")
    if any(kind.startswith("image/") for kind in operation["responses"]["200"]["content"]):
        parts.append("-O")
    return " ".join([*parts, f'"$PITWALL{path}"'])


def _is_error(answer: dict[str, Any]) -> bool:
    schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
    return str(schema.get("$ref", "")).endswith(("/ErrorBody", "/HTTPValidationError"))


def _body(spec: dict[str, Any], content: dict[str, Any]) -> Body | None:
    if not content:
        return None
    media_type, how = next(iter(content.items()))
    schema = how.get("schema", {})
    form = _resolved(spec, schema)
    example = next(iter(form.get("examples", [])), None)
    required = form.get("required", [])
    fields = [
        _line(spec, name, field, {"required": name in required, "description": field.get("description")})
        for name, field in form.get("properties", {}).items()
    ]
    shown = None if example is None else json.dumps(example, indent=2, ensure_ascii=False)
    return Body(media_type, form.get("title", "") if "$ref" in schema else "", form.get("description", ""), fields, shown)


def _line(spec: dict[str, Any], name: str, form: dict[str, Any], how: dict[str, Any]) -> Line:
    return Line(name, _form(form), how.get("required", False), how.get("description") or _said(spec, form))


def _resolved(spec: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    found: dict[str, Any] = spec["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def _said(spec: dict[str, Any], schema: dict[str, Any]) -> str:
    """What a form says of itself, where the field that has it says nothing."""
    inner = next((one for one in schema.get("anyOf", []) if one.get("type") != "null"), schema)
    return str(_resolved(spec, inner.get("items", inner)).get("description", ""))


def _form(schema: dict[str, Any]) -> str:
    """A form in words: `string, date-time or null`, `list of LapBody`, `0 to 200`."""
    if "anyOf" in schema or "oneOf" in schema:
        return " or ".join(_form(one) for one in schema.get("anyOf") or schema["oneOf"])
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "enum" in schema or "const" in schema:
        return " or ".join(f"“{one}”" for one in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "any JSON")
    if kind == "array":
        return f"list of {_form(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_form(schema['additionalProperties'])}"
    low, high = schema.get("minimum"), schema.get("maximum")
    limits = f", {low} to {high}" if low is not None and high is not None else f", at least {low}" if low is not None else ""
    pattern = f", `{schema['pattern']}`" if "pattern" in schema else ""
    return f"{kind}{', ' + schema['format'] if 'format' in schema else ''}{limits}{pattern}"


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
