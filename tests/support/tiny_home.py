"""A tiny Feast home: two races, a handful of drivers, four views, every row chosen by the test."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32, Int64, String

from feature_repo.files import read_parquet, write_parquet
from feature_repo.settings import Settings

START = pd.Timestamp("2024-05-26T13:00:00Z")
"""Lights out of race 2024_08; race 2024_09 starts a fortnight later."""
RACES = ("2024_08", "2024_09")
DRIVERS = ("alonso", "max_verstappen", "norris")
TEAMS = {"alonso": "aston_martin", "max_verstappen": "red_bull", "norris": "mclaren"}
CIRCUITS = {"2024_08": "monaco", "2024_09": "villeneuve"}
FORM_TTL = timedelta(days=30)


def at(seconds: float) -> pd.Timestamp:
    """That many seconds after lights out of 2024_08."""
    return START + pd.Timedelta(seconds=seconds)


def catalogue(home: Path, *, form_fields: Iterable[str] = ("form_finish", "form_elo")) -> list[Any]:
    """driver_form[driver], tire_state[race, driver], trace[race, driver] online; race_result offline only; a service each."""
    race = Entity(name="race", join_keys=["race_id"], value_type=ValueType.STRING)
    driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.STRING)

    def view(name: str, entities: list[Entity], schema: list[Field], **options: Any) -> FeatureView:
        source = FileSource(
            name=f"{name}_source",
            path=str(home / "features" / f"{name}.parquet"),
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        )
        return FeatureView(name=name, entities=entities, schema=schema, source=source, **options)

    form = view("driver_form", [driver], [Field(name=name, dtype=Float32) for name in form_fields], ttl=FORM_TTL)
    tyre = view(
        "tire_state",
        [race, driver],
        [Field(name="tyre_life_laps", dtype=Float32), Field(name="compound", dtype=String)],
        ttl=timedelta(hours=6),
        tags={"fresh_for_s": "300"},
    )
    trace = view(
        "trace",
        [race, driver],
        [Field(name="lap_numbers", dtype=Array(Int64)), Field(name="lap_speeds_kph", dtype=Array(Float32))],
        ttl=timedelta(0),
    )
    result = view("race_result", [race, driver], [Field(name="finish_position", dtype=Int64)], ttl=timedelta(0), online=False)
    return [
        race, driver, form, tyre, trace, result,
        FeatureService(name="finish_position_v1", features=[form, tyre]),
        FeatureService(name="speed_trace_v1", features=[trace]),
        FeatureService(name="race_result_v1", features=[result]),
    ]  # fmt: skip


def rows(*records: dict[str, Any]) -> pd.DataFrame:
    """Rows of a feature table; `event` and `created` are seconds after lights out, `created` defaults to `event`."""
    frame = pd.DataFrame([{"created": record["event"], **record} for record in records])
    for column in ("event", "created"):
        stamps = [pd.NaT if pd.isna(seconds) else at(seconds) for seconds in frame.pop(column)]
        frame[f"{column}_timestamp"] = pd.Series(pd.to_datetime(stamps, utc=True), dtype="datetime64[us, UTC]")
    return frame


def form_row(
    driver_id: str, event: float, finish: float | None = 1.0, elo: float | None = 1500.0, **times: Any
) -> dict[str, Any]:
    """A row of driver_form."""
    return {"driver_id": driver_id, "form_finish": finish, "form_elo": elo, "event": event, **times}


def write_table(settings: Settings, name: str, frame: pd.DataFrame) -> Path:
    """Write `features/<name>.parquet` with the column types of the catalogue above."""
    types: dict[str, Any] = {"form_finish": "float32", "form_elo": "float32", "tyre_life_laps": "float32"}
    frame = frame.astype({column: kind for column, kind in types.items() if column in frame})
    target = settings.features_dir / f"{name}.parquet"
    write_parquet(target, frame)
    return target


def write_all(settings: Settings, *, n_laps: int = 3) -> None:
    """All tables of both races: form before each race, `n_laps` laps of 90.5 s for tyres and traces, results."""
    starts = {"2024_08": 0.0, "2024_09": 14 * 86_400.0}
    form, tyre, trace, result, entrants, moments = [], [], [], [], [], []
    for race_id, start in starts.items():
        for place, driver_id in enumerate(DRIVERS, start=1):
            keys = {"race_id": race_id, "driver_id": driver_id}
            form.append(form_row(driver_id, start - 86_400, float(place), 1500.0 + place))
            for lap in range(1, n_laps + 1):
                end = start + 90.5 * lap + place
                tyre.append({**keys, "tyre_life_laps": float(lap), "compound": None if place == 3 else "HARD", "event": end})
                laps = list(range(1, lap + 1))
                trace.append({**keys, "lap_numbers": laps, "lap_speeds_kph": [200.0 + n for n in laps], "event": end})
            result.append({**keys, "finish_position": place, "event": start + 7200, "created": start + 18_000})
            entrants.append(
                {
                    **keys,
                    "constructor_id": TEAMS[driver_id],
                    "circuit_id": CIRCUITS[race_id],
                    "season": 2024,
                    "round": int(race_id[-2:]),
                }
            )
        for lap in range(n_laps + 1):
            as_of = at(start + (90.5 * lap + 1 if lap else 0))
            moments.append(
                {
                    "race_id": race_id,
                    "lap": lap,
                    "as_of": as_of,
                    "scheduled_laps": 2 * n_laps,
                    "race_start": at(start),
                    "known_at": as_of,
                }
            )
    for name, records in {"driver_form": form, "tire_state": tyre, "trace": trace, "race_result": result}.items():
        write_table(settings, name, rows(*records))
    write_parquet(settings.features_dir / "entrants.parquet", pd.DataFrame(entrants))
    write_parquet(settings.features_dir / "moments.parquet", pd.DataFrame(moments))
    write_known(settings, known_before=pd.Timedelta(days=7))


def write_known(settings: Settings, *, known_before: pd.Timedelta) -> None:
    """`entrants_known` and `races_known` from `entrants` and `moments`: everything known once, so long before lights out."""
    entrants = read_parquet(settings.features_dir / "entrants.parquet")
    races = read_parquet(settings.features_dir / "moments.parquet").query("lap == 0").drop(columns=["lap", "as_of", "known_at"])
    facts = entrants[["race_id", "circuit_id", "season", "round"]].drop_duplicates("race_id")
    races = races[["race_id", *races.columns.difference(facts.columns)]].merge(facts, on="race_id")
    races = races.assign(
        **{name: value for name, value in {"name": "Grand Prix", "is_simulated": False}.items() if name not in races}
    )
    known = races["race_start"] - known_before
    races = races.assign(event_timestamp=known, created_timestamp=known)
    stamps = races[["race_id", "event_timestamp", "created_timestamp"]]
    names = {"code": "AAA", "driver_name": "Driver"}
    entrants = entrants.assign(**{name: value for name, value in names.items() if name not in entrants}, is_entered=True)
    entrants = entrants.drop(columns=["circuit_id", "season", "round"]).merge(stamps, on="race_id")
    write_parquet(settings.features_dir / "entrants_known.parquet", entrants)
    write_parquet(settings.features_dir / "races_known.parquet", races)
