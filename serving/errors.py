"""What can go wrong at request time, beyond what `feature_repo.errors` names."""

from feature_repo.errors import BadUsageError, PitwallError


class NotServedOnlineError(PitwallError, LookupError):
    """A feature service holds a view that is never materialized (labels), so only a moment in the past can be asked about."""


class EntityRowError(BadUsageError, ValueError):
    """Entity rows of a request lack a key, are too many, or are none."""


class InconsistentFeaturesError(PitwallError, RuntimeError):
    """Two ways of reading the same feature at the same moment disagree."""


class NoModelError(PitwallError, LookupError):
    """The registry has neither a champion nor a baseline to answer with."""


class RaceOverError(PitwallError, ValueError):
    """A live answer was asked for a race whose result the online store already knows."""


class TokenNotConfiguredError(PitwallError, RuntimeError):
    """A change was asked for over HTTP, but the service was started without a token, so nobody may change anything."""


class WrongTokenError(PitwallError, PermissionError):
    """A change was asked for over HTTP without the service's token."""


class ReplayRunningError(PitwallError, RuntimeError):
    """A race is being replayed by another process already."""


class NoReplayError(PitwallError, LookupError):
    """Nobody has replayed a race whose replay was asked for."""


class TooManyStreamsError(PitwallError, RuntimeError):
    """A serving process has as many event streams open as it can."""
