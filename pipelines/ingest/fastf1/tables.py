"""What FastF1 parses, as raw frames of `RawSeason`: laps, stints, weather, track status and race control.

Frames in, frames out: session clock in seconds, instants in UTC, codes as the timing feed has them; nothing is asked for here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from pipelines.ingest.canonical import conditions, timing
from pipelines.ingest.canonical.checks import CHECKS
from pipelines.ingest.canonical.reading import FILE, ROW, Kind, no_rows
from pipelines.ingest.canonical.sieve import Sieve

_NULL_TEXTS = ("nan", "None", "NaN", "")  # FastF1 turns some nulls into these
LIVE_TABLES = ("laps", "stints", "weather", "track_status", "race_control")
_LAPS = {**timing.LAP_COLUMNS, **timing.LAP_OPTIONAL, "Team": ("Team", "str")}


@dataclass
class RawFrames:
    """Raw frames of a season, gathered race by race: table -> frames."""

    of: dict[str, list[pd.DataFrame]] = field(default_factory=dict)

    def add(self, table: str, frame: pd.DataFrame, sieve: Sieve) -> None:
        """Count and check the rows of one race."""
        if len(frame):
            self.of.setdefault(table, []).append(sieve.check(table, sieve.asked(table, frame), CHECKS[table].rules))

    def get(self, table: str, sieve: Sieve) -> pd.DataFrame:
        """All rows, each once: the feed repeats its state whenever a connection is made anew."""
        full = [frame for frame in self.of.get(table, []) if len(frame)]
        if not full:
            return no_laps() if table == "laps" else pd.DataFrame()
        return sieve.union(table, [pd.concat(full, ignore_index=True)], CHECKS[table].key, CHECKS[table].content)


def lap_rows(laps: pd.DataFrame, season: int, round_: int, file: str) -> pd.DataFrame:
    """Raw laps of one race from `fastf1.core.Session.laps`; `file` is what `FILE` says."""
    return _typed(pd.DataFrame(laps), _LAPS, season, round_, file)


def no_laps() -> pd.DataFrame:
    """No raw laps, with the columns and types that laps have."""
    texts = [name for name, kind in _LAPS.values() if kind == "str"]
    flags = [name for name, kind in _LAPS.values() if kind == "bool"]
    numbers = [name for name, _ in _LAPS.values() if name not in texts]
    return no_rows(numbers, texts).astype(dict.fromkeys(flags, "boolean"))


def weather_rows(weather: pd.DataFrame, season: int, round_: int, file: str, rows: Sequence[int] | None = None) -> pd.DataFrame:
    """Raw weather of one race from `Session.weather_data`; `rows` are the lines they came from, if not 1, 2, ..."""
    return _typed(weather, conditions.WEATHER_COLUMNS, season, round_, file, rows)


def status_rows(status: pd.DataFrame, season: int, round_: int, file: str, rows: Sequence[int] | None = None) -> pd.DataFrame:
    """Raw track status of one race from `Session.track_status`; see `weather_rows`."""
    return _typed(status, conditions.STATUS_COLUMNS, season, round_, file, rows)


def control_rows(messages: pd.DataFrame, season: int, round_: int, file: str, rows: Sequence[int] | None = None) -> pd.DataFrame:
    """Raw race control of one race from `Session.race_control_messages`; see `weather_rows`.

    A column `SessionTime`, session clock, is taken along as `session_time`.
    """
    columns = dict(conditions.CONTROL_COLUMNS)
    if "SessionTime" in messages:
        columns["SessionTime"] = ("session_time", "duration")
    typed = _typed(messages, columns, season, round_, file, rows)
    return typed.assign(car_number=pd.to_numeric(typed["car_number"], errors="coerce").astype("float64"))


def stints_of_laps(laps: pd.DataFrame) -> pd.DataFrame:
    """Raw stints from raw laps that name them (`season, round, code, lap, stint, compound`)."""
    ordered = laps.sort_values(["round", "code", "lap"], kind="stable")
    stint = ordered.groupby(["round", "code"])["stint"]
    filled = ordered.assign(stint=stint.bfill().fillna(stint.ffill()).fillna(1)).rename(columns={"code": "driver_id"})
    stints = timing.stints_from_laps(filled).rename(columns={"driver_id": "code"})
    return stints.assign(**{FILE: laps[FILE].iloc[0] if len(laps) else "", ROW: range(1, len(stints) + 1)})


def stints_of_tyres(tyres: pd.DataFrame, codes: Mapping[str, str], season: int, round_: int, file: str) -> pd.DataFrame:
    """Raw stints of one race from tyre messages alone, where lap timing was not recorded.

    The feed counts the laps on each set, so a stint is that many laps long and begins after the ones before; a set without a lap
    was changed before the start or fitted after the flag, and is no stint. `stint` counts from 1; `known` is the session clock at
    which the feed counted the last lap, 0.5 to 5 s after it ended (2020 to 2023).

    Args:
        tyres: what `fastf1._api.timing_app_data` gives: `Driver` (car number), `Stint` (from 0), `Compound`, `StartLaps` and
            `TotalLaps` (laps on the set when fitted, and so far), `Time`, in the order of the messages.
        codes: car number -> three-letter code.
    """
    known = tyres.assign(
        code=tyres["Driver"].map(codes).fillna(tyres["Driver"]),
        Compound=tyres["Compound"].where(~tyres["Compound"].isin([*_NULL_TEXTS, "UNKNOWN"])),
    )
    sets = known.groupby(["code", "Stint"], sort=True).agg(
        compound=("Compound", "last"), fitted=("StartLaps", "last"), laps=("TotalLaps", "max")
    )
    # the instant at which the highest count was reached first
    counted = known[known["TotalLaps"].notna()].sort_values("TotalLaps", ascending=False, kind="stable")
    sets = sets.join(counted.groupby(["code", "Stint"])["Time"].first()).reset_index()
    length = (sets["laps"].astype("float64") - sets["fitted"].astype("float64")).fillna(0)
    stints = sets.assign(length_laps=length)[length > 0].reset_index(drop=True)
    by_driver = stints.groupby("code")
    end = by_driver["length_laps"].cumsum()
    return pd.DataFrame(
        {
            "season": float(season),
            "round": float(round_),
            "code": stints["code"].astype(object),
            "stint": by_driver.cumcount().astype("float64") + 1,
            "compound": stints["compound"].astype(object).where(stints["compound"].notna(), None),
            "start_lap": end - stints["length_laps"] + 1,
            "end_lap": end,
            "length_laps": stints["length_laps"],
            "known": _seconds(stints["Time"]),
            FILE: file,
            ROW: range(1, len(stints) + 1),
        }
    )


def _typed(
    frame: pd.DataFrame,
    columns: Mapping[str, tuple[str, Kind]],
    season: int,
    round_: int,
    file: str,
    rows: Sequence[int] | None = None,
) -> pd.DataFrame:
    """The columns under our names in the dtypes that `reading` gives; one that FastF1 has not got is all null."""
    known = {"Season": float(season), "RoundNumber": float(round_)}
    ours = {
        name: _column(frame[theirs] if theirs in frame else pd.Series(None, index=frame.index, dtype=object), kind)
        for theirs, (name, kind) in columns.items()
        if theirs not in known
    }
    typed = pd.DataFrame(ours, index=frame.index).reset_index(drop=True)
    return typed.assign(
        season=float(season),
        round=float(round_),
        **{FILE: file, ROW: list(rows) if rows is not None else range(1, len(typed) + 1)},
    )


def _column(values: "pd.Series[Any]", kind: Kind) -> "pd.Series[Any]":
    if kind == "duration":
        return _seconds(values)
    if kind == "time":
        return pd.to_datetime(values, utc=True).dt.as_unit("us")
    if kind == "bool":
        return values.astype(object).where(values.notna(), pd.NA).astype("boolean")
    if kind == "str":
        texts = values.astype(object)
        return texts.where(texts.notna() & ~texts.isin(_NULL_TEXTS), None)
    return pd.to_numeric(values, errors="coerce").astype("float64")


def _seconds(values: "pd.Series[Any]") -> "pd.Series[float]":
    return pd.to_timedelta(values).dt.total_seconds().round(6)
