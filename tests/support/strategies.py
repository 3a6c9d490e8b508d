"""Small lakes for tests: canonical frames of a few races.

`small_lake(...)` builds frames deterministically; `lakes()` and `instants(lake)` are the Hypothesis strategies on top. Modules
below `tests/` import this as `strategies`. The frames have the awkward cases in them: retirements, a car that never started, a
start from the pit lane, laps without a time or compound, rain, safety cars, a lap the feed lost, two races at one circuit.
"""

import functools
from collections.abc import Iterable

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from feature_repo.visibility import CREATED, EVENT
from pipelines import schemas

Lake = dict[str, pd.DataFrame]

CIRCUITS = ("alpha", "beta", "gamma")
SLICKS = ("SOFT", "MEDIUM", "HARD")
N_LAKES = 40
PUBLISHED_AFTER = pd.Timedelta(hours=3)


def small_lake(
    seed: int = 0,
    *,
    seasons: Iterable[int] = (2022, 2023),
    rounds: int = 2,
    n_drivers: int = 4,
    n_laps: int = 8,
    late: bool = False,
) -> Lake:
    """Canonical frames of `rounds` races in each season, valid by `pipelines.schemas` unless `late`.

    Args:
        seed: of everything that varies.
        seasons: championship years.
        rounds: races a season, a week apart; the second race of a season is at the circuit of the first.
        n_drivers: cars a race, two to a team.
        n_laps: scheduled laps.
        late: also make rows that arrive late and rows that correct earlier ones, which a lake cannot hold (its keys are unique)
            but the feature functions promise to understand.
    """
    rng = np.random.default_rng(seed)
    rows: dict[str, list[dict[str, object]]] = {name: [] for name in schemas.TABLES}
    for season in seasons:
        for number in range(1, rounds + 1):
            for name, of_race in _race(rng, season, number, n_drivers, n_laps).items():
                rows[name].extend(of_race)
    lake: Lake = {}
    for name in schemas.TABLES:
        frame = pd.DataFrame(rows[name]) if rows[name] else schemas.empty_frame(name)
        key = list(schemas.table(name).key)
        repeats = [*key, "season"] if "season" in frame and "race_id" not in frame else key
        lake[name] = schemas.conform(name, frame.drop_duplicates(repeats, ignore_index=True)) if len(frame) else frame
    return with_late_rows(lake, rng) if late else lake


def canonical(name: str, *rows: dict[str, object]) -> pd.DataFrame:
    """A canonical frame of hand-written rows; what a row leaves out is the least remarkable value (or null).

    `race_id` gives season and round; a missing created time is the event time.
    """
    defaults: dict[str, object] = {"source": "files", **_UNREMARKABLE.get(name, {})}
    filled = []
    for row in rows:
        full = {**dict.fromkeys(schemas.table(name).columns), **defaults, **row}
        if full.get("race_id") is not None:
            full |= {"season": int(str(full["race_id"])[:4]), "round": int(str(full["race_id"])[5:])}
        full[CREATED] = full[CREATED] if full[CREATED] is not None else full[EVENT]
        filled.append({column: full[column] for column in schemas.table(name).columns})
    frame = pd.DataFrame(filled)
    for column, col in schemas.table(name).cols.items():
        if col.kind == "time":
            frame[column] = pd.to_datetime(frame[column], utc=True).astype("datetime64[us, UTC]")
    return schemas.conform(name, frame)


_UNREMARKABLE: dict[str, dict[str, object]] = {
    "entries": {
        "code": "AAA",
        "is_pit_lane_start": False,
        "grid_timestamp": "1950-01-01T00:00:00Z",
        "is_classified": True,
        "status": "Finished",
        "points": 0.0,
        "laps_completed": 50,
        "grid": 1,
    },
    "laps": {"stint": 1, "compound": "MEDIUM", "track_status": "1", "is_accurate": True, "lap_start": "1950-01-01T00:00:00Z"},
    "races": {
        "name": "Grand Prix",
        "course_length_km": 5.0,
        "turns": 15,
        "circuit_type": "race",
        "direction": "clockwise",
        "scheduled_laps": 50,
        "circuit_id": "alpha",
        "race_end": "1950-01-01T00:00:00Z",
    },
    "circuits": {"name": "Circuit"},
    "drivers": {"code": "AAA", "given_name": "Given", "family_name": "Family"},
    "weather": {
        "air_temp_c": 20.0,
        "track_temp_c": 30.0,
        "humidity_pct": 50.0,
        "pressure_mbar": 1000.0,
        "is_raining": False,
        "wind_direction_deg": 180.0,
        "wind_speed_mps": 2.0,
    },
    "pit_stops": {"stint": 1, "pit_in": "1950-01-01T00:00:00Z", "pit_out": "1950-01-01T00:00:00Z"},
}


def lakes(*, late: bool | None = None) -> st.SearchStrategy[Lake]:
    """Small lakes of one or two seasons; `late` as in `small_lake`, both kinds when None.

    Drawn from `N_LAKES` of each kind, built once a process: building one takes longer than most tables. Leave them unchanged.
    """
    return st.builds(lake_number, st.integers(0, N_LAKES - 1), st.booleans() if late is None else st.just(late))


@functools.cache
def lake_number(number: int, late: bool) -> Lake:
    """The lake of that number; sizes vary with it, number 0 is the smallest."""
    return small_lake(
        number,
        seasons=(2022, 2023)[: 1 + number % 2],
        rounds=1 + number % 3,
        n_drivers=2 + number % 4,
        n_laps=1 + (3 * number) % 10,
        late=late,
    )


def instants(lake: Lake) -> st.SearchStrategy[pd.Timestamp]:
    """Moments worth asking about: the stamps of the lake's rows, a microsecond before and after them."""
    columns = [frame[column] for frame in lake.values() for column in (EVENT, CREATED) if len(frame)]
    stamps = pd.concat([*columns, lake["entries"]["grid_timestamp"]]).drop_duplicates().sort_values().tolist()
    shift = st.sampled_from([pd.Timedelta(0), pd.Timedelta(microseconds=1), pd.Timedelta(microseconds=-1)])
    return st.builds(lambda stamp, by: stamp + by, st.sampled_from(stamps), shift)


def shuffled(lake: Lake, seed: int) -> Lake:
    """The same rows in another order, some of them twice."""
    rng = np.random.default_rng(seed)
    return {
        name: frame.iloc[np.concatenate([order, order[: len(order) // 3]])].reset_index(drop=True)
        for name, frame in lake.items()
        for order in [rng.permutation(len(frame))]
    }


def with_late_rows(lake: Lake, rng: np.random.Generator) -> Lake:
    """`lake` with some rows known later than they were true, and some corrected by a later row of the same key."""
    changed = dict(lake)
    for name in ("laps", "weather", "qualifying", "pit_stops", "entries", "races"):
        frame = lake[name].copy()
        if name != "entries":
            delay = pd.to_timedelta(np.where(rng.random(len(frame)) < 0.05, rng.integers(1, 7200, len(frame)), 0), unit="s")
            frame[CREATED] = (frame[CREATED] + delay).astype("datetime64[us, UTC]")
        fixed = frame[rng.random(len(frame)) < 0.08].copy()
        fixed[CREATED] = (fixed[CREATED] + pd.to_timedelta(rng.integers(1, 20 * 86_400, len(fixed)), unit="s")).astype(
            "datetime64[us, UTC]"
        )
        changed[name] = pd.concat([frame, _revalued(name, fixed, rng)], ignore_index=True)
    return changed


def _revalued(name: str, rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    rows = rows.copy()
    n = len(rows)
    if name == "laps":
        rows["lap_time_s"] = rng.uniform(60, 120, n)
        rows["compound"] = rng.choice([*SLICKS, "WET"], n)
        rows["is_accurate"] = rng.random(n) < 0.8
        rows["track_status"] = rng.choice(["1", "4", "12"], n)
    elif name == "weather":
        rows["track_temp_c"] = rng.uniform(10, 50, n)
        rows["is_raining"] = rng.random(n) < 0.5
    elif name == "qualifying":
        rows["q1_s"] = rng.uniform(60, 120, n)
    elif name == "pit_stops":
        rows["pit_lane_time_s"] = rng.uniform(15, 40, n)
    elif name == "entries":
        rows["position_order"] = rng.permutation(n) % 20 + 1
        rows["points"] = rng.integers(0, 26, n).astype(float)
        rows["status"] = rng.choice(["Disqualified", "Finished", "Engine"], n)
    elif name == "races":
        rows["course_length_km"] = rng.uniform(3, 7, n)
        rows["scheduled_laps"] = rng.integers(40, 70, n)
    return rows


def _race(rng: np.random.Generator, season: int, number: int, n_drivers: int, n_laps: int) -> dict[str, list[dict[str, object]]]:
    race_id = f"{season}_{number:02d}"
    start = pd.Timestamp(f"{season}-03-06T14:00:00Z") + pd.Timedelta(days=7 * (number - 1))
    circuit = CIRCUITS[(number // 2 + season) % len(CIRCUITS)]
    of_race = {"race_id": race_id, "season": season, "round": number, "source": "files"}
    drivers = [f"driver_{i}" for i in range(n_drivers)]
    teams = [f"team_{i // 2}" for i in range(n_drivers)]
    laps, stops, stints, last_end, done = _laps(rng, of_race, start, drivers, n_laps)
    ranking = sorted(range(n_drivers), key=lambda i: (-done[i], last_end[i], i))
    flag = last_end[ranking[0]]
    known = {EVENT: start - pd.Timedelta(days=7), CREATED: start - pd.Timedelta(days=7)}
    qualifying_start = start - pd.Timedelta(hours=23)
    session = qualifying_start + pd.Timedelta(minutes=75)
    q1 = rng.uniform(80, 84, n_drivers)
    q3 = np.where(rng.random(n_drivers) < 0.5, q1 - rng.uniform(0, 2, n_drivers), np.nan)
    by_time = np.argsort(np.fmin(q1, q3), kind="stable")
    place = np.empty(n_drivers, dtype=int)
    place[by_time] = np.arange(1, n_drivers + 1)
    from_pits = int(rng.integers(n_drivers)) if rng.random() < 0.3 else -1
    grid = {i: int(place[i]) if i != from_pits else n_drivers + 1 for i in range(n_drivers)}
    entries, qualifying, season_rows = [], [], []
    for order, i in enumerate(ranking, start=1):
        classified = done[i] >= 0.9 * max(done.values()) and done[i] > 0
        status = "Finished" if classified else "Did not start" if done[i] == 0 else "Engine"
        car = {"driver_id": drivers[i], "constructor_id": teams[i]}
        entries.append(
            {
                **of_race,
                **car,
                "code": f"D{i:02d}",
                "car_number": i + 1,
                "grid": grid[i],
                "is_pit_lane_start": i == from_pits,
                "grid_timestamp": start - pd.Timedelta(hours=1),
                "position": float(order) if classified else np.nan,
                "position_order": order,
                "is_classified": classified,
                "status": status,
                "points": float((25, 18, 15, 12, 10)[order - 1]) if classified else 0.0,
                "laps_completed": done[i],
                EVENT: flag,
                CREATED: flag + PUBLISHED_AFTER,
            }
        )
        times = {"q1_s": q1[i] if rng.random() < 0.9 else np.nan, "q2_s": np.nan, "q3_s": q3[i]}
        qualifying.append({**of_race, **car, "position": int(place[i]), **times, EVENT: session, CREATED: session})
        season_rows.append((drivers[i], teams[i], i))
    weather = [
        {
            **of_race,
            "air_temp_c": float(rng.uniform(15, 30)),
            "track_temp_c": float(rng.uniform(20, 45)),
            "humidity_pct": float(rng.uniform(30, 90)),
            "pressure_mbar": float(rng.uniform(980, 1020)),
            "is_raining": bool(rng.random() < 0.3),
            "wind_direction_deg": float(rng.uniform(0, 360)),
            "wind_speed_mps": float(rng.uniform(0, 8)),
            EVENT: start + pd.Timedelta(minutes=minute),
            CREATED: start + pd.Timedelta(minutes=minute),
        }
        for minute in range(-40, 15, 5)
    ]
    race = {
        **of_race,
        "name": f"Grand Prix {number}",
        "circuit_id": circuit,
        "race_start": start,
        "qualifying_start": qualifying_start,
        "course_length_km": 4.0 + 0.1 * number,
        "turns": 12 + number,
        "circuit_type": "street" if circuit == "beta" else "race",
        "direction": "clockwise",
        "scheduled_laps": n_laps,
        "race_end": flag,
        **known,
    }
    of_season = {"season": season, "source": "files", **known}
    place_row = {"locality": None, "country": None, "lat_deg": np.nan, "lng_deg": np.nan}
    return {
        "races": [race],
        "circuits": [{**of_season, "circuit_id": circuit, "name": circuit, **place_row, "altitude_m": float(len(circuit) * 10)}],
        "drivers": [
            {
                **of_season,
                "driver_id": driver,
                "code": f"D{i:02d}",
                "car_number": i + 1,
                "given_name": "Given",
                "family_name": f"Family{i}",
                "date_of_birth": pd.NaT,
                "nationality": None,
            }
            for driver, _, i in season_rows
        ],
        "constructors": [{**of_season, "constructor_id": team, "name": team, "nationality": None} for _, team, _ in season_rows],
        "entries": entries,
        "qualifying": qualifying,
        "laps": laps,
        "stints": stints,
        "pit_stops": stops,
        "weather": weather,
        "track_status": [{**of_race, "status": "1", "message": "AllClear", EVENT: start, CREATED: start}],
        "race_control": [],
    }


def _laps(
    rng: np.random.Generator, of_race: dict[str, object], start: pd.Timestamp, drivers: list[str], n_laps: int
) -> tuple[list[dict[str, object]], list[dict[str, object]], list[dict[str, object]], dict[int, pd.Timestamp], dict[int, int]]:
    laps, stops, stints = [], [], []
    last_end: dict[int, pd.Timestamp] = {}
    done: dict[int, int] = {}
    safety_car = int(rng.integers(2, n_laps + 1)) if n_laps > 3 and rng.random() < 0.4 else -1
    for i, driver in enumerate(drivers):
        never_started = i > 0 and rng.random() < 0.05
        n_driven = 0 if never_started else int(rng.integers(1, n_laps + 1)) if rng.random() < 0.2 else n_laps
        stop_on = int(rng.integers(2, n_driven)) if n_driven > 3 and rng.random() < 0.7 else -1
        lost = int(rng.integers(2, n_driven)) if n_driven > 4 and rng.random() < 0.15 else -1
        end, stint, life, compound = start, 1, 0, str(rng.choice(SLICKS))
        stint_start = 1
        for lap in range(1, n_driven + 1):
            begin = end
            is_in, is_out = lap == stop_on, lap == stop_on + 1
            seconds = round(float(rng.uniform(85, 95)) + (20.0 if is_in or is_out else 0.0), 3)
            end = begin + pd.Timedelta(seconds=seconds)
            if is_out:
                stint, life, compound, stint_start = 2, 0, str(rng.choice([*SLICKS, "INTERMEDIATE"])), lap
            life += 1
            untimed = rng.random() < 0.1
            if lap != lost:
                laps.append(
                    {
                        **of_race,
                        "driver_id": driver,
                        "lap": lap,
                        "lap_start": begin,
                        "lap_time_s": np.nan if untimed else seconds,
                        "sector1_s": np.nan,
                        "sector2_s": np.nan,
                        "sector3_s": np.nan,
                        "speed_i1_kph": np.nan,
                        "speed_i2_kph": np.nan,
                        "speed_fl_kph": np.nan,
                        "speed_st_kph": float(rng.uniform(280, 330)) if rng.random() < 0.9 else np.nan,
                        "position": pd.NA,
                        "stint": stint,
                        "compound": compound if rng.random() < 0.95 else None,
                        "tyre_life_laps": float(life),
                        "is_fresh_tyre": pd.NA if rng.random() < 0.1 else True,
                        "pit_in": end - pd.Timedelta(seconds=5) if is_in else pd.NaT,
                        "pit_out": begin + pd.Timedelta(seconds=18) if is_out else pd.NaT,
                        "track_status": "4" if lap == safety_car else "1",
                        "is_accurate": not (untimed or is_in or is_out or lap == 1),
                        "is_deleted": pd.NA,
                        EVENT: end,
                        CREATED: end,
                    }
                )
            if is_out:
                out = begin + pd.Timedelta(seconds=18)
                into = begin - pd.Timedelta(seconds=5)
                stops.append(
                    {
                        **of_race,
                        "driver_id": driver,
                        "lap": lap - 1,
                        "stint": 1,
                        "pit_in": into,
                        "pit_out": out,
                        "pit_lane_time_s": 23.0,
                        EVENT: out,
                        CREATED: out,
                    }
                )
            if lap in (stop_on, n_driven):
                stint_row = {"stint": stint, "compound": compound, "start_lap": stint_start, "end_lap": lap}
                stints.append(
                    {**of_race, "driver_id": driver, **stint_row, "length_laps": lap - stint_start + 1, EVENT: end, CREATED: end}
                )
        last_end[i], done[i] = end, n_driven
    return laps, stops, stints, last_end, done
