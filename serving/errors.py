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
