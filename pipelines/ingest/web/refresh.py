"""A refresh that goes on: what it has asked for again is not asked for once more when a limit or a kill ended it half way."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

from feature_repo.files import write_text

logger = logging.getLogger(__name__)

FORGOTTEN_AFTER_S = 2 * 86_400.0  # who comes back later than that wants to know what is new by then


class Refresh:
    """The start of a source's unfinished refresh, kept in `refresh.json` of the folder of its answers.

    Attributes:
        since_s: epoch seconds; an answer from then on is fresh, an older one is to be asked for again.
    """

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        """Begin a refresh, or go on with the one that did not finish, if somebody worked on it in the last two days."""
        self._file = folder / "refresh.json"
        now = clock()
        started, continued = self._read()
        is_unfinished = started <= continued <= now <= continued + FORGOTTEN_AFTER_S
        self.since_s = started if is_unfinished else now
        if is_unfinished:
            logger.info("refresh_goes_on file=%s seconds_since_start=%.0f", self._file, now - started)
        write_text(self._file, json.dumps({"started_at_s": self.since_s, "continued_at_s": now}) + "\n")

    def finish(self) -> None:
        """Everything was asked for again: the next refresh begins anew."""
        self._file.unlink(missing_ok=True)

    def _read(self) -> tuple[float, float]:
        """When the unfinished refresh was begun and last worked on, epoch seconds; of none, a time that never was."""
        try:
            kept = json.loads(self._file.read_bytes())
            return float(kept["started_at_s"]), float(kept["continued_at_s"])
        except FileNotFoundError:
            return 0.0, -1.0
        except (ValueError, TypeError, KeyError) as error:
            logger.warning("refresh_record_lost file=%s reason=%s next=begin_anew", self._file, error)
            return 0.0, -1.0
