"""Weather, track status and race control: what a race session was like, minute by minute."""

from pathlib import Path

import pandas as pd

from pipelines.ingest.canonical.reading import FILE, ROW, Kind, read_parquet
from pipelines.ingest.canonical.sieve import Rule, Sieve, is_null, outside
from pipelines.ingest.canonical.timing import SessionClock

WEATHER_KEY = ["season", "round", "time"]
STATUS_KEY = ["season", "round", "time", "status"]
CONTROL_KEY = ["season", "round", "time", "category", "message"]
_DAY_S = 86_400.0

WEATHER_COLUMNS: dict[str, tuple[str, Kind]] = {
    "Season": ("season", "int"),
    "Time": ("time", "duration"),
    "AirTemp": ("air_temp_c", "float"),
    "TrackTemp": ("track_temp_c", "float"),
    "Humidity": ("humidity_pct", "float"),
    "Pressure": ("pressure_mbar", "float"),
    "Rainfall": ("is_raining", "bool"),
    "WindDirection": ("wind_direction_deg", "float"),
    "WindSpeed": ("wind_speed_mps", "float"),
}
STATUS_COLUMNS: dict[str, tuple[str, Kind]] = {
    "Season": ("season", "int"),
    "Time": ("time", "duration"),
    "Status": ("status", "str"),
    "Message": ("message", "str"),
}
CONTROL_COLUMNS: dict[str, tuple[str, Kind]] = {
    "Season": ("season", "int"),
    "RoundNumber": ("round", "int"),
    "Time": ("time", "time"),
    "Category": ("category", "str"),
    "Message": ("message", "str"),
    "Flag": ("flag", "str"),
    "Scope": ("scope", "str"),
    "Sector": ("sector", "float"),
    "RacingNumber": ("car_number", "str"),
    "Lap": ("lap", "float"),
}
_OPENF1: dict[str, Kind] = {
    "session_key": "int",
    "session_code": "str",
    "date": "str",
    "driver_number": "float",
    "lap_number": "float",
    "category": "str",
    "flag": "str",
    "scope": "str",
    "sector": "float",
    "message": "str",
    "season": "int",
}
CONTROL_CONTENT = ["season", "round", "time", "category", "message", "flag", "scope", "sector", "car_number", "lap"]

WEATHER_RULES: list[Rule] = [
    ("no instant", is_null("time")),
    ("impossible session time", outside("time", 0, _DAY_S)),
    ("a reading is missing", lambda rows: rows[[name for name, _ in list(WEATHER_COLUMNS.values())[2:]]].isna().any(axis=1)),
    ("impossible air temperature", outside("air_temp_c", -30, 60)),
    ("impossible track temperature", outside("track_temp_c", -30, 90)),
    ("impossible humidity", outside("humidity_pct", 0, 100)),
    ("impossible pressure", outside("pressure_mbar", 600, 1100)),
    ("impossible wind direction", outside("wind_direction_deg", 0, 360)),
    ("impossible wind speed", outside("wind_speed_mps", 0, 60)),
]
STATUS_RULES: list[Rule] = [
    ("no instant", is_null("time")),
    ("impossible session time", outside("time", 0, _DAY_S)),
    ("no status", is_null("status")),
]
CONTROL_RULES: list[Rule] = [
    ("no instant", is_null("time")),
    ("no category or message", lambda rows: rows["category"].isna() | rows["message"].isna()),
    ("impossible lap number", outside("lap", 0, 500, whole=True)),
    ("impossible sector", outside("sector", 0, 200, whole=True)),
    ("impossible car number", outside("car_number", 0, 999, whole=True)),
]


def read_openf1_control(root: Path, file: Path, starts: pd.DataFrame, sieve: Sieve) -> pd.DataFrame:
    """OpenF1 race control messages of races, with the official round.

    OpenF1 counts 2024's pre-season testing as round 1, so a session is matched to the race that starts nearest to the session's
    median message, at most 36 hours away (Ergast dates one night race a day early). Messages of other sessions are counted.

    Args:
        root: path the file was found below.
        file: `openf1/race_control_*.parquet`.
        starts: `season, round, race_start` of the races asked for.
        sieve: keeps the books.
    """
    raw = read_parquet(root, file, _OPENF1)
    raw["time"] = pd.to_datetime(raw["date"], utc=True, errors="coerce", format="ISO8601").dt.as_unit("us")
    rows = sieve.asked("race_control", raw.drop(columns=["date"]))
    races = rows[rows["session_code"] == "R"]
    middles = races.dropna(subset=["time"]).groupby("session_key")["time"].median().rename("middle").reset_index()
    pairs = middles.merge(starts, how="cross")
    pairs = pairs.assign(away=(pairs["middle"] - pairs["race_start"]).abs())
    pairs = pairs[pairs["away"] < pd.Timedelta(hours=36)].sort_values("away", kind="stable").drop_duplicates("session_key")
    kept = races.merge(pairs[["session_key", "round"]], how="inner", on="session_key")
    sieve.other_session("race_control", len(rows) - len(kept))
    return kept.rename(columns={"driver_number": "car_number", "lap_number": "lap"})[[*CONTROL_CONTENT, FILE, ROW]]


def make_timed(table: str, raw: pd.DataFrame, clock: SessionClock, sieve: Sieve) -> pd.DataFrame:
    """Weather or track status of one season with its instants in UTC; rows of races without a clock are quarantined."""
    kept = sieve.check(
        table,
        raw,
        [
            ("unknown race", lambda rows: ~rows["round"].isin(list(clock.starts))),
            ("race without a lap 1: its session clock has no origin", lambda rows: ~clock.knows(rows["round"])),
        ],
    )
    at = clock.utc(kept["round"], kept["time"])
    return kept.assign(event_timestamp=at, created_timestamp=at)


def make_race_control(raw: pd.DataFrame, laps: pd.DataFrame, clock: SessionClock, sieve: Sieve) -> pd.DataFrame:
    """Race control messages of one season on the clock of the laps.

    Messages with a `session_time` are put there, and are known when they came (`known`), if that was later. Most have the true
    time of day only, laps count from the scheduled start, and a race may start minutes or hours late. A message that names a
    lap was sent after the leader began it, so the first message of a lap minus the begin of that lap is a little more than the
    delay: take the 25th percentile over the race's laps (red flags put a few laps wide of the mark, and lap 1 does not count,
    because messages before the start name it too), less 20 s, so that messages are late rather than early. Checked with the
    chequered flag of the 104 races that have one: put 14 s before to 15 s after the winner's line in 95 %.
    """
    kept = sieve.check("race_control", raw, [("unknown race", lambda rows: ~rows["round"].isin(list(clock.starts)))])
    begun = laps.groupby(["round", "lap"])["lap_start"].min().rename("begun").reset_index()
    joined = kept.merge(begun, how="left", on=["round", "lap"])
    since = (joined["time"] - joined["begun"]).dt.total_seconds().where(joined["lap"] > 1)
    first = since.groupby([joined["round"], joined["lap"]]).min()
    late = (first.groupby(level="round").quantile(0.25) - 20).round()
    seconds = joined["round"].map(late).fillna(0)
    at = joined["time"] - pd.to_timedelta(seconds, unit="s").astype("timedelta64[us]")
    if "session_time" in joined:
        at = clock.utc(joined["round"], joined["session_time"]).fillna(at)
    came = clock.utc(joined["round"], joined["known"]) if "known" in joined else at
    return joined.assign(event_timestamp=at, created_timestamp=at.where(~(came > at), came))
