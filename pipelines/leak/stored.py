"""What a home has stored about a race, compared with what the moment of the stored things says: nothing later is in them.

Pictures, their embeddings and training rows are stored for the home's default moment only; at other moments there is nothing to
compare.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from feature_repo.files import read_parquet
from feature_repo.settings import Settings
from feature_repo.spine import Moment, load_moments, resolve_moment
from ml.served_model import ServedModel
from ml.traces.store import ImageArtifactStore
from pipelines.dataset import FEATURE_SERVICE
from pipelines.embedding_cache import EmbeddingCache
from pipelines.leak.answer import Answer
from pipelines.leak.compare import Counts, Kind, Leak, cells_that_differ, entries_that_differ, shown

STORED = "as stored"


def compare_stored(
    settings: Settings, asked: Answer, *, race_id: str, as_of: pd.Timestamp, models: Sequence[ServedModel]
) -> tuple[list[Leak], Counts]:
    """Stored pictures, embeddings and training rows of a race against what was asked at the instant they are for.

    Args:
        settings: the home; only read.
        asked: its answer about the race at `as_of`, itself compared with homes without a future.
        race_id: the race.
        as_of: the instant; unless it is the home's default moment of the race, nothing is compared.
        models: whose embeddings may be in the cache.
    """
    default = Moment.parse(settings.moment)
    if default.instant is not None or resolve_moment(load_moments(settings), race_id, default).as_of != as_of:
        return [], Counts()
    leaks: list[Leak] = []
    counts = Counts()
    if settings.multimodal_dir.is_dir():
        store = ImageArtifactStore(settings.multimodal_dir)
        records = [record for record in store.records().values() if record.race_id == race_id and record.is_default]
        pictures = {record.driver_id: store.load(record) for record in records}
        if pictures:
            differ = entries_that_differ(pictures, asked.pictures)
            leaks += [_leak("stored picture", "speed trace", race_id, as_of, *cell) for cell in differ]
            counts += Counts(pictures=len(pictures))
        shas = {record.driver_id: record.sha256 for record in records}
        for model in models:
            if model.identity is None or not settings.embeddings_dir.is_dir():
                continue
            vectors, found = EmbeddingCache(settings.embeddings_dir, model.identity).get(list(shas.values()))
            cached = {driver: vector for driver, vector, is_there in zip(shas, vectors, found, strict=True) if is_there}
            now = {driver: vector for driver, vector in asked.embeddings[model.name].items() if driver in cached}
            # The cache was filled in batches of other sizes, which may round the last bit otherwise.
            near = {
                driver: now[driver] if np.allclose(vector, now[driver], atol=1e-4) else vector
                for driver, vector in cached.items()
                if driver in now
            }
            leaks += [_leak("stored embedding", model.name, race_id, as_of, *cell) for cell in entries_that_differ(near, now)]
            counts += Counts(embeddings=len(near))
    table = settings.multimodal_dir / "training_set.parquet"
    if table.exists():
        rows = read_parquet(table)
        rows = rows[rows["race_id"] == race_id].sort_values("driver_id", kind="stable", ignore_index=True)
        features = asked.features[FEATURE_SERVICE]
        columns = [column for column in features.columns if column in rows.columns]
        same = features[features["driver_id"].isin(rows["driver_id"])].sort_values("driver_id", kind="stable", ignore_index=True)
        cells = cells_that_differ(rows[columns], same[columns], race_id)
        leaks += [_leak("training row", name, race_id, as_of, *cell) for name, *cell in cells]
        counts += Counts(cells=rows[columns].size)
    return leaks, counts


def _leak(kind: Kind, name: str, race_id: str, as_of: pd.Timestamp, driver_id: str, got: object, expected: object) -> Leak:
    return Leak(kind, name, race_id, driver_id, as_of.isoformat(), STORED, shown(got), shown(expected))
