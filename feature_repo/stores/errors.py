"""What can be wrong with what a store was asked to read or to answer."""

from feature_repo.errors import BadUsageError, PitwallError


class KeyTypeError(PitwallError, TypeError):
    """A join key or a time has a type that cannot be one, or that cannot be compared with the other side's."""


class EntityRowsError(PitwallError, ValueError):
    """Entity rows lack a column, or are of a kind that the store cannot answer."""


class SourceError(PitwallError, ValueError):
    """A source of features is of a kind that the store cannot read, lacks a column, or is not there."""


class SourceChangedError(PitwallError, RuntimeError):
    """The files of a source kept changing while they were read."""


class OnlineStoreUnavailableError(PitwallError, ConnectionError):
    """The server of the online store does not answer, or refuses what it is asked; it may answer again later."""


class FeatureRegistryUnavailableError(PitwallError, ConnectionError):
    """The database of Feast's registry does not answer, or refuses what it is asked; it may answer again later."""


class OnlineUrlError(BadUsageError, ValueError):
    """The URL of the online store names no store, or holds what may not be in it."""


class UnsupportedStoreError(PitwallError, TypeError):
    """A step needs one of Pitwall's own stores, and the configuration names another."""
