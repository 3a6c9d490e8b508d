"""Calendar, session times and results for seasons that the Ergast dumps at hand do not cover."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.errors import SourceFormatError
from pipelines.ingest.reading import FILE, ROW, Kind, no_rows, read_csv, read_parquet

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
_FINISHED = re.compile(r"Finished|Lapped|\+\d+ Laps?")
_UNDERCUT = "fastf1_undercut/"
# Of cars that never started; "Withdrew" also of cars that retired into the pits, so that only the timing can tell.
_NO_SHOW = ["Did not start", "Withdrew"]
_THROWN_OUT = ["Disqualified", "Excluded"]

FIRST_SEASON_OF_POINTS = 2010
POINTS = (25, 18, 15, 12, 10, 8, 6, 4, 2, 1)  # first to tenth place of a race, since then
MIN_DISTANCE_PCT = 90  # of the winner's laps, rounded down to whole laps: who has them is classified, running or not


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
    finished = _is_finisher(raw["Status"])
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


def is_undercut(results: pd.DataFrame) -> "pd.Series[bool]":
    """Which results come from `read_undercut_results`."""
    return results[FILE].str.startswith(_UNDERCUT)


def completed_by_timing(results: pd.DataFrame, raw_laps: pd.DataFrame) -> pd.DataFrame:
    """Results with what their source leaves open and the laps tell: laps completed, who was classified, who never started.

    - `laps_completed`, where null: a finisher's last lap; of another car the last lap that has a time or a third sector, since
      the timing has a row of the lap on which it stopped too. 0 without any.
    - `position`, of a car that `read_undercut_results` has as retired: the official order, if the car has 90 % of the winner's
      laps (rounded down).
    - `position_text` of such a car: `W` if its status is of a car that did not start and the timing has no lap of it.

    Args:
        results: one season's rows with unique index.
        raw_laps: `round, code, lap, lap_time_s, sector3_s` of the season.
    """
    key = ["round", "code"]
    has_end = raw_laps["lap_time_s"].notna() | raw_laps["sector3_s"].notna()
    begun = results[key].merge(raw_laps.groupby(key)["lap"].max().reset_index(), how="left", on=key)["lap"]
    ended = results[key].merge(raw_laps[has_end].groupby(key)["lap"].max().reset_index(), how="left", on=key)["lap"]
    begun, ended = begun.set_axis(results.index), ended.set_axis(results.index)
    laps = results["laps_completed"].fillna(ended.mask(_is_finisher(results["status"]), begun).fillna(0))

    retired = is_undercut(results) & (results["position_text"] == "R")
    needed = laps[results["position_order"] == 1].groupby(results["round"]).first() * MIN_DISTANCE_PCT // 100
    classified = retired & (laps > 0) & (laps >= results["round"].map(needed))
    order = results["position_order"]
    absent = retired & results["status"].isin(_NO_SHOW) & begun.isna()
    text = results["position_text"].mask(classified, order.astype("Int64").astype("string").astype(object)).mask(absent, "W")
    return results.assign(laps_completed=laps, position=results["position"].mask(classified, order), position_text=text)


def points_by_position(results: pd.DataFrame) -> "pd.Series[float]":
    """`points` with nulls filled by the classified position, for seasons that scored 25-18-15-12-10-8-6-4-2-1.

    Not known from a position, and so not in it: the point for the fastest lap (2019-2024) and reduced points of a race cut short.
    Points of sprints are no points of the race. Before 2010 nulls stay null.
    """
    earned = results["position"].map(dict(enumerate(POINTS, start=1))).fillna(0.0)
    return results["points"].fillna(earned.where(results["season"] >= FIRST_SEASON_OF_POINTS)).astype("float64")


def _is_finisher(status: "pd.Series[str]") -> "pd.Series[bool]":
    return status.map(lambda text: isinstance(text, str) and _FINISHED.fullmatch(text) is not None).astype(bool)
