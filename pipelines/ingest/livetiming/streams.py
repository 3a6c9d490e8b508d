"""Recorded F1 live timing: folders of streams as in F1's archive, and recordings of the live connection, as lines of topics.

    .../2018-04-29_Azerbaijan_Grand_Prix/2018-04-29_Race/TrackStatus.jsonStream[.gz]    00:08:08.035{"Status":"2"}
    recording.txt                                                 ['TrackStatus', {'Status': '2'}, '2018-04-29T12:18:08.035Z']

Topics named `*.z` are base64 of a raw-deflated text. A line that cannot be understood is kept with its number and the reason.
"""

import ast
import base64
import binascii
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.errors import SourceFormatError, SourceMissingError

MAX_BAD_SHARE = 0.2  # of a file's lines; with more of them it is not what it claims to be
_STREAMS = (".jsonStream", ".jsonStream.gz")
_IDENTITY = ("SessionInfo", "DriverList", "SessionStatus", "LapCount")
_UNREADABLE = (ValueError, SyntaxError, MemoryError, RecursionError, binascii.Error, zlib.error)
_ARCHIVE_LINE = re.compile(r"(\d\d):(\d\d):(\d\d)\.(\d{3})(.+)", re.DOTALL)


@dataclass(frozen=True)
class BadLine:
    """A line that could not be understood: 1-based number in its file, and why."""

    topic: str
    file: str
    row: int
    reason: str
    text: str


@dataclass
class Recording:
    """One session as it was recorded.

    Attributes:
        name: the folder or file, for messages.
        topics: topic without `.z` -> `[session time, content]` in the order of the file; session time counts from an arbitrary
            moment, the same for all topics.
        rows: topic -> 1-based number of the line of each entry of `topics`.
        bad: lines that could not be understood.
        files: topic -> file it came from, below the path that was given.
    """

    name: str
    topics: dict[str, list[list[Any]]] = field(default_factory=dict)
    rows: dict[str, list[int]] = field(default_factory=dict)
    bad: list[BadLine] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)

    def add(self, topic: str, file: str, row: int, at: timedelta, content: dict[str, Any]) -> None:
        """Take in a line that was understood."""
        self.topics.setdefault(topic, []).append([at, content])
        self.rows.setdefault(topic, []).append(row)
        self.files[topic] = file


def find_recordings(paths: Sequence[Path]) -> list[tuple[Path, list[Path]]]:
    """Every recorded session below `paths`: (path it is named from, its files), ordered by path and name.

    The streams of one folder are one session; every other `*.txt` file is a session of its own. A stream given by name is read
    together with what says which session it is (`SessionInfo`, `DriverList`, `SessionStatus`, `LapCount` beside it).

    Raises:
        SourceMissingError: a path does not exist, or no path holds a recording.
    """
    found: list[tuple[Path, list[Path]]] = []
    for path in map(Path, paths):
        if not path.exists():
            raise SourceMissingError(f"livetiming: {path}: got no such file or folder, expected recorded live timing")
        if path.is_file():
            beside = [path.parent / f"{topic}{end}" for topic in _IDENTITY for end in _STREAMS] if _is_stream(path) else []
            files = sorted({path, *(file for file in beside if file.is_file())})
            found.append((path.parent, files))
            continue
        streams: dict[Path, list[Path]] = {}
        for file in sorted(path.rglob("*")):
            if file.is_file() and _is_stream(file):
                streams.setdefault(file.parent, []).append(file)
            elif file.is_file() and file.suffix == ".txt":
                found.append((path, [file]))
        found += [(path, files) for _, files in sorted(streams.items())]
    if not found:
        raise SourceMissingError(
            f"livetiming: got no *.jsonStream, *.jsonStream.gz or *.txt in {', '.join(map(str, paths))}, expected recorded live "
            "timing; give the folder of a session (such as 2018-04-29_Race) or one above it"
        )
    return found


def fingerprint(recordings: Iterable[tuple[Path, Sequence[Path]]]) -> str:
    """Hash of the files' places and contents."""
    digest = hashlib.sha256()
    for root, files in recordings:
        for file in files:
            digest.update(f"{file.relative_to(root).as_posix()}\0{file.stat().st_size}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def read_recording(root: Path, files: Sequence[Path], *, max_bad_share: float = MAX_BAD_SHARE) -> Recording:
    """One session from its files.

    Raises:
        SourceFormatError: a file cannot be read, or more than one line and `max_bad_share` of all cannot be understood.
    """
    first = files[0]
    recording = Recording(str(first.parent if _is_stream(first) else first))
    for file in files:
        if _is_stream(file) and _topic(file).removesuffix(".z") in recording.topics:
            continue  # the same stream, packed
        name = (Path(root.name) / file.relative_to(root)).as_posix()
        before = len(recording.bad)
        read = _read_stream if _is_stream(file) else _read_live
        lines = read(recording, file, name)
        bad = recording.bad[before:]
        if len(bad) > max(1, max_bad_share * lines):  # one line may always be cut off
            raise SourceFormatError(
                file,
                row=bad[0].row,
                got=f"{len(bad)} of {lines} lines that cannot be understood, first {bad[0].text[:80]!r} ({bad[0].reason})",
                expected=f"at most {max_bad_share:.0%} of them",
            )
    return recording


def _is_stream(file: Path) -> bool:
    return file.name.endswith(_STREAMS)


def _topic(file: Path) -> str:
    return file.name.split(".jsonStream")[0]


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """(number, text) of every line with text; a byte-order mark is no part of the first one."""
    try:
        raw = file.read_bytes()
        body = gzip.decompress(raw) if file.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise SourceFormatError(file, got=f"{type(error).__name__}: {error}", expected="a readable recording") from error
    text = body.decode("utf-8-sig", errors="replace")
    # not splitlines(): messages may hold characters that it takes for line ends
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if line.strip():
            yield number, line


def _read_stream(recording: Recording, file: Path, name: str) -> int:
    """Take one archived topic in; returns the number of its lines."""
    whole_topic = _topic(file)
    topic = whole_topic.removesuffix(".z")
    count = 0
    for number, line in _lines(file):
        count += 1
        try:
            at, payload = _stamped(line)
            content = _content(json.loads(payload), is_compressed=whole_topic.endswith(".z"))
        except _UNREADABLE as error:
            recording.bad.append(BadLine(topic, name, number, _why(error), line))
            continue
        recording.add(topic, name, number, at, content)
    return count


def _read_live(recording: Recording, file: Path, name: str) -> int:
    """Take a recording of the live connection in; returns the number of its lines.

    The recorder writes Python lists. Its first lines, the state on connecting, have their content as JSON text and no instant:
    they get that of the first line that has one.
    """
    read: list[tuple[str, int, dict[str, Any], pd.Timestamp | None]] = []
    count = 0
    for number, line in _lines(file):
        count += 1
        topic = "?"
        try:
            whole_topic, raw, stamp = _literal(line)
            topic = whole_topic.removesuffix(".z")
            raw = json.loads(raw) if stamp == "" and isinstance(raw, str) else raw
            content = _content(raw, is_compressed=whole_topic.endswith(".z"))
            instant = _instant(stamp)
        except _UNREADABLE as error:
            recording.bad.append(BadLine(topic, name, number, _why(error), line))
            continue
        read.append((topic, number, content, instant))
    known = [instant for *_, instant in read if instant is not None]
    if known:
        begin = min(known)
        for topic, number, content, instant in read:
            at = (instant if instant is not None else known[0]) - begin
            recording.add(topic, name, number, at.to_pytimedelta(), content)
    return count


def _stamped(line: str) -> tuple[timedelta, str]:
    match = _ARCHIVE_LINE.fullmatch(line)
    if match is None:
        raise ValueError("no HH:MM:SS.mmm before the content")
    hours, minutes, seconds, millis, payload = match.groups()
    return timedelta(hours=int(hours), minutes=int(minutes), seconds=int(seconds), milliseconds=int(millis)), payload


def _literal(line: str) -> tuple[str, Any, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = ast.literal_eval(line.strip())
    if not (isinstance(value, list) and len(value) == 3 and isinstance(value[0], str)):
        raise ValueError("not a list of topic, content and instant")
    return value[0], value[1], value[2]


def _instant(text: Any) -> pd.Timestamp | None:
    if text == "":
        return None
    at = pd.Timestamp(str(text))
    return at.tz_localize("UTC") if at.tzinfo is None else at.tz_convert("UTC")


def _content(value: Any, *, is_compressed: bool) -> dict[str, Any]:
    if is_compressed and isinstance(value, str):
        value = json.loads(zlib.decompress(base64.b64decode(value, validate=True), -zlib.MAX_WBITS).decode("utf-8-sig"))
    if not isinstance(value, dict):
        raise ValueError("the content is no object")  # noqa: TRY004 - as above
    return value


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
