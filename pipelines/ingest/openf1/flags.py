"""When a race began and what flags flew: OpenF1's messages and times put on one session clock.

Pure. OpenF1 stamps everything with the true time of day; the session clock counts seconds and stands at `LIGHTS_OUT_S` when the
lights go out. Figures in comments were measured on the 46 races of 2023 and 2024 against FastF1's clock of the same races.
"""

from typing import Any

import numpy as np
import pandas as pd

from pipelines.errors import SourceFormatError
from pipelines.ingest.canonical.reading import FILE, ROW

LIGHTS_OUT_S = 21_600.0  # weather and messages begin an hour before the scheduled start, and a start may be put off for hours
_PIT_EXIT = "GREEN LIGHT - PIT EXIT OPEN"
_AGREE = pd.Timedelta(seconds=1.5)
STATUS_NAMES = {"1": "AllClear", "2": "Yellow", "4": "SCDeployed", "5": "Red", "6": "VSCDeployed", "7": "VSCEnding"}


def lights_out(laps: pd.DataFrame, result: pd.DataFrame, control: pd.DataFrame) -> pd.Timestamp:
    """Instant at which the race started, UTC.

    The official race time of a car, less its laps 2 to n, is its lap 1; counted back from where its lap 2 begins that is lights
    out, and the median over the cars is free of time penalties (0.1 to 0.3 s after FastF1's in 42 of the 46 races). It is
    believed where race control opens the pit exit within 1.5 s of it; where not, that message counts, which is rounded to a
    second (-0.5 to 0.6 s; in round 13 of 2023, where FastF1's clock is late, -2.6 s).

    Args:
        laps: `openf1_answers.typed("laps", ...)` of the race.
        result: its `session_result`.
        control: its `race_control`.

    Raises:
        SourceFormatError: the answers have neither.
    """
    laps = laps.drop_duplicates(["driver_number", "lap_number"])
    second = laps[laps["lap_number"] == 2].set_index("driver_number")["date_start"]
    later = laps[laps["lap_number"] > 1].groupby("driver_number")["lap_duration"].agg(["sum", "count"])
    result = result.drop_duplicates("driver_number").set_index("driver_number")
    official = pd.to_numeric(result["duration"], errors="coerce").astype("float64")
    is_whole = later["count"].reindex(result.index) == result["number_of_laps"] - 1
    first_lap_s = (official - later["sum"].reindex(result.index))[is_whole]
    # where the first car was disqualified, `duration` of the others is a gap (2024 round 14)
    first_lap_s = first_lap_s[first_lap_s > 0]
    counted = (second.reindex(first_lap_s.index) - pd.to_timedelta(first_lap_s, unit="s")).median()
    opened = control.loc[control["message"] == _PIT_EXIT, "date"].dropna()
    if pd.notna(counted) and (opened.empty or (opened - counted).abs().min() <= _AGREE):
        return counted.round("us")
    before_lap_2 = opened[opened < second.min()]
    if before_lap_2.empty:
        raise SourceFormatError(
            control[FILE].iloc[0] if len(control) else "race_control",
            got=f"no message {_PIT_EXIT!r} before lap 2, and no race time of a car with all its lap times",
            expected="one of them, to tell when the race started",
            next_step="leave the race out (--rounds) or take it from another source",
        )
    return before_lap_2.max()


def session_clock(instants: "pd.Series[Any]", start: pd.Timestamp) -> "pd.Series[float]":
    """UTC instants as session clock, seconds, to the microsecond."""
    return ((instants - start).dt.total_seconds() + LIGHTS_OUT_S).round(6)


def status_changes(control: pd.DataFrame) -> pd.DataFrame:
    """Changes of the track status (`date, status`, `FILE`, `ROW`) that follow from flags and safety cars.

    A safety car or a red flag holds until the whole track is declared clear, and hides yellow flags; several yellow sectors are
    yellow until the last one is clear. Against FastF1's status feed of 2023-2024, between lights out and the flag and within
    10 s: of its 340 changes 321 are here, 1 here is not there; the yellow and safety car of an incident that race control did
    not announce are missing.
    """
    status, yellow, found = "1", set[float](), []
    ordered = control.dropna(subset=["date"]).sort_values("date", kind="stable")
    for row in ordered.to_dict("records"):
        before, message, flag = status, row["message"] or "", row["flag"]
        if row["category"] == "SafetyCar" and message.startswith("VIRTUAL"):
            status = "7" if "ENDING" in message else "6" if "DEPLOYED" in message else status
        elif row["category"] == "SafetyCar":
            status = "4" if "DEPLOYED" in message else status
        elif row["scope"] == "Track" and flag == "RED":
            status = "5"
        elif row["scope"] == "Track" and flag == "CLEAR":
            status = "1"
            yellow.clear()
        elif row["scope"] == "Sector":
            (yellow.add if flag in ("YELLOW", "DOUBLE YELLOW") else yellow.discard)(row["sector"])
            if status in ("1", "2"):
                status = "2" if yellow else "1"
        if status != before:
            found.append({"date": row["date"], "status": status, FILE: row[FILE], ROW: row[ROW]})
    columns = {"date": control["date"].dtype, "status": "object", FILE: "object", ROW: "int64"}
    return pd.DataFrame(found, columns=list(columns)).astype(columns)


def status_of_laps(
    begins: "pd.Series[float]", ends: "pd.Series[float]", instants: "pd.Series[float]", statuses: "pd.Series[Any]"
) -> "pd.Series[Any]":
    """Every status code in force during each lap, in order of appearance; null for a lap without an end.

    Args:
        begins: start of each lap, seconds.
        ends: end of each lap, seconds.
        instants: changes of the status, ascending, on the same clock; before the first one the track is clear.
        statuses: the code that holds from each instant.
    """
    codes = ["1", *statuses]
    at = instants.to_numpy()
    first, last = np.searchsorted(at, begins.to_numpy(), side="right"), np.searchsorted(at, ends.to_numpy(), side="right")
    texts = ["".join(dict.fromkeys(codes[low : high + 1])) for low, high in zip(first, last, strict=True)]
    return pd.Series(texts, index=begins.index, dtype=object).where(ends.notna(), None)
