"""Writes that are whole or absent, and hashes of what was written.

Everything is written to a temporary name in the same folder, flushed to disk, then renamed over the target: a process killed at
any instant leaves either the old file or the new one. Leftover temporary files (`.tmp-*`) are never read.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from feature_repo.errors import DamagedFileError, MissingInputError

TMP_PREFIX = ".tmp-"


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path in `target`'s folder; on success it becomes `target`, on error it is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=TMP_PREFIX, suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp makes 0600; what is stored is for every reader of the home
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(target: Path, content: bytes) -> None:
    """Replace `target` with `content`, whole or not at all."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


def write_text(target: Path, text: str) -> None:
    """Replace `target` with `text` (UTF-8), whole or not at all."""
    write_bytes(target, text.encode("utf-8"))


def write_json(target: Path, value: Any) -> None:
    """Replace `target` with `value` as indented JSON with sorted keys; NaN is refused (it is not JSON)."""
    write_text(target, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(source: Path) -> Any:
    """The JSON value in `source`.

    Raises:
        MissingInputError: there is no such file.
    """
    if not source.exists():
        raise MissingInputError(f"{source}: no such file; run the step that writes it first or all of them: `pitwall run`")
    return json.loads(source.read_text(encoding="utf-8"))


def write_parquet(target: Path, frame: pd.DataFrame) -> None:
    """Replace `target` with `frame` as Parquet: timestamps as microseconds in UTC, because DuckDB 2 refuses nanoseconds."""
    with atomic_path(target) as temporary:
        frame.to_parquet(temporary, index=False, coerce_timestamps="us", allow_truncated_timestamps=True)


def read_parquet(source: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """The frame in `source`.

    Raises:
        MissingInputError: there is no such file.
        DamagedFileError: it is no Parquet file.
    """
    if not source.exists():
        raise MissingInputError(f"{source}: no such file; run the step that writes it first, or all of them: `pitwall run`")
    try:
        return pd.read_parquet(source, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedFileError(f"{source}: got no readable Parquet ({error}); delete it and run `pitwall run` again") from error


def sha256_file(source: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with source.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_bytes(content: bytes) -> str:
    """SHA-256 of `content`, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces), hexadecimal."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode())


def remove_leftovers(folder: Path, older_than_s: float = 0.0) -> int:
    """Delete temporary files and folders a killed process left below `folder`; returns how many.

    Where other processes write too, `older_than_s` (seconds since the last change) leaves them what they are writing.
    """
    leftovers = sorted(folder.rglob(f"{TMP_PREFIX}*")) if folder.exists() else []
    if older_than_s > 0:
        leftovers = [path for path in leftovers if _age_s(path) > older_than_s]
    for path in leftovers:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(leftovers)


def _age_s(path: Path) -> float:
    """Seconds since the last change; 0 where its writer has just finished with it."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
