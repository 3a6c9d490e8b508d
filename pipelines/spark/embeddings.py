"""Embedding on Spark: each worker loads the frozen encoder once and embeds pictures that it reads from the store itself."""

import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from feature_repo.settings import Settings
from feature_repo.stores.spark_session import n_tasks, session_of, worker_errors
from ml.encoders.vision import EMBEDDING_DIM, EncoderIdentity, VisionEncoder
from ml.traces.manifest import PictureRecord, to_line, to_record
from ml.traces.store import ImageArtifactStore
from pipelines.picture_embedding import PART, embed_pictures

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_EMBEDDED = "sha256 string, uri string, embedding binary"


def embed_on_workers(
    settings: Settings, root: str, weights: Path, identity: EncoderIdentity, records: Sequence[PictureRecord]
) -> Iterator[tuple[list[str], NDArray[np.float32], list[str]]]:
    """`pipelines.picture_embedding.embed_pictures`, spread over workers, in the order in which they finish.

    A worker embeds with one thread: the cluster's cores are filled by tasks.

    Args:
        settings: which Spark.
        root: of the image-artifact store; workers must see it under this path or URL.
        weights: the encoder's weights file; likewise.
        identity: of the encoder.
        records: pictures to embed.
    Raises:
        SparkNotAvailableError: no Spark session can be had.
    """
    if not records:
        return
    spark = session_of(settings)
    lines: DataFrame = spark.createDataFrame([(to_line(record),) for record in records], "line string")
    n_parts = min(len(records), max(n_tasks(spark), len(records) // PART))
    work = partial(_embed, root, str(weights), json.dumps(identity.to_json(), sort_keys=True))
    shas: list[str] = []
    rows: list[bytes] = []
    damaged: list[str] = []
    with worker_errors("embed"):
        for row in lines.repartition(n_parts).mapInPandas(work, _EMBEDDED).toLocalIterator(prefetchPartitions=True):
            if row.embedding is None:
                damaged.append(row.uri)
            else:
                shas.append(row.sha256)
                rows.append(bytes(row.embedding))
            if len(shas) + len(damaged) >= PART:
                yield shas, _stacked(rows), damaged
                shas, rows, damaged = [], [], []
    if shas or damaged:
        yield shas, _stacked(rows), damaged


def _embed(root: str, weights: str, identity: str, batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    torch.set_num_threads(1)
    store, encoder = ImageArtifactStore(root), _encoder(weights, identity)
    for batch in batches:
        records = [to_record(json.loads(line)) for line in batch["line"]]
        uri_of = {record.sha256: record.uri for record in records}
        for shas, embeddings, damaged in embed_pictures(store, encoder, records, threads=1):
            found = [(sha, uri_of[sha], row.tobytes()) for sha, row in zip(shas, embeddings, strict=True)]
            yield pd.DataFrame([*found, *(("", uri, None) for uri in damaged)], columns=["sha256", "uri", "embedding"])


@functools.cache
def _encoder(weights: str, identity: str) -> VisionEncoder:
    return VisionEncoder.from_file(Path(weights), EncoderIdentity(**json.loads(identity)))


def _stacked(rows: list[bytes]) -> NDArray[np.float32]:
    return np.frombuffer(b"".join(rows), dtype=np.float32).reshape(-1, EMBEDDING_DIM)
