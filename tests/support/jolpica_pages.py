"""Pages of Jolpica's lists: cut from whole documents, and made from the CSV dump of the same database."""

import copy
import csv
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from replay_server import Handler, Request, Response

DEFAULT_LIMIT, LARGEST_LIMIT = 30, 100
_LISTS = ("Results", "QualifyingResults", "SprintResults", "PitStops", "Laps", "DriverStandings", "ConstructorStandings")
_SESSIONS = {"FirstPractice": "fp1", "SecondPractice": "fp2", "ThirdPractice": "fp3", "Qualifying": "quali", "Sprint": "sprint"}


def endpoint(path: str) -> str:
    """A request's list, whatever the base URL, the case or the ending: `/ergast/f1/2023/1/Laps.json` is `2023/1/laps`."""
    return path.lower().removeprefix("/ergast").removeprefix("/f1").strip("/").removesuffix(".json").removesuffix("/races")


def window(params: Mapping[str, str]) -> tuple[int, int]:
    """(limit, offset) that the service applies: 30 and 0 where nothing is said, never more than 100."""
    return min(int(params.get("limit", DEFAULT_LIMIT)), LARGEST_LIMIT), int(params.get("offset", 0))


def no_rows(**labels: int) -> dict[str, Any]:
    """What the service answers where it has no rows; `labels`: the season and the round it was asked about."""
    table = {**{name: str(value) for name, value in labels.items()}, "Races": []}
    return {"MRData": {"limit": f"{DEFAULT_LIMIT}", "offset": "0", "total": "0", "RaceTable": table}}


def whole(document: Mapping[str, Any]) -> bool:
    """The document holds all rows of its list."""
    return len(list(_rows(document))) == int(document["MRData"]["total"])


def page(document: Mapping[str, Any], limit: int, offset: int) -> dict[str, Any]:
    """Rows `offset` to `offset + limit` of a whole document, in the document's own nesting; races without a row are left out."""
    cut = copy.deepcopy(dict(document))
    cut["MRData"] |= {"limit": str(limit), "offset": str(offset)}
    for number, (rows, row) in enumerate(list(_rows(cut))):
        if not offset <= number < offset + limit:
            rows[:] = [other for other in rows if other is not row]
    table = _table(cut)
    for groups in (group for group in table.values() if isinstance(group, list)):
        for group in groups:
            if "Laps" in group:
                group["Laps"] = [lap for lap in group["Laps"] if lap["Timings"]]
        groups[:] = [group for group in groups if all(group[name] for name in _LISTS if name in group)]
    return cut


def _table(document: Mapping[str, Any]) -> dict[str, Any]:
    return next(value for value in document["MRData"].values() if isinstance(value, dict))


def _rows(document: Mapping[str, Any]) -> Any:
    """(list, row) of every row that `MRData.total` counts, in order."""
    for groups in (value for value in _table(document).values() if isinstance(value, list)):
        for group in groups:
            name = next((name for name in _LISTS if name in group), None)
            if name is None:
                yield groups, group
                continue
            for row in group[name]:
                if name == "Laps":
                    yield from ((row["Timings"], timing) for timing in row["Timings"])
                else:
                    yield group[name], row


def jolpica_from_folder(folder: Path) -> Handler:
    """Lists kept whole in files, such as those of `tests/data/http/jolpica`, page by page; the name is the path, `_` for `/`."""

    def answer(request: Request) -> Response | None:
        file = folder / f"{endpoint(request.path).replace('/', '_')}.json"
        if not file.is_file():
            return None
        return Response(body=page(json.loads(file.read_text(encoding="utf-8")), *window(request.params)))

    return answer


def jolpica_from_ergast(shared: Path) -> Handler:
    """Jolpica's pages of 1950-2024, MADE from the Ergast CSV dump, not recorded.

    The rows are real (the dump is of the database that Jolpica serves); the JSON around them is ours, in the documented format,
    with real paging (`limit`, `offset`, `total`). Given: `<year>`, `<year>/<round>`, and of a year or of a round `results`,
    `qualifying`, `sprint`, `drivers`, `constructors`, `circuits`, `driverstandings`, `constructorstandings`; of a round
    `pitstops` and `laps`. The dump has no lap times, so `laps` is the empty list that Jolpica answers where it has none.
    Serve it after `recorded_jolpica`.
    """
    dump = _Dump.of(shared)

    def answer(request: Request) -> Response | None:
        match = re.fullmatch(r"(\d{4})(?:/(\d{1,2}))?(?:/(\w+))?", endpoint(request.path))
        if match is None:
            return None
        document = dump.document(match[1], match[2], match[3])
        if document is None:
            return None
        document["MRData"]["url"] = f"https://api.jolpi.ca/ergast/f1/{endpoint(request.path)}.json"
        return Response(body=page(document, *window(request.params)))

    return answer


class _Dump:
    """The CSV dump, read once; every value is text, None where it is absent."""

    def __init__(self, shared: Path) -> None:
        self._folder = shared / "ergast"
        self.circuits = {row["circuitId"]: _circuit(row) for row in self._read("circuits")}
        self.drivers = {row["driverId"]: _driver(row) for row in self._read("drivers")}
        self.constructors = {row["constructorId"]: _constructor(row) for row in self._read("constructors")}
        self.status = {row["statusId"]: row["status"] for row in self._read("status")}
        self.races = sorted(self._read("races"), key=lambda race: (race["year"], int(race["round"])))
        self._by_race: dict[str, dict[str, list[dict[str, Any]]]] = {}

    @staticmethod
    @cache
    def of(shared: Path) -> "_Dump":
        return _Dump(shared)

    def _read(self, name: str) -> list[dict[str, Any]]:
        with (self._folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            return [{key: None if text == r"\N" else text for key, text in row.items()} for row in csv.DictReader(file)]

    def of_race(self, name: str, race: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Rows of one CSV of one race."""
        if name not in self._by_race:
            groups: dict[str, list[dict[str, Any]]] = {}
            for row in self._read(name):
                groups.setdefault(row["raceId"], []).append(row)
            self._by_race[name] = groups
        return self._by_race[name].get(race["raceId"], [])

    def document(self, year: str, round_: str | None, what: str | None) -> dict[str, Any] | None:
        """The whole list, or None where this is no list that can be made."""
        races = [race for race in self.races if race["year"] == year and round_ in (None, race["round"])]
        labels = {"season": year} | ({"round": round_} if round_ else {})
        if what is None:
            return _document("RaceTable", labels, "Races", [self._header(race) | _sessions(race) for race in races])
        if what in {"results", "qualifying", "sprint"} or (what in {"pitstops", "laps"} and round_):
            made = [self._header(race) | rows for race in races if (rows := self._rows_of(what, race))]
            return _document("RaceTable", labels, "Races", made)
        if what in {"drivers", "constructors", "circuits"}:
            name = what.capitalize()
            return _document(f"{name[:-1]}Table", labels, name, self._names(what, races))
        if what in {"driverstandings", "constructorstandings"}:
            return _document("StandingsTable", labels, "StandingsLists", self._standings(what, races))
        return None

    def _header(self, race: Mapping[str, Any]) -> dict[str, Any]:
        return _known(
            season=race["year"],
            round=race["round"],
            url=race["url"],
            raceName=race["name"],
            Circuit=self.circuits[race["circuitId"]],
            date=race["date"],
            time=race["time"] and f"{race['time']}Z",
        )

    def _rows_of(self, what: str, race: Mapping[str, Any]) -> dict[str, Any]:
        """List name -> rows, empty where the race has none."""
        if what == "laps":
            return {}
        if what == "pitstops":
            stops = sorted(self.of_race("pit_stops", race), key=lambda stop: (int(stop["lap"]), stop["time"] or ""))
            rows = [
                _known(driverId=self.drivers[stop["driverId"]]["driverId"], **_only(stop, "lap", "stop", "time", "duration"))
                for stop in stops
            ]
            return {"PitStops": rows} if rows else {}
        if what == "qualifying":
            found = sorted(self.of_race("qualifying", race), key=lambda row: int(row["position"]))
            rows = [
                _only(row, "number", "position") | self._who(row) | {"Q1": row["q1"] or ""} | _known(Q2=row["q2"], Q3=row["q3"])
                for row in found
            ]
            return {"QualifyingResults": rows} if rows else {}
        source, name = ("results", "Results") if what == "results" else ("sprint_results", "SprintResults")
        found = sorted(self.of_race(source, race), key=lambda row: int(row["positionOrder"]))
        rows = [self._result(row) for row in found]
        return {name: rows} if rows else {}

    def _who(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {"Driver": self.drivers[row["driverId"]], "Constructor": self.constructors[row["constructorId"]]}

    def _result(self, row: Mapping[str, Any]) -> dict[str, Any]:
        speed = row.get("fastestLapSpeed")
        fastest = _known(
            rank=row["rank"],
            lap=row["fastestLap"],
            Time=row["fastestLapTime"] and {"time": row["fastestLapTime"]},
            AverageSpeed=speed and {"units": "kph", "speed": f"{float(speed):.3f}"},
        )
        return (
            _known(number=row["number"], position=row["positionOrder"], **_only(row, "positionText", "points"))
            | self._who(row)
            | _only(row, "grid", "laps")
            | _known(
                status=self.status[row["statusId"]],
                Time=row["milliseconds"] and row["time"] and {"millis": row["milliseconds"], "time": _gap(row["time"])},
                FastestLap=fastest if row["fastestLap"] else None,
            )
        )

    def _names(self, what: str, races: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if what == "circuits":
            found = [self.circuits[race["circuitId"]] for race in races]
        else:
            names, key = (self.drivers, "driverId") if what == "drivers" else (self.constructors, "constructorId")
            found = [names[row[key]] for race in races for row in self.of_race("results", race)]
        order = "familyName" if what == "drivers" else f"{what[:-1]}Id"
        unique = {entry[f"{what[:-1]}Id"]: entry for entry in found}
        return sorted((dict(entry) for entry in unique.values()), key=lambda entry: str(entry[order]))

    def _standings(self, what: str, races: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """After the round asked for, or after the last one of the year."""
        source, name = (
            ("driver_standings", "DriverStandings")
            if what == "driverstandings"
            else ("constructor_standings", "ConstructorStandings")
        )
        held = [race for race in races if self.of_race(source, race)]
        if not held:
            return []
        race = held[-1]
        rows = []
        for row in sorted(self.of_race(source, race), key=lambda row: int(row["position"])):
            entry = _known(**_only(row, "position", "positionText", "points", "wins"))
            if what == "driverstandings":
                entry |= {"Driver": self.drivers[row["driverId"]], "Constructors": self._teams(row["driverId"], race)}
            else:
                entry |= {"Constructor": self.constructors[row["constructorId"]]}
            rows.append(entry)
        return [{"season": race["year"], "round": race["round"], name: rows}]

    def _teams(self, driver: str, until: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Constructors a driver raced for in the year so far, in order."""
        so_far = [race for race in self.races if race["year"] == until["year"] and int(race["round"]) <= int(until["round"])]
        teams = [row["constructorId"] for race in so_far for row in self.of_race("results", race) if row["driverId"] == driver]
        return [self.constructors[team] for team in dict.fromkeys(teams)]


def _document(table: str, labels: Mapping[str, str], name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    document = {"MRData": {"xmlns": "", "series": "f1", "limit": "", "offset": "", "total": "", table: {**labels, name: rows}}}
    document["MRData"]["total"] = str(len(list(_rows(document))))
    return document


def _known(**fields: Any) -> dict[str, Any]:
    """The fields that have a value: Jolpica leaves out the others."""
    return {name: value for name, value in fields.items() if value is not None}


def _only(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names if row[name] is not None}


def _circuit(row: Mapping[str, Any]) -> dict[str, Any]:
    location = _known(lat=row["lat"], long=row["lng"], locality=row["location"], country=row["country"])
    return _known(circuitId=row["circuitRef"], url=row["url"], circuitName=row["name"], Location=location)


def _driver(row: Mapping[str, Any]) -> dict[str, Any]:
    return _known(
        driverId=row["driverRef"],
        permanentNumber=row["number"],
        code=row["code"],
        url=row["url"],
        givenName=row["forename"],
        familyName=row["surname"],
        dateOfBirth=row["dob"],
        nationality=row["nationality"],
    )


def _constructor(row: Mapping[str, Any]) -> dict[str, Any]:
    return _known(constructorId=row["constructorRef"], url=row["url"], name=row["name"], nationality=row["nationality"])


def _sessions(race: Mapping[str, Any]) -> dict[str, Any]:
    """The weekend's sessions. Since 2023 a sprint weekend's second one is the sprint's own qualifying."""
    names = dict(_SESSIONS)
    if race["sprint_date"] is not None and race["year"] >= "2023":
        names |= {"SprintShootout" if race["year"] == "2023" else "SprintQualifying": names.pop("SecondPractice")}
    found = {}
    for name, column in names.items():
        if race[f"{column}_date"] is not None:
            time = race[f"{column}_time"]
            found[name] = _known(date=race[f"{column}_date"], time=time and f"{time}Z")
    return found


def _gap(time: str) -> str:
    """`+67.667` of the dump as Jolpica writes it, `+1:07.667`; other times unchanged."""
    if not re.fullmatch(r"\+\d+\.\d+", time) or float(time) < 60:
        return time
    minutes, seconds = divmod(float(time), 60)
    return f"+{minutes:.0f}:{seconds:06.3f}"
