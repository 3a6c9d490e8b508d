"""Pictures through the frozen encoder, a part at a time: reads and decodes one part ahead of the one in the network."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.encoders.pictures import read_picture
from ml.encoders.vision import EMBEDDING_DIM, VisionEncoder
from ml.errors import DamagedPictureError
from ml.traces.manifest import PictureRecord
from ml.traces.store import ImageArtifactStore

PART = 256
"""Pictures between two writes to the cache: what a killed run loses at most (3 s of work)."""

logger = logging.getLogger(__name__)


def embed_pictures(
    store: ImageArtifactStore, encoder: VisionEncoder, records: list[PictureRecord], *, threads: int
) -> Iterator[tuple[list[str], NDArray[np.float32], list[str]]]:
    """Pictures through the encoder, `PART` at a time.

    Args:
        store: where the pictures lie.
        encoder: on this machine.
        records: pictures, each hash once.
        threads: that read and decode.
    Yields:
        (hashes, (n, 512) embeddings in their order, uris of pictures that could not be read).
    """
    for readable, images, unreadable in _decoded(store, records, threads):
        embeddings = _embed(encoder, images) if images else np.empty((0, EMBEDDING_DIM), dtype=np.float32)
        yield [record.sha256 for record in readable], embeddings, unreadable


def _decoded(
    store: ImageArtifactStore, records: list[PictureRecord], threads: int
) -> Iterator[tuple[list[PictureRecord], list[Tensor], list[str]]]:
    """Parts of readable records, their pictures at the network's size, and uris of unreadable ones; reads one part ahead."""

    def decode(record: PictureRecord) -> Tensor | None:
        try:
            return read_picture(store.load(record), record.uri)
        except DamagedPictureError as error:
            logger.warning("picture_not_embedded uri=%s because=%s", record.uri, error)
            return None

    queue = iter(records)
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        ahead = [(record, pool.submit(decode, record)) for record in islice(queue, PART)]
        while ahead:
            now, ahead = ahead, [(record, pool.submit(decode, record)) for record in islice(queue, PART)]
            pairs = [(record, job.result()) for record, job in now]
            readable = [(record, image) for record, image in pairs if image is not None]
            yield (
                [record for record, _ in readable],
                [image for _, image in readable],
                [record.uri for record, image in pairs if image is None],
            )


def _embed(encoder: VisionEncoder, images: list[Tensor]) -> NDArray[np.float32]:
    return np.asarray(encoder(torch.stack(images)).cpu().numpy(), dtype=np.float32)
