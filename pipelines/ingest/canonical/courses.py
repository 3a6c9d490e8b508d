"""Where a race is run: course length, turns, kind, direction and scheduled laps, from f1db; and its pit-lane starters."""

from pathlib import Path

import pandas as pd

from pipelines.errors import SourceMissingError
from pipelines.ingest.base import IngestReport
from pipelines.ingest.canonical.reading import Kind, no_rows, read_csv

_RACES: dict[str, Kind] = {
    "season": "int",
    "round": "int",
    "circuitType": "str",
    "direction": "str",
    "courseLength": "float",
    "turns": "int",
    "laps": "int",
}
_SCHEDULED: dict[str, Kind] = {
    "scheduledLaps": "int",
    "date": "str",
    "time": "str",
    "qualifyingDate": "str",
    "qualifyingTime": "str",
}
COURSE = ["course_length_km", "turns", "circuit_type", "direction", "scheduled_laps"]


def read_courses(root: Path) -> pd.DataFrame:
    """`season, round` and the `COURSE` columns of every race in `root/f1db/races.csv`; empty where there is none."""
    file = root / "f1db" / "races.csv"
    if not file.is_file():
        return no_rows(["season", "round"], COURSE)
    raw = read_csv(root, file, _RACES, _SCHEDULED)
    # `laps` is the distance run; `scheduledLaps` is only given where the race was cut short
    return pd.DataFrame(
        {
            "season": raw["season"],
            "round": raw["round"],
            "course_length_km": raw["courseLength"],
            "turns": raw["turns"],
            "circuit_type": raw["circuitType"].str.lower(),
            "direction": raw["direction"].str.lower(),
            "scheduled_laps": raw["scheduledLaps"].fillna(raw["laps"]),
        }
    )


def read_pit_lane_starts(root: Path) -> pd.DataFrame:
    """`season, round, code, f1db_grid` (text: a number, `PL`, or null) of every entry in f1db; empty where there is none."""
    results, drivers = root / "f1db" / "race_results.csv", root / "f1db" / "drivers.csv"
    if not (results.is_file() and drivers.is_file()):
        return no_rows(["season", "round"], ["code", "f1db_grid"])
    raw = read_csv(root, results, {"season": "int", "round": "int", "driverId": "str", "gridPosition": "str"})
    people = read_csv(root, drivers, {"id": "str", "abbreviation": "str"}).drop_duplicates("id")
    joined = raw.merge(people[["id", "abbreviation"]], left_on="driverId", right_on="id")
    renamed = joined.rename(columns={"abbreviation": "code", "gridPosition": "f1db_grid"})
    return renamed[["season", "round", "code", "f1db_grid"]].drop_duplicates(["season", "round", "code"], keep="last")


def attach_courses(calendar: pd.DataFrame, courses: pd.DataFrame, every_race: pd.DataFrame, report: IngestReport) -> pd.DataFrame:
    """`calendar` with the `COURSE` columns: of the race itself, or else of the nearest earlier race at the same circuit.

    Args:
        calendar: races wanted (`season, round, circuit_id`).
        courses: what `read_courses` gave for all paths together, later paths last.
        every_race: `season, round, circuit_id` of all races of all paths, which says where each race in `courses` was run.
        report: told about races whose course was taken from another year.
    Raises:
        SourceMissingError: no race at that circuit is known.
    """
    known = courses.dropna(subset=COURSE).drop_duplicates(["season", "round"], keep="last")
    joined = calendar.merge(known, how="left", on=["season", "round"])
    missing = joined["course_length_km"].isna()
    if not missing.any():
        return joined
    places = every_race[["season", "round", "circuit_id"]].drop_duplicates(["season", "round"], keep="last")
    elsewhere = known.merge(places, on=["season", "round"]).sort_values(["season", "round"])
    for index in joined.index[missing]:
        race = joined.loc[index]
        same = elsewhere[elsewhere["circuit_id"] == race["circuit_id"]]
        earlier = same[same["season"] < race["season"]]
        if same.empty:
            raise SourceMissingError(
                f"course of {race['circuit_id']!r} (season {race['season']:.0f}, round {race['round']:.0f}): got no race there "
                "in f1db/races.csv of any path, expected this race or one of another year; add a path whose f1db knows it"
            )
        taken = earlier.iloc[-1] if len(earlier) else same.iloc[0]
        for column in COURSE:
            joined.loc[index, column] = taken[column]
        report.note(f"course of {race['circuit_id']} in {race['season']:.0f} is not in f1db: taken from {taken['season']:.0f}")
    return joined
