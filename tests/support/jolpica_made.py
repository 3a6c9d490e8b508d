"""More of Jolpica's lists, MADE: seasons joined from the lists of their races, and lap charts made from the timing feed."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from jolpica_pages import endpoint, page, window
from replay_server import Handler, Request, Response

_CLOCKS = ["Time", "LapStartTime"]
_COLUMNS = ["RoundNumber", "Driver", "LapNumber", *_CLOCKS, "Position"]


def seasons_from_folder(folder: Path) -> Handler:
    """`<year>/results`, `/qualifying` and `/sprint` of a folder that has them race by race (see `jolpica_from_folder`)."""

    def answer(request: Request) -> Response | None:
        match = re.fullmatch(r"(\d{4})/(results|qualifying|sprint)", endpoint(request.path))
        files = sorted(folder.glob(f"{match[1]}_*_{match[2]}.json")) if match else []
        if not files:
            return None
        documents = [json.loads(file.read_text(encoding="utf-8"))["MRData"] for file in files]
        races = [race for document in documents for race in document["RaceTable"]["Races"]]
        total = sum(int(document["total"]) for document in documents)
        whole = {"MRData": {"total": str(total), "RaceTable": {"season": match[1] if match else "", "Races": races}}}
        return Response(body=page(whole, *window(request.params)))

    return answer


def laps_from_fastf1(shared: Path) -> Handler:
    """`<year>/<round>/laps` of 2018-2024, MADE from the timing feed: the times between the instants a car crossed the line.

    Lap 1 counts from the feed's lights out, which is 0.1 to 0.4 s before the official one (11 races of 2018-2023); the other
    times and all places are the official ones wherever both were recorded. Serve it after `recorded_jolpica`.
    """

    def answer(request: Request) -> Response | None:
        match = re.fullmatch(r"(\d{4})/(\d{1,2})/laps", endpoint(request.path))
        if match is None:
            return None
        season, round_ = match.groups()
        timings = _charts(shared, int(season)).get(int(round_), [])
        limit, offset = window(request.params)
        laps: list[dict[str, Any]] = []
        for lap, timing in timings[offset : offset + limit]:
            if not laps or laps[-1]["number"] != lap:
                laps.append({"number": lap, "Timings": []})
            laps[-1]["Timings"].append(timing)
        races = [{"season": season, "round": round_, "Laps": laps}] if laps else []
        said = {"limit": f"{limit}", "offset": f"{offset}", "total": f"{len(timings)}"}
        return Response(body={"MRData": {**said, "RaceTable": {"season": season, "round": round_, "Races": races}}})

    return answer


@cache
def _charts(shared: Path, season: int) -> dict[int, list[tuple[str, dict[str, str]]]]:
    """Round -> (lap, timing) of every car and lap, in order."""
    laps = pd.read_parquet(shared / "fastf1" / f"laps_{season}.parquet", columns=_COLUMNS)
    laps[_CLOCKS] = laps[_CLOCKS].apply(lambda column: column.dt.total_seconds())
    laps = laps.sort_values(["RoundNumber", "Driver", "LapNumber"])
    lights_out = laps[laps["LapNumber"] == 1].groupby("RoundNumber")["LapStartTime"].agg(lambda starts: starts.mode().min())
    began = laps.groupby(["RoundNumber", "Driver"])["Time"].shift().fillna(laps["RoundNumber"].map(lights_out))
    laps["took"] = (laps["Time"] - began).round(3)
    laps["driver_id"] = laps["Driver"].map(_driver_ids(shared, season))
    # a lap without a place was not finished
    finished = laps[laps["Position"].notna()].sort_values(["RoundNumber", "LapNumber", "Position"])
    charts: dict[int, list[tuple[str, dict[str, str]]]] = {}
    for round_, lap, driver, place, took in zip(
        *(finished[name] for name in ("RoundNumber", "LapNumber", "driver_id", "Position", "took")), strict=True
    ):
        timing = {"driverId": driver, "position": f"{place:.0f}", "time": _clock(took)}
        charts.setdefault(int(round_), []).append((f"{lap:.0f}", timing))
    return charts


def _driver_ids(shared: Path, season: int) -> dict[str, str]:
    drivers = pd.read_csv(shared / "ergast" / "drivers.csv", na_values=r"\N")
    results = pd.read_csv(shared / "ergast" / "results.csv", usecols=["raceId", "driverId"])
    races = pd.read_csv(shared / "ergast" / "races.csv", usecols=["raceId", "year"])
    driven = results[results["raceId"].isin(races.loc[races["year"] == season, "raceId"])]["driverId"]
    of_season = drivers[drivers["driverId"].isin(driven)]
    return dict(zip(of_season["code"], of_season["driverRef"], strict=True))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f}:{rest:06.3f}"
