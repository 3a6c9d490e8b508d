"""The image-artifact store: pictures by race, driver and moment, with the times they became known and hashes that are checked.

`speed_traces/<race_id>/<driver_id>.png` is the default moment, `speed_traces/<race_id>/lap_<LLL>/<driver_id>.png` any other lap
of the leader. `speed_traces/manifest.parquet` says of each what it shows and when that was known. A picture is written first,
then a line in the journal; the journal is folded into the manifest at the end of a batch. A process killed at any instant
therefore loses at most the picture in flight, and writing that one again is no conflict.
"""

import json
import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import filelock
import fsspec
import pandas as pd
from fsspec.implementations.local import LocalFileSystem

from feature_repo.files import remove_leftovers, sha256_bytes, write_bytes
from feature_repo.visibility import as_utc, visible
from ml.errors import DamagedPictureError, PictureConflictError, PictureNotFoundError, StoreBusyError
from ml.traces.manifest import (
    FOLDER,
    PictureRecord,
    checked_lap,
    from_frame,
    picture_uri,
    to_frame,
    to_line,
    to_record,
    whole_lines,
)

MANIFEST = f"{FOLDER}/manifest.parquet"
JOURNAL = f"{FOLDER}/manifest.journal"
_LOCK = f"{FOLDER}/.lock"
# A bucket cannot append to an object: there the journal is rewritten after this many pictures, and a kill loses as many.
_REMOTE_FLUSH = 50

logger = logging.getLogger(__name__)


class ImageArtifactStore:
    """Pictures below one root, a folder or a bucket (any fsspec URL). One process writes at a time; any number read."""

    def __init__(self, root: Path | str) -> None:
        self._fs, self._root = fsspec.core.url_to_fs(str(root))
        # Local files get atomic renames and a lock; an object store's puts are whole or absent by themselves.
        self._local = Path(self._root) if isinstance(self._fs, LocalFileSystem) else None
        self._records: dict[str, PictureRecord] = {}
        self._seen: Any = None
        self._depth = 0
        self._unflushed: list[str] = []

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store for a batch of `put` and `discard`; the manifest is folded together at the end.

        Raises:
            StoreBusyError: another process is writing.
        """
        if self._depth:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
            return
        with self._lock():
            if self._local is not None:
                remove_leftovers(self._local / FOLDER)
            self.refresh()
            self._fold()  # what a killed writer left in the journal
            self._depth = 1
            try:
                yield
            finally:
                self._depth = 0
                self._fold()

    def put(
        self,
        race_id: str,
        driver_id: str,
        lap: int,
        png: bytes,
        *,
        last_lap: int,
        event_timestamp: Any,
        created_timestamp: Any,
        source_hash: str,
        renderer_version: str,
        is_default: bool,
    ) -> PictureRecord:
        """Store a picture whole or not at all, and record it; the same picture again changes nothing.

        Args:
            race_id: the race.
            driver_id: the driver.
            lap: the leader's lap of the moment, 1..999.
            png: the picture.
            last_lap: this car's last lap drawn.
            event_timestamp: end of the last lap drawn.
            created_timestamp: when that was known.
            source_hash: hash of everything drawn.
            renderer_version: what drew it.
            is_default: it belongs to the default moment. The default picture of a race and driver is one, whatever its lap.
        Raises:
            PictureConflictError: the same source and renderer gave other bytes before, so one of the two pictures is wrong.
            DamagedPictureError: `png` is no PNG.
            InvalidIdError: an id is not of the form of ids.
            InvalidLapDataError: a lap outside 1..999.
        """
        lap = checked_lap(lap)
        uri = picture_uri(race_id, driver_id, None if is_default else lap)
        width, height = _png_size(png, uri)
        with self.writing():
            old = self._records.get(uri)
            sha = sha256_bytes(png)
            same_source = old is not None and (old.source_hash, old.renderer_version) == (source_hash, renderer_version)
            if old is not None and same_source and old.sha256 != sha:
                raise PictureConflictError(
                    f"{uri}: got sha256 {sha[:12]}, expected {old.sha256[:12]} for source {source_hash[:12]} and renderer "
                    f"{renderer_version}; rendering must repeat, so raise LAYOUT_VERSION if drawing has changed"
                )
            new = PictureRecord(
                race_id=race_id,
                driver_id=driver_id,
                lap=lap,
                last_lap=checked_lap(last_lap),
                is_default=bool(is_default),
                event_timestamp=as_utc(event_timestamp),
                created_timestamp=as_utc(created_timestamp),
                uri=uri,
                sha256=sha,
                bytes=len(png),
                width=width,
                height=height,
                renderer_version=renderer_version,
                source_hash=source_hash,
                revision=1 if old is None else old.revision if same_source else old.revision + 1,
                previous_sha256="" if old is None else old.previous_sha256 if same_source else old.sha256,
            )
            if old is None or not self._intact(new):
                self._write(uri, png)
            if new != old:
                if old is not None and not same_source:
                    logger.info("picture_replaced uri=%s revision=%d previous=%s", uri, new.revision, old.sha256)
                self._records[uri] = new
                self._append(to_line(new))
        return new

    def discard(self, uri: str) -> None:
        """Remove a picture whose race, driver or moment is no longer asked for; unknown ones are ignored."""
        with self.writing():
            if uri in self._records:
                # The file first: killed in between, the record without a picture is found and discarded by the next run.
                with suppress(FileNotFoundError):
                    self._fs.rm_file(self._path(uri))
                del self._records[uri]
                self._append(json.dumps({"discarded": uri}))

    def find(self, race_id: str, driver_id: str, lap: int | None = None) -> PictureRecord:
        """The record of a picture; `lap` None is the default moment, a lap finds the default picture too if it is of that lap.

        Raises:
            PictureNotFoundError: there is none.
            InvalidIdError: an id is not of the form of ids.
        """
        self._reload_if_changed()
        default = self._records.get(picture_uri(race_id, driver_id))
        record = default if lap is None else self._records.get(picture_uri(race_id, driver_id, lap))
        if record is None and default is not None and default.lap == lap:
            record = default
        if record is None:
            moment = "the default moment" if lap is None else f"lap {lap}"
            raise PictureNotFoundError(
                f"{race_id} {driver_id}: no picture for {moment} among {len(self._records)} in {self._root}; run `pitwall traces`"
            )
        return record

    def get(self, race_id: str, driver_id: str, lap: int | None = None, *, as_of: Any = None) -> bytes:
        """The PNG, checked against the manifest.

        Args:
            race_id: the race.
            driver_id: the driver.
            lap: the leader's lap; None is the default moment.
            as_of: refuse a picture that was not knowable then.
        Raises:
            PictureNotFoundError: there is none, or it was not knowable at `as_of`.
            DamagedPictureError: the file is gone, cut short, altered or another picture.
        """
        record = self.find(race_id, driver_id, lap)
        if as_of is not None and not max(record.event_timestamp, record.created_timestamp) <= as_utc(as_of):
            raise PictureNotFoundError(
                f"{record.uri}: known from {max(record.event_timestamp, record.created_timestamp)}, asked at {as_utc(as_of)}; "
                "ask for an earlier lap"
            )
        return self.load(record)

    def load(self, record: PictureRecord) -> bytes:
        """The PNG of a record, checked (see `get`)."""
        try:
            png = bytes(self._fs.cat_file(self._path(record.uri)))
        except FileNotFoundError as error:
            raise DamagedPictureError(
                f"{record.uri}: got no file, expected {record.bytes} bytes; run `pitwall traces`"
            ) from error
        if sha256_bytes(png) != record.sha256:
            raise DamagedPictureError(
                f"{record.uri}: got {len(png)} bytes with sha256 {sha256_bytes(png)[:12]}, expected {record.bytes} bytes with "
                f"{record.sha256[:12]}; run `pitwall traces` to render it again"
            )
        return png

    def manifest(self) -> pd.DataFrame:
        """Every picture: the fields of `PictureRecord`, sorted by race, lap, driver; times are UTC microseconds."""
        self._reload_if_changed()
        return to_frame(self._records)

    def visible(self, as_of: Any) -> pd.DataFrame:
        """The pictures that were knowable at `as_of`, as `manifest`."""
        frame = self.manifest()
        return frame[visible(frame, as_of)].reset_index(drop=True)

    def records(self) -> dict[str, PictureRecord]:
        """Every record by uri."""
        self._reload_if_changed()
        return dict(self._records)

    def damaged(self, uris: list[str] | None = None) -> list[str]:
        """Those of `uris` (default all) whose file is not the recorded one; reads and hashes every picture."""
        records = self.records()
        return [uri for uri in (uris if uris is not None else sorted(records)) if not self._intact(records[uri])]

    def refresh(self) -> None:
        """Read the manifest and the journal again."""
        while True:
            seen = self._signature()
            manifest, journal = self._read(MANIFEST), self._read(JOURNAL)
            # A writer folds the journal into a new manifest and then drops it: between the two reads both could be missed.
            if self._local is None or self._signature()[0] == seen[0]:
                break
        records = from_frame(pd.read_parquet(BytesIO(manifest))) if manifest is not None else {}
        for line in whole_lines(journal or b""):
            entry = json.loads(line)
            if "discarded" in entry:
                records.pop(entry["discarded"], None)
            else:
                record = to_record(entry)
                records[record.uri] = record
        self._records, self._seen = records, seen

    def _reload_if_changed(self) -> None:
        if not self._depth and (self._seen is None or self._seen != self._signature()):
            self.refresh()

    def _signature(self) -> Any:
        """Changes when another process has written; a bucket is read once, until `refresh`."""
        if self._local is None:
            return "read"
        return tuple(
            (stat.st_ino, stat.st_size, stat.st_mtime_ns) if (stat := _stat(self._local / name)) is not None else None
            for name in (MANIFEST, JOURNAL)
        )

    def _fold(self) -> None:
        """Write manifest, then drop the journal: killed in between, folding the same lines again changes nothing."""
        journal = self._path(JOURNAL)
        if self._unflushed or self._fs.exists(journal):
            buffer = BytesIO()
            to_frame(self._records).to_parquet(buffer, index=False, coerce_timestamps="us", allow_truncated_timestamps=True)
            self._write(MANIFEST, buffer.getvalue())
            self._unflushed = []
            if self._fs.exists(journal):
                self._fs.rm_file(journal)
        self._seen = self._signature()

    def _append(self, line: str) -> None:
        if self._local is not None:
            with (self._local / JOURNAL).open("a", encoding="utf-8") as journal:
                journal.write(line + "\n")
            return
        self._unflushed.append(line)
        if len(self._unflushed) % _REMOTE_FLUSH == 0:
            self._fs.pipe_file(self._path(JOURNAL), ("\n".join(self._unflushed) + "\n").encode())

    def _intact(self, record: PictureRecord) -> bool:
        content = self._read(record.uri)
        return content is not None and sha256_bytes(content) == record.sha256

    def _read(self, name: str) -> bytes | None:
        try:
            return bytes(self._fs.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def _write(self, name: str, content: bytes) -> None:
        if self._local is not None:
            write_bytes(self._local / name, content)
        else:
            self._fs.pipe_file(self._path(name), content)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextmanager
    def _lock(self) -> Iterator[None]:
        if self._local is None:
            yield
            return
        path = self._local / _LOCK
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(path, timeout=0):
                yield
        except filelock.Timeout as error:
            raise StoreBusyError(
                f"{self._root}: another process is writing pictures; wait for it to end, or use another PITWALL_HOME"
            ) from error


def _png_size(png: bytes, uri: str) -> tuple[int, int]:
    if len(png) < 33 or png[:8] != b"\x89PNG\r\n\x1a\n" or png[12:16] != b"IHDR":
        raise DamagedPictureError(
            f"{uri}: got {png[:8]!r}... ({len(png)} bytes), expected a PNG; pass what the renderer returned"
        )
    width, height = struct.unpack(">II", png[16:24])
    return int(width), int(height)


def _stat(path: Path) -> Any:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
