"""2023 and 2024 from files, OpenF1 and Jolpica in one home: where three sources of the same races disagree.

Prints docs/merged-seasons.md: `python tests/support/merged_seasons.py ../shared/data > docs/merged-seasons.md`.
"""

import contextlib
import functools
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from http_replay import Clock, ReplayServer, Request, Response, jolpica_from_ergast, recorded_jolpica, recorded_openf1

from feature_repo.settings import Settings
from pipelines.ingest.files.source import FilesSource
from pipelines.ingest.jolpica import source as jolpica
from pipelines.ingest.merging import differences
from pipelines.ingest.merging.differences import DifferenceReport
from pipelines.ingest.openf1 import source as openf1
from pipelines.ingest.run import ingest
from pipelines.ingest.web.client import PoliteClient

SEASONS = (2023, 2024)
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
    ("laps", "lap_time_s", "jolpica", "openf1"): "lap 1",
    ("laps", "lap_time_s", "jolpica", "files"): "lap 1",
    ("laps", "sector2_s", "files", "openf1"): "three laps of 2024 R22, by 0.5 s",
    ("laps", "position", "files", "openf1"): "97 in 2023 R13 (FastF1's clock), the others at gaps in OpenF1's messages",
    ("laps", "position", "files", "jolpica"): "lap 1: order at the line against order in the feed",
    (
        "laps",
        "compound",
        "files",
        "openf1",
    ): "last stint of four cars in 2024 R14: probably, as at Spa in 2020, a set fitted after the flag",
    ("stints", "compound", "files", "openf1"): "2024 R14, as above",
    ("stints", "start_lap", "files", "openf1"): "a stint that OpenF1 begins at another lap (2023 R3, R8)",
    ("stints", "end_lap", "files", "openf1"): "last laps that were not finished",
    ("pit_stops", "pit_lane_time_s", "files", "openf1"): "measured independently; over half a second in a few",
}


@contextlib.contextmanager
def home_of_three(folder: Path, shared: Path, rounds: dict[int, list[int] | None]) -> Iterator[Settings]:
    """A home with `rounds` (None: all) of each season from the three sources; services answer over a local socket."""
    clock = Clock(1_790_000_000.0)
    at_once = functools.partial(PoliteClient, sleep=clock.sleep, clock=clock)
    with (
        ReplayServer() as server,
        mock.patch.object(jolpica, "PoliteClient", at_once),
        mock.patch.object(openf1, "PoliteClient", at_once),
    ):
        for handler in (_no_lap_charts, recorded_jolpica(shared), jolpica_from_ergast(shared), recorded_openf1(shared)):
            server.serve(handler)
        settings = Settings(home=folder, jolpica_url=f"{server.url}/ergast/f1", openf1_url=f"{server.url}/v1")
        for season, some in rounds.items():
            ingest(settings, openf1.OpenF1Source(settings, rounds=some), [season])
            ingest(settings, jolpica.JolpicaSource(settings, rounds=some), [season])
        ingest(settings, FilesSource([shared]), list(rounds))
        yield settings


def as_page(report: DifferenceReport) -> str:
    """docs/merged-seasons.md."""
    lines = [
        "# Three sources of two seasons",
        "",
        "2023 and 2024 from `files`, `openf1` and `jolpica` in one home, as `pitwall ingest --report` counts them: made by",
        "`python tests/support/merged_seasons.py ../shared/data`. OpenF1's answers are recorded rows, Jolpica's are recorded",
        "where they were and made from the Ergast dump where not (no lap charts: [recorded-races.md](recorded-races.md)).",
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


def _no_lap_charts(request: Request) -> Response | None:
    """Of two seasons only the first laps of two races were recorded, which would stand for whole charts."""
    if not request.path.endswith("/laps.json"):
        return None
    return Response(
        body=json.dumps({"MRData": {"limit": "100", "offset": "0", "total": "0", "RaceTable": {"Races": []}}}).encode()
    )


if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory() as folder,
        home_of_three(Path(folder), Path(sys.argv[1]), dict.fromkeys(SEASONS)) as settings,
    ):
        found = differences.read(settings)
    sys.stdout.write(as_page(found))
