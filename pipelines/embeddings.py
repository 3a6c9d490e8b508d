"""The embed step: each picture of the image-artifact store through the frozen encoder, once, and the cache that remembers it.

Reads `multimodal/`; writes `weights/` and `embeddings/`. An embedding is known by the picture's hash and the encoder's identity,
so a picture drawn again, other weights or another input encoding never meet an old embedding. Idempotent; a killed run keeps
what it had embedded.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from feature_repo.errors import DamagedFileError, MissingInputError
from feature_repo.files import atomic_path, read_json, remove_leftovers, sha256_json, write_json
from feature_repo.settings import Settings
from ml.encoders.pictures import read_picture
from ml.encoders.vision import EMBEDDING_DIM, EncoderIdentity, VisionEncoder
from ml.encoders.weights import resolve_weights
from ml.errors import DamagedPictureError, StoreBusyError
from ml.traces.manifest import PictureRecord
from ml.traces.store import ImageArtifactStore

# Pictures between two writes to the cache: what a killed run loses at most (3 s of work).
PART = 256
_CHOSEN = "encoder.json"

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]


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


class EmbeddingCache:
    """Embeddings of one encoder identity by picture hash: `<key>.safetensors`, and parts that a run adds to it as it goes."""

    def __init__(self, directory: Path, identity: EncoderIdentity) -> None:
        self.identity = identity
        self._file = directory / f"{identity.key}.safetensors"
        self._parts = directory / f"{identity.key}.parts"

    def get(self, shas: Sequence[str | None]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Embeddings of pictures.

        Args:
            shas: (N,) SHA-256 of each picture; "" or None where there is none.
        Returns:
            (N, 512) float32, zero where nothing is known, and (N,) which are known.
        Raises:
            DamagedFileError: a cache file is not what was written.
        """
        known = self._read()
        embeddings = np.zeros((len(shas), EMBEDDING_DIM), dtype=np.float32)
        found = np.zeros(len(shas), dtype=bool)
        for row, sha in enumerate(shas):
            if sha and sha in known:
                embeddings[row], found[row] = known[sha], True
        return embeddings, found

    def add(self, shas: Sequence[str], embeddings: NDArray[np.float32]) -> None:
        """Remember embeddings, whole or not at all. What is known already keeps its first value.

        Raises:
            ValueError: not one finite row of 512 for each hash.
        """
        if embeddings.shape != (len(shas), EMBEDDING_DIM) or not np.isfinite(embeddings).all():
            raise ValueError(f"embeddings: got {embeddings.shape}, expected finite ({len(shas)}, {EMBEDDING_DIM})")
        if len(shas):
            # Named by content, so that two processes adding different pictures cannot replace each other's part.
            self._write(self._parts / f"{sha256_json(list(shas))[:16]}.safetensors", list(shas), embeddings)

    def fold(self) -> None:
        """Merge the parts into the one file."""
        parts = sorted(self._parts.glob("[!.]*.safetensors"))
        if not parts:
            return
        known = self._read()
        self._write(self._file, list(known), np.stack(list(known.values())))
        for part in parts:
            part.unlink(missing_ok=True)

    def count(self) -> int:
        """How many pictures have an embedding."""
        return len(self._read())

    def _read(self) -> dict[str, NDArray[np.float32]]:
        # Parts before the file: a part that another process folds away in between is in the file by then.
        known: dict[str, NDArray[np.float32]] = {}
        for path in [*sorted(self._parts.glob("[!.]*.safetensors")), self._file]:
            known |= self._read_file(path)
        return dict(sorted(known.items()))

    def _read_file(self, path: Path) -> dict[str, NDArray[np.float32]]:
        try:
            with safe_open(path, framework="numpy") as opened:
                described = opened.metadata()
                embeddings = opened.get_tensor("embeddings")
        except FileNotFoundError:
            return {}
        except (SafetensorError, OSError) as error:
            raise DamagedFileError(f"{path}: got no readable embeddings ({error}); delete it and run `pitwall embed`") from error
        shas = json.loads(described["sha256"])
        if described["identity"] != self.identity.key or embeddings.shape != (len(shas), EMBEDDING_DIM):
            raise DamagedFileError(f"{path}: got embeddings of another encoder or shape; delete it and run `pitwall embed`")
        return dict(zip(shas, embeddings, strict=True))

    def _write(self, path: Path, shas: list[str], embeddings: NDArray[np.float32]) -> None:
        with atomic_path(path) as temporary:
            described = {"identity": self.identity.key, "sha256": json.dumps(shas)}
            save_file({"embeddings": np.ascontiguousarray(embeddings, dtype=np.float32)}, temporary, metadata=described)


@dataclass(frozen=True)
class TaughtReport:
    """The trace-taught encoder of a home.

    Attributes:
        new: it was taught now; False when it was there already.
        file: its weights.
        identity: of the encoder.
        metrics: on held-out simulated races (see `ml.encoders.pretrain.Taught`).
        note: what it was taught on.
        seconds: wall time of this call.
    """

    new: bool
    file: Path
    identity: EncoderIdentity
    metrics: dict[str, float]
    note: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The report as JSON."""
        return asdict(self) | {"file": str(self.file)}


def pretrain_encoder(settings: Settings, *, progress: Progress | None = None) -> TaughtReport:
    """Teach the trace encoder of this recipe and seed on simulated traces, unless this home has it already.

    Args:
        settings: which home, which seed, how many threads.
        progress: called with ("teach", steps done, steps).
    """
    started = time.perf_counter()
    before = set(settings.weights_dir.glob("trace-*.json"))
    weights = resolve_weights(
        "trace", weights_dir=settings.weights_dir, seed=settings.seed, threads=settings.threads, progress=progress
    )
    if weights.file is None:
        raise ValueError("trace weights: got none on disk, expected resolve_weights to have stored them")
    described = weights.file.with_suffix(".json")
    return TaughtReport(
        new=described not in before,
        file=weights.file,
        identity=VisionEncoder(weights).identity,
        metrics=read_json(described)["metrics"],
        note=weights.note,
        seconds=round(time.perf_counter() - started, 3),
    )


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
    with _alone(settings.embeddings_dir), _threads(settings.threads):
        remove_leftovers(settings.embeddings_dir)
        encoder = _chosen_encoder(settings, progress)
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


def encoder_identity(settings: Settings) -> EncoderIdentity:
    """The encoder that this home's pictures were last embedded with.

    Raises:
        MissingInputError: nothing was embedded yet with the encoder setting and seed of `settings`.
    """
    return EncoderIdentity(**_chosen(settings)["identity"])


def encoder_weights_file(settings: Settings) -> Path:
    """The safetensors file of `encoder_identity(settings)`."""
    return settings.weights_dir / str(_chosen(settings)["weights_file"])


def embeddings_status(settings: Settings) -> dict[str, Any]:
    """`count` of embeddings by the chosen encoder, and which one that is; zero and None before the first run."""
    try:
        chosen = _chosen(settings)
    except MissingInputError:
        return {"count": 0, "encoder": None}
    identity = EncoderIdentity(**chosen["identity"])
    count = EmbeddingCache(settings.embeddings_dir, identity).count()
    return {"count": count, "encoder": identity.key, "note": chosen["note"], **identity.to_json()}


def _chosen(settings: Settings) -> dict[str, Any]:
    path = settings.embeddings_dir / _CHOSEN
    if not path.exists():
        raise MissingInputError(f"{path}: no such file; run `pitwall embed` first")
    chosen: dict[str, Any] = read_json(path)
    got, expected = (chosen["setting"], chosen["seed"]), (settings.encoder, settings.seed)
    if got != expected:
        raise MissingInputError(
            f"{path}: got encoder and seed {got}, expected {expected}; run `pitwall embed` with these settings"
        )
    return chosen


def _chosen_encoder(settings: Settings, progress: Progress | None) -> VisionEncoder:
    """Resolve the setting, record what it came to, and say so when that is not what it was."""
    weights = resolve_weights(
        settings.encoder, weights_dir=settings.weights_dir, seed=settings.seed, threads=settings.threads, progress=progress
    )
    encoder = VisionEncoder(weights)
    path = settings.embeddings_dir / _CHOSEN
    now = {
        "setting": settings.encoder,
        "seed": settings.seed,
        "identity": encoder.identity.to_json(),
        "weights_file": "" if weights.file is None else weights.file.name,
        "note": weights.note,
    }
    before = read_json(path) if path.exists() else None
    if before is not None and before["identity"] != now["identity"]:
        logger.warning(
            "encoder_changed from=%s to=%s: every picture is embedded again and models need training again",
            before["identity"]["kind"], encoder.identity.kind,
        )  # fmt: skip
    if before != now:
        write_json(path, now)
    logger.info("encoder_chosen setting=%s kind=%s key=%s", settings.encoder, encoder.identity.kind, encoder.identity.key)
    return encoder


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


def _embedded(
    settings: Settings, store: ImageArtifactStore, encoder: VisionEncoder, todo: list[PictureRecord]
) -> Iterator[tuple[list[str], NDArray[np.float32], list[str]]]:
    if settings.engine == "spark":
        from pipelines.spark.embeddings import embed_on_workers  # PySpark is an extra

        root, weights = str(settings.multimodal_dir), encoder_weights_file(settings)
        return embed_on_workers(settings, root, weights, encoder.identity, todo)
    return embed_pictures(store, encoder, todo, threads=settings.threads)


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


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(directory / ".lock", timeout=0):
            yield
    except filelock.Timeout as error:
        raise StoreBusyError(f"{directory}: another process is embedding; wait for it, or use another PITWALL_HOME") from error


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
