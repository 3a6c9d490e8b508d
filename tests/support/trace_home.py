"""Homes that hold only what the traces step reads: races whose every lap the test has chosen."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tiny_home import write_known

from feature_repo.files import write_parquet
from feature_repo.settings import Settings

START = pd.Timestamp("2024-05-26T13:00:00Z")


@dataclass(frozen=True)
class Lap:
    """One lap of one car: its end and when that was known, seconds after lights out."""

    lap: int
    speed_kph: float
    end_s: float
    created_s: float | None = None


def even_race(n_cars: int, n_laps: int, seed: int = 0) -> dict[str, list[Lap]]:
    """A race without incidents: car k a little slower than car k - 1, one pit lap each."""
    rng = np.random.default_rng(seed)
    race = {}
    for car in range(n_cars):
        speeds = 200.0 - 0.4 * car + rng.normal(0.0, 0.3, n_laps)
        speeds[min(n_laps - 1, 3 + car % 5)] -= 40.0
        ends = np.cumsum(5.0 * 3600.0 / speeds) + car
        race[f"driver_{car:02d}"] = [Lap(k + 1, float(np.float32(speeds[k])), float(ends[k])) for k in range(n_laps)]
    return race


def write_home(
    settings: Settings,
    races: Mapping[str, Mapping[str, list[Lap]]],
    *,
    scheduled_laps: int,
    moments_from: Mapping[str, Mapping[str, list[Lap]]] | None = None,
) -> None:
    """Write trace, entrants and moments; a driver with an empty list is an entrant who never ended a lap.

    Args:
        settings: the home.
        races: race_id -> driver_id -> laps. A trace row at lap k holds every lap that ended, and was known, by then.
        scheduled_laps: of each race.
        moments_from: races whose leaders' laps say when the moments are; default `races`.
    """
    traces, entrants, moments = [], [], []
    for race_id, cars in races.items():
        season, round_ = (int(part) for part in race_id.split("_"))
        for driver_id, laps in cars.items():
            entrants.append((race_id, driver_id, "team", "monaco", season, round_, driver_id[:3].upper(), f"Driver {driver_id}"))
            for row in laps:
                created = _created_s(row)
                ended = {lap.lap: lap for lap in laps if lap.end_s <= row.end_s and _created_s(lap) <= created}
                known = [ended[lap] for lap in sorted(ended)]
                traces.append((race_id, driver_id, [lap.lap for lap in known], [lap.speed_kph for lap in known],
                               scheduled_laps, _at(row.end_s), _at(created)))  # fmt: skip
        timed = (moments_from or races)[race_id]
        every = pd.DataFrame([(lap.lap, lap.end_s) for laps in timed.values() for lap in laps], columns=["lap", "end_s"])
        leader = [(0, 0.0), *every.groupby("lap")["end_s"].min().items()]
        moments += [(race_id, season, round_, f"Grand Prix {round_}", "monaco", lap, _at(end), scheduled_laps, START, False,
                     _at(end)) for lap, end in leader]  # fmt: skip
    names = ["race_id", "driver_id", "lap_numbers", "lap_speeds_kph", "scheduled_laps", "event_timestamp", "created_timestamp"]
    frame = pd.DataFrame(traces, columns=names)
    frame["lap_numbers"] = [np.array(values, dtype=np.int64) for values in frame["lap_numbers"]]
    frame["lap_speeds_kph"] = [np.array(values, dtype=np.float32) for values in frame["lap_speeds_kph"]]
    write_parquet(settings.features_dir / "trace.parquet", frame)
    names = ["race_id", "driver_id", "constructor_id", "circuit_id", "season", "round", "code", "driver_name"]
    write_parquet(settings.features_dir / "entrants.parquet", pd.DataFrame(entrants, columns=names))
    names = ["race_id", "season", "round", "name", "circuit_id", "lap", "as_of", "scheduled_laps", "race_start", "is_simulated",
             "known_at"]  # fmt: skip
    write_parquet(settings.features_dir / "moments.parquet", pd.DataFrame(moments, columns=names))
    write_known(settings, known_before=pd.Timedelta(hours=1))


def pictures(settings: Settings) -> dict[str, bytes]:
    """Every file of the store that is not a lock, by path below the home's `multimodal`."""
    root = settings.multimodal_dir
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def _created_s(lap: Lap) -> float:
    return lap.end_s if lap.created_s is None else lap.created_s


def _at(seconds: float) -> pd.Timestamp:
    return START + pd.Timedelta(microseconds=round(seconds * 1e6))
