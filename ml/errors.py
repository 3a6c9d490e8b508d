"""What can be wrong with models, their inputs and their evaluation."""

from feature_repo.errors import DamagedFileError, PitwallError


class ProbabilityError(PitwallError, ValueError):
    """What should be (N, 20) finite probabilities whose rows sum to 1 is something else."""


class FoldError(PitwallError, ValueError):
    """Training, validation and test rows cannot be separated in time as asked."""


class EvidenceError(PitwallError, ValueError):
    """What the gate was given to decide on cannot be read or contradicts itself."""


class NotFittedError(PitwallError, RuntimeError):
    """A model was asked for predictions or to be saved before it was fitted or loaded."""


class InvalidLapDataError(PitwallError, ValueError):
    """Lap data cannot be drawn: empty, not numbers, NaN, negative, or not laps at all."""


class PictureNotFoundError(PitwallError, LookupError):
    """The image-artifact store has no picture for this race, driver and lap."""


class DamagedPictureError(DamagedFileError):
    """A stored picture is not the one that was recorded: cut short, altered, swapped or gone."""


class PictureConflictError(PitwallError, ValueError):
    """A different picture was offered under the key, renderer version and source hash of a stored one."""


class StoreBusyError(PitwallError, RuntimeError):
    """Another process is writing to this image-artifact store."""


class ModelConfigError(PitwallError, ValueError):
    """An experiment's configuration has an unknown key, a wrong value, or two values that exclude each other."""


class ModelContractError(PitwallError, ValueError):
    """A model was given inputs of another shape, order or kind than it was made for."""


class NonFiniteLossError(PitwallError, ArithmeticError):
    """Training met a NaN or infinite loss; the message names the batch."""


class CheckpointError(PitwallError, ValueError):
    """A checkpoint cannot be read, or belongs to another model, configuration or data."""


class TrainingMemoryError(PitwallError, MemoryError):
    """Not even a batch of one fits into memory."""


class DatasetCacheError(PitwallError, ValueError):
    """A dataset cache, or what is to be put into one, is not of the agreed form."""


class EncoderWeightsError(PitwallError, RuntimeError):
    """The encoder weights asked for cannot be had: not reachable, not readable, or not those of a ResNet-18."""


class RegistryBusyError(PitwallError, TimeoutError):
    """Another process held the registry lock for too long."""


class RegistryUnavailableError(PitwallError, ConnectionError):
    """The MLflow registry does not answer, or answers with an error of its own: what it holds is not known."""


class StaleChampionError(PitwallError, RuntimeError):
    """The champion is another than the one that was decided on or expected; nothing was moved."""


class NothingToRollBackError(PitwallError, RuntimeError):
    """There is no promotion left to undo."""


class UnknownModelVersionError(PitwallError, LookupError):
    """The registry has no such model version, or it carries no gate record."""


class NotPromotableError(PitwallError, RuntimeError):
    """A version was asked to become champion that the gate's stored verdict does not allow to."""
