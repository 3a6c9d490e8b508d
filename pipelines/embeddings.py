"""The embed step: each picture of the image-artifact store through the frozen encoder, once.

Reads `multimodal/`; writes `weights/` and `embeddings/`. An embedding is known by the picture's hash and the encoder's identity,
so a picture drawn again, other weights or another input encoding never meet an old embedding. Idempotent; a killed run keeps
what it had embedded.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from numpy.typing import NDArray

from feature_repo.errors import MissingInputError
from feature_repo.files import remove_leftovers
from feature_repo.progress import Progress
from feature_repo.settings import Settings
from ml.encoders.vision import EncoderIdentity, VisionEncoder
from ml.errors import StoreBusyError
from ml.torch_threads import torch_threads
from ml.traces.manifest import PictureRecord
from ml.traces.store import ImageArtifactStore
from pipelines.embedding_cache import EmbeddingCache
from pipelines.encoder_choice import chosen_encoder, chosen_record, encoder_weights_file
from pipelines.picture_embedding import embed_pictures

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddingsReport:
    """What the step did.

    Attributes:
        count: pictures of the store that have an embedding now (equal pictures counted once).
        new: of those, embedded now.
        cached: of those, found in the cache.
        damaged: uris of pictures that could not be read; they have no embedding (`pitwall traces` draws them again).
        identity: of the encoder.
        note: which weights these are, and why these.
        seconds: wall time, finding or teaching the encoder included.
    """

    count: int
    new: int
    cached: int
    damaged: list[str]
    identity: EncoderIdentity
    note: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The report as JSON."""
        return asdict(self)


def embed_traces(settings: Settings, *, progress: Progress | None = None) -> EmbeddingsReport:
    """Give every picture in the store an embedding.

    Args:
        settings: which home, which encoder, how many threads.
        progress: called with ("embed", pictures done, pictures to embed), before that with ("teach", steps done, steps) if an
            encoder must be taught first.
    Raises:
        EncoderWeightsError, MissingInputError: the encoder asked for cannot be had.
        StoreBusyError: another process is embedding into this home.
    """
    started = time.perf_counter()
    store = ImageArtifactStore(settings.multimodal_dir)
    pictures: dict[str, PictureRecord] = {}
    for record in store.records().values():
        pictures.setdefault(record.sha256, record)
    if not pictures:
        raise MissingInputError(f"{settings.multimodal_dir}: no pictures to embed; run `pitwall traces` first")
    with _alone(settings.embeddings_dir), torch_threads(settings.threads):
        remove_leftovers(settings.embeddings_dir)
        encoder = chosen_encoder(settings, progress)
        cache = EmbeddingCache(settings.embeddings_dir, encoder.identity)
        cache.fold()  # what a killed run left
        _, found = cache.get(list(pictures))
        todo = [record for record, known in zip(pictures.values(), found, strict=True) if not known]
        damaged: list[str] = []
        done = 0
        for shas, embeddings, unreadable in _embedded(settings, store, encoder, todo):
            cache.add(shas, embeddings)
            damaged += unreadable
            done += len(shas) + len(unreadable)
            if progress is not None:
                progress("embed", done, len(todo))
        cache.fold()
    report = EmbeddingsReport(
        count=len(pictures) - len(damaged),
        new=len(todo) - len(damaged),
        cached=len(pictures) - len(todo),
        damaged=sorted(damaged),
        identity=encoder.identity,
        note=encoder.note,
        seconds=round(time.perf_counter() - started, 3),
    )
    logger.info(
        "traces_embedded encoder=%s/%s new=%d cached=%d damaged=%d seconds=%.2f",
        encoder.identity.kind, encoder.identity.key, report.new, report.cached, len(damaged), report.seconds,
    )  # fmt: skip
    return report


def embeddings_status(settings: Settings) -> dict[str, Any]:
    """`count` of embeddings by the chosen encoder, and which one that is; zero and None before the first run."""
    try:
        chosen = chosen_record(settings)
    except MissingInputError:
        return {"count": 0, "encoder": None}
    identity = EncoderIdentity(**chosen["identity"])
    count = EmbeddingCache(settings.embeddings_dir, identity).count()
    return {"count": count, "encoder": identity.key, "note": chosen["note"], **identity.to_json()}


def _embedded(
    settings: Settings, store: ImageArtifactStore, encoder: VisionEncoder, todo: list[PictureRecord]
) -> Iterator[tuple[list[str], NDArray[np.float32], list[str]]]:
    if settings.engine == "spark":
        from pipelines.spark.embeddings import embed_on_workers  # PySpark is an extra

        root, weights = str(settings.multimodal_dir), encoder_weights_file(settings)
        return embed_on_workers(settings, root, weights, encoder.identity, todo)
    return embed_pictures(store, encoder, todo, threads=settings.threads)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(directory / ".lock", timeout=0):
            yield
    except filelock.Timeout as error:
        raise StoreBusyError(f"{directory}: another process is embedding; wait for it, or use another PITWALL_HOME") from error
