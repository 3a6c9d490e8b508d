"""The record of a replay: `<home>/replay/<race_id>.jsonl`, one JSON event a line, written once and read while it grows.

A replay begins with a new file, put in the place of the old one by a rename, and appends whole lines to it. Whoever reads it sees
whole events only, and notices by the file itself that another replay has begun.
"""

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import orjson

from feature_repo.files import write_bytes
from feature_repo.ids import validate_race_id
from feature_repo.settings import Settings

State = Literal["none", "running", "interrupted", "ended"]
SILENCE_S = 60.0
"""A replay that is this much later with its next event than it said has been interrupted."""


def replay_path(settings: Settings, race_id: str) -> Path:
    """The record of the newest replay of a race.

    Raises:
        InvalidIdError: not the form of a race id.
    """
    return settings.home / "replay" / f"{validate_race_id(race_id)}.jsonl"


class ReplayWriter:
    """Writes the events of one replay, numbered from 0; as a context, says `interrupted` when it is left by an error.

    Args:
        path: of the record; the one before is replaced.
        run: names this replay.
        first: the first event.
    """

    def __init__(self, path: Path, run: str, first: dict[str, Any]) -> None:
        self.run = run
        self._next = 0
        write_bytes(path, self._line(first))
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)

    def append(self, event: dict[str, Any]) -> None:
        """Add one event; readers see it when this returns.

        Raises:
            OSError: the disk did not take it.
        """
        line = memoryview(self._line(event))
        while line:
            line = line[os.write(self._file, line) :]

    def __enter__(self) -> "ReplayWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        try:
            if error is not None:
                with suppress(OSError):  # a full disk is what interrupted it, perhaps
                    self.append({"event": "interrupted"})
        finally:
            os.close(self._file)

    def _line(self, event: dict[str, Any]) -> bytes:
        numbered = {"id": self._next, "run": self.run, **event, "written_at": time.time()}
        self._next += 1
        return orjson.dumps(numbered, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


@dataclass(frozen=True)
class ReplayEvent:
    """One event.

    Attributes:
        run: of which replay.
        number: 0 = its first.
        kind: `start`, `lap`, `end` or `interrupted`.
        line: the event as JSON.
        due: UNIX time by which the next one is to come.
    """

    run: str
    number: int
    kind: str
    line: bytes
    due: float

    @property
    def id(self) -> str:
        """Names the event among those of all replays: `<run>-<number>`."""
        return f"{self.run}-{self.number}"


@dataclass
class ReplayReader:
    """Reads a record as it grows.

    Attributes:
        path: of the record; there may be none yet.
        last: the newest event read; None before the first.
    """

    path: Path
    last: ReplayEvent | None = None
    _file: tuple[int, int] | None = field(default=None, repr=False)
    _offset: int = field(default=0, repr=False)

    @property
    def state(self) -> State:
        """Of the replay as far as it was read."""
        if self.last is None:
            return "none"
        if self.last.kind == "end":
            return "ended"
        silent = time.time() > self.last.due + SILENCE_S  # a process that was killed says nothing
        return "interrupted" if silent or self.last.kind == "interrupted" else "running"

    def news(self) -> list[ReplayEvent]:
        """The events written since the last call, oldest first; after a new replay has begun, its events."""
        try:
            with self.path.open("rb") as record:
                status = os.fstat(record.fileno())
                if (status.st_dev, status.st_ino) != self._file:
                    self._file, self._offset, self.last = (status.st_dev, status.st_ino), 0, None
                if status.st_size == self._offset:
                    return []
                record.seek(self._offset)
                written = record.read()
        except FileNotFoundError:
            return []
        whole = written[: written.rfind(b"\n") + 1]  # a line may be half written
        self._offset += len(whole)
        events = [_event(line) for line in whole.splitlines()]
        if events:
            self.last = events[-1]
        return events


def _event(line: bytes) -> ReplayEvent:
    read = orjson.loads(line)
    due = read["written_at"] + (read.get("next_in_s") or 0.0)
    return ReplayEvent(str(read["run"]), int(read["id"]), str(read["event"]), line, float(due))
