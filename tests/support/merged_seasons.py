"""2023 and 2024 from files, OpenF1 and Jolpica in one home: where three sources of the same races disagree.

Prints docs/merged-seasons.md: `python tests/support/merged_seasons.py ../shared/data > docs/merged-seasons.md`.
"""

import contextlib
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from http_recorded import recorded_jolpica, recorded_openf1
from jolpica_made import laps_from_fastf1
from jolpica_pages import endpoint, jolpica_from_ergast, no_rows
from replay_server import Handler, Request, Response
from replayed_home import replayed_home

from feature_repo.settings import Settings
from pipelines.ingest.files.source import FilesSource
from pipelines.ingest.jolpica.source import JolpicaSource
from pipelines.ingest.merging import differences
from pipelines.ingest.merging.differences import DifferenceReport
from pipelines.ingest.openf1.source import OpenF1Source
from pipelines.ingest.run import ingest

SEASONS = (2023, 2024)
CHARTED = ("2023/1", "2023/5", "2024/14", "2024/21")  # races whose lap chart and pit stops Jolpica tells
# (table, column, believed, other): why they differ, where they do.
EXPLAINED = {
    ("races", "race_start", "files", "openf1"): "2024 R21, R22, R23: the dump has an old schedule, a day early, an hour off",
    ("races", "race_start", "files", "jolpica"): "2024 R23: today's response and the dump are an hour apart",
    ("races", "race_start", "openf1", "jolpica"): "as against the dump",
    ("races", "race_end", "files", "openf1"): "the three races above, and 2023 R13, where FastF1's clock is 2 s off",
    ("races", "race_end", "files", "jolpica"): "as race_start",
    ("races", "race_end", "openf1", "jolpica"): "as race_start",
    ("entries", "grid", "files", "openf1"): "cars from the pit lane, and those that follow them",
    ("entries", "grid", "files", "jolpica"): "starts from the pit lane that only f1db knows",
    ("entries", "grid", "jolpica", "openf1"): "cars from the pit lane",
    ("entries", "is_pit_lane_start", "files", "openf1"): "OpenF1's grid leaves most of them in a place",
    ("entries", "is_pit_lane_start", "files", "jolpica"): "only f1db knows these",
    ("entries", "is_pit_lane_start", "jolpica", "openf1"): "OpenF1's grid leaves most of them in a place",
    (
        "entries",
        "is_classified",
        "files",
        "openf1",
    ): "2023 R6 (Magnussen) and R11 (Sargeant), who stopped late: classified at OpenF1",
    ("entries", "is_classified", "jolpica", "openf1"): "as above",
    ("entries", "points", "files", "openf1"): "2023 R2 and R18: OpenF1 lacks the point for the fastest lap",
    ("entries", "points", "jolpica", "openf1"): "as above",
    ("entries", "laps_completed", "files", "openf1"): "2024 R21, a disqualified car: OpenF1 does not say",
    ("entries", "laps_completed", "jolpica", "openf1"): "as above",
    ("qualifying", "position", "files", "openf1"): "disqualified and unclassified cars go last in OpenF1 (2023 R10, 2024 R8)",
    ("qualifying", "position", "jolpica", "openf1"): "as above",
    ("qualifying", "q1_s", "files", "openf1"): "one time, by 6 ms",
    ("qualifying", "q1_s", "jolpica", "openf1"): "as above",
    ("laps", "lap_time_s", "files", "openf1"): "lap 1 alone: counted from lights out, which each source places by itself",
    ("laps", "lap_time_s", "jolpica", "files"): "2023 R1, the recorded chart: lap 1, which officially counts from lights out",
    (
        "laps",
        "lap_time_s",
        "jolpica",
        "openf1",
    ): "lap 1, and 34 laps at the red flag of 2024 R21, which a made chart counts from line to line",
    ("laps", "sector2_s", "files", "openf1"): "three laps of 2024 R22, by 0.5 s",
    ("laps", "position", "files", "openf1"): "97 in 2023 R13 (FastF1's clock), the others at gaps in OpenF1's messages",
    ("laps", "position", "openf1", "jolpica"): "gaps in OpenF1's messages",
    (
        "laps",
        "compound",
        "files",
        "openf1",
    ): "last stint of four cars in 2024 R14: probably, as at Spa in 2020, a set fitted after the flag",
    ("stints", "compound", "files", "openf1"): "2024 R14, as above",
    ("stints", "start_lap", "files", "openf1"): "a stint that OpenF1 begins at another lap (2023 R3, R8)",
    ("stints", "end_lap", "files", "openf1"): "last laps that were not finished",
    ("stints", "end_lap", "files", "jolpica"): "as above: one car each in 2023 R1 and 2024 R21",
    ("pit_stops", "pit_lane_time_s", "files", "openf1"): "measured independently; over half a second in a few",
}


@contextlib.contextmanager
def home_of_three(folder: Path, shared: Path) -> Iterator[Settings]:
    """A home with both seasons from the three sources; services answer over a local socket."""
    handlers = (charts(shared), recorded_jolpica(shared), jolpica_from_ergast(shared), recorded_openf1(shared))
    with replayed_home(folder, *handlers) as settings:
        for season in SEASONS:
            ingest(settings, OpenF1Source(settings), [season])
            ingest(settings, JolpicaSource(settings), [season])
        ingest(settings, FilesSource([shared]), SEASONS)
        yield settings


def charts(shared: Path) -> Handler:
    """Lap charts of `CHARTED`, as recorded where they were (laps 1 to 5 of 2023 R1) and made from the timing feed where not.

    Other races have none, as the first page of a chart would stand for all of it.
    """
    recorded, made = recorded_jolpica(shared), laps_from_fastf1(shared)

    def answer(request: Request) -> Response | None:
        match = re.fullmatch(r"(\d{4}/\d{1,2})/laps", endpoint(request.path))
        if match is None:
            return None
        return (recorded(request) or made(request)) if match[1] in CHARTED else Response(body=no_rows())

    return answer


def as_page(report: DifferenceReport) -> str:
    """docs/merged-seasons.md."""
    lines = [
        "# Three sources of two seasons",
        "",
        "2023 and 2024 from `files`, `openf1` and `jolpica` in one home, as `pitwall ingest --report` counts them: made by",
        "`python tests/support/merged_seasons.py ../shared/data`; a test holds the page to what it finds. OpenF1's answers are",
        "recorded rows, Jolpica's are recorded where they were and made from the Ergast dump where not. Lap charts and pit stops",
        f"of Jolpica are those of {', '.join(race.replace('/', ' R') for race in CHARTED)}: laps 1 to 5 of the first were",
        "recorded, the rest of the charts is made from the timing feed, as the files are, so that equal lap times prove",
        "something for those five laps alone.",
        "*believed* is who comes first in the order of that column ([sources.md](sources.md)): the lake has that value.",
        "",
        "| table | column | believed | other | compared | differ | largest | why |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in report.columns:
        name = (entry["table"], entry["column"], entry["believed"], entry["other"])
        why = EXPLAINED.get(name, "") if entry["differ"] else ""
        largest = "" if entry["largest"] is None else f"{entry['largest']:.3g}"
        lines.append(
            f"| `{name[0]}` | `{name[1]}` | {name[2]} | {name[3]} | {entry['compared']} | {entry['differ']} | {largest} | {why} |"
        )
    lines += ["", "Rows that only one of the sources has, in races that another has too:", ""]
    lines += [f"- `{entry['table']}`: {entry['rows']} only in {entry['source']}" for entry in report.only_in]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory() as folder,
        home_of_three(Path(folder), Path(sys.argv[1])) as settings,
    ):
        found = differences.read(settings)
    sys.stdout.write(as_page(found))
