"""What OpenF1 answers: documented fields become typed columns, and the meetings of a year the weekends with a race.

Pure. OpenF1 has no official round: testing is a meeting among others, and a cancelled race leaves one behind.
"""

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from pipelines.errors import SourceFormatError
from pipelines.ingest.canonical.reading import FILE, ROW

FieldKind = Literal["str", "int", "float", "bool", "time", "any"]

# endpoint -> field -> kind; other fields are ignored. Instants are UTC.
FIELDS: dict[str, dict[str, FieldKind]] = {
    "meetings": {"meeting_key": "int", "meeting_name": "str"},
    "sessions": {
        "meeting_key": "int",
        "session_key": "int",
        "session_name": "str",
        "circuit_short_name": "str",
        "date_start": "time",
        "date_end": "time",
    },
    "drivers": {
        "driver_number": "int",
        "name_acronym": "str",
        "team_name": "str",
        "first_name": "str",
        "last_name": "str",
    },
    "laps": {
        "driver_number": "int",
        "lap_number": "int",
        "date_start": "time",
        "lap_duration": "float",
        "duration_sector_1": "float",
        "duration_sector_2": "float",
        "duration_sector_3": "float",
        "i1_speed": "float",
        "i2_speed": "float",
        "st_speed": "float",
    },
    "stints": {
        "driver_number": "int",
        "stint_number": "int",
        "lap_start": "int",
        "lap_end": "int",
        "compound": "str",
        "tyre_age_at_start": "float",
    },
    "pit": {"driver_number": "int", "lap_number": "int", "date": "time"},
    "position": {"driver_number": "int", "date": "time", "position": "int"},
    "weather": {
        "date": "time",
        "air_temperature": "float",
        "track_temperature": "float",
        "humidity": "float",
        "pressure": "float",
        "rainfall": "float",
        "wind_direction": "float",
        "wind_speed": "float",
    },
    "race_control": {
        "date": "time",
        "category": "str",
        "message": "str",
        "flag": "str",
        "scope": "str",
        "sector": "int",
        "driver_number": "int",
        "lap_number": "int",
    },
    "session_result": {
        "driver_number": "int",
        "position": "int",
        "number_of_laps": "int",
        "dnf": "bool",
        "dns": "bool",
        "dsq": "bool",
        "duration": "any",
    },
    "starting_grid": {"driver_number": "int", "position": "int"},
}
# fields that older or newer versions of the service leave out: all null then
OPTIONAL: dict[str, dict[str, FieldKind]] = {
    "meetings": {"is_cancelled": "bool"},
    "sessions": {"is_cancelled": "bool"},
    "pit": {"lane_duration": "float", "pit_lane_time": "float", "pit_duration": "float"},
    "session_result": {"points": "float"},
}
_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "time": "an ISO-8601 instant",
}


def typed(endpoint: str, rows: Any, url: str) -> pd.DataFrame:
    """The rows of an answer as a frame of the endpoint's fields, with `FILE` (the URL) and `ROW` (1-based).

    Numbers are float64 and null where the service says null; instants are UTC with microseconds.

    Args:
        endpoint: one of `FIELDS`.
        rows: parsed JSON; None stands for "there is none" (404).
        url: for messages and for the quarantine.

    Raises:
        SourceFormatError: not a list of objects, a field is missing, or a value is not of its kind.
    """
    rows = [] if rows is None else rows
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SourceFormatError(url, got=f"{type(rows).__name__}: {str(rows)[:80]!r}", expected="a JSON array of objects")
    wanted = {**FIELDS[endpoint], **OPTIONAL.get(endpoint, {})}
    found = set().union(*rows) if rows else set(wanted)
    missing = [name for name in FIELDS[endpoint] if name not in found]
    if missing:
        raise SourceFormatError(
            url,
            column=missing[0],
            got=f"no such field (found {', '.join(sorted(found))})",
            expected=f"fields {', '.join(FIELDS[endpoint])}",
        )
    frame = pd.DataFrame({name: _column(url, name, [row.get(name) for row in rows], kind) for name, kind in wanted.items()})
    frame[FILE] = url
    frame[ROW] = pd.RangeIndex(1, len(frame) + 1)
    return frame


def _column(url: str, name: str, values: list[Any], kind: FieldKind) -> "pd.Series[Any]":
    if kind == "any":
        return pd.Series(values, dtype=object)
    for row, value in enumerate(values, start=1):
        if value is not None and not _fits(value, kind):
            raise SourceFormatError(url, row=row, column=name, got=repr(value)[:80], expected=_NAMES[kind])
    if kind == "str":
        return pd.Series(values, dtype=object)
    if kind == "bool":
        return pd.Series(values, dtype="boolean")
    if kind == "time":
        instants = pd.to_datetime(pd.Series(values, dtype=object), utc=True, errors="coerce", format="ISO8601").dt.as_unit("us")
        wrong = [row for row, value in enumerate(values) if value is not None and pd.isna(instants.iloc[row])]
        if wrong:
            raise SourceFormatError(url, row=wrong[0] + 1, column=name, got=repr(values[wrong[0]]), expected=_NAMES[kind])
        return instants
    return pd.Series(values, dtype="float64")


def _fits(value: Any, kind: FieldKind) -> bool:
    if kind in ("str", "time"):
        return isinstance(value, str)
    if kind == "bool" or isinstance(value, bool):
        return kind == "bool" and isinstance(value, bool)
    return isinstance(value, int | float) and (kind == "float" or value % 1 == 0)


@dataclass(frozen=True)
class RaceWeekend:
    """A meeting with a race.

    Attributes:
        meeting_key: OpenF1's key of the meeting.
        race_key: `session_key` of the race.
        qualifying_key: `session_key` of qualifying for the race, whose key the starting grid carries; None: not listed.
        name: name of the event.
        circuit: OpenF1's short name of the circuit.
        race_start: scheduled start, UTC.
        race_end: scheduled end, UTC.
        qualifying_start: scheduled start of qualifying, UTC, or NaT.
        file: URL of the sessions.
        row: row of the race in it.
    """

    meeting_key: int
    race_key: int
    qualifying_key: int | None
    name: str
    circuit: str
    race_start: pd.Timestamp
    race_end: pd.Timestamp
    qualifying_start: pd.Timestamp
    file: str
    row: int


def race_weekends(meetings: pd.DataFrame, sessions: pd.DataFrame) -> list[RaceWeekend]:
    """Meetings with a session called `Race` that are not marked as cancelled, in order of the race's date.

    Args:
        meetings: `typed("meetings", ...)` of one year.
        sessions: `typed("sessions", ...)` of the same year.
    """
    cancelled = set(meetings.loc[meetings["is_cancelled"].fillna(False).astype(bool), "meeting_key"])
    names = dict(zip(meetings["meeting_key"], meetings["meeting_name"], strict=True))
    listed = sessions[~sessions["is_cancelled"].fillna(False).astype(bool) & ~sessions["meeting_key"].isin(cancelled)]
    races = listed[listed["session_name"] == "Race"].dropna(subset=["meeting_key", "session_key", "date_start"])
    qualifying = listed[listed["session_name"] == "Qualifying"].drop_duplicates("meeting_key").set_index("meeting_key")
    return [
        RaceWeekend(
            meeting_key=int(race["meeting_key"]),
            race_key=int(race["session_key"]),
            qualifying_key=(
                int(qualifying.at[race["meeting_key"], "session_key"]) if race["meeting_key"] in qualifying.index else None
            ),
            name=names.get(race["meeting_key"]) or race["circuit_short_name"],
            circuit=race["circuit_short_name"],
            race_start=race["date_start"],
            race_end=race["date_end"] if pd.notna(race["date_end"]) else race["date_start"] + pd.Timedelta(hours=2),
            qualifying_start=(
                qualifying.at[race["meeting_key"], "date_start"] if race["meeting_key"] in qualifying.index else pd.NaT
            ),
            file=race[FILE],
            row=int(race[ROW]),
        )
        for _, race in races.sort_values("date_start", kind="stable").drop_duplicates("session_key").iterrows()
    ]
