"""Handlers that answer with what services really sent, read from the folder of real races beside the checkout.

Every function takes that folder (the fixture `real_data`) and gives a handler for `ReplayServer.serve`. Bodies are sent byte for
byte unless a docstring says otherwise.
"""

import gzip
import json
import operator
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from zipfile import ZipFile

import pandas as pd
from jolpica_pages import endpoint, page, whole, window
from replay_server import Handler, Request, Response

_NOT_OPENF1 = ["season", "round", "grand_prix_slug", "session_code", "ingested_at"]  # added by whoever kept the rows
_NUMBERS = {"driver_number", "lap_number", "sector"}  # kept as text in race_control of 2023
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


def recorded_jolpica(shared: Path) -> Handler:
    """138 responses of api.jolpi.ca and of the Jolpica project's own tests, with or without `/ergast/f1` in front.

    A request for the page that was recorded gets its bytes. Where all rows of a list were recorded, any other page of it is cut
    from them: the rows are the real ones, `limit` and `offset` the request's. Everything else is left to the next handler.
    """
    exact, complete = _recorded_pages(shared)

    def answer(request: Request) -> Response | None:
        asked, (limit, offset) = endpoint(request.path), window(request.params)
        if (body := exact.get((asked, limit, offset))) is not None:
            return Response(body=body)
        document = complete.get(asked)
        return None if document is None else Response(body=page(document, limit, offset))

    return answer


@cache
def _recorded_pages(shared: Path) -> tuple[dict[tuple[str, int, int], bytes], dict[str, dict[str, Any]]]:
    """(endpoint, limit, offset) -> body as recorded, and endpoint -> document, where one body has all rows."""
    bodies: list[tuple[str, bytes]] = []
    with ZipFile(shared / "raw_api" / "ergast_responses_jolpica_fixtures.zip") as archive:
        for name in archive.namelist():
            if not name.endswith("/"):
                path = name.rpartition("/")[2].replace("@", "/").partition("^")[0]
                bodies.append((path, archive.read(name)))
    for file, url in _index(shared).items():  # api.jolpi.ca itself comes after, and so before, the project's fixtures
        if "jolpi.ca" in url:
            bodies.append((urlsplit(url).path, (shared / file).read_bytes()))
    exact, complete = {}, {}
    for path, body in bodies:
        document = json.loads(body)
        found = document["MRData"]
        exact[endpoint(path), int(found["limit"]), int(found["offset"])] = body
        if whole(document):
            complete[endpoint(path)] = document
    return exact, complete


def _index(shared: Path) -> dict[str, str]:
    """File below `shared` -> URL it was recorded from."""
    lines = (shared / "raw_api" / "INDEX.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return dict(line.split("\t")[:2] for line in lines if line)  # type: ignore[misc]


def recorded_openf1(shared: Path) -> Handler:
    """OpenF1's rows of 2023 and 2024 under `/v1/<table>`, filtered as the service does it.

    The rows were kept as tables, so the JSON is written anew: OpenF1's own fields, in its types (whole numbers, lists, null).
    Filters: `field=value`, `field>=value` and so on, several values of one field are alternatives, `latest` for a key. No row
    is a 404, as OpenF1 answers it; a table that was not recorded is left to the next handler.
    """

    def answer(request: Request) -> Response | None:
        match = re.fullmatch(r"(?:/v1)?/(\w+)/?", request.path)
        rows = _openf1_rows(shared, match[1]) if match else None
        if rows is None:
            return None
        for field, compare, values in _filters(request.query):
            rows = rows[_chosen(rows, field, compare, values)]
        if rows.empty:
            return Response(status=404, body={"detail": "No results found."})
        found = pd.DataFrame({name: _json_values(rows[name]) for name in rows.columns})
        return Response(body=[dict(zip(found.columns, row, strict=True)) for row in found.itertuples(index=False, name=None)])

    return answer


@cache
def _openf1_rows(shared: Path, table: str) -> pd.DataFrame | None:
    """All recorded rows of a table; columns of numbers that are all whole are nullable integers."""
    files = sorted((shared / "openf1").glob(f"{table}_20[0-9][0-9].parquet"))
    if not files:
        return None
    extra = [*_NOT_OPENF1, "session_key"] if table == "meetings" else _NOT_OPENF1
    rows = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True).drop(columns=extra, errors="ignore")
    return pd.DataFrame({name: _numbers(rows[name]) for name in rows.columns})


def _numbers(column: pd.Series) -> pd.Series:
    values = pd.to_numeric(column) if column.name in _NUMBERS else column
    is_whole = pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all()
    return values.astype("Int64") if is_whole else values


def _json_values(column: pd.Series) -> pd.Series:
    """Every value as JSON has it: lists that were kept as text as lists, missing values as None (an object column)."""
    known = column[column.notna()]
    found = known.tolist()
    if (known.dtype == object and column.name in {"duration", "gap_to_leader"}) or str(column.name).startswith("segments_"):
        found = [_from_text(text) for text in found]
    values = pd.Series([None] * len(column), index=column.index, dtype=object)
    values.loc[known.index] = pd.Series(found, index=known.index, dtype=object)
    return values


def _from_text(text: Any) -> Any:
    try:
        return json.loads(re.sub(r"\b(?:None|nan|NaN)\b", "null", str(text)))
    except ValueError:
        return text  # such as "+1 LAP"


def _filters(query: str) -> list[tuple[str, str, list[str]]]:
    """(field, operator, values) of a query such as `session_key=9468&lap_number%3E=3&lap_number<9`."""
    found: dict[tuple[str, str], list[str]] = {}
    for part in filter(None, query.split("&")):
        match = re.fullmatch(r"(\w+)(>=|<=|>|<|=)(.*)", unquote(part.replace("+", " ")))
        if match is None:
            raise ValueError(f"no OpenF1 filter: {part!r}")
        found.setdefault((match[1], match[2]), []).append(match[3])
    return [(field, compare, values) for (field, compare), values in found.items()]


def _chosen(rows: pd.DataFrame, field: str, compare: str, values: list[str]) -> pd.Series:
    if field not in rows:
        return pd.Series(False, index=rows.index)
    column = rows[field]
    if values == ["latest"]:
        return column.isin([column.max()])
    wanted = [_value(value, field) for value in values]
    every = [(have, _value(have, field)) for have in column.dropna().unique()]
    return column.isin([have for have, value in every if any(_is(value, compare, one) for one in wanted)])


def _value(value: Any, field: str) -> Any:
    """A filter's or a row's value in the type it is compared in."""
    if not isinstance(value, str):
        return value
    if field.startswith("date"):
        instant = pd.Timestamp(value)
        return instant.tz_localize("UTC") if instant.tzinfo is None else instant
    try:
        return json.loads(value)
    except ValueError:
        return value


def _is(have: Any, compare: str, wanted: Any) -> bool:
    try:
        return bool(_OPERATORS[compare](have, wanted))
    except TypeError:  # a number and a text never match
        return False


def recorded_livetiming(shared: Path) -> Handler:
    """The live timing archive: `/static/<year>/<meeting>/<session>/<topic>.jsonStream` of the four races that were recorded."""
    folder = shared / "raw_api" / "livetiming"

    def answer(request: Request) -> Response | None:
        match = re.fullmatch(r"/static/\d{4}/([\w-]+/[\w-]+/\w+\.jsonStream)", request.path)
        if match is None:
            return None
        file, packed = folder / match[1], folder / f"{match[1]}.gz"
        if file.is_file():
            return Response(body=file.read_bytes(), content_type="application/octet-stream")
        if packed.is_file():
            return Response(body=gzip.decompress(packed.read_bytes()), content_type="application/octet-stream")
        return None

    return answer


def recorded_schedule(shared: Path) -> Handler:
    """FastF1's event schedules: `.../schedule_<year>.json` of 2018-2024, as plain text like the place they come from."""

    def answer(request: Request) -> Response | None:
        match = re.fullmatch(r".*/(schedule_\d{4}\.json)", request.path)
        file = shared / "f1schedule" / match[1] if match else None
        if file is None or not file.is_file():
            return None
        return Response(body=file.read_bytes(), content_type="text/plain; charset=utf-8")

    return answer
