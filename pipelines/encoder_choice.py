"""Which encoder a home uses: taught or found once, and recorded in `embeddings/encoder.json`."""

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from feature_repo.errors import MissingInputError
from feature_repo.files import read_json, write_json
from feature_repo.progress import Progress
from feature_repo.settings import Settings
from ml.encoders.vision import EncoderIdentity, VisionEncoder
from ml.encoders.weights import resolve_weights

_CHOSEN = "encoder.json"

logger = logging.getLogger(__name__)


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


def encoder_identity(settings: Settings) -> EncoderIdentity:
    """The encoder that this home's pictures were last embedded with.

    Raises:
        MissingInputError: nothing was embedded yet with the encoder setting and seed of `settings`.
    """
    return EncoderIdentity(**chosen_record(settings)["identity"])


def encoder_weights_file(settings: Settings) -> Path:
    """The safetensors file of `encoder_identity(settings)`."""
    return settings.weights_dir / str(chosen_record(settings)["weights_file"])


def chosen_record(settings: Settings) -> dict[str, Any]:
    """The record of the encoder chosen last: `setting, seed, identity, weights_file, note`.

    Raises:
        MissingInputError: nothing was embedded yet with the encoder setting and seed of `settings`.
    """
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


def chosen_encoder(settings: Settings, progress: Progress | None) -> VisionEncoder:
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
