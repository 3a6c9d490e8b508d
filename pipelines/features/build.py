"""The features step: reads the lake, computes every feature table, writes them whole; skips when nothing changed."""

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

from feature_repo.errors import MissingInputError
from feature_repo.files import remove_leftovers, sha256_file, write_parquet
from feature_repo.progress import Progress
from feature_repo.settings import Settings
from pipelines.features.tables import COMPUTE, LAKE_TABLES, compute_all
from pipelines.lake import Lake
from pipelines.steps import code_hash, record, recorded

logger = logging.getLogger(__name__)

STEP = "features"
# progress(table, done, total): called after each table is written


@dataclass(frozen=True)
class FeaturesReport:
    """What the step did.

    Attributes:
        rows: table -> rows; the feature views, `entrants` and `moments`.
        sha256: table -> hash of the file written.
        seconds: wall time of the computation (of the run that computed, when this one skipped).
        skipped: nothing was written because lake, code and files are as recorded.
    """

    rows: dict[str, int]
    sha256: dict[str, str] = field(repr=False)
    seconds: float
    skipped: bool

    @property
    def n_rows(self) -> int:
        """Rows of all tables together."""
        return sum(self.rows.values())


def build_features(settings: Settings, *, progress: Progress | None = None) -> FeaturesReport:
    """Compute every feature table of a home from its lake.

    Reads `lake/`; writes `features/<view>.parquet` and the tables of `SPINE_TABLES` beside them, each replaced whole, with equal
    bytes for an equal lake; records the result last in `state/features.json`. Idempotent; killed at any point, a re-run does what
    is missing.

    Args:
        settings: which home.
        progress: called after each table with its name, tables done and tables in all.
    Raises:
        MissingInputError: the lake has no races.
    """
    lake = Lake(settings.lake_dir)
    if not lake.seasons("races"):
        raise MissingInputError(f"{settings.lake_dir}: no races in the lake; run `pitwall ingest` first")
    depends_on = _depends_on(lake)
    known = recorded(settings, STEP, depends_on)
    if known is not None and _is_intact(settings.features_dir, known["sha256"]):
        logger.info("features_skipped tables=%d", len(known["rows"]))
        return FeaturesReport(**{**known, "skipped": True})

    started = time.perf_counter()
    remove_leftovers(settings.features_dir)
    tables = _compute(settings, lake)
    rows, digests = {}, {}
    for done, (name, frame) in enumerate(tables, start=1):
        target = table_path(settings, name)
        write_parquet(target, frame)
        rows[name], digests[name] = len(frame), sha256_file(target)
        logger.info("features_written table=%s rows=%d", name, len(frame))
        if progress is not None:
            progress(name, done, len(COMPUTE))
    report = FeaturesReport(rows=rows, sha256=digests, seconds=time.perf_counter() - started, skipped=False)
    record(settings, STEP, depends_on, asdict(report))
    logger.info("features_built tables=%d rows=%d seconds=%.1f", len(rows), report.n_rows, report.seconds)
    return report


def _compute(settings: Settings, lake: Lake) -> Iterator[tuple[str, pd.DataFrame]]:
    if settings.engine == "spark":
        from pipelines.spark import features  # PySpark is an extra

        return features.compute_all(settings)
    return compute_all({name: lake.read(name) for name in LAKE_TABLES})


def is_up_to_date(settings: Settings) -> bool:
    """The home's feature tables are intact and were computed from its lake as it is now, by this code."""
    known = recorded(settings, STEP, _depends_on(Lake(settings.lake_dir)))
    return known is not None and _is_intact(settings.features_dir, known["sha256"])


def table_path(settings: Settings, name: str) -> Path:
    """The file of one feature table, of `entrants` or of `moments`."""
    return settings.features_dir / f"{name}.parquet"


def _depends_on(lake: Lake) -> dict[str, str]:
    code = code_hash("pipelines/features", "feature_repo/visibility.py", "feature_repo/files.py")
    return {"lake": lake.fingerprint(), "code": code}


def _is_intact(folder: Path, digests: dict[str, str]) -> bool:
    files = {name: folder / f"{name}.parquet" for name in digests}
    return set(digests) == set(COMPUTE) and all(
        path.exists() and sha256_file(path) == digests[name] for name, path in files.items()
    )
