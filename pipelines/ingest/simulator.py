"""The simulator as a source: seasons of fictional races, every row marked as simulated."""

from collections.abc import Iterator, Sequence

from feature_repo.files import sha256_json
from pipelines import schemas
from pipelines.errors import SourceMissingError
from pipelines.ingest.base import IngestReport, SeasonTables
from pipelines.simulator.season import calendar, season_years, simulate_seasons
from pipelines.steps import code_hash


class SimulatorSource:
    """Simulated seasons, ending in 2024: three seasons are 2022, 2023 and 2024.

    A season depends on `races`, `seed` and its year only; a race not even on `races`.

    Args:
        seasons: number of seasons.
        races: races in each season.
        seed: non-negative seed.
    Raises:
        SimulationRequestError: a number is out of range.
    """

    def __init__(self, seasons: int, races: int, seed: int) -> None:
        self.years = season_years(seasons)
        self.races = races
        self.seed = seed
        calendar(seed, self.years[0], races)  # refuses an impossible number of races before anything is written

    @property
    def name(self) -> str:
        """The value of the column `source` in every row."""
        return schemas.SIMULATOR

    @property
    def is_simulated(self) -> bool:
        """Always true."""
        return True

    def fingerprint(self) -> str:
        """Hash of races, seed and the simulator's code. The number of seasons is left out: no season depends on it."""
        return sha256_json({"races": self.races, "seed": self.seed, "code": code_hash("pipelines/simulator")})

    def read(self, seasons: Sequence[int], report: IngestReport) -> Iterator[SeasonTables]:
        """Yield each asked season once, in ascending order; one season is in memory at a time.

        Raises:
            SourceMissingError: a season is not among those of this source.
        """
        years = sorted(set(seasons))
        missing = sorted(set(years) - set(self.years))
        if missing:
            raise SourceMissingError(
                f"simulator: got seasons {missing}, expected some of {self.years[0]}-{self.years[-1]}; ask for more seasons"
            )
        for year, tables in simulate_seasons(years, self.races, self.seed):
            for table, frame in tables.items():
                report.table(table).rows_read += len(frame)
            yield SeasonTables(season=year, tables=tables)
