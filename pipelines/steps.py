"""What makes a step skippable: a record of what it last read and wrote.

A step is up to date when the hash of everything it depends on (its inputs' fingerprints, its options and the code that computes
it) equals the recorded one. The record is written last, atomically, so that a step killed half-way simply runs again.
"""

import functools
from pathlib import Path
from typing import Any

from feature_repo.files import read_json, sha256_bytes, sha256_json, write_json
from feature_repo.settings import Settings

_REPOSITORY = Path(__file__).resolve().parent.parent


@functools.cache
def code_hash(*places: str) -> str:
    """Hash of the source text of modules or packages, given as paths from the repository root (`pipelines/features`).

    Raises:
        FileNotFoundError: a place does not exist, so nothing would guard the step against changed code.
    """
    parts: dict[str, str] = {}
    for place in places:
        path = _REPOSITORY / place
        kinds = ("*.py", "*.yaml", "*.toml")
        files = [file for kind in kinds for file in sorted(path.rglob(kind))] if path.is_dir() else [path]
        if not files:
            raise FileNotFoundError(f"code_hash: nothing to hash at {place}")
        parts.update({str(file.relative_to(_REPOSITORY)): sha256_bytes(file.read_bytes()) for file in files})
    return sha256_json(parts)


def recorded(settings: Settings, step: str, depends_on: dict[str, Any]) -> dict[str, Any] | None:
    """The result recorded for `step` if it was computed from exactly `depends_on`, else None."""
    path = settings.state_dir / f"{step}.json"
    if not path.exists():
        return None
    record = read_json(path)
    return dict(record["result"]) if record["depends_on"] == sha256_json(depends_on) else None


def record(settings: Settings, step: str, depends_on: dict[str, Any], result: dict[str, Any]) -> None:
    """Remember that `step` finished with `result` computed from `depends_on`. Call it after everything is written."""
    write_json(settings.state_dir / f"{step}.json", {"depends_on": sha256_json(depends_on), "result": result})
