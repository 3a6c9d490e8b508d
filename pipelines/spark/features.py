"""The feature tables on Spark: races in parallel, then the histories of drivers, constructors and circuits in parallel.

    lake --by season--> rows of a few races --a worker--> their tables and facts
         facts of all races --one worker--> ratings and standings --one key a worker--> tables of a history

Only what hangs on every race before it (Elo, championship places) goes through one worker, with twenty rows a race.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from feature_repo.settings import Settings
from feature_repo.stores.spark_session import n_tasks, session_of, worker_errors
from pipelines import schemas
from pipelines.features import circuit_profile, constructor_form, driver_circuit, driver_form, grid
from pipelines.features.knowledge import KNOWN, table, versions, with_race
from pipelines.features.results import starter_facts, team_facts
from pipelines.features.tables import COMPUTE, LAKE_TABLES, Frames
from pipelines.lake import Lake
from pipelines.spark.parcels import SCHEMA, Parcel, collected, merged, to_frame

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

HISTORIES = ("driver_form", "constructor_form", "driver_circuit", "circuit_profile", "grid")
"""Tables whose rows hang on other races; every other table of `COMPUTE` is computed from the rows of its race alone."""
BY_RACE = tuple(name for name in COMPUTE if name not in HISTORIES)

# Races that a worker computes in one call: a call of pandas costs as much as a race's laps, one by one takes four times longer.
RACES_A_CALL = 8
_MODULES = dict(zip(HISTORIES, (driver_form, constructor_form, driver_circuit, circuit_profile, grid), strict=True))
_WHOLE_TABLE = ""  # the key of what no key divides
KEYED = ("circuit_facts", "cars", "starts", "calendar", "race_facts", "circuits")
"""Facts that go from the races straight to the workers of their keys."""


def compute_all(settings: Settings) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every feature table of a home, equal to `pipelines.features.tables.compute_all`, in its order.

    Reads `lake/` on the workers, which must see the home under its path; the driver holds one finished table at a time.

    Raises:
        SparkNotAvailableError: no Spark session can be had.
        SparkJobError: a worker failed, for instance because a file of the lake is damaged.
    """
    spark = session_of(settings)
    of_races = _by_key(_rows_by_race(spark, settings.lake_dir), work_on_races).persist()
    rated = _by_key(of_races.where(of_races["name"].isin("starter_facts", "team_facts")), work_on_all_races)
    keyed = of_races.where(of_races["name"].isin(*KEYED)).unionByName(rated)
    histories = _by_key(keyed, work_on_key).persist()
    try:
        for name in COMPUTE:
            with worker_errors("features"):
                parts = collected(histories if name in HISTORIES else of_races, name)
            yield name, whole(name, parts)
    finally:
        histories.unpersist()
        of_races.unpersist()


def tables_of_races(lake: Frames) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """What some races alone give: their part of every table in `BY_RACE`, and the facts that histories are made of.

    Args:
        lake: canonical rows of the races and of their season's drivers; tables of which there are none are empty.
    Yields:
        (table or facts, key that the rows belong to, rows).
    """
    entries, races, laps = lake["entries"], lake["races"], lake["laps"]
    for name in BY_RACE:
        yield name, _WHOLE_TABLE, COMPUTE[name](lake)
    starters = starter_facts(entries, lake["qualifying"], laps)
    yield "starter_facts", _WHOLE_TABLE, starters
    yield "team_facts", _WHOLE_TABLE, team_facts(starters, lake["pit_stops"])
    yield from _split("circuit_facts", driver_circuit.circuit_facts(entries, races, laps), "driver_id")
    yield from _split("cars", grid.cars(entries, lake["qualifying"], races), "driver_id")
    yield from _split("starts", grid.starts(entries, races, laps), "driver_id")
    yield from _split("calendar", versions(races, ["race_id"]), "circuit_id")
    facts = with_race(circuit_profile.race_facts(entries, laps), races, ["circuit_id"])
    yield from _split("race_facts", facts, "circuit_id")


def tables_of_key(facts: Frames) -> Iterator[tuple[str, pd.DataFrame]]:
    """The tables that one driver, constructor or circuit gets from the facts of all its races."""
    if "driver_facts" in facts:
        yield "driver_form", driver_form.form_of_driver(facts["driver_facts"])
    if "constructor_facts" in facts:
        yield "constructor_form", constructor_form.form_of_constructor(facts["constructor_facts"])
    if "circuit_facts" in facts:
        yield "driver_circuit", driver_circuit.records(facts["circuit_facts"])
    if "cars" in facts:
        never = pd.DataFrame({"driver_id": [], KNOWN: [], "start": []})
        yield "grid", grid.grid_rows(facts["cars"], facts.get("starts", never))
    if "calendar" in facts:
        empty = {name: schemas.empty_frame(name) for name in ("entries", "laps", "circuits")}
        nothing = circuit_profile.race_facts(empty["entries"], empty["laps"]).assign(circuit_id="")
        of_circuit = facts.get("race_facts", nothing), facts.get("circuits", empty["circuits"])
        yield "circuit_profile", circuit_profile.profiles(facts["calendar"], *of_circuit)


def parcels_of_partition(lake: Lake, name: str, season: int) -> Iterator[Parcel]:
    """One partition of the lake by races; a season's drivers go to all of its races, circuits by circuit."""
    rows = lake.read(name, [season])
    if name == "drivers":
        entered = [lake.read(table_, [season], ["race_id"])["race_id"] for table_ in ("races", "entries", "qualifying")]
        for races in sorted(set(pd.concat(entered).map(_call_of))):
            yield name, races, f"{season}", rows
        return
    for key, frame in rows.groupby(rows["circuit_id"] if name == "circuits" else rows["race_id"].map(_call_of), sort=True):
        yield name, str(key), f"{season}", frame


def _call_of(race_id: str) -> str:
    """Races that are computed together have this in common; sorts as the races do."""
    season, round_ = race_id.split("_")
    return f"{season}_{(int(round_) - 1) // RACES_A_CALL:02d}"


def _rows_by_race(spark: "SparkSession", root: Path) -> "DataFrame":
    lake = Lake(root)
    partitions = [(name, season) for name in LAKE_TABLES for season in lake.seasons(name)]
    wanted = spark.createDataFrame(partitions, "name string, season int")
    spread = wanted.repartition(min(len(partitions), n_tasks(spark)))
    return spread.mapInPandas(partial(_read_partitions, str(root)), SCHEMA)


def _read_partitions(root: str, batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    lake = Lake(Path(root))
    for batch in batches:
        for row in batch.itertuples():
            yield to_frame(parcels_of_partition(lake, str(row.name), int(row.season)))


def _by_key(parcels: "DataFrame", compute: Callable[[pd.DataFrame], pd.DataFrame]) -> "DataFrame":
    return parcels.repartition(n_tasks(parcels.sparkSession), "key").groupBy("key").applyInPandas(compute, SCHEMA)


def work_on_races(parcels: pd.DataFrame) -> pd.DataFrame:
    """Parcels of the lake with one key -> parcels of `tables_of_races`; what a worker of the first stage does."""
    if set(parcels["name"]) == {"circuits"}:
        return parcels  # on their way to the circuits' own workers
    races = str(parcels["key"].iloc[0])
    lake = {}
    for name in LAKE_TABLES:
        rows = merged(parcels, name)
        lake[name] = schemas.empty_frame(name) if rows is None else rows
    return to_frame((name, key, races, frame) for name, key, frame in tables_of_races(lake))


def work_on_all_races(parcels: pd.DataFrame) -> pd.DataFrame:
    """Facts of starters and teams of every race -> the same with ratings and standings, by driver and by constructor."""
    starters, teams = merged(parcels, "starter_facts"), merged(parcels, "team_facts")
    made: list[tuple[str, str, pd.DataFrame]] = []
    if starters is not None and len(starters):
        made += _split("driver_facts", driver_form.rated(starters), "driver_id")
    if teams is not None and len(teams):
        made += _split("constructor_facts", constructor_form.rated(teams), "constructor_id")
    return to_frame((name, key, "", frame) for name, key, frame in made)


def work_on_key(parcels: pd.DataFrame) -> pd.DataFrame:
    """Facts with one key -> parcels of `tables_of_key`; what a worker of the last stage does."""
    key = str(parcels["key"].iloc[0])
    facts = {name: rows for name in set(parcels["name"]) if (rows := merged(parcels, name)) is not None}
    return to_frame((name, key, "", frame) for name, frame in tables_of_key(facts))


def _split(name: str, rows: pd.DataFrame, key: str) -> Iterator[tuple[str, str, pd.DataFrame]]:
    for value, frame in rows.groupby(key, sort=True):
        yield name, str(value), frame


def whole(name: str, parts: pd.DataFrame | None) -> pd.DataFrame:
    """Table `name` as the embedded engine has it, from the rows of all workers in order of their keys; None: there are none."""
    if parts is None:
        return COMPUTE[name]({table_: schemas.empty_frame(table_) for table_ in LAKE_TABLES})
    if name not in HISTORIES:
        return parts  # by race, which is the order that the tables have
    return table(parts, _MODULES[name].ENTITY, _MODULES[name].DTYPES)
