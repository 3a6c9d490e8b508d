"""What each source of races gives, what it needs and what it allows: the registry behind `pitwall sources` and docs/sources.md.

Facts about services were read from their own documents in November 2026; where a service says nothing, that is what stands here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from feature_repo.errors import BadUsageError
from pipelines.ingest.precedence import as_rows
from pipelines.ingest.web.limits import Limits
from pipelines.schemas import TABLES

_RACES = ("circuits", "races", "drivers", "constructors", "entries")
_TIMING = ("laps", "stints", "pit_stops", "weather", "track_status", "race_control")
_CHAMPIONSHIP = ("sprint_results", "driver_standings", "constructor_standings")


@dataclass(frozen=True)
class SourceInfo:
    """One source.

    Attributes:
        name: `--source`, and the value of the column `source`.
        title: what it is, in a few words.
        options: what follows `pitwall ingest --source <name>` on the command line.
        tables: canonical table -> first season in which the source has it, or None: in all its seasons.
        seasons: which seasons it has, in words.
        licence: of what it gives, as its origin states it; `none stated` where it does not.
        limits: requests it allows, or None where none are made; kept over processes and restarts.
        limits_note: whose figure that is, and what else is limited.
        urls: settings that say where it is asked (`PITWALL_<NAME>`).
        notes: what one has to know before using it.
    """

    name: str
    title: str
    options: str
    tables: Mapping[str, int | None]
    seasons: str
    licence: str
    limits: Limits | None = None
    limits_note: str = ""
    urls: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            **{name: value for name, value in vars(self).items() if name not in ("tables", "limits", "urls", "notes")},
            "tables": dict(self.tables),
            "limits": None if self.limits is None else dict(vars(self.limits)),
            "urls": list(self.urls),
            "notes": list(self.notes),
        }


def _all_seasons(*tables: str) -> dict[str, int | None]:
    return dict.fromkeys(tables)


_SOURCES: tuple[SourceInfo, ...] = (
    SourceInfo(
        name="simulator",
        title="fictional races, made here",
        options="--seasons 3 [--races N] [--seed N]",
        tables=_all_seasons(*(table for table in TABLES if table not in _CHAMPIONSHIP)),
        seasons="any number of fictional ones",
        licence="none needed: nothing in it is real",
        notes=("A home holds simulated or real races, never both.", "The same seed gives the same bytes."),
    ),
    SourceInfo(
        name="files",
        title="FastF1, Ergast and f1db files that you have",
        options="--seasons 2018-2024 --path DIR [--path ...]",
        tables={
            **_all_seasons(*_RACES, "qualifying", *_TIMING),
            "sprint_results": 2021,
            "driver_standings": None,
            "constructor_standings": None,
        },
        seasons="those of the files; laps come from FastF1 exports, which begin in 2018",
        licence="stays with each file: the Ergast dump on Kaggle CC0-1.0, f1db CC BY 4.0, timing exports none stated",
        notes=(
            "docs/data-model.md has the layout of the folders.",
            "A later folder adds seasons and wins where two differ.",
            "f1db knows starts from the pit lane that results do not tell.",
        ),
    ),
    SourceInfo(
        name="jolpica",
        title="Jolpica, the successor of the Ergast API: the official record, corrected after the race",
        options="--seasons 2023-2024 [--rounds 5-8] [--path DIR] [--refresh]",
        tables={
            **_all_seasons(*_RACES, "qualifying"),
            "sprint_results": 2021,
            "driver_standings": None,
            "constructor_standings": None,
            "laps": None,
            "stints": None,
            "pit_stops": 2011,
        },
        seasons=(
            "1996 (the first with lap times) to the current one; courses before 2018 and start times before 2005 need --path DIR "
            "with f1db/races.csv"
        ),
        licence="CC BY-NC-SA 4.0, non-commercial use only (terms of use of 27 August 2025)",
        limits=Limits(per_second=4, per_hour=500),
        limits_note="documented for access without a token; lower limits are announced",
        urls=("jolpica_url",),
        notes=(
            "Laps have times and places only: no sectors, speeds or tyres; stints have no compound.",
            "It has no start time of races before 2005, and a race without one is left out: give it in the columns `date` and "
            "`time` (UTC) of the f1db/races.csv of --path.",
            "A page has at most 100 rows, so lap times are most of the roughly 370 requests of a season.",
        ),
    ),
    SourceInfo(
        name="openf1",
        title="OpenF1: the live timing feed as a REST API",
        options="--seasons 2023-2024 [--rounds 5-8] [--path DIR] [--refresh]",
        tables=_all_seasons(*_RACES, "qualifying", *_TIMING),
        seasons="2023 to the current one",
        licence="none stated for the data; the software is MIT",
        limits=Limits(per_second=3, per_minute=30),
        limits_note="of free access; paying accounts have more",
        urls=("openf1_url",),
        notes=(
            "While a session is under way it answers only to paying accounts, about old races too: ask again afterwards.",
            "It has no rounds: they are told by the dates of races that other sources put into the lake, or of the "
            "f1db/races.csv of --path; where there is no such calendar races are counted, up to one that has no result.",
            "It has no track status: that follows from the messages of race control.",
        ),
    ),
    SourceInfo(
        name="fastf1",
        title="the FastF1 library (3.9): the live timing archive, lap by lap, with results from Jolpica",
        options="--seasons 2023-2024 [--rounds 5-8] [--path DIR] [--refresh]",
        tables=_all_seasons(*_RACES, "qualifying", *_TIMING),
        seasons="2018 to the current one",
        licence="timing data: none stated; results: Jolpica's terms; the library is MIT",
        limits=Limits(per_second=4, per_hour=500),
        limits_note="the library's own figure for each address, and 200/h for Jolpica, whose limit all sources share",
        urls=("livetiming_url", "schedule_url", "jolpica_url"),
        notes=(
            "The library signs in where F1_USERNAME and F1_PASSWORD name a Formula 1 account, and asks without one otherwise.",
            "Its cache is cache/fastf1/ in the home.",
        ),
    ),
    SourceInfo(
        name="livetiming",
        title="recorded streams of F1 live timing, as the archive has them or a client wrote them down",
        options="--path FILE_OR_DIR [--path ...] [--seasons 2023]",
        tables=_all_seasons(*_TIMING),
        seasons="those of the recordings; the archive begins in 2018",
        licence="none stated",
        notes=(
            "Nothing is asked on the network.",
            "Which race it was, when it was to start and who drove comes from the lake: read the race from another source first.",
            "A recording with under 90 % of the winner's laps gives no laps, stints or pit stops: it would hide who has all.",
        ),
    ),
)


def sources() -> tuple[SourceInfo, ...]:
    """Every source."""
    return _SOURCES


def source_names() -> list[str]:
    """What `--source` may be."""
    return [info.name for info in _SOURCES]


def source_info(name: str) -> SourceInfo:
    """One source by its name.

    Raises:
        BadUsageError: there is no such source.
    """
    for info in _SOURCES:
        if info.name == name:
            return info
    raise BadUsageError(f"source: got {name!r}, expected one of {', '.join(source_names())}; see `pitwall sources`")


def limits(name: str) -> Limits:
    """Requests that a service allows.

    Raises:
        BadUsageError: there is no such source, or it asks no service.
    """
    allowed = source_info(name).limits
    if allowed is None:
        asked = ", ".join(info.name for info in _SOURCES if info.limits is not None)
        raise BadUsageError(f"limits of {name}: got a source that asks no service, expected one of {asked}")
    return allowed


def limits_text(info: SourceInfo) -> str:
    """`4 requests/s, 500/h`, or `none`."""
    return "none" if info.limits is None else info.limits.text()


def as_markdown() -> str:
    """The text of docs/sources.md."""
    names = source_names()
    given = [[f"`{table}`", *[_given(info, table) for info in _SOURCES]] for table in TABLES]
    merged = [[f"`{table}`", columns, order] for table, columns, order in as_rows()]
    return (
        "\n\n".join(
            [
                "# Sources",
                "Made by `pitwall sources --markdown` from `pipelines/ingest/catalogue.py`; a test keeps the two in step.",
                "## What each source gives",
                _table(["table", *names], given),
                *[_section(info) for info in _SOURCES],
                _AFTER_A_LIMIT,
                _MERGING,
                _table(["table", "columns", "order"], merged),
            ]
        )
        + "\n"
    )


_AFTER_A_LIMIT = """\
## After a rate limit

Pitwall waits for a limit itself where that takes no longer than a minute. Otherwise, and where a service stays silent after
several tries, the run ends with exit code 1 and says from when to go on (in an hour, where neither the limit nor the service
tells). The rounds that were complete are in the lake. Run the same command again: answers are kept in `cache/<source>/` of the
home, so nothing is downloaded twice. Requests are counted in `cache/limits/<service>/`, whichever source sends them.

`--refresh` asks again for everything, each answer once, however many runs that takes; nobody having gone on with it for two days,
it begins anew."""

_MERGING = """\
## When several sources tell of the same race

Each source keeps what it said; the lake has one row a key, chosen column by column in the order below, and `source` names who
gave it. A null is filled from the next source in the order, unless the table is taken as a whole race. Differences beyond the
tolerances of `pipelines/ingest/precedence.py` are counted, and listed by `pitwall ingest --report`."""


def _section(info: SourceInfo) -> str:
    network = f"{limits_text(info)} ({info.limits_note})" if info.limits is not None else "none: it asks no service"
    lines = [
        f"## {info.name}",
        "",
        f"{info.title[0].upper()}{info.title[1:]}.",
        "",
        f"- **Command:** `pitwall ingest --source {info.name} {info.options}`",
        f"- **Seasons:** {info.seasons}",
        f"- **Licence:** {info.licence}",
        f"- **Limits:** {network}",
    ]
    if info.urls:
        lines.append(f"- **Address:** {', '.join(f'`PITWALL_{name.upper()}`' for name in info.urls)}")
    return "\n".join([*lines, *[f"- {note}" for note in info.notes]])


def _given(info: SourceInfo, table: str) -> str:
    if table not in info.tables:
        return ""
    since = info.tables[table]
    return "✓" if since is None else f"from {since}"


def _table(columns: list[str], rows: list[list[str]]) -> str:
    cells = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
