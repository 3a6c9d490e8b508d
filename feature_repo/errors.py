"""What can be wrong with what was asked: ids, moments and settings.

Messages say what, where, got, expected and what to do next. Each class subclasses the built-in that callers of an ordinary
Python function would expect, so `except ValueError` keeps working.
"""


class PitwallError(Exception):
    """Base of every error Pitwall raises on purpose; the CLI prints these without a traceback."""


class BadUsageError(PitwallError):
    """What was asked is malformed, whatever a home holds; the CLI ends with 2."""


class InvalidIdError(BadUsageError, ValueError):
    """An id does not have the form of ids, so it may not become part of a path or a query."""


class UnknownEntityError(PitwallError, LookupError):
    """A well-formed id names a race or driver that the lake has never seen."""


class MissingInputError(PitwallError, FileNotFoundError):
    """A step was asked to run before the step that writes its input."""


class DamagedFileError(PitwallError, ValueError):
    """A file Pitwall wrote no longer matches what was recorded about it."""


class InvalidMomentError(BadUsageError, ValueError):
    """A moment of prediction is not of a known form, or names a lap that its race was never scheduled to have."""


class FutureMomentError(InvalidMomentError):
    """An instant lies in the future, or so long after the newest data that what was known then cannot be told."""


class NotKnownYetError(PitwallError, LookupError):
    """At the instant asked about nothing was known yet about the race or driver asked about."""


class UnknownServiceError(PitwallError, LookupError):
    """A feature service is asked for that is not in the registry."""


class NotAppliedError(PitwallError, RuntimeError):
    """The registry of a home is absent, or was written for another home: `pitwall apply` has to run first."""


class PointInTimeError(PitwallError, RuntimeError):
    """A point-in-time retrieval did not answer exactly the rows it was asked for, or its input cannot be answered."""


class DuplicateRowsError(PitwallError, ValueError):
    """A feature table holds two rows with the same key, event time and created time, so no newest row exists."""


class SparkSettingError(BadUsageError, ValueError):
    """`spark_conf` changes a Spark setting that results depend on."""


class SparkJobError(PitwallError, RuntimeError):
    """A worker of Spark failed; the message ends with what it said."""


class SparkNotAvailableError(PitwallError, RuntimeError):
    """Engine spark is asked for, but PySpark or Java is missing or too old, or no session could be started."""


class PackingError(PitwallError, ValueError):
    """A table, value or key does not fit the view whose packed online rows it is to become."""
