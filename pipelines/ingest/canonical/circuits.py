"""The circuits that races are held on: our own table (`circuits.toml`), for sources that know a circuit's name and no more."""

import tomllib
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.errors import SourceMissingError
from pipelines.ingest.base import IngestReport
from pipelines.ingest.canonical import courses
from pipelines.ingest.canonical.reading import no_rows

_TABLE = Path(__file__).with_name("circuits.toml")
_RACE = ["season", "round"]
_FACTS = ["name", "locality", "country", "lat_deg", "lng_deg", "altitude_m"]


@dataclass(frozen=True)
class Layout:
    """A course at a circuit: for which races, length of a lap in kilometres, turns, laps scheduled for the full distance."""

    since: int
    length_km: float
    turns: int
    laps: int
    until: int | None = None
    rounds: tuple[int, ...] | None = None

    def is_of(self, season: int, round_: int) -> bool:
        """The race could have been held on it."""
        in_time = self.since <= season and (self.until is None or season <= self.until)
        return in_time and (self.rounds is None or round_ in self.rounds)


@dataclass(frozen=True)
class Circuit:
    """One circuit: Ergast circuitRef, where it lies (degrees, metres), what it is, what services call it, its layouts."""

    id: str
    name: str
    locality: str
    country: str
    lat_deg: float
    lng_deg: float
    altitude_m: float
    circuit_type: str
    direction: str
    openf1: tuple[str, ...]
    locations: tuple[str, ...]
    layouts: tuple[Layout, ...]


@cache
def circuits() -> dict[str, Circuit]:
    """Every circuit of the table by its id."""
    return {
        row["id"]: Circuit(
            **{
                **row,
                "openf1": tuple(row["openf1"]),
                "locations": tuple(row["locations"]),
                "layouts": tuple(
                    Layout(**{**layout, "rounds": tuple(layout["rounds"]) if "rounds" in layout else None})
                    for layout in row["layouts"]
                ),
            }
        )
        for row in _document()["circuit"]
    }


def circuit_facts() -> pd.DataFrame:
    """`circuit_id, name, locality, country, lat_deg, lng_deg, altitude_m` of every circuit of the table."""
    rows = pd.DataFrame([asdict(circuit) for circuit in circuits().values()]).rename(columns={"id": "circuit_id"})
    return rows[["circuit_id", *_FACTS]].astype({"altitude_m": "float64"})


def circuit_id_of_openf1(short_name: str) -> str | None:
    """The circuit that OpenF1 and the live timing call so (`circuit_short_name`); None: the table has no such name."""
    return _by_openf1().get(_plain(short_name))


def circuit_id_of_location(location: str) -> str | None:
    """The circuit at a place as FastF1 schedules and Ergast name it, accents or not; None: the table has no such place."""
    return _by_location().get(_plain(location))


def attach_courses(calendar: pd.DataFrame, paths: Sequence[Path], report: IngestReport) -> pd.DataFrame:
    """`calendar` with the columns `courses.COURSE`; a race in `f1db/races.csv` of a path wins over the table.

    Args:
        calendar: races wanted (`season, round, circuit_id`, and whatever else); the result has its rows in its order, with a new
            index.
        paths: folders that may hold `f1db/races.csv`, later ones win.
        report: told about seasons later than those the table was checked for.
    Raises:
        SourceMissingError: neither a path nor the table knows the course of a race.
        SourceFormatError: a `races.csv` cannot be understood.
    """
    given = [found for found in map(courses.read_courses, paths) if len(found)]
    known = pd.concat(given, ignore_index=True).dropna(subset=courses.COURSE) if given else no_rows(_RACE, courses.COURSE)
    in_paths = set(zip(known["season"], known["round"], strict=True))
    races = calendar.drop_duplicates(_RACE)
    own = [
        _own_course(season, round_, circuit_id, report)
        for season, round_, circuit_id in zip(races["season"], races["round"], races["circuit_id"], strict=True)
        if (season, round_) not in in_paths
    ]
    every = pd.concat([pd.DataFrame(own), known], ignore_index=True) if own and len(known) else pd.DataFrame(own or known)
    return calendar.merge(every.drop_duplicates(_RACE, keep="last"), how="left", on=_RACE)


def _own_course(season: float, round_: float, circuit_id: str, report: IngestReport) -> dict[str, object]:
    circuit = circuits().get(circuit_id)
    fitting = [layout for layout in circuit.layouts if layout.is_of(int(season), int(round_))] if circuit is not None else []
    if circuit is None or not fitting:
        has = f"{circuit_id} from {circuit.layouts[0].since} on" if circuit is not None else f"{len(circuits())} other circuits"
        raise SourceMissingError(
            f"course of {circuit_id!r} (season {season:.0f}, round {round_:.0f}): no path has the race in f1db/races.csv, "
            f"the built-in table has {has}; add --path DIR with an f1db/races.csv that has the race"
        )
    last_checked = _document()["checked_until"]
    if season > last_checked:
        report.note(f"course of {circuit_id} in {season:.0f} is not known yet: taken from {last_checked}")
    course = fitting[-1]
    values = (course.length_km, course.turns, circuit.circuit_type, circuit.direction, course.laps)
    return {"season": season, "round": round_, **dict(zip(courses.COURSE, values, strict=True))}


@cache
def _document() -> dict[str, Any]:
    return tomllib.loads(_TABLE.read_text(encoding="utf-8"))


@cache
def _by_openf1() -> dict[str, str]:
    return {_plain(name): circuit.id for circuit in circuits().values() for name in circuit.openf1}


@cache
def _by_location() -> dict[str, str]:
    return {_plain(name): circuit.id for circuit in circuits().values() for name in circuit.locations}


def _plain(name: str) -> str:
    """`Montréal` -> `montreal`, `Monte-Carlo` -> `monte carlo`."""
    ascii_ = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return " ".join(ascii_.replace("-", " ").casefold().split())
