"""A season's Jolpica documents as one raw season: every row checked, each key once, unfinished races left for later."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipelines.ingest.canonical import circuits, entries
from pipelines.ingest.canonical.assemble import RawSeason
from pipelines.ingest.canonical.checks import sifted
from pipelines.ingest.canonical.sieve import Sieve
from pipelines.ingest.files import fallbacks
from pipelines.ingest.jolpica import lap_chart


@dataclass(frozen=True)
class SeasonDocuments:
    """A season's documents but those of single races, of the rounds asked for; unchecked frames of `jolpica_tables`."""

    season: int
    calendar: pd.DataFrame
    circuits: pd.DataFrame
    results: pd.DataFrame
    drivers: pd.DataFrame
    constructors: pd.DataFrame
    qualifying: pd.DataFrame
    sprint: pd.DataFrame

    def held(self) -> list[int]:
        """Rounds of the calendar that have results, in order."""
        with_results = set(self.results["round"])
        return sorted(int(round_) for round_ in self.calendar["round"].unique() if round_ in with_results)


@dataclass(frozen=True)
class RaceDocuments:
    """The documents of one race; frames of `jolpica_tables`."""

    laps: pd.DataFrame
    pit_stops: pd.DataFrame
    driver_standings: pd.DataFrame
    constructor_standings: pd.DataFrame


def raw_season(
    documents: SeasonDocuments, races: Mapping[int, RaceDocuments], paths: Sequence[Path], sieve: Sieve, *, is_whole: bool
) -> RawSeason:
    """What the documents of complete races say.

    Args:
        documents: the season's.
        races: round -> documents, of the races that are complete.
        paths: folders whose `f1db/races.csv` know courses that our own table does not, and start times, which the service has
            from 2005 on.
        sieve: keeps the books.
        is_whole: all races held are complete, so that those without results were not held and are accounted for.
    Raises:
        SourceMissingError: the course of a race is not known.
    """

    def of_complete(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[frame["round"].isin(list(races))].reset_index(drop=True)

    def of_races(name: str) -> pd.DataFrame:
        frames = [frame for race in races.values() if len(frame := getattr(race, name))]
        return pd.concat(frames, ignore_index=True) if frames else getattr(next(iter(races.values())), name)

    times = [fallbacks.read_f1db_times(path) for path in paths]
    calendar = entries.with_times(documents.calendar if is_whole else of_complete(documents.calendar), times)
    results = sifted("entries", [of_complete(documents.results)], sieve)
    held = entries.held_races(sifted("races", [calendar], sieve), results, sieve)
    chart = of_races("laps")
    stops = _with_chart(documents.season, of_races("pit_stops"), chart, sieve)
    laps, pit_stops = lap_chart.read_chart(
        sifted("laps", [chart], sieve, lap_chart.CHART_CHECK),
        sifted("pit_stops", [stops], sieve, lap_chart.STOP_CHECK),
        results[["round", "driver_id", "code"]],
        sieve,
    )
    starts = documents.calendar[["round", "sprint_start"]].drop_duplicates("round")
    return RawSeason(
        season=documents.season,
        races=circuits.attach_courses(held, paths, sieve.report),
        results=results,
        qualifying=sifted("qualifying", [of_complete(documents.qualifying)], sieve),
        laps=laps,
        pit_stops=pit_stops,
        circuits=documents.circuits.merge(circuits.circuit_facts()[["circuit_id", "altitude_m"]], how="left", on="circuit_id"),
        drivers=documents.drivers,
        constructors=documents.constructors,
        sprint=sifted("sprint_results", [of_complete(documents.sprint)], sieve).merge(starts, how="left", on="round"),
        driver_standings=sifted("driver_standings", [of_races("driver_standings")], sieve),
        constructor_standings=sifted("constructor_standings", [of_races("constructor_standings")], sieve),
        origins=dict.fromkeys(races, 0.0),
    )


def _with_chart(season: int, stops: pd.DataFrame, laps: pd.DataFrame, sieve: Sieve) -> pd.DataFrame:
    """Stops of races whose laps are known; the others are told by a time of day alone and are left out, as not read yet."""
    placed = stops["round"].isin(laps["round"])
    for round_ in sorted(stops.loc[~placed, "round"].unique()):
        sieve.report.note(f"season {season}: pit stops of round {round_:.0f} are left out: the service has no laps of it (yet)")
    return stops[placed].reset_index(drop=True)
