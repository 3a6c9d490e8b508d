"""Calendar, session times and results for seasons that the Ergast dumps at hand do not cover."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.errors import SourceFormatError
from pipelines.ingest.canonical.gaps import is_finisher
from pipelines.ingest.canonical.reading import FILE, ROW, Kind, no_rows, read_csv, read_parquet

_RESULTS: dict[str, Kind] = {
    "Season": "int",
    "Round": "int",
    "Driver": "str",
    "Code": "str",
    "Position": "int",
    "Status": "str",
    "GridPosition": "int",
}
_SCHEDULE: dict[str, Kind] = {"Season": "int", "Round": "int", "RaceName": "str", "CircuitId": "str", "Date": "str"}
_THROWN_OUT = ["Disqualified", "Excluded"]


def read_session_times(file: Path) -> pd.DataFrame:
    """`season, round, race_start, qualifying_start` (UTC) of an `f1schedule/schedule_YYYY.json`.

    The file gives local times and the zone's offset, whatever its origin calls them: read so, they agree with Ergast's UTC
    times for 144 of the 149 races of 2018-2024.

    Raises:
        SourceFormatError: not JSON, or not of that layout.
    """
    match = re.fullmatch(r"schedule_(\d{4})\.json", file.name)
    try:
        columns = json.loads(file.read_text(encoding="utf-8"))
        rounds: dict[str, Any] = columns["round_number"]
        rows = [
            {
                "season": float(match[1]) if match else float("nan"),
                "round": float(rounds[index]),
                "race_start": _session(columns, index, "Race"),
                "qualifying_start": _session(columns, index, "Qualifying"),
            }
            for index in rounds
        ]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise SourceFormatError(
            file,
            got=f"{type(error).__name__}: {error}",
            expected="a JSON object of columns such as round_number, session5_date, gmt_offset",
        ) from error
    frame = pd.DataFrame(rows, columns=["season", "round", "race_start", "qualifying_start"])
    for column in ("race_start", "qualifying_start"):
        frame[column] = pd.to_datetime(frame[column], utc=True).dt.as_unit("us")
    return frame


def _session(columns: dict[str, Any], index: str, name: str) -> pd.Timestamp | None:
    for number in range(1, 6):
        if columns[f"session{number}"][index] == name and columns[f"session{number}_date"][index]:
            offset = columns["gmt_offset"][index]
            return pd.Timestamp(f"{columns[f'session{number}_date'][index]}{offset}").tz_convert("UTC")
    return None


def read_f1db_times(root: Path) -> pd.DataFrame:
    """`season, round, race_start, qualifying_start` (UTC) of f1db's races; null without a time of day, empty without f1db."""
    file = root / "f1db" / "races.csv"
    columns: dict[str, Kind] = {"season": "int", "round": "int"}
    times: dict[str, Kind] = {"date": "str", "time": "str", "qualifyingDate": "str", "qualifyingTime": "str"}
    if not file.is_file():
        return no_rows(["season", "round"], ["race_start", "qualifying_start"])
    raw = read_csv(root, file, columns, times)
    return pd.DataFrame(
        {
            "season": raw["season"],
            "round": raw["round"],
            "race_start": pd.to_datetime(raw["date"] + "T" + raw["time"], utc=True, errors="coerce", format="ISO8601").dt.as_unit(
                "us"
            ),
            "qualifying_start": pd.to_datetime(
                raw["qualifyingDate"] + "T" + raw["qualifyingTime"], utc=True, errors="coerce", format="ISO8601"
            ).dt.as_unit("us"),
        }
    )


def read_f1db_dates(root: Path, season: int) -> dict[int, pd.Timestamp]:
    """Round -> day of its race in f1db's calendar of a season, midnight UTC; empty without f1db."""
    file = root / "f1db" / "races.csv"
    if not file.is_file():
        return {}
    raw = read_csv(root, file, {"season": "int", "round": "int"}, {"date": "str"})
    days = pd.to_datetime(raw["date"], utc=True, errors="coerce", format="ISO8601")
    told = raw["round"].notna() & days.notna() & (raw["season"] == season)
    return dict(zip(raw.loc[told, "round"].astype(int), days[told], strict=True))


def read_undercut_schedule(root: Path, file: Path) -> pd.DataFrame:
    """A calendar without times of day: `season, round, name, circuit_id`, and null `race_start`, `qualifying_start`."""
    raw = read_parquet(root, file, _SCHEDULE)
    calendar = raw.rename(columns={"Season": "season", "Round": "round", "RaceName": "name", "CircuitId": "circuit_id"}).drop(
        columns="Date"
    )
    unknown = pd.Series(pd.NaT, index=raw.index, dtype="datetime64[us, UTC]")
    return calendar.assign(race_start=unknown, qualifying_start=unknown)


def read_undercut_results(root: Path, file: Path) -> pd.DataFrame:
    """Results without teams, points, car numbers and laps: those columns are null, and only finishers have a position.

    `completed_by_timing` says more once the laps are read.
    """
    raw = read_parquet(root, file, _RESULTS)
    finished = is_finisher(raw["Status"])
    number = pd.Series(float("nan"), index=raw.index)
    place = raw["Position"].astype("Int64").astype("string").astype(object)
    return pd.DataFrame(
        {
            "season": raw["Season"],
            "round": raw["Round"],
            "driver_id": raw["Driver"],
            "code": raw["Code"],
            "constructor_id": None,
            "car_number": number,
            "grid": raw["GridPosition"],
            "position": raw["Position"].where(finished),
            "position_text": place.where(finished, "R").mask(raw["Status"].isin(_THROWN_OUT), "D"),
            "position_order": raw["Position"],
            "points": number,
            "laps_completed": number,
            "milliseconds": number,
            "status": raw["Status"],
            FILE: raw[FILE],
            ROW: raw[ROW],
        }
    )
