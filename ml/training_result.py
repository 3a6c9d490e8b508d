"""How a training went: the numbers of every epoch, and which one was kept."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch.

    Attributes:
        epoch: 1, 2, ...
        train_loss: mean over the epoch's batches, dropout on.
        train_accuracy: exact places after ranking within each race, dropout on.
        validation_loss: after the epoch, dropout off.
        validation_accuracy: exact places after ranking within each race.
        validation_mae: mean distance in places, likewise.
        learning_rate: used in this epoch.
        batch: rows (or races) a step, smaller than configured after memory ran out.
        picture_share: share of training samples with a picture.
        seconds: wall time of the epoch; not compared.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    validation_mae: float
    learning_rate: float
    batch: int
    picture_share: float
    seconds: float = field(compare=False)


@dataclass(frozen=True)
class TrainingResult:
    """How a training went; the model holds the weights of the best epoch.

    Attributes:
        epochs: every epoch of the attempt that counts.
        best_epoch: with the lowest validation loss.
        best_validation_loss: that loss.
        fell: the training loss fell below that of a model that says the same about every car (or there were too few epochs to
            tell).
        retried: the first attempt's loss did not fall and this is the second.
        stopped_early: before the configured number of epochs.
    """

    epochs: tuple[EpochMetrics, ...]
    best_epoch: int
    best_validation_loss: float
    fell: bool
    retried: bool
    stopped_early: bool


@dataclass(frozen=True)
class Score:
    """Loss, exact places and mean distance in places over a set."""

    loss: float
    accuracy: float
    mae: float
