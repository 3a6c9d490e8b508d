"""The Ergast CSV dump: calendar, results, qualifying, sprints, standings, and the people, teams and circuits in them.

Numeric ids (`raceId`, `driverId`, ...) mean something only inside one dump, so each dump is joined to references
(`driverRef`, `circuitRef`, ...) before it meets another.
"""

from pathlib import Path

import pandas as pd

from pipelines.errors import SourceFormatError
from pipelines.ingest.canonical.reading import FILE, ROW, Kind, parse_clock, read_csv

FILES = (
    *("races", "results", "qualifying", "circuits", "drivers", "constructors", "status"),
    *("sprint_results", "driver_standings", "constructor_standings"),
)

_RACES: dict[str, Kind] = {
    "raceId": "int",
    "year": "int",
    "round": "int",
    "circuitId": "int",
    "name": "str",
    "date": "str",
    "time": "str",
}
_SESSION_TIMES: dict[str, Kind] = dict.fromkeys(("quali_date", "quali_time", "sprint_date", "sprint_time"), "str")
_CIRCUITS: dict[str, Kind] = {"circuitId": "int", "circuitRef": "str", "name": "str", "location": "str", "country": "str"}
_CIRCUIT_PLACE: dict[str, Kind] = {"lat": "float", "lng": "float", "alt": "float"}
_RESULTS: dict[str, Kind] = {
    "raceId": "int",
    "driverId": "int",
    "constructorId": "int",
    "number": "int",
    "grid": "int",
    "position": "int",
    "positionText": "str",
    "positionOrder": "int",
    "points": "float",
    "laps": "int",
    "milliseconds": "float",
    "statusId": "int",
}
_SPRINT: dict[str, Kind] = {name: kind for name, kind in _RESULTS.items() if name not in ("number", "positionText")}
_QUALIFYING: dict[str, Kind] = {"raceId": "int", "driverId": "int", "constructorId": "int", "position": "int"}
_PARTS: dict[str, Kind] = {"q1": "str", "q2": "str", "q3": "str"}
_STANDING: dict[str, Kind] = {"raceId": "int", "position": "int", "points": "float", "wins": "int"}
_DRIVERS: dict[str, Kind] = {"driverId": "int", "driverRef": "str", "code": "str", "forename": "str", "surname": "str"}
_DRIVER_FACTS: dict[str, Kind] = {"dob": "time", "nationality": "str"}
_CONSTRUCTORS: dict[str, Kind] = {"constructorId": "int", "constructorRef": "str", "name": "str"}
_CONSTRUCTOR_FACTS: dict[str, Kind] = {"nationality": "str"}


class ErgastDump:
    """One folder `ergast/`, read and joined.

    Attributes:
        calendar: `season, round, name, circuit_id, race_start, qualifying_start, qualifying_date` of every race.
        circuits: `circuit_id, name, locality, country, lat_deg, lng_deg, altitude_m`.
        drivers: `driver_id, code, given_name, family_name, date_of_birth, nationality`.
        constructors: `constructor_id, name, nationality`.
        results: one row an entry with references, or None where the dump has none.
        qualifying: as `results`.
        sprint: as `results`, with `sprint_start` (UTC, NaT where the calendar has none).
        driver_standings: one row a driver and race, after the race, or None.
        constructor_standings: as `driver_standings`.
    """

    def __init__(self, root: Path) -> None:
        """Read `root/ergast`.

        Raises:
            SourceFormatError: a file cannot be understood, an id of its own tables is repeated, or a file that others refer to
                is missing.
        """
        self.root = root
        self.folder = root / "ergast"
        circuits = self._dimension("circuits", _CIRCUITS, _CIRCUIT_PLACE, "circuitId")
        self.circuits = circuits.rename(
            columns={"circuitRef": "circuit_id", "location": "locality", "lat": "lat_deg", "lng": "lng_deg", "alt": "altitude_m"}
        ).drop(columns=["circuitId"])
        races = self._dimension("races", _RACES, _SESSION_TIMES, "raceId")
        races = races.merge(circuits[["circuitId", "circuitRef"]], how="left", on="circuitId")
        self.calendar = pd.DataFrame(
            {
                "season": races["year"],
                "round": races["round"],
                "name": races["name"],
                "circuit_id": races["circuitRef"],
                "race_start": _instant(races, "date", "time"),
                "qualifying_start": _instant(races, "quali_date", "quali_time"),
                FILE: races[FILE],
                ROW: races[ROW],
            }
        )
        self._races = races[["raceId", "year", "round"]].rename(columns={"year": "season"})
        self._sprint_starts = _instant(races, "sprint_date", "sprint_time").groupby(races["raceId"]).first()
        self.drivers, self.constructors = pd.DataFrame(), pd.DataFrame()
        self.results: pd.DataFrame | None = None
        self.qualifying: pd.DataFrame | None = None
        self.sprint: pd.DataFrame | None = None
        self.driver_standings: pd.DataFrame | None = None
        self.constructor_standings: pd.DataFrame | None = None
        if self._has("drivers") and self._has("constructors"):
            drivers = self._dimension("drivers", _DRIVERS, _DRIVER_FACTS, "driverId")
            drivers["code"] = drivers["code"].fillna(drivers["surname"].str[:3].str.upper())
            constructors = self._dimension("constructors", _CONSTRUCTORS, _CONSTRUCTOR_FACTS, "constructorId")
            self._people = drivers[["driverId", "driverRef", "code"]].rename(columns={"driverRef": "driver_id"})
            self._teams = constructors[["constructorId", "constructorRef"]].rename(columns={"constructorRef": "constructor_id"})
            self.drivers = drivers.drop(columns=["driverId"]).rename(
                columns={"driverRef": "driver_id", "forename": "given_name", "surname": "family_name", "dob": "date_of_birth"}
            )
            self.constructors = constructors.drop(columns=["constructorId"]).rename(columns={"constructorRef": "constructor_id"})
            self.results = self._read_results() if self._has("results") else None
            self.qualifying = self._read_qualifying() if self._has("qualifying") else None
            self.sprint = self._read_sprint() if self._has("sprint_results") else None
            self.driver_standings = self._read_standings("driver_standings", "driverId")
            self.constructor_standings = self._read_standings("constructor_standings", "constructorId")

    def _has(self, name: str) -> bool:
        return (self.folder / f"{name}.csv").is_file()

    def _dimension(self, name: str, columns: dict[str, Kind], optional: dict[str, Kind], key: str) -> pd.DataFrame:
        file = self.folder / f"{name}.csv"
        frame = read_csv(self.root, file, columns, optional)
        twice = frame[key].isna() | (frame.duplicated([key]) & ~frame.duplicated(list({**columns, **optional})))
        if twice.any():
            row = frame[twice].iloc[0]
            raise SourceFormatError(
                file, row=int(row[ROW]), column=key, got=repr(row[key]), expected="an id that no other row has"
            )
        # an exact repetition of a race is left in: it is a row to account for
        return frame if name == "races" else frame.drop_duplicates([key], ignore_index=True)

    def _read_results(self) -> pd.DataFrame:
        raw = read_csv(self.root, self.folder / "results.csv", _RESULTS)
        return self._with_status(raw).rename(columns={"number": "car_number", "positionText": "position_text"})

    def _read_sprint(self) -> pd.DataFrame:
        raw = read_csv(self.root, self.folder / "sprint_results.csv", _SPRINT)
        raw["sprint_start"] = raw["raceId"].map(self._sprint_starts)
        return self._with_status(raw).drop(columns=["code"])

    def _read_qualifying(self) -> pd.DataFrame:
        raw = read_csv(self.root, self.folder / "qualifying.csv", _QUALIFYING, _PARTS)
        for part in _PARTS:
            raw[f"{part}_s"] = parse_clock(str(self.folder / "qualifying.csv"), part, raw[part].astype("string"), raw[ROW])
        return self._with_references(raw).drop(columns=[*_PARTS])

    def _read_standings(self, name: str, of: str) -> pd.DataFrame | None:
        if not self._has(name):
            return None
        raw = read_csv(self.root, self.folder / f"{name}.csv", {**_STANDING, of: "int"})
        return self._with_references(raw).drop(columns=["code"], errors="ignore")

    def _with_status(self, raw: pd.DataFrame) -> pd.DataFrame:
        """Results of a race or a sprint, in our column names."""
        statuses = self._dimension("status", {"statusId": "int", "status": "str"}, {}, "statusId")
        joined = self._with_references(raw).merge(statuses[["statusId", "status"]], how="left", on="statusId")
        return joined.drop(columns=["statusId"]).rename(columns={"positionOrder": "position_order", "laps": "laps_completed"})

    def _with_references(self, raw: pd.DataFrame) -> pd.DataFrame:
        """Season, round and references in place of the dump's own ids."""
        joined = raw.merge(self._races.drop_duplicates(["raceId"]), how="left", on="raceId").drop(columns=["raceId"])
        for key, references in (("driverId", self._people), ("constructorId", self._teams)):
            if key in joined:
                joined = joined.merge(references, how="left", on=key).drop(columns=[key])
        # rows of a race that the dump does not know cannot be of a season asked for
        return joined.assign(season=joined["season"].fillna(0), round=joined["round"].fillna(0))


def _instant(frame: pd.DataFrame, date: str, time: str) -> "pd.Series[pd.Timestamp]":
    """UTC instant of a date and a time column; null where either is."""
    both = frame[date].notna() & frame[time].notna()
    texts = (frame[date].astype("string") + "T" + frame[time].astype("string").str.removesuffix("Z")).where(both)
    stamps = pd.to_datetime(texts, utc=True, errors="coerce", format="ISO8601").dt.as_unit("us")
    wrong = both & stamps.isna()
    if wrong.any():
        row = frame[wrong].iloc[0]
        raise SourceFormatError(
            row[FILE],
            row=int(row[ROW]),
            column=time,
            got=f"{row[date]!r} {row[time]!r}",
            expected="a date and a UTC time such as '13:00:00'",
        )
    return stamps
