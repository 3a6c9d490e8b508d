"""A made-up folder of sources, as frames that a test may damage before they are written."""

from pathlib import Path

import pandas as pd

SEASON = 2031
CODES = ["AAA", "BBB", "CCC", "DDD"]
REFS = ["anna_a", "bert_b", "cleo_c", "dora_d"]
ROUNDS = 3
LAPS = 10
LAP_S = 90.0
LIGHTS_OUT_S = 3600.0  # session clock

Frames = dict[str, pd.DataFrame]


def tiny_frames(season: int = SEASON, *, id_offset: int = 0) -> Frames:
    """Relative path -> frame. `id_offset` shifts every numeric Ergast id, as another dump would."""
    teams = ["team_x", "team_y"]
    rounds = range(1, ROUNDS + 1)
    races = pd.DataFrame(
        {
            "raceId": [id_offset + season * 10 + r for r in rounds],
            "year": season,
            "round": list(rounds),
            "circuitId": [id_offset + r for r in rounds],
            "name": [f"Race {r}" for r in rounds],
            "date": [f"{season}-0{r + 2}-10" for r in rounds],
            "time": "13:00:00",
            "quali_date": [f"{season}-0{r + 2}-09" for r in rounds],
            "quali_time": "14:00:00",
        }
    )
    circuits = pd.DataFrame(
        {
            "circuitId": [id_offset + r for r in rounds],
            "circuitRef": [f"ring_{r}" for r in rounds],
            "name": [f"Ring {r}" for r in rounds],
            "location": "Town",
            "country": "Land",
            "lat": 10.5,
            "lng": -20.25,
            "alt": 100,
        }
    )
    drivers = pd.DataFrame(
        {
            "driverId": [id_offset + n for n in range(1, 5)],
            "driverRef": REFS,
            "number": range(1, 5),
            "code": CODES,
            "forename": [ref.split("_")[0].title() for ref in REFS],
            "surname": [ref.split("_")[1].upper() for ref in REFS],
            "dob": "2000-01-02",
            "nationality": "Landish",
        }
    )
    constructors = pd.DataFrame(
        {
            "constructorId": [id_offset + 1, id_offset + 2],
            "constructorRef": teams,
            "name": ["Team X", "Team Y"],
            "nationality": "Landish",
        }
    )
    entries = [(r, n) for r in rounds for n in range(1, 5)]
    results = pd.DataFrame(
        {
            "resultId": range(1, len(entries) + 1),
            "raceId": [id_offset + season * 10 + r for r, _ in entries],
            "driverId": [id_offset + n for _, n in entries],
            "constructorId": [id_offset + 1 + (n > 2) for _, n in entries],
            "number": [n for _, n in entries],
            "grid": [n for _, n in entries],
            "position": [n for _, n in entries],
            "positionText": [str(n) for _, n in entries],
            "positionOrder": [n for _, n in entries],
            "points": [[25, 18, 15, 12][n - 1] for _, n in entries],
            "laps": LAPS,
            "milliseconds": [int((LAPS * LAP_S + n) * 1000) for _, n in entries],
            "statusId": 1,
        }
    )
    qualifying = pd.DataFrame(
        {
            "qualifyId": range(1, len(entries) + 1),
            "raceId": results["raceId"],
            "driverId": results["driverId"],
            "constructorId": results["constructorId"],
            "number": results["number"],
            "position": results["grid"],
            "q1": [f"1:2{n}.500" for _, n in entries],
            "q2": [f"1:1{n}.500" for _, n in entries],
            "q3": "\\N",
        }
    )
    return {
        "ergast/races.csv": races,
        "ergast/circuits.csv": circuits,
        "ergast/drivers.csv": drivers,
        "ergast/constructors.csv": constructors,
        "ergast/results.csv": results,
        "ergast/qualifying.csv": qualifying,
        "ergast/status.csv": pd.DataFrame({"statusId": [1, 2], "status": ["Finished", "Engine"]}),
        "f1db/races.csv": pd.DataFrame(
            {
                "season": season,
                "round": list(rounds),
                "circuitType": ["RACE", "STREET", "ROAD"],
                "direction": ["CLOCKWISE", "ANTI_CLOCKWISE", "CLOCKWISE"],
                "courseLength": 5.5,
                "turns": 15,
                "laps": LAPS,
                "scheduledLaps": [None, 12, None],
            }
        ),
        f"fastf1/laps_{season}.parquet": tiny_laps(season),
        f"fastf1_undercut/weather_{season}.parquet": _weather(season),
        f"fastf1_undercut/track_status_{season}.parquet": pd.DataFrame(
            {
                "Season": season,
                "Round": list(rounds),
                "Time": _clock([LIGHTS_OUT_S + 100.0] * ROUNDS),
                "Status": "2",
                "Message": "Yellow",
            }
        ),
        f"fastf1_undercut/stints_{season}.parquet": pd.DataFrame(
            {
                "Season": season,
                "Round": [r for r, _ in entries],
                "Driver": [CODES[n - 1] for _, n in entries],
                "Stint": 1.0,
                "Compound": "SOFT",
                "StartLap": 1.0,
                "EndLap": float(LAPS),
                "StintLength": float(LAPS),
            }
        ),
        f"fastf1_undercut/pit_stops_{season}.parquet": pd.DataFrame(
            {
                "Season": season,
                "Round": list(rounds),
                "Driver": "DDD",
                "LapNumber": 5.0,
                "Stint": 1.0,
                "PitInTime": _clock([LIGHTS_OUT_S + 5 * LAP_S] * ROUNDS),
                "PitOutTime": _clock([LIGHTS_OUT_S + 5 * LAP_S + 22.0] * ROUNDS),
            }
        ),
    }


def tiny_laps(season: int = SEASON) -> pd.DataFrame:
    """FastF1 laps: driver n laps at 90 s + n/10, is n-th all race, and lap 1 has no official time."""
    rows = []
    for round_ in range(1, ROUNDS + 1):
        for n, code in enumerate(CODES, start=1):
            for lap in range(1, LAPS + 1):
                lap_s = LAP_S + n / 10
                rows.append(
                    {
                        "Time": LIGHTS_OUT_S + lap * lap_s,
                        "LapStartTime": LIGHTS_OUT_S + (lap - 1) * lap_s,
                        "LapTime": lap_s if lap > 1 else None,
                        "Driver": code,
                        "DriverNumber": str(n),
                        "LapNumber": float(lap),
                        "Stint": 1.0,
                        "Position": float(n),
                        "TyreLife": float(lap),
                        "RoundNumber": round_,
                    }
                )
    laps = pd.DataFrame(rows)
    for column in ("Time", "LapStartTime", "LapTime"):
        laps[column] = pd.to_timedelta(laps[column], unit="s")
    for column in ("PitInTime", "PitOutTime"):
        laps[column] = pd.Series(pd.NaT, index=laps.index, dtype="timedelta64[ns]")
    for sector in (1, 2, 3):
        laps[f"Sector{sector}Time"] = pd.to_timedelta(30.0, unit="s")
    return laps.assign(
        SpeedI1=250.0,
        SpeedI2=260.0,
        SpeedFL=270.0,
        SpeedST=300.0,
        Compound="SOFT",
        FreshTyre=True,
        Team="Team",
        TrackStatus="1",
        IsAccurate=True,
        Deleted=pd.Series(None, index=laps.index, dtype="boolean"),
        FastF1Generated=False,
        Season=season,
    )


def write_sources(root: Path, frames: Frames) -> Path:
    """Write the frames below `root` and return it."""
    for name, frame in frames.items():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".csv":
            frame.to_csv(target, index=False, na_rep="\\N")
        else:
            frame.to_parquet(target, index=False)
    return root


def _weather(season: int) -> pd.DataFrame:
    minutes = [(r, m) for r in range(1, ROUNDS + 1) for m in range(-5, 15)]
    return pd.DataFrame(
        {
            "Season": season,
            "Round": [r for r, _ in minutes],
            "Time": _clock([LIGHTS_OUT_S + 60.0 * m for _, m in minutes]),
            "AirTemp": 20.0,
            "TrackTemp": 30.0,
            "Humidity": 50.0,
            "Pressure": 1000.0,
            "Rainfall": False,
            "WindDirection": 90,
            "WindSpeed": 2.0,
        }
    )


def _clock(seconds: list[float]) -> pd.Series:
    return pd.Series(pd.to_timedelta(seconds, unit="s"))
