"""The `files` source: folders of FastF1, Ergast and f1db files, united into canonical seasons.

Needed for a season: laps (`fastf1/laps_*.parquet`), a calendar and results (`ergast/*.csv`, or `fastf1_undercut/schedule_*` and
`results_*`), and the course of each circuit from any year (`f1db/races.csv`). Everything else may be missing: its columns or
tables are then empty and the report says so. A later path wins over an earlier one where they differ.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from feature_repo.files import sha256_file, sha256_json
from pipelines.errors import SourceMissingError
from pipelines.ingest.base import IngestReport, SeasonTables
from pipelines.ingest.canonical.assemble import RawSeason, assemble
from pipelines.ingest.canonical.sieve import Sieve
from pipelines.ingest.files.folders import PATTERNS, Folders


class FilesSource:
    """Reads one or more folders laid out like `fastf1/ fastf1_undercut/ ergast/ f1db/ ...`."""

    name = "files"
    is_simulated = False

    def __init__(self, paths: Sequence[Path]) -> None:
        """Take the folders, earlier ones first.

        Raises:
            SourceMissingError: a folder does not exist or holds no file of that layout.
        """
        self.paths = [Path(path) for path in paths]
        if not self.paths:
            raise SourceMissingError("files source: got no path, expected at least one folder (--path DIR)")
        for path in self.paths:
            if not path.is_dir():
                raise SourceMissingError(
                    f"files source: {path}: got no such folder, expected a folder with fastf1/, ergast/, ..."
                )
            if not any(True for pattern in PATTERNS for _ in path.glob(pattern)):
                raise SourceMissingError(
                    f"files source: {path}: got none of the files of a source, expected some of {', '.join(PATTERNS)}"
                )

        self.folders = Folders(self.paths)

    def fingerprint(self) -> str:
        """Hash of every file that is read, by its place below its path."""
        return sha256_json(
            [
                [number, file.relative_to(path).as_posix(), sha256_file(file)]
                for number, path in enumerate(self.paths)
                for pattern in PATTERNS
                for file in sorted(path.glob(pattern))
            ]
        )

    def read(self, seasons: Sequence[int], report: IngestReport) -> Iterator[SeasonTables]:
        """Yield the seasons asked for, ascending; see `Source.read`."""
        asked = sorted(set(seasons))
        sieve = Sieve(report, asked)
        laps_of = self.folders.index_laps(asked, report)
        inputs = self.folders.read_inputs(asked, sieve)
        for season in asked:
            laps = self.folders.read_laps(season, laps_of[season], sieve)
            of = {name: _of_season(frame, season) for name, frame in vars(inputs).items()}
            yield assemble(RawSeason(season=season, laps=laps, **of), self.name, sieve)


def _of_season(frame: pd.DataFrame, season: int) -> pd.DataFrame:
    return frame[frame["season"] == season] if "season" in frame and len(frame) else frame
