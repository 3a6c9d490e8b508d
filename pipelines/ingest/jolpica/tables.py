"""Jolpica's (Ergast's) JSON as raw frames: every field named, typed and in our units, or an error naming URL, row and field.

Pure. Everything is text in the documents: `1:39.019` becomes 99.019 seconds, `26.0325` degrees, `2023-03-05` with `15:00:00Z` one
UTC instant. `FILE` is a page's path and query, `ROW` counts the rows of the page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from pipelines.errors import SourceFormatError
from pipelines.ingest.canonical.reading import FILE, ROW, parse_clock
from pipelines.ingest.jolpica.pages import Page, rows_of, wrong

Kind = Literal["str", "int", "float", "clock", "date", "instant"]


@dataclass(frozen=True)
class _Field:
    """Where a value stands in a row (keys joined by dots), what it is, and whether it may be left out."""

    path: str
    kind: Kind = "str"
    optional: bool = False


@dataclass(frozen=True)
class _Row:
    """A row of a document, and where it stands."""

    page: Page
    number: int
    values: dict[str, Any]

    def wrong(self, field: _Field, got: str, expected: str) -> SourceFormatError:
        return wrong(self.page, field.path, got, expected, self.number)


_RACE = {"season": _Field("race.season", "int"), "round": _Field("race.round", "int")}
_SCHEDULE = {
    **_RACE,
    "name": _Field("race.raceName"),
    "circuit_id": _Field("race.Circuit.circuitId"),
    "race_start": _Field("race", "instant", optional=True),
    "qualifying_start": _Field("race.Qualifying", "instant", optional=True),
    "sprint_date": _Field("race.Sprint.date", "date", optional=True),
    "sprint_start": _Field("race.Sprint", "instant", optional=True),
}
_CIRCUIT = {
    "circuit_id": _Field("race.Circuit.circuitId"),
    "name": _Field("race.Circuit.circuitName"),
    "locality": _Field("race.Circuit.Location.locality", optional=True),
    "country": _Field("race.Circuit.Location.country", optional=True),
    "lat_deg": _Field("race.Circuit.Location.lat", "float", optional=True),
    "lng_deg": _Field("race.Circuit.Location.long", "float", optional=True),
}
_ENTRY = {
    **_RACE,
    "driver_id": _Field("Driver.driverId"),
    "constructor_id": _Field("Constructor.constructorId"),
}
_SPRINT = {
    **_ENTRY,
    "grid": _Field("grid", "int"),
    "position_text": _Field("positionText"),
    "position_order": _Field("position", "int"),
    "points": _Field("points", "float"),
    "laps_completed": _Field("laps", "int"),
    "status": _Field("status"),
    "milliseconds": _Field("Time.millis", "float", optional=True),
}
_RESULT = {
    **_SPRINT,
    "code": _Field("Driver.code", optional=True),
    "family_name": _Field("Driver.familyName"),
    "car_number": _Field("number", "int", optional=True),
}
_QUALIFYING = {
    **_ENTRY,
    "position": _Field("position", "int"),
    **{f"q{part}_s": _Field(f"Q{part}", "clock", optional=True) for part in (1, 2, 3)},
}
_DRIVER = {
    "driver_id": _Field("Driver.driverId"),
    "given_name": _Field("Driver.givenName"),
    "family_name": _Field("Driver.familyName"),
    "date_of_birth": _Field("Driver.dateOfBirth", "date", optional=True),
    "nationality": _Field("Driver.nationality", optional=True),
}
_CONSTRUCTOR = {
    "constructor_id": _Field("Constructor.constructorId"),
    "name": _Field("Constructor.name"),
    "nationality": _Field("Constructor.nationality", optional=True),
}
_LAP = {
    **_RACE,
    "driver_id": _Field("driverId"),
    "lap": _Field("lap.number", "int"),
    "lap_time_s": _Field("time", "clock", optional=True),
    "position": _Field("position", "int", optional=True),
}
_PIT_STOP = {
    **_RACE,
    "driver_id": _Field("driverId"),
    "lap": _Field("lap", "int"),
    "time_of_day_s": _Field("time", "clock"),
    "duration_s": _Field("duration", "clock", optional=True),
}
# a driver without a place in the championship has none: "-" in `positionText`, no `position`
_STANDING = {
    **_RACE,
    "position": _Field("position", "int", optional=True),
    "points": _Field("points", "float"),
    "wins": _Field("wins", "int"),
}


def schedule(pages: Sequence[Page]) -> pd.DataFrame:
    """`season, round, name, circuit_id, race_start, qualifying_start, sprint_date, sprint_start`; null where there is none."""
    return _frame(pages, "schedule", _SCHEDULE)


def circuits(pages: Sequence[Page]) -> pd.DataFrame:
    """`circuit_id, name, locality, country, lat_deg, lng_deg` of a schedule, one row a circuit; it has no altitudes."""
    return _frame(pages, "schedule", _CIRCUIT).drop_duplicates("circuit_id", ignore_index=True)


def results(pages: Sequence[Page]) -> pd.DataFrame:
    """`entries.RESULT_CONTENT` and `milliseconds`; `position` is null for who is not classified.

    A driver without a code, as before 2014, gets the first three letters of the family name.
    """
    raw = _frame(pages, "results", _RESULT)
    raw["code"] = raw["code"].fillna(raw["family_name"].str[:3].str.upper())
    return _classified(raw).drop(columns=["family_name"])


def sprint(pages: Sequence[Page]) -> pd.DataFrame:
    """`standings.SPRINT_CONTENT` and `milliseconds`."""
    return _classified(_frame(pages, "sprint", _SPRINT)).drop(columns=["position_text"])


def qualifying(pages: Sequence[Page]) -> pd.DataFrame:
    """`entries.QUALIFYING_CONTENT`."""
    return _frame(pages, "qualifying", _QUALIFYING)


def drivers(pages: Sequence[Page]) -> pd.DataFrame:
    """`driver_id, given_name, family_name, date_of_birth, nationality` of results, one row a driver."""
    return _frame(pages, "results", _DRIVER).drop_duplicates("driver_id", keep="last", ignore_index=True)


def constructors(pages: Sequence[Page]) -> pd.DataFrame:
    """`constructor_id, name, nationality` of results, one row a constructor."""
    return _frame(pages, "results", _CONSTRUCTOR).drop_duplicates("constructor_id", keep="last", ignore_index=True)


def laps(pages: Sequence[Page]) -> pd.DataFrame:
    """`season, round, driver_id, lap, lap_time_s, position`: the official lap chart."""
    return _frame(pages, "laps", _LAP)


def pit_stops(pages: Sequence[Page]) -> pd.DataFrame:
    """`season, round, driver_id, lap, time_of_day_s, duration_s`.

    The time is the local time of day of the pit entry in whole seconds since midnight, the duration is spent in the pit lane.
    """
    return _frame(pages, "pitstops", _PIT_STOP)


def driver_standings(pages: Sequence[Page]) -> pd.DataFrame:
    """`standings.DRIVER_STANDING_KEY` and `STANDING_CONTENT`."""
    return _frame(pages, "driverstandings", {**_STANDING, "driver_id": _Field("Driver.driverId")})


def constructor_standings(pages: Sequence[Page]) -> pd.DataFrame:
    """`standings.CONSTRUCTOR_STANDING_KEY` and `STANDING_CONTENT`."""
    return _frame(pages, "constructorstandings", {**_STANDING, "constructor_id": _Field("Constructor.constructorId")})


def _classified(raw: pd.DataFrame) -> pd.DataFrame:
    """With `position`: the number in `position_text`, which has a letter for who retired, was excluded, ..."""
    return raw.assign(position=pd.to_numeric(raw["position_text"], errors="coerce").astype("float64"))


def _frame(pages: Sequence[Page], endpoint: str, fields: Mapping[str, _Field]) -> pd.DataFrame:
    """One column a field, and where each row came from; no rows have the types of rows."""
    found = [_Row(page, number, row) for page in pages for number, row in enumerate(rows_of(page, endpoint), start=1)]
    columns = {name: _column(found, field) for name, field in fields.items()}
    traced = {FILE: [row.page.name for row in found], ROW: pd.Series([row.number for row in found], dtype="int64")}
    return pd.DataFrame({**columns, **traced})


def _column(rows: list[_Row], field: _Field) -> "pd.Series[Any]":
    texts = pd.Series([_text(row, field) for row in rows], dtype=object)
    if field.kind == "str":
        return texts
    values: pd.Series[Any]
    if field.kind == "clock":
        try:
            return parse_clock("", field.path, texts.astype("string"), pd.Series(texts.index))
        except SourceFormatError as error:
            raise rows[error.row or 0].wrong(field, error.got, error.expected) from error
    if field.kind in ("int", "float"):
        values = pd.to_numeric(texts, errors="coerce").astype("float64")
        unfit = texts.notna() & (values.isna() | ((values % 1 != 0) if field.kind == "int" else False))
        expected = "a whole number" if field.kind == "int" else "a number"
    else:
        values = pd.to_datetime(texts, utc=True, errors="coerce", format="ISO8601").dt.as_unit("us")
        unfit = texts.notna() & values.isna()
        expected = "a date such as '2024-03-02'" + (" and a UTC time such as '15:00:00Z'" if field.kind == "instant" else "")
    if unfit.any():
        first = int(unfit.to_numpy().argmax())
        raise rows[first].wrong(field, repr(texts[first]), expected)
    return values


def _text(row: _Row, field: _Field) -> str | None:
    """The text at the field's place; None where it is left out or empty, and may be."""
    value: Any = row.values
    for key in field.path.split("."):
        if not isinstance(value, dict):
            raise row.wrong(field, repr(value)[:80], "an object around it")
        value = value.get(key)
        if value is None:
            break
    if field.kind == "instant" and isinstance(value, dict):
        date, time = value.get("date"), value.get("time")
        value = f"{date}T{time}" if date and time else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if value is not None and not isinstance(value, str):
        raise row.wrong(field, repr(value)[:80], "a text")
    if not value and not field.optional:
        raise row.wrong(field, "no such field" if value is None else "an empty text", f"{field.kind} values")
    return value or None
