"""What a batch could not draw: a log of every failure and the list of races left out, while the batch goes on."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

from feature_repo.files import read_json, write_json

ERROR_LOG = "generation_errors.log"
SKIPPED = "skipped_races.json"

logger = logging.getLogger(__name__)


class FailureLog:
    """Failures of one batch, written to `generation_errors.log` (appended) and `skipped_races.json` in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.failed: list[str] = []
        self.skipped: dict[str, str] = {}

    def fail(self, race_id: str, driver_id: str, error: Exception) -> None:
        """One picture could not be made."""
        self.failed.append(f"{race_id}/{driver_id}")
        self._log(race_id, driver_id, error)

    def skip(self, race_id: str, error: Exception) -> None:
        """No picture of a race could be made."""
        self.skipped[race_id] = str(error)
        self._log(race_id, None, error)

    def finish(self, attempted: set[str]) -> None:
        """Bring `skipped_races.json` up to date for the races this batch attempted; other races keep their entry."""
        path = self._folder / SKIPPED
        before = dict(read_json(path)) if path.exists() else {}
        after = {race_id: reason for race_id, reason in before.items() if race_id not in attempted} | self.skipped
        if after != before or not path.exists():
            write_json(path, after)

    def _log(self, race_id: str, driver_id: str | None, error: Exception) -> None:
        logger.warning("trace_not_generated race_id=%s driver_id=%s error=%s", race_id, driver_id, error)
        line = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "race_id": race_id,
            "driver_id": driver_id,
            "error": type(error).__name__,
            "message": str(error),
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ERROR_LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
