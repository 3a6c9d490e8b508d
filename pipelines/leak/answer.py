"""Everything a home says about one race at one instant: tables, features, pictures, embeddings, probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_repo.settings import Settings
from feature_repo.spine import Moment, entity_frame
from feature_repo.store import historical, open_store
from feature_repo.visibility import CREATED, EVENT
from ml.served_model import ServedModel, decode_pictures, tabular_array
from ml.traces.store import ImageArtifactStore
from pipelines.features.build import table_path
from pipelines.features.tables import COMPUTE
from pipelines.traces import render_traces

# Of the spine tables these are what is known now, for listings; questions about the past read the two others.
_KNOWN_NOW = ("entrants", "moments")


@dataclass(frozen=True)
class Answer:
    """What a home says about a race at an instant.

    Attributes:
        tables: feature table -> its rows known by then, of every race.
        spine: who takes part, as known then (`entity_frame`).
        features: feature service -> what it held of each car of the spine.
        pictures: driver_id -> PNG; cars without a lap have none.
        embeddings: model -> driver_id -> 512 float32 by the model's encoder.
        probabilities: model -> driver_id -> 20 float64.
    """

    tables: dict[str, pa.Table] = field(repr=False)
    spine: pd.DataFrame = field(repr=False)
    features: dict[str, pd.DataFrame] = field(repr=False)
    pictures: dict[str, bytes] = field(repr=False)
    embeddings: dict[str, dict[str, NDArray[np.float32]]] = field(repr=False)
    probabilities: dict[str, dict[str, NDArray[np.float64]]] = field(repr=False)


def ask(settings: Settings, race_id: str, as_of: pd.Timestamp, models: Sequence[ServedModel]) -> Answer:
    """Ask an applied home about a race at an instant. Draws the race's pictures into the home, so it must be a scratch copy."""
    moment = Moment.at(as_of)
    spine = entity_frame(settings, moment, [race_id])
    store = open_store(settings)
    services = sorted(service.name for service in store.list_feature_services())
    features = {service: historical(store, service, spine) for service in services}
    pictures = draw(settings, race_id, moment)
    embeddings: dict[str, dict[str, NDArray[np.float32]]] = {}
    probabilities: dict[str, dict[str, NDArray[np.float64]]] = {}
    drivers = [str(driver) for driver in spine["driver_id"]]
    for model in models:
        embedded = embed(model, drivers, pictures)
        if model.uses_pictures:
            embeddings[model.name] = embedded
        vectors = [embedded.get(driver, np.zeros(512, dtype=np.float32)) for driver in drivers]
        tabular = tabular_array(features[model.origin.feature_service], model.specs)
        has_picture = np.array([driver in embedded for driver in drivers], dtype=bool)
        said = model.predict_embedded(tabular, np.stack(vectors), has_picture)
        probabilities[model.name] = dict(zip(drivers, said, strict=True))
    tables = {name: known_rows(settings, name, as_of) for name in COMPUTE if name not in _KNOWN_NOW}
    return Answer(tables, spine, features, pictures, embeddings, probabilities)


def draw(settings: Settings, race_id: str, moment: Moment) -> dict[str, bytes]:
    """The pictures of a race at a moment as the traces step draws them."""
    render_traces(settings, moment=str(moment), race_ids=[race_id])
    store = ImageArtifactStore(settings.multimodal_dir)
    of_race = [record for record in store.records().values() if record.race_id == race_id and not record.is_default]
    return {record.driver_id: store.load(record) for record in of_race}


def embed(model: ServedModel, drivers: Sequence[str], pictures: dict[str, bytes]) -> dict[str, NDArray[np.float32]]:
    """Embeddings of the cars that have a picture, by the model's encoder; none for a tabular model."""
    drawn = [driver for driver in drivers if driver in pictures]
    if not model.uses_pictures or not drawn:
        return {}
    vectors = model.encoder().embed_arrays(decode_pictures([pictures[driver] for driver in drawn]))
    return dict(zip(drawn, vectors, strict=True))


def known_rows(settings: Settings, name: str, as_of: pd.Timestamp) -> pa.Table:
    """The rows of a feature table that were known at an instant, in the table's order."""
    table = pq.read_table(table_path(settings, name))
    known = pc.and_(
        *(pc.less_equal(table[column], pa.scalar(as_of.to_pydatetime(), table[column].type)) for column in (EVENT, CREATED))
    )
    return table.filter(known).combine_chunks()
