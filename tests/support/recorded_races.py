"""The four races whose live timing was recorded, read twice: from recorded web responses, and from files.

Prints docs/recorded-races.md: `python tests/support/recorded_races.py ../shared/data > docs/recorded-races.md`.
"""

import sys
import tempfile
from pathlib import Path

import pandas as pd
from http_recorded import recorded_jolpica
from jolpica_pages import jolpica_from_ergast, no_rows
from lake_differences import Frames, differences
from replay_server import Handler, Request, Response
from replayed_home import replayed_home

from pipelines.ingest.base import IngestReport
from pipelines.ingest.files.source import FilesSource
from pipelines.ingest.jolpica.source import JolpicaSource
from pipelines.ingest.livetiming.source import LiveTimingSource
from pipelines.ingest.run import ingest
from pipelines.lake import Lake
from pipelines.schemas import TABLES

RACES = {2018: 4, 2020: 7, 2022: 1, 2023: 5}
# (table, column): rows that differ beyond tolerance, and why.
EXPLAINED = {
    ("entries", "status"): (2, "lapped cars: '+1 Lap' in the dump, 'Lapped' in today's responses, both of them Jolpica's"),
    ("qualifying", "event_timestamp"): (40, "no start of qualifying in Jolpica's schedules before 2022: 20 h before the race"),
    ("qualifying", "created_timestamp"): (40, "as above"),
    ("laps", "lap_time_s"): (77, "lap 1: official in Jolpica, from lights out to the line in the files"),
    ("laps", "position"): (23, "2018: this FastF1 aligns lap ends between cars, the older one of the files did not"),
    ("laps", "is_fresh_tyre"): (582, "2018: read from all tyre messages, in the files from the last one"),
    ("stints", "compound"): (4, "2020: in the files a set fitted after the flag changed the last stint"),
    ("stints", "start_lap"): (13, "2018: the feed names stints from lap 2 or 3 on; they begin on lap 1 here"),
    ("stints", "end_lap"): (4, "cars that stopped: the files count the lap that they did not finish"),
    ("stints", "length_laps"): (17, "the two above"),
    ("stints", "event_timestamp"): (132, "without recorded laps a stint is known when the feed counted its last lap"),
    ("stints", "created_timestamp"): (132, "as above"),
    ("race_control", "event_timestamp"): (28, "2020: when the message came; the files guess one delay a race, here 7.4 s off"),
    ("race_control", "created_timestamp"): (56, "as above; and a message that came late is known when it came"),
}
# table: rows only in the recordings, rows only in the files, and why.
ALONE = {
    "laps": (0, 2973, "TimingData was recorded in 2018 alone; of the others there is lap 1, from Jolpica"),
    "pit_stops": (0, 99, "as above"),
    "weather": (0, 269, "WeatherData was recorded in 2020 and 2022"),
    "race_control": (60, 38, "recorded in 2022, where the files have none; not recorded in 2023"),
}


def from_recordings(home: Path, shared: Path) -> Lake:
    """A lake of the four races from Jolpica's responses (recorded; made from the database where none was) and live timing."""
    with replayed_home(home, first_laps(shared), recorded_jolpica(shared), jolpica_from_ergast(shared)) as settings:
        for season, round_ in RACES.items():
            ingest(settings, JolpicaSource(settings, rounds=[round_]), [season])
    ingest(settings, LiveTimingSource(settings, [shared / "raw_api" / "livetiming"]), list(RACES))
    return Lake(settings.lake_dir)


def first_laps(shared: Path) -> Handler:
    """A handler for the lap charts and pit stops of those races: the first lap is all of them that was recorded."""
    recorded = recorded_jolpica(shared)

    def answer(request: Request) -> Response | None:
        for season, round_ in RACES.items():
            if request.path.endswith(f"/{season}/{round_}/laps.json"):
                path = request.path.removesuffix(".json") + "/1.json"
                return recorded(Request(request.method, path, {}, request.headers))
            if request.path.endswith(f"/{season}/{round_}/pitstops.json"):
                return Response(body=no_rows(season=season, round=round_))
        return None

    return answer


def from_files(shared: Path) -> Frames:
    """The same races as the `files` source has them."""
    report = IngestReport("files", is_simulated=False, seasons=list(RACES))
    parts: dict[str, list[pd.DataFrame]] = {}
    for season in FilesSource([shared]).read(list(RACES), report):
        for table, frame in season.tables.items():
            if TABLES[table].is_race_table:
                parts.setdefault(table, []).append(frame[frame["round"] == RACES[season.season]])
    full = {table: [frame for frame in frames if len(frame)] for table, frames in parts.items()}
    return {table: pd.concat(frames, ignore_index=True) for table, frames in full.items() if frames}


def as_page(table: pd.DataFrame) -> str:
    """docs/recorded-races.md."""
    lines = [
        "# Races from recorded responses, against the same races from files",
        "",
        "Made by `python tests/support/recorded_races.py ../shared/data`; a test holds the page to what it finds.",
        "",
        "The live timing of four races was recorded (2018 Azerbaijan, 2020 Belgium, 2022 Bahrain, 2023 Miami), and much of what",
        "Jolpica answers about them. Read through `--source jolpica` (the real client, over a socket) and `--source livetiming`",
        "into one home, they are put beside `--source files`: latest row of each key, instants within a second, numbers equal.",
        "What of Jolpica was not recorded (calendars of 2018 and 2020, some of qualifying) is made from the Ergast dump.",
        "",
        "| table | column | rows of both | differ | largest (s, or units) | why |",
        "|---|---|---|---|---|---|",
    ]
    for row in table.itertuples():
        why = EXPLAINED[(row.table, row.column)][1] if (row.table, row.column) in EXPLAINED else ""
        lines.append(f"| `{row.table}` | `{row.column}` | {row.both} | {row.differ} | {row.largest:.3g} | {why} |")
    lines += [
        "",
        "Rows without a partner:",
        "",
        "| table | only in the recordings | only in the files | why |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{name}` | {ours} | {theirs} | {why} |" for name, (ours, theirs, why) in ALONE.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    shared = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        lake = from_recordings(Path(folder), shared)
        found = differences({name: lake.read(name) for name in TABLES}, from_files(shared))
    sys.stdout.write(as_page(found))
