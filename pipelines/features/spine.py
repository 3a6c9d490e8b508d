"""Who entered which race, and when the leader completed each lap: what every question about a race starts from. Not features.

`entrants` and `moments` are what is known now. `entrants_known` and `races_known` keep what was known before, stamped like
feature tables, so that a question about the past starts from the names, teams and distances of that instant.
"""

import numpy as np
import pandas as pd

from feature_repo.visibility import CREATED, EVENT
from pipelines.features.knowledge import KNOWN, micros, stamps, versions
from pipelines.features.results import ENTRY_KEY, LAP_KEY
from pipelines.schemas import SIMULATOR

ENTRANT_COLUMNS = ["race_id", "driver_id", "constructor_id", "circuit_id", "season", "round", "code", "driver_name"]
MOMENT_COLUMNS = [
    "race_id",
    "season",
    "round",
    "name",
    "circuit_id",
    "lap",
    "as_of",
    "scheduled_laps",
    "race_start",
    "is_simulated",
    "known_at",
]
ENTRANT_KNOWN_COLUMNS = ["race_id", "driver_id", "constructor_id", "code", "driver_name", "is_entered", EVENT, CREATED]
_RACE_FACTS = ["season", "round", "name", "circuit_id", "scheduled_laps", "race_start", "is_simulated"]
RACE_KNOWN_COLUMNS = ["race_id", *_RACE_FACTS, EVENT, CREATED]


def compute_entrants(entries: pd.DataFrame, races: pd.DataFrame, drivers: pd.DataFrame) -> pd.DataFrame:
    """One row per race and driver: `race_id, driver_id, constructor_id, circuit_id, season, round, code, driver_name`.

    Args:
        entries: canonical entries, non-starters included; the newest version of each counts.
        races: canonical races.
        drivers: canonical drivers by season; a driver without a row there goes by the code.
    """
    newest = versions(entries, ENTRY_KEY).drop_duplicates(ENTRY_KEY, keep="last")
    circuit = versions(races, ["race_id"]).drop_duplicates("race_id", keep="last")[["race_id", "circuit_id"]]
    person = versions(drivers, ["season", "driver_id"]).drop_duplicates(["season", "driver_id"], keep="last")
    person = person[["season", "driver_id"]].assign(driver_name=person["given_name"] + " " + person["family_name"])
    rows = newest.merge(circuit, on="race_id", how="inner").merge(person, on=["season", "driver_id"], how="left")
    rows = rows.assign(driver_name=rows["driver_name"].fillna(rows["code"]))
    return rows[ENTRANT_COLUMNS].sort_values(ENTRY_KEY, kind="stable", ignore_index=True)


def compute_moments(races: pd.DataFrame, laps: pd.DataFrame) -> pd.DataFrame:
    """One row per race and lap of the leader: `as_of` is when the first car had completed that many laps; lap 0 is lights out.

    Args:
        races: canonical races.
        laps: canonical laps.
    Returns:
        `race_id, season, round, name, circuit_id, lap, as_of, scheduled_laps, race_start, is_simulated, known_at`. `known_at` is
        when it was known that the leader had completed the lap: `as_of`, unless every lap that tells so arrived late. Of lap 0 it
        is when the race entered the calendar, which says when the lights go out.
    """
    announced = versions(races, ["race_id"]).drop_duplicates("race_id", keep="first")[["race_id", KNOWN]]
    calendar = versions(races, ["race_id"]).drop_duplicates("race_id", keep="last")
    calendar = calendar.assign(is_simulated=calendar["source"] == SIMULATOR)
    every = versions(laps, LAP_KEY)
    driven = every.drop_duplicates(LAP_KEY, keep="last")
    first = driven.groupby(["race_id", "lap"], sort=True)[EVENT].min().rename("as_of").reset_index()
    told = every.groupby(["race_id", "lap"], sort=True)[KNOWN].min().to_numpy()
    first = first.assign(known_at=stamps(told)).iloc[::-1]
    # a car that completed lap 7 had completed lap 6, even where the feed lost it
    of_race = first.groupby("race_id", sort=False)
    first = first.assign(as_of=of_race["as_of"].cummin(), known_at=of_race["known_at"].cummin()).iloc[::-1]
    lights_out = calendar[["race_id", "race_start"]].rename(columns={"race_start": "as_of"}).assign(lap=np.int64(0))
    lights_out = lights_out.merge(announced, on="race_id", validate="one_to_one")
    lights_out = lights_out.assign(known_at=stamps(lights_out[KNOWN].to_numpy())).drop(columns=KNOWN)
    moments = pd.concat([lights_out, first], ignore_index=True).merge(calendar, on="race_id", how="inner")
    return moments[MOMENT_COLUMNS].sort_values(["race_id", "lap"], kind="stable", ignore_index=True)


def compute_races_known(races: pd.DataFrame) -> pd.DataFrame:
    """What the calendar said of each race, from when: name, circuit, distance and start, a row each time one of them changed.

    Args:
        races: canonical races, every version.
    Returns:
        `race_id, season, round, name, circuit_id, scheduled_laps, race_start, is_simulated`, event = created = when it was known.
    """
    rows = versions(races, ["race_id"])
    rows = _changes(rows.assign(is_simulated=rows["source"] == SIMULATOR), ["race_id"], _RACE_FACTS)
    since = stamps(rows[KNOWN].to_numpy())
    return rows.reset_index(drop=True).assign(**{EVENT: since, CREATED: since})[RACE_KNOWN_COLUMNS]


def compute_entrants_known(entries: pd.DataFrame, qualifying: pd.DataFrame, drivers: pd.DataFrame) -> pd.DataFrame:
    """Who was known to take part in each race, for which team and under which name, a row each time that changed.

    A car is known to take part when qualifying is published, if it is in it; from the grid on (`grid_timestamp`), if it has an
    entry, and nobody else is; from the result on as the newest version of it says. A driver goes by the name of the season, by
    the code while that is not known, and by the id while the code is not known.

    Args:
        entries: canonical entries, every version; team and code are known with the grid, not with the result.
        qualifying: canonical qualifying.
        drivers: canonical drivers by season.
    Returns:
        `race_id, driver_id, constructor_id, code` (null before the grid), `driver_name, is_entered` (false for a car that was in
        qualifying and not on the grid), event = created = when it was known.
    """
    facts = ["season", "constructor_id", "code"]
    results = versions(entries, ENTRY_KEY)[[*ENTRY_KEY, KNOWN, *facts]]
    slots = entries.assign(**{KNOWN: micros(entries["grid_timestamp"])}).sort_values([*ENTRY_KEY, KNOWN, CREATED], kind="stable")
    slots = slots.drop_duplicates([*ENTRY_KEY, KNOWN], ignore_index=True)[[*ENTRY_KEY, KNOWN, *facts]]
    session = versions(qualifying, ENTRY_KEY).assign(code=None)[[*ENTRY_KEY, KNOWN, *facts]]
    people = versions(drivers, ["season", "driver_id"])
    people = people.assign(name=people["given_name"] + " " + people["family_name"])[["season", "driver_id", KNOWN, "name"]]
    grids = slots.groupby("race_id", sort=True)[KNOWN].min().rename("grid_known").reset_index()

    cars = pd.concat([results, slots, session])[[*ENTRY_KEY, "season"]].drop_duplicates(ENTRY_KEY)
    instants = [frame[[*ENTRY_KEY, KNOWN]] for frame in (results, slots, session)]
    instants.append(cars.merge(grids.rename(columns={"grid_known": KNOWN}), on="race_id")[[*ENTRY_KEY, KNOWN]])
    instants.append(cars.merge(people, on=["season", "driver_id"])[[*ENTRY_KEY, KNOWN]])
    rows = pd.concat(instants).drop_duplicates().merge(cars, on=ENTRY_KEY).merge(grids, on="race_id", how="left")
    rows = rows.sort_values(KNOWN, kind="stable", ignore_index=True)
    for name, source in (("result", results), ("slot", slots), ("session", session)):
        told = source.sort_values(KNOWN, kind="stable").assign(is_known=True).drop(columns="season")
        columns = ["constructor_id", "code", "is_known"]
        told = told.rename(columns={column: f"{name}_{column}" for column in columns})
        rows = pd.merge_asof(rows, told, on=KNOWN, by=ENTRY_KEY)
    rows = pd.merge_asof(rows, people.sort_values(KNOWN, kind="stable"), on=KNOWN, by=["season", "driver_id"])

    on_grid = rows["result_is_known"].notna() | rows["slot_is_known"].notna()
    in_session = rows["session_is_known"].notna()
    before_grid = ~(rows["grid_known"] <= rows[KNOWN])
    code = _first(rows["result_code"], rows["slot_code"])
    team = _first(*(rows[f"{source}_constructor_id"] for source in ("result", "slot", "session")))
    rows = rows.assign(
        constructor_id=team,
        code=code,
        driver_name=_first(rows["name"], code, rows["driver_id"]),
        is_entered=(on_grid | (in_session & before_grid)).to_numpy(dtype=bool),
    )[(on_grid | in_session).to_numpy()]
    rows = _changes(
        rows.sort_values([*ENTRY_KEY, KNOWN], kind="stable"), ENTRY_KEY, ["constructor_id", "code", "driver_name", "is_entered"]
    )
    since = stamps(rows[KNOWN].to_numpy())
    return rows.reset_index(drop=True).assign(**{EVENT: since, CREATED: since})[ENTRANT_KNOWN_COLUMNS]


def _changes(rows: pd.DataFrame, key: list[str], facts: list[str]) -> pd.DataFrame:
    """The rows in which a fact differs from the row before of the same key; `rows` sorted by key and time."""
    plain = rows[[*key, *facts]].astype(object)
    plain = plain.where(plain.notna(), None)
    before = plain.shift()
    same = (plain == before) | (plain.isna() & before.isna())
    return rows[~same.all(axis="columns").to_numpy() | (np.arange(len(rows)) == 0)]


def _first(*choices: "pd.Series[str]") -> "pd.Series[str]":
    """Per row the first of the texts that is there, else None."""
    found = choices[-1].astype(object)
    for choice in reversed(choices[:-1]):
        found = found.where(choice.isna(), choice.astype(object))
    return found.where(found.notna(), None)
