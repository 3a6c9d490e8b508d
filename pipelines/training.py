"""The training step: fit the candidate, the reference design, the tabular twin and the baseline on every known race.

Reads the training set; writes `checkpoints/<model>/` while training and `models/<model>/` when done. A killed training resumes
from its last checkpoint to the same result; a model whose data, configuration and code are unchanged is not trained again.
"""

import logging
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.progress import Progress
from feature_repo.settings import Settings
from feature_repo.store import feature_names, open_store
from ml.datasets import rows_hash
from ml.evaluation import VALIDATION_SHARE
from ml.rows import Rows
from ml.served_model import FeatureSpec, Origin, feature_specs, is_served_model, write_served_model
from pipelines.candidates import BASELINE, TRAINED, TWIN, fusion_config, make_model, recipe
from pipelines.dataset import FEATURE_SERVICE, build_training_set, load_training_set
from pipelines.encoder_choice import encoder_identity, encoder_weights_file
from pipelines.errors import NothingToLearnError
from pipelines.steps import code_hash, record, recorded

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainReport:
    """What was trained.

    Attributes:
        models: names of the models now under `models/`.
        trained: those fitted by this call; the others were up to date.
        rows: examples fitted on.
        validation_rows: examples of the last races, used to stop early and to weight members.
        picture_share: share of the examples with a picture.
        data_hash: hash of the training set.
        seconds: wall time.
    """

    models: list[str]
    trained: list[str]
    rows: int
    validation_rows: int
    picture_share: float
    data_hash: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The report as JSON."""
        return asdict(self)


def train(settings: Settings, *, progress: Progress | None = None) -> TrainReport:
    """Fit every trained model on all races with a result; the last 18 % of them only stop it early.

    Raises:
        MissingInputError: an earlier step has not run.
        NothingToLearnError: fewer than two races.
    """
    started = time.perf_counter()
    build_training_set(settings)
    rows = load_training_set(settings)
    train_index, validation_index = final_split(rows)
    identity = encoder_identity(settings)
    data_hash = rows_hash(rows)
    specs = feature_specs(rows.features, feature_names(open_store(settings), FEATURE_SERVICE))
    trained = []
    for done, name in enumerate(TRAINED):
        if progress is not None:
            progress(name, done, len(TRAINED))
        made_by = recipe(settings, name, encoder=identity.key)
        depends_on = {"data": data_hash, "recipe": made_by, "code": code_hash("pipelines/training.py")}
        folder = settings.models_dir / name
        if recorded(settings, f"train-{name}", depends_on) is not None and is_served_model(folder):
            continue
        model = make_model(settings, name, encoder=identity.key, checkpoint_dir=settings.checkpoints_dir)
        model.fit(rows.take(train_index), rows.take(validation_index))
        uses_pictures = name not in (BASELINE, TWIN) and fusion_config(name).use_pictures
        write_served_model(
            folder,
            model,
            specs=specs,
            origin=Origin(
                feature_service=FEATURE_SERVICE,
                data_hash=data_hash,
                recipe=made_by,
                moment=settings.moment,
                fitted_until=str(rows.keys["race_id"].iloc[train_index].max()),
                validated_until=str(rows.keys["race_id"].iloc[validation_index].max()),
            ),
            encoder=(encoder_weights_file(settings), identity) if uses_pictures else None,
            question=_question(settings, rows, specs),
        )
        record(settings, f"train-{name}", depends_on, {"name": name})
        trained.append(name)
    if progress is not None:
        progress("", len(TRAINED), len(TRAINED))
    logger.info("models_trained trained=%s rows=%d", ",".join(trained) or "none", len(rows))
    return TrainReport(
        models=list(TRAINED),
        trained=trained,
        rows=len(train_index),
        validation_rows=len(validation_index),
        picture_share=round(float(rows.has_picture.mean()), 4),
        data_hash=data_hash,
        seconds=round(time.perf_counter() - started, 3),
    )


def final_split(rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row positions to fit on and to stop early on: all races but the last 18 %, and those.

    Raises:
        NothingToLearnError: fewer than two races.
    """
    races = np.unique(rows.race_code)
    if len(races) < 2:
        raise NothingToLearnError(f"training set: got {len(races)} races with a result, expected at least 2; ingest more")
    n_validation = max(1, round(VALIDATION_SHARE * len(races)))
    later = np.isin(rows.race_code, races[-n_validation:])
    return np.flatnonzero(~later), np.flatnonzero(later)


def _question(settings: Settings, rows: Rows, specs: tuple[FeatureSpec, ...]) -> dict[str, Any]:
    """The newest race as a question whose answer is stored with the model: what a fresh process must be able to repeat."""
    from ml.served_model import tabular_array
    from ml.traces.store import ImageArtifactStore

    _, index = list(rows.races())[-1]
    race = rows.take(index)
    store = ImageArtifactStore(settings.multimodal_dir)
    pictures = [
        store.get(race_id, driver_id) if has else None
        for race_id, driver_id, has in zip(race.keys["race_id"], race.keys["driver_id"], race.has_picture, strict=True)
    ]
    return {"tabular": tabular_array(race.features, specs), "pictures": pictures}
