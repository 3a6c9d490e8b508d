"""The training set: features, labels, running order and picture embeddings of every entrant, joined by race and driver.

Reads Feast's offline store, the image-artifact store and the embedding cache; writes `multimodal/training_set.parquet` (what was
joined) and `multimodal/dataset_cache.json` (its index). Idempotent: unchanged inputs are not joined again.
"""

import logging
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from feature_repo.files import read_parquet, sha256_file, write_parquet
from feature_repo.settings import Settings
from feature_repo.spine import SPINE_COLUMNS, Moment, entity_frame
from feature_repo.store import feature_names, historical, open_store
from feature_repo.visibility import CREATED, EVENT
from ml.dataset_cache import DatasetCacheBuilder
from ml.rows import EMBEDDING_DIM, N_POSITIONS, Rows
from ml.traces.store import ImageArtifactStore
from pipelines.embedding_cache import EmbeddingCache
from pipelines.encoder_choice import encoder_identity
from pipelines.errors import LeakError, NothingToLearnError
from pipelines.steps import code_hash, record, recorded

FEATURE_SERVICE = "finish_position_v1"
STATE_SERVICE = "race_state_v1"
LABEL_SERVICE = "race_result_v1"
TRACE_SERVICE = "speed_trace_v1"

_LABELS = ["label", "finished"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSetReport:
    """What was joined.

    Attributes:
        rows: examples with a known result.
        races: races they come from.
        without_result: entrants left out, because their race has no result (yet) or more cars than there are positions.
        without_picture: examples without a picture at the moment.
        moment: the moment of prediction.
        up_to_date: nothing had changed.
        seconds: wall time.
    """

    rows: int
    races: int
    without_result: int
    without_picture: int
    moment: str
    up_to_date: bool
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The report as JSON."""
        return asdict(self)


def build_training_set(settings: Settings) -> TrainingSetReport:
    """Join everything known about each entrant at the default moment of its race with how the race ended.

    Raises:
        MissingInputError, NotAppliedError: an earlier step has not run.
        LeakError: a picture shows a lap that had not ended by the moment of its row.
        NothingToLearnError: no entrant has a result.
    """
    started = time.perf_counter()
    depends_on = _depends_on(settings)
    known = recorded(settings, "dataset", depends_on)
    if known is not None and _table_path(settings).exists() and _cache_path(settings).exists():
        return TrainingSetReport(**{**known, "up_to_date": True, "seconds": round(time.perf_counter() - started, 3)})

    store = open_store(settings)
    spine = entity_frame(settings, Moment.parse(settings.moment))
    features = historical(store, FEATURE_SERVICE, spine)
    labels = historical(store, LABEL_SERVICE, spine[["race_id", "driver_id"]].assign(**{EVENT: _newest_result(settings)}))
    order = running_order(historical(store, STATE_SERVICE, spine))
    joined = features.assign(
        running_order=order.to_numpy(), label=labels["finish_position"].to_numpy(), finished=labels["is_classified"].to_numpy()
    )
    joined = _with_pictures(settings, joined)
    has_result = joined["label"].notna() & (pd.to_numeric(joined["label"]) <= N_POSITIONS)
    table = joined[has_result].reset_index(drop=True)
    if table.empty:
        raise NothingToLearnError(f"{settings.home}: none of {len(joined)} entrants has a result; ingest finished races first")
    write_parquet(_table_path(settings), table.astype({"label": "int64", "finished": "bool"}))

    rows = load_training_set(settings)
    pictures = {(row.race_id, row.driver_id): row.picture_uri for row in table.itertuples() if row.picture_uri}
    builder = DatasetCacheBuilder(_cache_path(settings), settings.multimodal_dir)
    builder.build_cache(rows, image_paths=pictures, newest_created=_newest_result(settings))
    report = TrainingSetReport(
        rows=len(rows),
        races=int(rows.keys["race_id"].nunique()),
        without_result=int((~has_result).sum()),
        without_picture=int((~rows.has_picture).sum()),
        moment=settings.moment,
        up_to_date=False,
        seconds=round(time.perf_counter() - started, 3),
    )
    record(settings, "dataset", depends_on, report.to_json())
    logger.info("training_set_written rows=%d races=%d without_picture=%d", report.rows, report.races, report.without_picture)
    return report


def load_training_set(settings: Settings) -> Rows:
    """The rows `build_training_set` wrote, with the embeddings of their pictures from the cache.

    Raises:
        MissingInputError: it was not built yet.
    """
    table = read_parquet(_table_path(settings))
    names = [str(name) for name in table.columns if name not in {*SPINE_COLUMNS, *_LABELS, *_PICTURE_COLUMNS, "running_order"}]
    embedding, found = EmbeddingCache(settings.embeddings_dir, encoder_identity(settings)).get(list(table["picture_sha256"]))
    return Rows(
        keys=table[["race_id", "driver_id", "season", "round", "lap", EVENT]],
        features=table[names],
        position=table["label"].to_numpy(dtype=np.int64),
        finished=table["finished"].to_numpy(dtype=bool),
        embedding=np.where(found[:, None], embedding, np.float32(0)).reshape(len(table), EMBEDDING_DIM),
        has_picture=found,
        picture_sha256=np.where(found, table["picture_sha256"].to_numpy(dtype=object), ""),
        order=table["running_order"].to_numpy(dtype=np.float64),
    )


def running_order(state: pd.DataFrame) -> pd.Series:
    """Running order at the moment, 1 = leader: laps completed downwards, then time upwards; NaN for a car without a lap."""
    laps, elapsed = state["running_laps_completed"].astype("float64"), state["running_elapsed_s"].astype("float64")
    ranked = state.assign(laps=-laps, elapsed=elapsed).sort_values(["race_id", "laps", "elapsed", "driver_id"])
    place = ranked.groupby("race_id").cumcount() + 1.0
    return place.reindex(state.index).where(laps.notna())


_PICTURE_COLUMNS = ["picture_uri", "picture_sha256"]


def _with_pictures(settings: Settings, joined: pd.DataFrame) -> pd.DataFrame:
    """Add where each row's picture is and its hash ("" for none), after checking that it shows nothing later than the row."""
    manifest = ImageArtifactStore(settings.multimodal_dir).manifest()
    default = manifest[manifest["is_default"]].rename(columns={"uri": "picture_uri", "sha256": "picture_sha256"})
    default = default[["race_id", "driver_id", *_PICTURE_COLUMNS, EVENT, CREATED]].rename(
        columns={EVENT: "picture_event", CREATED: "picture_created"}
    )
    merged = joined.merge(default, on=["race_id", "driver_id"], how="left", validate="one_to_one")
    late = (merged["picture_event"] > merged[EVENT]) | (merged["picture_created"] > merged[EVENT])
    if late.any():
        first = merged[late].iloc[0]
        raise LeakError(
            f"{first.picture_uri}: shows laps known at {first.picture_created}, after the row's moment {first[EVENT]} "
            f"({int(late.sum())} such pictures); run `pitwall traces` for the moment {settings.moment}"
        )
    merged[_PICTURE_COLUMNS] = merged[_PICTURE_COLUMNS].fillna("")
    return merged.drop(columns=["picture_event", "picture_created"])


def _newest_result(settings: Settings) -> pd.Timestamp:
    return read_parquet(settings.features_dir / "race_result.parquet", columns=[CREATED])[CREATED].max()


def _table_path(settings: Settings) -> Any:
    return settings.multimodal_dir / "training_set.parquet"


def _cache_path(settings: Settings) -> Any:
    return settings.multimodal_dir / "dataset_cache.json"


def _depends_on(settings: Settings) -> dict[str, Any]:
    manifest = ImageArtifactStore(settings.multimodal_dir).manifest()
    tables = sorted(settings.features_dir.glob("*.parquet"))
    return {
        "features": {path.name: sha256_file(path) for path in tables},
        "service": feature_names(open_store(settings), FEATURE_SERVICE),
        "pictures": sorted(manifest.loc[manifest["is_default"], "sha256"]),
        "encoder": encoder_identity(settings).key,
        "moment": settings.moment,
        "code": code_hash("pipelines/dataset.py", "feature_repo/store.py", "ml/dataset_cache.py", "ml/rows.py"),
    }
