"""The source that a person names on the command line, with the seasons to read from it."""

from collections.abc import Sequence
from pathlib import Path

from feature_repo.errors import BadUsageError
from feature_repo.settings import Settings
from pipelines.errors import SourceMissingError
from pipelines.ingest.base import Source
from pipelines.ingest.catalogue import source_names
from pipelines.ingest.seasons import parse_rounds, parse_seasons

SERVICES = ("fastf1", "jolpica", "openf1")
USUAL_RACES = 12
"""Races a simulated season where nobody says how many."""


def choose_source(
    settings: Settings,
    name: str,
    seasons: str | None,
    *,
    paths: Sequence[Path] = (),
    rounds: str | None = None,
    refresh: bool = False,
    races: int | None = None,
    seed: int | None = None,
) -> tuple[Source, list[int]]:
    """The source and the seasons asked for.

    Args:
        settings: which home; services keep their responses in it.
        name: one of `catalogue.source_names()`.
        seasons: as written (`2018-2024`); of the simulator a number of seasons; live timing knows its own.
        paths: folders or files to read; for services, folders whose `f1db/races.csv` knows further courses.
        rounds: only these rounds (`5-8`), of services.
        refresh: ask a service again for what it gave before.
        races: races a simulated season; default: `USUAL_RACES`.
        seed: of the simulator; default: the settings' one.
    Raises:
        BadUsageError: the options do not go together.
        SeasonsError: seasons or rounds are not written as seasons or rounds.
        SourceMissingError: a path holds nothing of the source.
    """
    if name not in source_names():
        raise BadUsageError(f"--source: got {name!r}, expected one of {', '.join(source_names())}")
    if name not in SERVICES and (rounds is not None or refresh):
        raise BadUsageError(f"--rounds and --refresh are for {', '.join(SERVICES)}; --source {name} reads what it is given")
    if name != "simulator" and (races is not None or seed is not None):
        raise BadUsageError(f"--races and --seed are for the simulator; --source {name} reads races that were held")
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise SourceMissingError(f"--path {missing[0]}: got no such file or folder, expected one that --source {name} can read")
    if name == "livetiming":
        from pipelines.ingest.livetiming.source import LiveTimingSource

        if not paths:
            raise BadUsageError("--source livetiming needs at least one --path FILE_OR_DIR")
        recorded = LiveTimingSource(settings, paths)
        return recorded, recorded.seasons if seasons is None else parse_seasons(seasons)
    if seasons is None:
        raise BadUsageError(f"--source {name} needs --seasons, such as 2023-2024 (simulator: how many, such as 3)")
    if name == "simulator":
        if paths:
            raise BadUsageError("--path is for sources that read files; the simulator reads nothing")
        if not seasons.isdecimal():
            raise BadUsageError(f"--seasons: got {seasons!r}, expected how many seasons to simulate, such as 3")
        from pipelines.ingest.simulator import SimulatorSource

        simulator = SimulatorSource(
            seasons=int(seasons),
            races=USUAL_RACES if races is None else races,
            seed=settings.seed if seed is None else seed,
        )
        return simulator, list(simulator.years)
    years = parse_seasons(seasons)
    if name == "files":
        from pipelines.ingest.files.source import FilesSource

        if not paths:
            raise BadUsageError("--source files needs at least one --path DIR")
        return FilesSource(paths), years
    chosen = None if rounds is None else parse_rounds(rounds)
    if name == "jolpica":
        from pipelines.ingest.jolpica.source import JolpicaSource

        return JolpicaSource(settings, rounds=chosen, refresh=refresh, paths=paths), years
    if name == "openf1":
        from pipelines.ingest.openf1.source import OpenF1Source

        return OpenF1Source(settings, rounds=chosen, refresh=refresh, paths=paths), years
    from pipelines.ingest.fastf1.source import FastF1Source

    return FastF1Source(settings, rounds=chosen, refresh=refresh, paths=paths), years
