"""The training loop of the fusion model: batch, forward, loss, backward, step, with early stopping and resumable checkpoints.

Randomness (order of batches, dropout) is a function of seed, attempt and epoch, set inside a fork of torch's generator: a
training that was interrupted and resumed ends in the same weights, bit for bit, and nobody else's random numbers move.
"""

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.checkpoints import (
    BEST,
    FINAL,
    CheckpointMetadata,
    Provenance,
    epoch_name,
    newest_epoch,
    read_checkpoint,
    remove_checkpoints,
    write_checkpoint,
)
from ml.datasets import TrainingSet
from ml.errors import CheckpointError, ModelConfigError, ModelContractError, NonFiniteLossError, TrainingMemoryError
from ml.fusion import MultiModalFusionModel
from ml.losses import strength, training_loss, uninformed_loss
from ml.prepared_set import PreparedSet
from ml.torch_threads import one_thread
from ml.training_result import EpochMetrics, Score, TrainingResult

logger = logging.getLogger(__name__)

_FELL = 1e-3  # the training loss must fall this share below that of a model that knows nothing
_JUDGED_AFTER = 3  # epochs; before that dropout alone can keep a healthy training loss up


@dataclass
class _Progress:
    """All that changes from epoch to epoch besides weights and optimiser."""

    learning_rate: float
    batch: int
    epoch: int = 0
    attempt: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    history: list[EpochMetrics] = field(default_factory=list)


class MultiModalTrainer:
    """Trains one fusion model.

    Args:
        model: its trainable weights are changed in place. For a set with live pictures it needs its frozen encoder.
        train_set: the training part.
        validation_set: later races, disjoint; decides when to stop and which epoch is kept.
        provenance: goes into every checkpoint.
        seed: decides the order of batches and dropout.
        checkpoint_dir: where `epoch_010.pt`, `best_model.pt` and `final_model.pt` go; None writes nothing.
        device: where the tensors live.
    Raises:
        ModelConfigError: live pictures with race-relative embeddings but batches that cut races apart.
        ModelContractError: an empty set, or a set with neither embeddings nor pictures for a model that uses pictures.
    """

    def __init__(
        self,
        model: MultiModalFusionModel,
        train_set: TrainingSet,
        validation_set: TrainingSet,
        *,
        provenance: Provenance,
        seed: int = 0,
        checkpoint_dir: Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config = model.config
        self.model = model.to(device)
        self.train_set, self.validation_set = train_set, validation_set
        self.provenance = provenance
        self.seed = seed
        self.checkpoint_dir = checkpoint_dir
        self.device = torch.device(device)
        self._check_sets()
        self._train = PreparedSet(self.model, train_set, self.device)
        self._validation = PreparedSet(self.model, validation_set, self.device)
        self._trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._initial_state = model.own_state()
        self._best_state = self._initial_state
        batch = self.config.races_per_batch if self.config.whole_races else self.config.batch_size
        self._progress = _Progress(learning_rate=self.config.learning_rate, batch=batch)
        self.optimizer = self._new_optimizer()

    def train(self, *, resume: bool = False) -> TrainingResult:
        """Train until the configured epochs are done or the validation loss stops falling; the model ends as its best epoch.

        Args:
            resume: go on from the newest `epoch_NNN.pt` in `checkpoint_dir` if it is of the same configuration, data, code and
                encoder; the result is the same as without the interruption. Otherwise start from the beginning.
        Raises:
            NonFiniteLossError: a loss is NaN or infinite; the message names the batch.
            TrainingMemoryError: a batch of one does not fit into memory.
        """
        if not (resume and self._resume()) and self.checkpoint_dir is not None:
            remove_checkpoints(self.checkpoint_dir)
        with contextlib.nullcontext() if self._train.live else one_thread():
            self._run_attempt()
            if not self._fell() and self._progress.attempt == 0:
                self._diagnose()
                self._start_over(self.config.retry_learning_rate)
                self._run_attempt()
        progress = self._progress
        if not self._fell():
            logger.error("loss_did_not_fall attempts=%d best_train_loss=%.4f", progress.attempt + 1, self._best_train_loss())
        if self.checkpoint_dir is not None:
            self.save_checkpoint(self.checkpoint_dir / FINAL)
            self._save_best()
        self.model.load_own_state(self._best_state)
        self.model.eval_mode()
        return TrainingResult(
            epochs=tuple(progress.history),
            best_epoch=progress.best_epoch,
            best_validation_loss=progress.best_loss,
            fell=self._fell(),
            retried=progress.attempt > 0,
            stopped_early=progress.epoch < self.config.epochs,
        )

    def train_epoch(self) -> Score:
        """One pass over the training part in a new order; returns what the batches gave (dropout on).

        Raises:
            NonFiniteLossError, TrainingMemoryError: as in `train`.
        """
        progress = self._progress
        epoch = progress.epoch + 1
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(epoch)
        self.model.train_mode()
        outputs = torch.zeros(len(self.train_set), self.model.head.out_features, device=self.device)
        total, weight, cursor = 0.0, 0, 0
        with self._seeded(epoch):
            units = torch.randperm(self._train.n_units)
            while cursor < len(units):
                chunk = units[cursor : cursor + progress.batch]
                rows = self._train.rows_of(chunk)
                try:
                    loss, output = self._step(rows)
                except (RuntimeError, MemoryError) as error:
                    self._halve_batch(error)
                    continue
                cursor += len(chunk)
                total += loss * len(rows)
                weight += len(rows)
                outputs[rows] = output
        return self._score(self._train, strength(self.config, outputs).cpu(), total / weight)

    @torch.no_grad()
    def validate(self) -> Score:
        """Loss and ranking on the validation part, dropout off."""
        output = self._outputs(self._validation)
        v = self._validation
        loss = float(training_loss(self.config, output, v.position, v.finished, v.race))
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"validation after epoch {self._progress.epoch + 1}: the loss is {loss}; see the batches before"
            )
        return self._score(v, strength(self.config, output).cpu(), loss)

    def save_checkpoint(self, path: Path) -> None:
        """Write weights, optimiser, early-stopping state, history and preprocessing; the JSON metadata goes beside."""
        content = {
            "model": self.model.own_state(),
            "best_model": self._best_state,
            "initial_model": self._initial_state,
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self._progress),
            "seed": self.seed,
        }
        write_checkpoint(path, content, self._metadata(self._progress.epoch), self.provenance)

    def load_checkpoint(self, path: Path) -> None:
        """Put the trainer into the state it had when `path` was written.

        Raises:
            MissingInputError: no such file.
            CheckpointError: damaged, not a training state, or of another configuration, data, code, encoder or seed.
        """
        content = read_checkpoint(path, device=self.device)
        if "optimizer" not in content:
            raise CheckpointError(f"{path.name}: holds weights only; resume from an epoch_NNN.pt")
        differences = self.provenance.differences(content["about"]) + (["seed"] if content["seed"] != self.seed else [])
        if differences:
            raise CheckpointError(f"{path.name}: is of another {', '.join(differences)}; train from the start")
        self.model.load_own_state(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self._best_state = content["best_model"]
        self._initial_state = content["initial_model"]
        history = [EpochMetrics(**epoch) for epoch in content["progress"]["history"]]
        self._progress = _Progress(**{**content["progress"], "history": history})

    def _run_attempt(self) -> None:
        progress = self._progress
        while progress.epoch < self.config.epochs and progress.epoch - progress.best_epoch < self.config.patience:
            started = time.perf_counter()
            trained = self.train_epoch()
            validated = self.validate()
            progress.epoch += 1
            progress.history.append(
                EpochMetrics(
                    epoch=progress.epoch,
                    train_loss=trained.loss,
                    train_accuracy=trained.accuracy,
                    validation_loss=validated.loss,
                    validation_accuracy=validated.accuracy,
                    validation_mae=validated.mae,
                    learning_rate=self._rate(progress.epoch),
                    batch=progress.batch,
                    picture_share=self.train_set.picture_share if self.config.use_pictures else 0.0,
                    seconds=time.perf_counter() - started,
                )
            )
            logger.debug("epoch %s", progress.history[-1])
            if validated.loss < progress.best_loss:
                progress.best_loss, progress.best_epoch = validated.loss, progress.epoch
                self._best_state = self.model.own_state()
            if self.checkpoint_dir is not None and progress.epoch % self.config.checkpoint_every == 0:
                self.save_checkpoint(self.checkpoint_dir / epoch_name(progress.epoch))
                self._save_best()

    def _step(self, rows: Tensor) -> tuple[float, Tensor]:
        """One optimiser step on the rows; returns the loss and the detached outputs."""
        t = self._train
        self.optimizer.zero_grad(set_to_none=True)
        image_inputs = t.image_inputs(rows)
        if image_inputs is not None and self.config.picture_dropout > 0:
            keep = torch.rand(len(rows)) >= self.config.picture_dropout
            image_inputs = torch.where(keep.to(self.device)[:, None], image_inputs, 0.0)
        output = self.model.fuse(image_inputs, t.tabular[rows])
        loss = training_loss(self.config, output, t.position[rows], t.finished[rows], t.race[rows])
        value = loss.item()
        if not math.isfinite(value):
            raise NonFiniteLossError(self._named(rows, value))
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self._trainable, self.config.gradient_clip)
        self.optimizer.step()
        return value, output.detach()

    def _outputs(self, prepared: PreparedSet) -> Tensor:
        """(N, ...) outputs of a whole set, dropout off; in one go from memory, in batches for live pictures."""
        self.model.eval_mode()
        if not prepared.live:
            return self.model.fuse(prepared.image_inputs(None), prepared.tabular)
        output = torch.zeros(len(prepared.tabular), self.model.head.out_features, device=self.device)
        cursor = 0
        while cursor < prepared.n_units:
            rows = prepared.rows_of(torch.arange(cursor, min(cursor + self._progress.batch, prepared.n_units)))
            try:
                output[rows] = self.model.fuse(prepared.image_inputs(rows), prepared.tabular[rows])
            except (RuntimeError, MemoryError) as error:
                self._halve_batch(error)
                continue
            cursor += self._progress.batch
        return output

    def _halve_batch(self, error: BaseException) -> None:
        """Halve the batch if `error` says that memory ran out, else raise it again."""
        if not _is_out_of_memory(error):
            raise error
        unit = "races" if self.config.whole_races else "rows"
        batch = self._progress.batch
        if batch == 1:
            raise TrainingMemoryError(f"out of memory with a batch of 1 ({unit}); use smaller widths or pictures") from error
        self._progress.batch = batch // 2
        logger.warning("out_of_memory batch=%d -> %d %s: %s", batch, batch // 2, unit, str(error).partition("\n")[0])

    def _diagnose(self) -> None:
        """Log what usually explains a loss that does not fall."""
        progress = self._progress
        norms = {
            name: f"{float(parameter.grad.norm()):.2e}"
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }
        tabular = self._train.tabular
        extreme = torch.argsort(tabular.abs().amax(dim=0), descending=True)[:5]
        features = {
            self.train_set.input_names[int(i)]: f"mean {float(tabular[:, i].mean()):.2f} min {float(tabular[:, i].min()):.2f} "
            f"max {float(tabular[:, i].max()):.2f}"
            for i in extreme
        }
        logger.warning(
            "loss_did_not_fall learning_rate=%g best_train_loss=%.4f uninformed_loss=%.4f retry_learning_rate=%g "
            "features: mean %.3f sd %.3f, most extreme %s; gradient_norms: %s",
            progress.learning_rate,
            self._best_train_loss(),
            self._uninformed(),
            self.config.retry_learning_rate,
            float(tabular.mean()),
            float(tabular.std()),
            features,
            norms,
        )

    def _start_over(self, learning_rate: float) -> None:
        batch, attempt = self._progress.batch, self._progress.attempt + 1
        self._progress = _Progress(learning_rate=learning_rate, batch=batch, attempt=attempt)
        self.model.load_own_state(self._initial_state)
        self._best_state = self._initial_state
        self.optimizer = self._new_optimizer()
        if self.checkpoint_dir is not None:
            remove_checkpoints(self.checkpoint_dir)

    def _resume(self) -> bool:
        newest = newest_epoch(self.checkpoint_dir) if self.checkpoint_dir is not None else None
        if newest is None:
            return False
        try:
            self.load_checkpoint(newest)
        except CheckpointError as error:
            logger.warning("not_resumed %s", error)
            return False
        logger.info("resumed checkpoint=%s epoch=%d", newest.name, self._progress.epoch)
        return True

    def _save_best(self) -> None:
        if self.checkpoint_dir is not None and self._progress.best_epoch > 0:
            content = {"model": self._best_state, "seed": self.seed}
            write_checkpoint(self.checkpoint_dir / BEST, content, self._metadata(self._progress.best_epoch), self.provenance)

    def _metadata(self, epoch: int) -> CheckpointMetadata:
        if epoch == 0:
            raise CheckpointError("a checkpoint needs at least one epoch of training")
        e = self._progress.history[epoch - 1]
        return CheckpointMetadata(epoch, e.train_loss, e.validation_loss, e.validation_accuracy, e.learning_rate)

    def _new_optimizer(self) -> torch.optim.Adam:
        return torch.optim.Adam(
            self._trainable,
            lr=self._progress.learning_rate,
            weight_decay=self.config.weight_decay,
            decoupled_weight_decay=True,
            fused=True,
        )

    def _rate(self, epoch: int) -> float:
        rate = self._progress.learning_rate
        if self.config.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * (epoch - 1) / self.config.epochs))
        return rate

    @contextlib.contextmanager
    def _seeded(self, epoch: int) -> Iterator[None]:
        words = np.random.SeedSequence([self.seed, self._progress.attempt, epoch]).generate_state(2)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(words[0]) << 32 | int(words[1]))
            yield

    def _best_train_loss(self) -> float:
        return min((epoch.train_loss for epoch in self._progress.history), default=math.inf)

    def _uninformed(self) -> float:
        return uninformed_loss(self.config, self._train.position, self._train.finished, self._train.race)

    def _fell(self) -> bool:
        if self._progress.epoch < _JUDGED_AFTER:
            return True
        return self._best_train_loss() < self._uninformed() * (1 - _FELL)

    def _score(self, prepared: PreparedSet, strengths: Tensor, loss: float) -> Score:
        miss = np.abs(rank_within(strengths.numpy(), prepared.race.cpu().numpy()) - prepared.position.cpu().numpy())
        return Score(loss=loss, accuracy=float((miss == 0).mean()), mae=float(miss.mean()))

    def _named(self, rows: Tensor, value: float) -> str:
        index = rows.cpu().numpy()
        t = self.train_set
        drivers = [f"{t.race_ids[i]}/{t.driver_ids[i]}" for i in index[:40]]
        races = sorted({str(t.race_ids[i]) for i in index})
        return (
            f"epoch {self._progress.epoch + 1}: the loss is {value} at learning rate {self._rate(self._progress.epoch + 1):g} "
            f"in the batch of races {', '.join(races)}: {', '.join(drivers)}{' ...' if len(index) > 40 else ''}; "
            "look at these rows' features, or lower the learning rate"
        )

    def _check_sets(self) -> None:
        for part, examples in (("training", self.train_set), ("validation", self.validation_set)):
            if len(examples) == 0:
                raise ModelContractError(f"{part} set: got 0 examples")
            if self.config.use_pictures and examples.embedding is None and examples.pictures is None:
                raise ModelContractError(
                    f"{part} set: {self.config.name} uses pictures, but the set has no embeddings and no pictures"
                )
            if examples.embedding is None and self.config.use_pictures:
                if self.config.race_relative_embedding and not self.config.whole_races:
                    raise ModelConfigError(
                        f"{self.config.name}: race_relative_embedding with loss {self.config.loss} cuts races apart in live "
                        "batches; train from cached embeddings or use loss listwise"
                    )
                if self.model.vision is None:
                    raise ModelContractError(f"{part} set: live pictures need a model with its encoder (vision=...)")


def rank_within(strengths: NDArray[Any], race: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position 1, 2, ... of every row within its race, the strongest first; equal strengths keep the order of rows.

    Args:
        strengths: (N,) higher = ahead.
        race: (N,) race of each row.
    """
    order = np.lexsort((-strengths, race))
    sorted_race = race[order]
    start = np.flatnonzero(np.r_[True, sorted_race[1:] != sorted_race[:-1]])
    sizes = np.diff(np.r_[start, len(order)])
    positions = np.empty(len(order), dtype=np.int64)
    positions[order] = np.arange(len(order)) - np.repeat(start, sizes) + 1
    return positions


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("not enough memory" in text or "out of memory" in text)
