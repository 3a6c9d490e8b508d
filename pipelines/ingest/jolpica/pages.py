"""Jolpica's (Ergast's) paged documents: what a page holds, and all pages of a document, whole and each row once.

A document counts the rows of its innermost list (a result, one car's time of one lap, a pit stop) and cuts anywhere between them,
so a race or a lap may be split over two pages. `MRData.limit`, `offset` and `total` are what the service says, whatever was
asked.
"""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.errors import SourceFormatError


@dataclass(frozen=True)
class Page:
    """One response.

    Attributes:
        url: what was asked.
        name: its name in the quarantine, path and query.
        body: the parsed JSON.
        file: where it is kept; None: it is not, so the next run asks again.
    """

    url: str
    name: str
    body: Any
    file: Path | None = None


@dataclass(frozen=True)
class Envelope:
    """What a response says about itself: rows a page (limit), rows before this page, rows in all."""

    limit: int
    offset: int
    total: int


@dataclass(frozen=True)
class Endpoint:
    """One kind of document: `MRData.<table>.<parents>[].<rows>[]`; without `rows` the parents are the rows."""

    table: str
    parents: str
    rows: str | None


ENDPOINTS: dict[str, Endpoint] = {
    "schedule": Endpoint("RaceTable", "Races", None),
    "results": Endpoint("RaceTable", "Races", "Results"),
    "qualifying": Endpoint("RaceTable", "Races", "QualifyingResults"),
    "sprint": Endpoint("RaceTable", "Races", "SprintResults"),
    "laps": Endpoint("RaceTable", "Races", "Laps"),
    "pitstops": Endpoint("RaceTable", "Races", "PitStops"),
    "driverstandings": Endpoint("StandingsTable", "StandingsLists", "DriverStandings"),
    "constructorstandings": Endpoint("StandingsTable", "StandingsLists", "ConstructorStandings"),
}


class PagesDifferError(SourceFormatError):
    """Two pages of one document do not belong together: it changed between them, or one came in place of another."""


def read_pages(ask: Callable[[int, Callable[[Page], object]], Page], endpoint: str) -> list[Page]:
    """All pages of a document, from the first to the last row.

    Args:
        ask: (offset, check) -> the page that begins with that row; `check` raises about one that does not follow those before.
        endpoint: a key of `ENDPOINTS`.
    Raises:
        SourceFormatError: a page does not begin where it should, or has fewer or more rows than it says.
        PagesDifferError: a page repeats rows, or the number of rows changed on the way.
    """
    pages: list[Page] = []
    seen: set[str] = set()
    offset, total = 0, 0
    while not pages or offset < total:
        check = partial(check_page, endpoint=endpoint, offset=offset, seen=seen)
        page = ask(offset, check)
        rows, said = check(page)
        if pages and said.total != total:
            raise PagesDifferError(
                page.url,
                column="MRData.total",
                got=str(said.total),
                expected=f"{total} as on the first page",
                next_step="the document changed while it was read: run the same command again",
            )
        seen.update(_identity(row) for row in rows)
        pages.append(page)
        offset, total = offset + len(rows), said.total
    return pages


def check_page(
    page: Page, endpoint: str, offset: int, seen: Collection[str] = frozenset()
) -> tuple[list[dict[str, Any]], Envelope]:
    """The rows of a page and what it says about itself.

    Args:
        page: the page.
        endpoint: a key of `ENDPOINTS`.
        offset: the row that was asked for.
        seen: what tells the rows of earlier pages apart.
    Raises:
        SourceFormatError: it does not begin with row `offset`, or has another number of rows than limit and total let expect.
        PagesDifferError: it repeats a row that was seen.
    """
    said = envelope(page)
    rows = rows_of(page, endpoint)
    name = ENDPOINTS[endpoint].rows or "Races"
    if said.offset != offset:
        raise wrong(page, "MRData.offset", str(said.offset), f"{offset}: the page that was asked for")
    expected = max(min(said.limit, said.total - said.offset), 0)
    if len(rows) != expected:
        raise wrong(page, name, f"{len(rows)} rows", f"{expected} (limit {said.limit}, offset {said.offset}, total {said.total})")
    texts = [_identity(row) for row in rows] if seen else []
    repeated = next((number for number, text in enumerate(texts, start=1) if text in seen), None)
    if repeated is not None:
        raise PagesDifferError(
            page.url,
            row=repeated,
            column=name,
            got=f"a row of an earlier page again: {texts[repeated - 1][:80]}",
            expected="rows that no earlier page has",
            next_step=_next_step(page),
        )
    return rows, said


def envelope(page: Page) -> Envelope:
    """`MRData.limit`, `offset` and `total` of a response.

    Raises:
        SourceFormatError: they are not there, or are no such numbers.
    """
    outer = _member(page, page.body, "MRData", dict)
    values = {}
    for name, least in (("limit", 1), ("offset", 0), ("total", 0)):
        text = outer.get(name)
        if not isinstance(text, str | int) or isinstance(text, bool) or not str(text).isdecimal() or int(text) < least:
            raise wrong(page, f"MRData.{name}", repr(text), f"a whole number of at least {least}")
        values[name] = int(text)
    return Envelope(**values)


def rows_of(page: Page, endpoint: str) -> list[dict[str, Any]]:
    """The rows of a response in its order, each with what surrounds it as `race` (and, of laps, `lap`).

    Raises:
        SourceFormatError: the document is not nested as that endpoint's are.
    """
    spec = ENDPOINTS[endpoint]
    table = _member(page, _member(page, page.body, "MRData", dict), spec.table, dict)
    rows: list[dict[str, Any]] = []
    for race in _objects(page, table, spec.parents):
        if spec.rows is None:
            rows.append({"race": race})
        elif endpoint == "laps":
            for lap in _objects(page, race, spec.rows):
                rows += [{**timing, "race": race, "lap": lap} for timing in _objects(page, lap, "Timings")]
        else:
            rows += [{**row, "race": race} for row in _objects(page, race, spec.rows)]
    return rows


def _identity(row: dict[str, Any]) -> str:
    """What tells a row from all others of its document: its own values, its race and lap, without the rows beside it."""
    own = {name: value for name, value in row.items() if name not in ("race", "lap") or isinstance(value, str)}
    race = row["race"] if len(row) == 1 else {name: row["race"].get(name) for name in ("season", "round")}
    lap = row["lap"].get("number") if isinstance(row.get("lap"), dict) else None
    return json.dumps([own, race, lap], sort_keys=True)


def _member(page: Page, outer: Any, name: str, kind: type) -> Any:
    found = outer.get(name) if isinstance(outer, dict) else None
    if not isinstance(found, kind):
        raise wrong(page, name, repr(found)[:80], "an object" if kind is dict else "a list")
    return found


def _objects(page: Page, outer: Any, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _member(page, outer, name, list)
    for number, item in enumerate(found, start=1):
        if not isinstance(item, dict):
            raise wrong(page, name, repr(item)[:80], "an object", number)
    return found


def wrong(page: Page, field: str, got: str, expected: str, row: int | None = None) -> SourceFormatError:
    """The error of a page that is not as documented; `row` is 1-based."""
    return SourceFormatError(page.url, row=row, column=field, got=got, expected=expected, next_step=_next_step(page))


def _next_step(page: Page) -> str:
    if page.file is None:
        return "the service says something else than it documents: run the same command again, this answer is not kept"
    return (
        f"the service says something else than it documents: delete {page.file} and run the same command again, which asks for "
        "that answer alone"
    )
