"""The probe itself: scratch homes without a future, asked the same as the home, and what came of it.

The home is only read: lake, tables, pictures and embeddings as files, the model registry from a copy of its database. Every step
that would write runs in a scratch folder, which is removed whatever happens. Nothing is left out because it lies in the future of
the moment: the home answers from all it holds, and in the second variant so does the scratch home, of another future.
"""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.errors import MissingInputError
from feature_repo.progress import Progress
from feature_repo.settings import Settings
from feature_repo.spine import Moment, load_moments, resolve_moment
from feature_repo.store import apply
from ml.served_model import ServedModel
from pipelines import schemas
from pipelines.features.build import build_features, is_up_to_date
from pipelines.lake import MARKER, Lake
from pipelines.leak.answer import Answer, ask
from pipelines.leak.compare import Counts, Leak, compare
from pipelines.leak.lake_at import Frames, Variant, scrambled, truncated
from pipelines.leak.stored import compare_stored

logger = logging.getLogger(__name__)

VARIANTS: dict[str, Variant] = {"deleted": truncated, "scrambled": scrambled}


@dataclass(frozen=True)
class Probed:
    """One moment of a race that was probed."""

    race_id: str
    moment: str
    as_of: str
    lap: int
    seconds: float
    n_leaks: int


@dataclass(frozen=True)
class LeakReport:
    """What a probe found.

    Attributes:
        moments: the moments asked about, in order.
        models: names of the models whose predictions were compared.
        counts: how much was compared, all moments and variants together.
        leaks: everything that differed.
        seconds: wall time.
    """

    moments: list[Probed]
    models: list[str]
    counts: Counts
    leaks: list[Leak] = field(repr=False)
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "clean": not self.leaks,
            "moments": [vars(moment) for moment in self.moments],
            "models": self.models,
            "compared": vars(self.counts),
            "n_leaks": len(self.leaks),
            "leaks": [leak.to_json() for leak in self.leaks],
            "seconds": self.seconds,
        }


def probe(
    settings: Settings,
    moments: Sequence[tuple[str, Moment]],
    *,
    models: Sequence[ServedModel] = (),
    variants: Iterable[str] = tuple(VARIANTS),
    progress: Progress | None = None,
) -> LeakReport:
    """Ask a home about moments of races, with and without what came after each.

    Args:
        settings: which home; its features must be those of its lake.
        moments: race and moment, any number.
        models: whose embeddings and predictions are compared.
        variants: how the future is taken away, of `VARIANTS`.
        progress: called with (what is being done, moments done, moments in all).
    Raises:
        MissingInputError: the home's features are not computed from its lake by this code.
        UnknownEntityError, InvalidMomentError, NotKnownYetError: a moment that no answer can be given about.
    """
    started = time.perf_counter()
    if not is_up_to_date(settings):
        raise MissingInputError(
            f"{settings.features_dir}: not computed from this lake by this code; run `pitwall features` first"
        )
    chosen = tuple(variants)
    calendar, counts = load_moments(settings), Counts()
    probed: list[Probed] = []
    leaks: list[Leak] = []
    with _scratch(settings) as folder:
        home = linked_home(settings, folder / "home")
        other = _settings_of(settings, folder / "other")
        apply(other)
        for done, (race_id, moment) in enumerate(moments):
            begun = time.perf_counter()
            tell = _teller(progress, f"{race_id} {moment}", done, len(moments))
            point = resolve_moment(calendar, race_id, moment)
            tell("asking the home")
            got = _asked_once(home, race_id, point.as_of, models)
            found, compared = compare_stored(settings, got, race_id=race_id, as_of=point.as_of, models=models)
            for variant in chosen:
                tell(f"computing with the future {variant}")
                compute_without_future(settings, other, VARIANTS[variant], point.as_of)
                expected = ask(other, race_id, point.as_of, models)
                more, size = compare(got, expected, race_id=race_id, as_of=point.as_of, variant=variant)
                found, compared = found + more, compared + size
            leaks, counts = leaks + found, counts + compared
            seconds = round(time.perf_counter() - begun, 2)
            probed.append(Probed(race_id, str(moment), point.as_of.isoformat(), point.lap, seconds, len(found)))
            logger.info("leak_probed race=%s moment=%s leaks=%d seconds=%.1f", race_id, moment, len(found), seconds)
    return LeakReport(probed, [model.name for model in models], counts, leaks, round(time.perf_counter() - started, 2))


def choose_moments(settings: Settings, n: int, *, seed: int, race_id: str | None = None) -> list[tuple[str, Moment]]:
    """`n` moments of races that the home has laps of: lights out, ends of laps, and instants in the middle of laps, in turn."""
    moments = load_moments(settings)
    moments = moments if race_id is None else moments[moments["race_id"] == race_id]
    driven = moments[moments["lap"] > 0]
    if driven.empty:
        raise MissingInputError(f"{settings.features_dir}: no laps{'' if race_id is None else f' of {race_id}'} to probe")
    rng = np.random.default_rng(seed)
    chosen = []
    for number, row in enumerate(driven.iloc[rng.integers(len(driven), size=n)].itertuples()):
        if number % 3 == 0:
            moment = Moment("lap", lap=int(row.lap))
        elif number % 3 == 1:
            moment = Moment.at(row.as_of + pd.Timedelta(seconds=float(rng.uniform(5, 60))))
        else:
            moment = Moment("pre_race") if number % 2 else Moment.at(row.race_start - pd.Timedelta(minutes=30))
        chosen.append((str(row.race_id), moment))
    return chosen


@contextmanager
def _scratch(settings: Settings) -> Iterator[Path]:
    """A folder of our own, removed whatever happens; beside nothing of the home."""
    folder = Path(tempfile.mkdtemp(prefix="pitwall-leak-"))
    if folder.resolve().is_relative_to(settings.home):
        folder.rmdir()
        raise MissingInputError(
            f"{folder}: the folder for temporary files lies in the home, which is not to be touched; set TMPDIR"
        )
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _settings_of(settings: Settings, home: Path) -> Settings:
    """The home's settings for a scratch folder: registry and online store inside it, whatever servers the home uses."""
    local = {"registry_url": None, "online_url": None, "online_namespace": None, "engine": "embedded"}
    return settings.model_copy(update={"home": home, **local})


def linked_home(settings: Settings, home: Path) -> Settings:
    """The home's feature tables, linked, under a registry of their own: what the home answers from, with its whole future."""
    for path in sorted(settings.features_dir.glob("*.parquet")):
        _link(path, home / "features" / path.name)
    copy = _settings_of(settings, home)
    apply(copy)
    return copy


def compute_without_future(settings: Settings, other: Settings, variant: Variant, as_of: pd.Timestamp) -> None:
    """Make `other` anew from the lake as the variant has it; of what it held only the registry stays."""
    for folder in (other.lake_dir, other.features_dir, other.multimodal_dir, other.state_dir):
        shutil.rmtree(folder, ignore_errors=True)
    lake, without = Lake(settings.lake_dir), Lake(other.lake_dir)
    frames: Frames = {name: lake.read(name) for name in schemas.TABLES}
    for name, frame in variant(frames, as_of).items():
        for season, rows in frame.groupby("season", sort=True):
            target = without.path(name, int(str(season)))
            target.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pandas(rows, schema=schemas.arrow_schema(name), preserve_index=False), target)
    if lake.is_simulated:
        (without.root / MARKER).touch()
    build_features(other)


def _asked_once(home: Settings, race_id: str, as_of: pd.Timestamp, models: Sequence[ServedModel]) -> Answer:
    """An answer of the linked home; pictures drawn for it are not there for the next."""
    try:
        return ask(home, race_id, as_of, models)
    finally:
        shutil.rmtree(home.multimodal_dir, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the two folders are on different file systems; links are only ever read."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _teller(progress: Progress | None, what: str, done: int, total: int) -> Callable[[str], None]:
    def tell(step: str) -> None:
        if progress is not None:
            progress(f"{what}, {step}", done, total)

    return tell
