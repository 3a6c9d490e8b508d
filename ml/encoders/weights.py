"""Weights of the picture encoder by setting: ImageNet's, a file's, trace-taught ones or a seeded initialisation.

Whatever the setting, the weights end up as one safetensors file in the home's weights folder, so that a model can take its
encoder along. Which kind was used, and why, is in the note and in the log; nothing falls back silently.
"""

import hashlib
import logging
import pickle
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import filelock
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from feature_repo.errors import DamagedFileError, MissingInputError
from feature_repo.files import atomic_path, read_json, write_json
from feature_repo.progress import Progress
from ml.encoders import transforms
from ml.encoders.torchvision_ops import torchvision_models
from ml.errors import EncoderWeightsError

# How long `auto` may look for ImageNet weights before it teaches an encoder instead. A name look-up cannot be given a time
# limit, so the question is asked on a thread that is left behind.
PROBE_S = 2.0
_STALLED_S = 20.0
_KINDS = ("auto", "imagenet", "trace", "random")


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedWeights:
    """Weights of a ResNet-18 and where they came from.

    Attributes:
        kind: `imagenet`, `file`, `trace` or `random`.
        state_dict: torchvision's names -> tensors, without the last layer (`fc`).
        sha256: of names, shapes and values.
        note: one sentence for people: which weights these are, and why these.
        transform: the input encoding they were made for (see `ml.encoders.transforms`).
        file: the safetensors file that holds them, or None while they are only in memory.
    """

    kind: str
    state_dict: dict[str, Tensor] = field(compare=False, repr=False)
    sha256: str
    note: str
    transform: str
    file: Path | None = None


def resolve_weights(
    setting: str,
    *,
    weights_dir: Path,
    seed: int,
    calibration_images: Tensor | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> LoadedWeights:
    """The weights that `setting` asks for, kept in `weights_dir`.

    Args:
        setting: `auto` (ImageNet if it is there or can be downloaded, else `trace`), `imagenet`, `trace`, `random`, or the
            path of a `.safetensors` or torch file.
        weights_dir: where weights are kept and found again; made if it is not there.
        seed: of `trace` and `random`.
        calibration_images: (N, 3, H, W) uint8 pictures for the BatchNorm statistics of `random`; default simulated traces.
        threads: CPU threads for teaching; default torch's.
        progress: called with ("teach", steps done, steps) while an encoder is taught.
    Raises:
        EncoderWeightsError: ImageNet weights were asked for and cannot be had, or a file does not hold a ResNet-18.
        MissingInputError: the file is not there.
        DamagedFileError: a file in `weights_dir` is not what was stored.
    """
    if setting == "auto":
        try:
            found = _imagenet(patience_s=PROBE_S)
        except EncoderWeightsError as error:
            logger.info("encoder_auto chosen=trace because=%s", error)
            taught = _trace(weights_dir, seed, threads, progress)
            return replace(taught, note=f"{taught.note} Chosen by `auto`: ImageNet weights cannot be had here.")
        logger.info("encoder_auto chosen=imagenet")
        return _kept(replace(found, note=f"{found.note} Chosen by `auto`."), weights_dir)
    if setting == "imagenet":
        return _kept(_imagenet(patience_s=_STALLED_S), weights_dir)
    if setting == "trace":
        return _trace(weights_dir, seed, threads, progress)
    if setting == "random":
        return _kept(_random(seed, calibration_images), weights_dir)
    return _kept(_from_file(Path(setting).expanduser()), weights_dir)


def state_sha256(state_dict: dict[str, Tensor]) -> str:
    """SHA-256 of names, shapes and values; counters and the last layer are left out, since no embedding depends on them."""
    digest = hashlib.sha256()
    for name in sorted(_wanted(state_dict)):
        tensor = state_dict[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def store_weights(weights: LoadedWeights, path: Path) -> LoadedWeights:
    """Write `weights` to `path` as safetensors, whole or not at all; returns them with `file` set."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in _wanted(weights.state_dict).items()}
    described = {"kind": weights.kind, "transform": weights.transform, "sha256": weights.sha256, "note": weights.note}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=described)
    return replace(weights, file=path)


def load_weights_file(path: Path, *, expected: str, kind: str, transform: str, note: str = "") -> LoadedWeights:
    """Weights that Pitwall stored, checked against their hash.

    Raises:
        MissingInputError: there is no such file.
        DamagedFileError: it cannot be read, or holds other weights.
    """
    if not path.exists():
        raise MissingInputError(f"{path}: no such file; run `pitwall embed`, which finds or teaches the encoder")
    try:
        state_dict, described = _read_safetensors(path)
    except EncoderWeightsError as error:
        raise DamagedFileError(str(error)) from error
    sha = state_sha256(state_dict)
    if sha != expected:
        raise DamagedFileError(f"{path}: got weights {sha[:12]}, expected {expected[:12]}; delete it and run `pitwall embed`")
    return LoadedWeights(kind, state_dict, sha, note or described.get("note", ""), transform, path)


def _wanted(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in state_dict.items() if not k.startswith("fc.") and not k.endswith("num_batches_tracked")}


def _kept(weights: LoadedWeights, weights_dir: Path) -> LoadedWeights:
    path = weights_dir / f"{weights.kind}-{weights.sha256[:16]}.safetensors"
    return replace(weights, file=path) if path.exists() else store_weights(weights, path)


def _trace(weights_dir: Path, seed: int, threads: int | None, progress: Progress | None) -> LoadedWeights:
    """Trace-taught weights of this recipe and seed: those in `weights_dir`, else taught now and put there."""
    from ml.encoders import pretrain  # matplotlib comes with it; nothing else here needs it

    recipe = pretrain.recipe_sha256(seed)
    path = weights_dir / f"trace-{recipe[:16]}.safetensors"
    weights_dir.mkdir(parents=True, exist_ok=True)
    # Two runs at once must not both teach for minutes, nor store two sets of weights under one recipe.
    with filelock.FileLock(weights_dir / ".teaching.lock"):
        if not (path.exists() and path.with_suffix(".json").exists()):
            logger.info("encoder_teaching recipe=%s seed=%d", recipe[:16], seed)
            taught = pretrain.teach(seed=seed, threads=threads, progress=progress)
            note = f"ResNet-18 taught on {taught.drawings} simulated traces, no real race (recipe {recipe[:16]}, seed {seed})."
            weights = LoadedWeights("trace", taught.state_dict, state_sha256(taught.state_dict), note, transforms.TRACE)
            store_weights(weights, path)
            # The description is written last: weights without it are taught again.
            write_json(
                path.with_suffix(".json"),
                {"recipe": recipe, "seed": seed, "sha256": weights.sha256, "note": note, "metrics": taught.metrics}
                | {"seconds": taught.seconds},
            )
    described = read_json(path.with_suffix(".json"))
    return load_weights_file(path, expected=described["sha256"], kind="trace", transform=transforms.TRACE, note=described["note"])


def _random(seed: int, images: Tensor | None) -> LoadedWeights:
    from ml.encoders import pretrain

    state_dict = pretrain.random_state(seed, images, transform=transforms.IMAGENET)
    note = f"Untrained ResNet-18 (seed {seed}), BatchNorm calibrated on traces: a control, not a good encoder."
    return LoadedWeights("random", state_dict, state_sha256(state_dict), note, transforms.IMAGENET)


def _from_file(path: Path) -> LoadedWeights:
    if not path.is_file():
        raise MissingInputError(f"encoder: got {str(path)!r}, expected {', '.join(_KINDS)} or the path of a weights file")
    described: dict[str, str] = {}
    if path.suffix == ".safetensors":
        state_dict, described = _read_safetensors(path)
    else:
        state_dict = _read_torch(path)
    transform = described.get("transform", transforms.IMAGENET)
    _check_resnet18(state_dict, str(path))
    sha = state_sha256(state_dict)
    return LoadedWeights("file", _wanted(state_dict), sha, f"Weights from {path.name}, input as {transform}.", transform)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise EncoderWeightsError(f"{path}: got no readable safetensors file ({error}); give another file") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    """State dict of a torch file; only tensors are unpickled, so a hostile file cannot run code."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise EncoderWeightsError(f"{path}: got no readable torch weights ({error!s:.200}); give another file") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise EncoderWeightsError(f"{path}: got {type(content).__name__}, expected a state dict of tensors")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _check_resnet18(state_dict: dict[str, Tensor], where: str) -> None:
    expected = _wanted(torchvision_models().resnet18(weights=None).state_dict())
    got = _wanted(state_dict)
    wrong = sorted(set(expected) ^ set(got)) or sorted(k for k in expected if expected[k].shape != got[k].shape)
    if wrong:
        raise EncoderWeightsError(
            f"{where}: got {len(got)} tensors, expected the {len(expected)} of torchvision's ResNet-18; differing: {wrong[:3]}"
        )


def _imagenet(*, patience_s: float) -> LoadedWeights:
    """torchvision's ImageNet weights from its own cache, else downloaded into it.

    Raises:
        EncoderWeightsError: they are not there and the server does not answer within `patience_s`.
    """
    weights = torchvision_models().ResNet18_Weights.IMAGENET1K_V1
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not path.exists():
        _probe(weights.url, patience_s)
        _download(weights.url, path)
    state_dict = _read_torch(path)
    _check_resnet18(state_dict, str(path))
    sha = state_sha256(state_dict)
    return LoadedWeights("imagenet", _wanted(state_dict), sha, "torchvision's ResNet-18 ImageNet weights.", transforms.IMAGENET)


def _probe(url: str, patience_s: float) -> None:
    outcome: list[str] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=patience_s):
                outcome.append("")
        except (OSError, ValueError) as error:
            outcome.append(str(error))

    thread = threading.Thread(target=ask, name="imagenet-probe", daemon=True)
    thread.start()
    thread.join(patience_s)
    why = outcome[0] if outcome else f"no answer within {patience_s:g} s"
    if why:
        raise EncoderWeightsError(
            f"ImageNet weights: got {why}, expected torchvision's file at {url}; put the file into "
            f"{Path(torch.hub.get_dir()) / 'checkpoints'}, set PITWALL_ENCODER to its path, or use PITWALL_ENCODER=trace"
        )


def _download(url: str, path: Path) -> None:
    """Fetch `url` to `path`, checked against the hash prefix that torchvision puts into the file's name."""
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=_STALLED_S) as answer, atomic_path(path) as temporary:
            with temporary.open("wb") as file:
                while block := answer.read(1 << 20):
                    file.write(block)
                    digest.update(block)
            expected = path.stem.rsplit("-", 1)[-1]
            if not digest.hexdigest().startswith(expected):
                raise EncoderWeightsError(f"{url}: got sha256 {digest.hexdigest()[:12]}, expected {expected}; try again later")
    except (urllib.error.URLError, OSError) as error:
        raise EncoderWeightsError(f"{url}: the download broke off ({error}); try again, or use PITWALL_ENCODER=trace") from error
