"""What can be wrong with sources and with the lake; messages say what, where, got, expected and what to do next."""

from pathlib import Path

import pandas as pd

from feature_repo.errors import BadUsageError, PitwallError


class SourceFormatError(PitwallError, ValueError):
    """A source file cannot be understood: unreadable, a column is missing, or a value has the wrong type.

    Attributes:
        file: the file.
        row: 1-based data row (the header is not counted), or None when the whole file or column is meant.
        column: the column, or None when the whole file is meant.
        got: what was found.
        expected: what should have been there.
    """

    def __init__(
        self, file: Path | str, *, got: str, expected: str, column: str | None = None, row: int | None = None, next_step: str = ""
    ) -> None:
        self.file, self.row, self.column, self.got, self.expected = str(file), row, column, got, expected
        where = "".join(
            [str(file), f", row {row}" if row is not None else "", f", column {column!r}" if column is not None else ""]
        )
        advice = next_step or "repair or replace the file and ingest again; nothing was written to the lake"
        super().__init__(f"{where}: got {got}, expected {expected}; {advice}")


class SourceMissingError(PitwallError, FileNotFoundError):
    """A path holds none of the files that a season needs, or no rows of that season."""


class SourcePausedError(PitwallError, RuntimeError):
    """A service cannot be asked now: its rate limit is used up, or it does not answer. What was fetched is kept.

    Attributes:
        retry_at: UTC instant from which to ask again; what asks services says one always: an hour on, where nobody else does.
    """

    def __init__(self, message: str, retry_at: pd.Timestamp | None = None) -> None:
        super().__init__(message)
        self.retry_at = retry_at


class DifferentRacesError(PitwallError, ValueError):
    """Two sources have different races under one `race_id`: their rounds are not counted alike, so nothing is merged."""


class SourceUnfinishedError(PitwallError, RuntimeError):
    """An ingest was killed while it replaced what a source had said of a season: half of that is new, so nothing is merged."""


class TooManyQuarantinedError(PitwallError, ValueError):
    """More than the allowed share of a table's rows of one season would have to be left out."""


class LakeSchemaError(PitwallError, ValueError):
    """Rows offered to the lake do not have the table's columns, types, ranges or key."""


class MixedLakeError(PitwallError, ValueError):
    """Simulated and real rows were about to share one lake."""


class UnknownTableError(PitwallError, LookupError):
    """The lake has no table of that name."""


class SeasonsError(BadUsageError, ValueError):
    """A text that should name seasons, such as `2018-2024` or `2018,2020-2022`, does not."""


class SimulationRequestError(BadUsageError, ValueError):
    """A simulation was asked for that the simulator cannot make: too many seasons or races, or a negative seed."""


class ConflictingRowsError(PitwallError, ValueError):
    """Two different rows of one natural key became known at the same instant, so neither corrects the other."""


class LeakError(PitwallError, RuntimeError):
    """Something later than the moment asked about was about to be used."""


class NothingToLearnError(PitwallError, ValueError):
    """There are no examples, or too few seasons, to train or to evaluate on."""


class NotTrainedError(PitwallError, RuntimeError):
    """There is no trained and evaluated candidate to promote, or the two do not belong together."""


class GateRecordError(PitwallError, RuntimeError):
    """A model version has no gate record, or the record is not the one that was stored."""


class ModelNotAskedError(PitwallError, RuntimeError):
    """The load test of a model could not be made, so nothing was decided."""


class UnknownStoreError(BadUsageError, ValueError):
    """A store to test is asked for that is neither one of the known names nor the class path of a Feast store."""


class ServerNotAvailableError(PitwallError, RuntimeError):
    """A database server that a store needs is not installed here, or does not start."""


class NothingServedError(PitwallError, LookupError):
    """The feature log holds no vector of the window asked about, so nothing was compared."""


class SkewAboveLimitError(PitwallError, RuntimeError):
    """What was served differs from what training would have seen by more than is allowed."""
