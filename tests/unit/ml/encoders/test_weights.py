"""Weights by setting: found, taught once, checked, and never something else in silence."""

import logging
import time
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import save_file

from feature_repo.errors import DamagedFileError, MissingInputError
from ml.encoders import pretrain, transforms, weights
from ml.encoders.torchvision_ops import torchvision_models
from ml.encoders.weights import resolve_weights, state_sha256
from ml.errors import EncoderWeightsError


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    """torchvision's cache, empty, and no network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def unreachable(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(weights.urllib.request, "urlopen", unreachable)
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(5)
    return torchvision_models().resnet18(weights=None).state_dict()


@dataclass
class Teacher:
    """Stands in for minutes of teaching; counts."""

    state: dict
    calls: int = 0

    def __call__(self, *, seed, threads=None, progress=None):
        self.calls += 1
        return pretrain.Taught(self.state, {"mean_rank": 0.5}, 8, 0.1)


@pytest.fixture
def teacher(state, monkeypatch):
    teacher = Teacher(state)
    monkeypatch.setattr(pretrain, "teach", teacher)
    return teacher


def test_trace_is_taught_once_and_found_again(teacher, tmp_path):
    first = resolve_weights("trace", weights_dir=tmp_path / "w", seed=7)
    again = resolve_weights("trace", weights_dir=tmp_path / "w", seed=7)
    assert teacher.calls == 1
    assert first == again
    assert first.kind == "trace"
    assert first.transform == transforms.TRACE
    assert "no real race" in first.note
    assert first.file.name == f"trace-{pretrain.recipe_sha256(7)[:16]}.safetensors"
    resolve_weights("trace", weights_dir=tmp_path / "w", seed=8)
    assert teacher.calls == 2, "another seed is another recipe"


def test_teaching_killed_before_its_description_is_repeated(teacher, tmp_path):
    found = resolve_weights("trace", weights_dir=tmp_path, seed=7)
    found.file.with_suffix(".json").unlink()
    resolve_weights("trace", weights_dir=tmp_path, seed=7)
    assert teacher.calls == 2


def test_damaged_taught_weights_are_an_error_not_another_encoder(teacher, tmp_path):
    found = resolve_weights("trace", weights_dir=tmp_path, seed=7)
    altered = bytearray(found.file.read_bytes())
    altered[-2] ^= 0x40
    found.file.write_bytes(bytes(altered))
    with pytest.raises(DamagedFileError, match="pitwall embed"):
        resolve_weights("trace", weights_dir=tmp_path, seed=7)


def test_auto_without_imagenet_is_trace_quickly_and_says_so(teacher, tmp_path, caplog):
    started = time.perf_counter()
    with caplog.at_level(logging.INFO, logger="ml.encoders.weights"):
        found = resolve_weights("auto", weights_dir=tmp_path, seed=7)
    assert time.perf_counter() - started < 3.0
    assert found.kind == "trace"
    assert "ImageNet weights cannot be had" in found.note
    assert "chosen=trace" in caplog.text
    assert "no route to host" in caplog.text


def test_a_probe_that_never_answers_costs_no_more_than_its_patience(monkeypatch):
    monkeypatch.setattr(weights.urllib.request, "urlopen", lambda *_args, **_kwargs: time.sleep(5))
    started = time.perf_counter()
    with pytest.raises(EncoderWeightsError, match=r"no answer within 0\.2 s"):
        weights._probe("https://example.invalid/resnet18-0000.pth", 0.2)
    assert time.perf_counter() - started < 2.0


def test_imagenet_that_cannot_be_had_says_what_to_do(tmp_path):
    with pytest.raises(EncoderWeightsError, match="PITWALL_ENCODER=trace"):
        resolve_weights("imagenet", weights_dir=tmp_path, seed=7)


def test_imagenet_in_torchvisions_cache_is_used_by_auto(state, hub, tmp_path, teacher):
    hub.mkdir(parents=True)
    torch.save(state, hub / torchvision_models().ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1])
    found = resolve_weights("auto", weights_dir=tmp_path / "w", seed=7)
    assert found.kind == "imagenet"
    assert found.transform == transforms.IMAGENET
    assert found.sha256 == state_sha256(state)
    assert found.file.exists()
    assert teacher.calls == 0
    assert "auto" in found.note


@pytest.mark.parametrize("form", ["torch", "wrapped", "safetensors"])
def test_a_file_of_any_form_gives_the_same_weights(state, tmp_path, form):
    path = tmp_path / f"mine.{'safetensors' if form == 'safetensors' else 'pt'}"
    if form == "safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, metadata={"transform": transforms.TRACE})
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}} if form == "wrapped" else state, path)
    found = resolve_weights(str(path), weights_dir=tmp_path / "w", seed=7)
    assert found.kind == "file"
    assert found.sha256 == state_sha256(state)
    assert found.transform == (transforms.TRACE if form == "safetensors" else transforms.IMAGENET)
    assert found.file.parent == tmp_path / "w"


def test_files_that_are_no_resnet18_are_refused(state, tmp_path):
    with pytest.raises(MissingInputError, match="expected auto, imagenet, trace, random or the path"):
        resolve_weights("imagnet", weights_dir=tmp_path, seed=7)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(EncoderWeightsError, match=r"text\.pt"):
        resolve_weights(str(tmp_path / "text.pt"), weights_dir=tmp_path, seed=7)
    torch.save({"conv1.weight": state["conv1.weight"]}, tmp_path / "part.pt")
    with pytest.raises(EncoderWeightsError, match="differing"):
        resolve_weights(str(tmp_path / "part.pt"), weights_dir=tmp_path, seed=7)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    torch.save({"weights": Hostile()}, tmp_path / "hostile.pt")
    with pytest.raises(EncoderWeightsError, match=r"hostile\.pt"):
        resolve_weights(str(tmp_path / "hostile.pt"), weights_dir=tmp_path, seed=7)
    assert not (tmp_path / "written").exists()


def test_random_is_seeded(tmp_path):
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    first, again, other = (
        resolve_weights("random", weights_dir=tmp_path, seed=seed, calibration_images=images) for seed in (7, 7, 8)
    )
    assert first.sha256 == again.sha256 != other.sha256
    assert first.kind == "random"
    assert "control" in first.note


def test_the_hash_sees_values_and_shapes_but_not_the_last_layer(state):
    base = state_sha256(state)
    assert state_sha256({**state, "fc.weight": torch.zeros(3)}) == base
    assert state_sha256({**state, "bn1.running_mean": state["bn1.running_mean"] + 1e-3}) != base
    assert state_sha256({**state, "conv1.weight": state["conv1.weight"].reshape(64, 3, 49, 1)}) != base
