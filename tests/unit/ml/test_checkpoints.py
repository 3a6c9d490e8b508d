"""Checkpoints say everything about themselves, cannot run code, and damage is named."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from feature_repo.errors import MissingInputError
from feature_repo.files import TMP_PREFIX, sha256_file
from ml.checkpoints import (
    CheckpointMetadata,
    Provenance,
    code_hash,
    epoch_name,
    newest_epoch,
    read_checkpoint,
    remove_checkpoints,
    write_checkpoint,
)
from ml.errors import CheckpointError

METADATA = CheckpointMetadata(epoch=10, train_loss=2.5, validation_loss=2.6, accuracy=0.2, learning_rate=1e-3)
PROVENANCE = Provenance(
    config={"name": "x"},
    config_hash="c",
    feature_service="finish_position_v1",
    feature_order=("grid", "gap"),
    data_hash="d",
    code_hash="s",
    encoder_identity="trace:abc",
    preprocessing={"median": [0.1, 0.2]},
)


def test_round_trip_with_readable_metadata_beside(tmp_path: Path) -> None:
    path = tmp_path / epoch_name(10)
    weight = torch.randn(3, 4)
    write_checkpoint(path, {"model": {"w": weight}}, METADATA, PROVENANCE)
    content = read_checkpoint(path)
    assert torch.equal(content["model"]["w"], weight)
    assert content["about"]["preprocessing"] == {"median": [0.1, 0.2]}
    beside = json.loads((tmp_path / "epoch_010.json").read_text(encoding="utf-8"))
    expected = {"epoch", "train_loss", "validation_loss", "accuracy", "learning_rate", "timestamp", "feature_service"}
    assert expected | {"feature_order", "data_hash", "code_hash", "encoder_identity", "config"} <= set(beside)
    assert beside["epoch"] == 10
    assert beside["feature_order"] == ["grid", "gap"]
    assert beside["sha256"] == sha256_file(path)
    assert not list(tmp_path.glob(f"{TMP_PREFIX}*"))


class _Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("hostile_code_ran"),))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"about": _Hostile()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(_Hostile()))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(CheckpointError, match=name):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "hostile_code_ran").exists()


def test_damaged_foreign_and_absent_files(tmp_path: Path) -> None:
    path = tmp_path / "best_model.pt"
    with pytest.raises(MissingInputError):
        read_checkpoint(path)
    write_checkpoint(path, {"model": {"w": torch.randn(50, 50)}}, METADATA, PROVENANCE)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="train again"):
            read_checkpoint(path)
    torch.save({"model": {}}, path)
    with pytest.raises(CheckpointError, match="format"):
        read_checkpoint(path)


def test_newest_epoch_and_removal(tmp_path: Path) -> None:
    assert newest_epoch(tmp_path) is None
    for epoch in (10, 20):
        write_checkpoint(tmp_path / epoch_name(epoch), {}, METADATA, PROVENANCE)
    newest = newest_epoch(tmp_path)
    assert newest is not None
    assert newest.name == "epoch_020.pt"
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    remove_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_differences_name_what_changed() -> None:
    stored = {"config_hash": "c", "data_hash": "d", "code_hash": "s", "encoder_identity": "trace:abc"}
    assert PROVENANCE.differences(stored) == []
    assert replace(PROVENANCE, data_hash="other", encoder_identity="").differences(stored) == ["data_hash", "encoder_identity"]


def test_code_hash_is_stable() -> None:
    assert code_hash() == code_hash()
    assert len(code_hash()) == 64
