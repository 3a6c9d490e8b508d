"""The cache of embeddings: one row for each picture hash, in one file for each encoder identity."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from feature_repo.errors import DamagedFileError
from feature_repo.files import atomic_path, sha256_json
from ml.encoders.vision import EMBEDDING_DIM, EncoderIdentity


class EmbeddingCache:
    """Embeddings of one encoder identity by picture hash: `<key>.safetensors`, and parts that a run adds to it as it goes."""

    def __init__(self, directory: Path, identity: EncoderIdentity) -> None:
        self.identity = identity
        self._file = directory / f"{identity.key}.safetensors"
        self._parts = directory / f"{identity.key}.parts"

    def get(self, shas: Sequence[str | None]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Embeddings of pictures.

        Args:
            shas: (N,) SHA-256 of each picture; "" or None where there is none.
        Returns:
            (N, 512) float32, zero where nothing is known, and (N,) which are known.
        Raises:
            DamagedFileError: a cache file is not what was written.
        """
        known = self._read()
        embeddings = np.zeros((len(shas), EMBEDDING_DIM), dtype=np.float32)
        found = np.zeros(len(shas), dtype=bool)
        for row, sha in enumerate(shas):
            if sha and sha in known:
                embeddings[row], found[row] = known[sha], True
        return embeddings, found

    def add(self, shas: Sequence[str], embeddings: NDArray[np.float32]) -> None:
        """Remember embeddings, whole or not at all. What is known already keeps its first value.

        Raises:
            ValueError: not one finite row of 512 for each hash.
        """
        if embeddings.shape != (len(shas), EMBEDDING_DIM) or not np.isfinite(embeddings).all():
            raise ValueError(f"embeddings: got {embeddings.shape}, expected finite ({len(shas)}, {EMBEDDING_DIM})")
        if len(shas):
            # Named by content, so that two processes adding different pictures cannot replace each other's part.
            self._write(self._parts / f"{sha256_json(list(shas))[:16]}.safetensors", list(shas), embeddings)

    def fold(self) -> None:
        """Merge the parts into the one file."""
        parts = sorted(self._parts.glob("[!.]*.safetensors"))
        if not parts:
            return
        known = self._read()
        self._write(self._file, list(known), np.stack(list(known.values())))
        for part in parts:
            part.unlink(missing_ok=True)

    def count(self) -> int:
        """How many pictures have an embedding."""
        return len(self._read())

    def _read(self) -> dict[str, NDArray[np.float32]]:
        # Parts before the file: a part that another process folds away in between is in the file by then.
        known: dict[str, NDArray[np.float32]] = {}
        for path in [*sorted(self._parts.glob("[!.]*.safetensors")), self._file]:
            known |= self._read_file(path)
        return dict(sorted(known.items()))

    def _read_file(self, path: Path) -> dict[str, NDArray[np.float32]]:
        try:
            with safe_open(path, framework="numpy") as opened:
                described = opened.metadata()
                embeddings = opened.get_tensor("embeddings")
        except FileNotFoundError:
            return {}
        except (SafetensorError, OSError) as error:
            raise DamagedFileError(f"{path}: got no readable embeddings ({error}); delete it and run `pitwall embed`") from error
        shas = json.loads(described["sha256"])
        if described["identity"] != self.identity.key or embeddings.shape != (len(shas), EMBEDDING_DIM):
            raise DamagedFileError(f"{path}: got embeddings of another encoder or shape; delete it and run `pitwall embed`")
        return dict(zip(shas, embeddings, strict=True))

    def _write(self, path: Path, shas: list[str], embeddings: NDArray[np.float32]) -> None:
        with atomic_path(path) as temporary:
            described = {"identity": self.identity.key, "sha256": json.dumps(shas)}
            save_file({"embeddings": np.ascontiguousarray(embeddings, dtype=np.float32)}, temporary, metadata=described)
