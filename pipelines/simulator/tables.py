"""A simulated season as canonical tables: columns, types, ids and the instants at which each row became known."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines import schemas
from pipelines.simulator import incidents, timing
from pipelines.simulator.event import SeasonEvent, microseconds
from pipelines.simulator.field import CONSTRUCTORS
from pipelines.simulator.flags import MESSAGES, Timeline, timeline
from pipelines.simulator.weather import MINUTES_BEFORE

RESULT_DELAY_S = 3 * 3600
"""Results are known three hours after the flag (scrutineering and stewards)."""

QUALIFYING_LENGTH_S = 75 * 60
GRID_BEFORE_S = 3600
PUBLISHED_BEFORE_S = 7 * 24 * 3600
ENTRY_LIST_BEFORE_S = 3600

FIRST_RACE_YEAR_OF_LAPPED = 2023
"""From this season on the results say `Lapped` instead of `+1 Lap`, as the real ones do."""

NOT_SIMULATED = ("sprint_results", "driver_standings", "constructor_standings")
"""Canonical tables that a simulated season leaves empty: its weekends have no sprints, and no feature reads standings."""


def season_tables(event: SeasonEvent, generators: Sequence[np.random.Generator]) -> dict[str, pd.DataFrame]:
    """Every canonical table of the season, with the columns of `schemas.TABLES` in order; those of `NOT_SIMULATED` have no rows.

    Args:
        event: what happened.
        generators: R generators for measuring noise (sectors, speed traps), one a race.
    """
    timelines = _timelines(event)
    laps = timing.lap_columns(event, timelines, generators)
    rows = {
        "circuits": _circuits(event),
        "races": _races(event),
        "drivers": _drivers(event),
        "constructors": _constructors(event),
        "entries": _entries(event),
        "qualifying": _qualifying(event),
        "laps": laps,
        "stints": timing.stint_columns(laps),
        "pit_stops": timing.pit_stop_columns(laps),
        "weather": _weather(event),
        "track_status": _track_status(event, timelines),
        "race_control": _race_control(event, timelines),
    }
    return {
        name: schemas.empty_frame(name) if name in NOT_SIMULATED else _finish(name, rows[name], event) for name in schemas.TABLES
    }


def _finish(name: str, columns: dict[str, Any], event: SeasonEvent) -> pd.DataFrame:
    """A frame with the table's columns and types. Instants arrive as int64 microseconds, `timing.NEVER_US` for none."""
    spec = schemas.table(name)
    size = len(next(iter(columns.values())))
    columns = {**columns, "season": np.full(size, event.field.season), "source": np.full(size, schemas.SIMULATOR, dtype=object)}
    if spec.is_race_table and "race" in columns:
        race = columns.pop("race")
        columns["race_id"], columns["round"] = event.race_ids[race], event.rounds[race]
    if "driver" in columns:
        columns["driver_id"] = event.driver_ids[columns.pop("driver")]
    made: dict[str, Any] = {}
    for column, kind in spec.cols.items():
        values = columns[column]
        if kind.kind == "time":
            made[column] = pd.Series(np.asarray(values, dtype=np.int64).view("datetime64[us]")).dt.tz_localize(UTC)
        elif kind.nullable and kind.kind in ("int", "bool"):
            made[column] = pd.array(values, dtype=kind.dtype)
        else:
            made[column] = np.asarray(values, dtype=object if kind.kind == "str" else kind.dtype)
    frame = pd.DataFrame(made, columns=spec.columns)
    return frame.sort_values(list(spec.key), kind="stable", ignore_index=True)


def _stamped(columns: dict[str, Any], event_us: NDArray[np.int64], created_us: NDArray[np.int64]) -> dict[str, Any]:
    return {**columns, "event_timestamp": event_us, "created_timestamp": created_us}


def _circuits(event: SeasonEvent) -> dict[str, Any]:
    names = ("circuit_id", "name", "locality", "country", "lat_deg", "lng_deg", "altitude_m")
    known = event.start_us - PUBLISHED_BEFORE_S * 10**6
    return _stamped({name: [getattr(circuit, name) for circuit in event.circuits] for name in names}, known, known)


def _races(event: SeasonEvent) -> dict[str, Any]:
    circuits = event.circuits
    known = event.start_us - PUBLISHED_BEFORE_S * 10**6
    columns = {
        "race": np.arange(len(circuits)),
        "name": [f"{circuit.locality} Grand Prix" for circuit in circuits],
        "circuit_id": [circuit.circuit_id for circuit in circuits],
        "race_start": event.start_us,
        "qualifying_start": microseconds(event.qualifying_start),
        "course_length_km": [circuit.length_km for circuit in circuits],
        "turns": [circuit.turns for circuit in circuits],
        "circuit_type": [circuit.circuit_type for circuit in circuits],
        "direction": [circuit.direction for circuit in circuits],
        "scheduled_laps": event.log.laps,
        "race_end": event.start_us + event.result.flag_ms * 1000,
    }
    return _stamped(columns, known, known)


def _drivers(event: SeasonEvent) -> dict[str, Any]:
    drivers = event.field.drivers
    known = np.full(len(drivers), event.start_us[0] - ENTRY_LIST_BEFORE_S * 10**6)
    born = [datetime(driver.born[0], 1, 1, tzinfo=UTC) + timedelta(days=driver.born[1] - 1) for driver in drivers]
    columns: dict[str, Any] = {
        name: [getattr(driver, name) for driver in drivers]
        for name in ("driver_id", "code", "car_number", "given_name", "family_name", "nationality")
    }
    return _stamped({**columns, "date_of_birth": microseconds(born)}, known, known)


def _constructors(event: SeasonEvent) -> dict[str, Any]:
    known = np.full(len(CONSTRUCTORS), event.start_us[0] - ENTRY_LIST_BEFORE_S * 10**6)
    ids, names, nations = zip(*CONSTRUCTORS, strict=True)
    return _stamped({"constructor_id": ids, "name": names, "nationality": nations}, known, known)


def _by_entry(event: SeasonEvent) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[str, Any]]:
    """Race and driver index of every entry, and the columns that entries and qualifying share."""
    races, drivers = event.qualified.position.shape
    race, driver = np.divmod(np.arange(races * drivers), drivers)
    teams = np.array([constructor[0] for constructor in CONSTRUCTORS], dtype=object)[event.field.team]
    return race, driver, {"race": race, "driver": driver, "constructor_id": teams[driver]}


def _entries(event: SeasonEvent) -> dict[str, Any]:
    race, driver, columns = _by_entry(event)
    result = event.result
    order = result.order.ravel()
    classified = result.classified.ravel()
    end = (event.start_us + result.flag_ms * 1000)[race]
    columns |= {
        "code": np.array([d.code for d in event.field.drivers], dtype=object)[driver],
        "car_number": np.array([d.car_number for d in event.field.drivers])[driver],
        "grid": event.qualified.grid.ravel(),
        "is_pit_lane_start": event.qualified.pit_lane.ravel(),
        "grid_timestamp": event.start_us[race] - GRID_BEFORE_S * 10**6,
        "position": np.where(classified, order.astype(np.float64), np.nan),
        "position_order": order,
        "is_classified": classified,
        "status": _status(event).ravel(),
        "points": result.points.ravel(),
        "laps_completed": result.laps_done.ravel(),
    }
    return _stamped(columns, end, end + RESULT_DELAY_S * 10**6)


def _status(event: SeasonEvent) -> NDArray[np.object_]:
    """(R, D) how each car's race ended, in the words of the results."""
    log, result = event.log, event.result
    down = log.laps[:, None] - result.laps_done
    lapped = event.field.season >= FIRST_RACE_YEAR_OF_LAPPED
    words = np.empty(down.shape, dtype=object)
    for index in np.ndindex(down.shape):
        if log.out_lap[index] == 0:
            words[index] = "Did not start"
        elif result.retired[index]:
            reasons = incidents.ACCIDENTS if log.out_kind[index] == 2 else incidents.FAILURES
            words[index] = reasons[int(log.out_detail[index] * len(reasons))]
        elif down[index] == 0:
            words[index] = "Finished"
        else:
            words[index] = "Lapped" if lapped else f"+{down[index]} Lap{'s' if down[index] > 1 else ''}"
    return words


def _qualifying(event: SeasonEvent) -> dict[str, Any]:
    race, _, columns = _by_entry(event)
    times = event.qualified.times_s
    columns |= {
        "position": event.qualified.position.ravel(),
        "q1_s": times[:, 0].ravel(),
        "q2_s": times[:, 1].ravel(),
        "q3_s": times[:, 2].ravel(),
    }
    known = (microseconds(event.qualifying_start) + QUALIFYING_LENGTH_S * 10**6)[race]
    return _stamped(columns, known, known)


def _weather(event: SeasonEvent) -> dict[str, Any]:
    """Samples from an hour before lights out to ten minutes after the flag."""
    weather = event.weather
    minutes = np.arange(weather.air_c.shape[1]) - MINUTES_BEFORE
    keep = minutes[None] <= (event.result.flag_ms / 60_000.0 + 10.0)[:, None]
    race, minute = np.nonzero(keep)
    at = event.start_us[race] + minutes[minute] * 60 * 10**6
    columns = {
        "race": race,
        "air_temp_c": weather.air_c[keep],
        "track_temp_c": weather.track_c[keep],
        "humidity_pct": weather.humidity_pct[keep],
        "pressure_mbar": weather.pressure_mbar[keep],
        "is_raining": weather.raining[keep],
        "wind_direction_deg": weather.wind_deg[keep].astype(np.float64),
        "wind_speed_mps": weather.wind_mps[keep],
    }
    return _stamped(columns, at, at)


def _timelines(event: SeasonEvent) -> list[Timeline]:
    lines = []
    for race, circuit in enumerate(event.circuits):
        count = int(event.log.laps[race])
        crossing = np.where(event.result.place[race, :count] == 1, event.result.clock_ms[race, :count], 0)
        lines.append(timeline(event.log, race, crossing.max(axis=1), circuit.lap_s * 1000.0))
    return lines


def _track_status(event: SeasonEvent, timelines: Sequence[Timeline]) -> dict[str, Any]:
    race = np.repeat(np.arange(len(timelines)), [len(line.at_ms) for line in timelines])
    at = event.start_us[race] + np.concatenate([line.at_ms for line in timelines]) * 1000
    status = np.array([code for line in timelines for code in line.code], dtype=object)
    return _stamped({"race": race, "status": status, "message": [MESSAGES[code] for code in status]}, at, at)


_ANNOUNCED: dict[str, tuple[str, str, str | None, str | None]] = {
    "1": ("Flag", "TRACK CLEAR", "CLEAR", "Track"),
    "2": ("Flag", "YELLOW IN TRACK SECTOR", "YELLOW", "Sector"),
    "4": ("SafetyCar", "SAFETY CAR DEPLOYED", None, None),
    "5": ("Flag", "RED FLAG", "RED", "Track"),
    "6": ("SafetyCar", "VIRTUAL SAFETY CAR DEPLOYED", None, None),
    "7": ("SafetyCar", "VIRTUAL SAFETY CAR ENDING", None, None),
}
"""Status code -> category, message, flag, scope, in race control's words."""


def _race_control(event: SeasonEvent, timelines: Sequence[Timeline]) -> dict[str, Any]:
    messages: list[tuple[int, int, str, str, str | None, str | None, int | None, int | None, int]] = []
    for race, line in enumerate(timelines):
        start = int(event.start_us[race])
        total = int(event.log.laps[race])
        messages.append((race, start - 40 * 60 * 10**6, "Flag", "GREEN LIGHT - PIT EXIT OPEN", "GREEN", "Track", None, None, 0))
        for at_ms, code, lap in zip(line.at_ms[1:], line.code[1:], line.lap[1:], strict=True):
            category, text, flag, scope = _ANNOUNCED[code]
            sector = 1 + int(at_ms) % event.circuits[race].turns if code == "2" else None
            text = f"{text} {sector}" if sector is not None else text
            messages.append((race, start + int(at_ms) * 1000, category, text, flag, scope, sector, None, int(lap)))
        messages.extend(_stopped_cars(event, race))
        end = start + int(event.result.flag_ms[race]) * 1000
        messages.append((race, end, "Flag", "CHEQUERED FLAG", "CHEQUERED", "Track", None, None, total))
    names = ("race", "at", "category", "message", "flag", "scope", "sector", "car_number", "lap")
    columns: dict[str, Any] = {name: list(values) for name, values in zip(names, zip(*messages, strict=True), strict=True)}
    columns["race"] = np.array(columns["race"], dtype=np.int64)
    at = np.array(columns.pop("at"), dtype=np.int64)
    return _stamped(columns, at, at)


def _stopped_cars(
    event: SeasonEvent, race: int
) -> list[tuple[int, int, str, str, str | None, str | None, int | None, int | None, int]]:
    """One message for each car that stopped in the race: half a lap after it last crossed the line."""
    found: list[tuple[int, int, str, str, str | None, str | None, int | None, int | None, int]] = []
    for number, driver in enumerate(event.field.drivers):
        if not event.result.retired[race, number] or event.log.out_lap[race, number] == 0:
            continue
        done = int(event.result.laps_done[race, number])
        last_ms = int(event.result.clock_ms[race, done - 1, number]) if done else 0
        at = int(event.start_us[race]) + last_ms * 1000 + int(event.circuits[race].lap_s * 5e5)
        turn = 1 + int(event.log.out_detail[race, number] * 1e4) % event.circuits[race].turns
        text = f"CAR {driver.car_number} ({driver.code}) STOPPED AT TURN {turn}"
        found.append((race, at, "CarEvent", text, None, None, None, driver.car_number, done + 1))
    return found
