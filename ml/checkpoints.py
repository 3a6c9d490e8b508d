"""Checkpoints on disk: a `.pt` file that says everything about itself, and the readable part of it as JSON beside.

A checkpoint is written whole or not at all and read with `weights_only=True`, so that a file from elsewhere cannot run code.
"""

import pickle
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from feature_repo.errors import MissingInputError
from feature_repo.files import atomic_path, sha256_bytes, sha256_file, write_json
from ml.errors import CheckpointError

FORMAT = 1
BEST, FINAL = "best_model.pt", "final_model.pt"

_CODE = (
    "checkpoints.py",
    "config.py",
    "embedding_inputs.py",
    "encoders/tabular.py",
    "fusion.py",
    "losses.py",
    "prepared_set.py",
    "preprocessing.py",
    "trainer.py",
)


@dataclass(frozen=True)
class Provenance:
    """What a model was made from.

    Attributes:
        config: the whole configuration, as JSON values.
        config_hash: its hash.
        feature_service: the Feast service of the tabular inputs.
        feature_order: the columns of the service the preprocessing reads, in order.
        data_hash: hash of training and validation rows.
        code_hash: hash of the source files that decide the result.
        encoder_identity: kind, hash and transform of the picture encoder, or "" for a model without pictures.
        preprocessing: the fitted tabular preprocessing, as JSON values.
    """

    config: dict[str, Any]
    config_hash: str
    feature_service: str
    feature_order: tuple[str, ...]
    data_hash: str
    code_hash: str
    encoder_identity: str
    preprocessing: dict[str, Any]

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Which hashes or identities differ from those stored in a checkpoint."""
        mine = asdict(self)
        return [key for key in ("config_hash", "data_hash", "code_hash", "encoder_identity") if mine[key] != other.get(key)]


@dataclass(frozen=True)
class CheckpointMetadata:
    """What the JSON beside a checkpoint tells of the moment it was taken.

    Attributes:
        epoch: epochs completed.
        train_loss: of that epoch.
        validation_loss: after that epoch.
        accuracy: exact places on the validation part after ranking within each race.
        learning_rate: of that epoch.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    accuracy: float
    learning_rate: float


def code_hash() -> str:
    """SHA-256 over the source files that decide what training gives."""
    folder = Path(__file__).parent
    return sha256_bytes("".join(sha256_file(folder / name) for name in _CODE).encode())


def epoch_name(epoch: int) -> str:
    """`10` -> `epoch_010.pt`."""
    return f"epoch_{epoch:03d}.pt"


def write_checkpoint(path: Path, content: dict[str, Any], metadata: CheckpointMetadata, provenance: Provenance) -> None:
    """Write `path` and the JSON beside it, each whole or not at all.

    Args:
        path: the `.pt` file.
        content: tensors and plain values.
        metadata: goes into both.
        provenance: goes into both (the JSON leaves out the preprocessing's numbers).
    """
    described = {**asdict(metadata), **asdict(provenance), "format": FORMAT}
    with atomic_path(path) as temporary:
        torch.save({**content, "about": described}, temporary)
    readable = {key: value for key, value in described.items() if key != "preprocessing"}
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(path.with_suffix(".json"), {**readable, "timestamp": stamp, "sha256": sha256_file(path)})


def read_checkpoint(path: Path, *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The content of a checkpoint, `about` included.

    Raises:
        MissingInputError: no such file.
        CheckpointError: it is damaged, not a checkpoint, or of another format.
    """
    if not path.is_file():
        raise MissingInputError(f"{path}: no such checkpoint; train the model first")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path.name}: cannot be read as a checkpoint ({reason}); train again") from error
    about = content.get("about") if isinstance(content, dict) else None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        got = about.get("format") if isinstance(about, dict) else type(content).__name__
        raise CheckpointError(f"{path.name}: got format {got!r}, expected {FORMAT}; train again")
    checked: dict[str, Any] = content
    return checked


def newest_epoch(folder: Path) -> Path | None:
    """The `epoch_NNN.pt` with the highest number in `folder`, or None."""
    found = sorted(folder.glob("epoch_[0-9][0-9][0-9].pt"))
    return found[-1] if found else None


def remove_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of an earlier training in `folder`, so that none is taken for this one's."""
    for path in [*folder.glob("epoch_[0-9][0-9][0-9].pt"), folder / BEST, folder / FINAL]:
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
