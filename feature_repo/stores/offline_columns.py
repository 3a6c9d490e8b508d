"""One column of feature rows, and how an answer takes values from it: for Arrow, or for pandas without a way through Arrow."""

from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_repo.stores.asof import Ints


class Column:
    """Values of one column of the rows that were read, and how an answer takes from them."""

    def __init__(self, values: pa.ChunkedArray) -> None:
        if pa.types.is_dictionary(values.type):
            values = values.unify_dictionaries()
        self._values: pa.Array = values.combine_chunks() if values.num_chunks != 1 else values.chunk(0)

    @property
    def nbytes(self) -> int:
        """Bytes held, with those of the decoded form."""
        text = 64 * len(self._values.dictionary) if pa.types.is_dictionary(self._values.type) else 0
        return 2 * self._values.nbytes + text

    def arrow(self, rows: Ints) -> pa.Array:
        """The values at `rows`; null at -1."""
        missing = rows < 0
        taken = self._values.take(pa.array(np.where(missing, 0, rows), mask=missing)) if len(self._values) else None
        if taken is None:
            taken = pa.nulls(len(rows), self._values.type)
        return taken.dictionary_decode() if pa.types.is_dictionary(taken.type) else taken

    def pandas(self, rows: Ints, missing: Ints) -> Any:
        """The values at `rows` as pandas has them, equal to `arrow(rows).to_pandas()`.

        Args:
            rows: positions, -1 for none.
            missing: where `rows` is -1.
        """
        if len(self._values) == 0 or self._numbers is None:
            if self._texts is None or len(self._values) == 0:
                return self.arrow(rows).to_pandas()
            words, codes = self._texts
            found = codes.take(rows, mode="wrap")
            found[missing] = len(words) - 1
            return words[found]
        numbers, nulls = self._numbers
        taken = numbers.take(rows, mode="wrap")
        if taken.dtype.kind == "f":
            taken[missing] = np.nan
            return taken
        empty = np.zeros(len(rows), dtype=np.bool_) if nulls is None else nulls.take(rows, mode="wrap")
        empty[missing] = True
        if empty.any():
            taken = taken.astype(np.float64)
            taken[empty] = np.nan
        return taken

    @cached_property
    def _numbers(self) -> tuple[NDArray[Any], NDArray[Any] | None] | None:
        type_ = self._values.type
        if not (pa.types.is_integer(type_) or pa.types.is_floating(type_)):
            return None
        if pa.types.is_floating(type_) or not self._values.null_count:
            return self._values.to_numpy(zero_copy_only=False), None
        nulls = self._values.is_null().to_numpy(zero_copy_only=False)
        return self._values.fill_null(0).to_numpy(zero_copy_only=False), nulls

    @cached_property
    def _texts(self) -> tuple[NDArray[Any], NDArray[Any]] | None:
        if not pa.types.is_dictionary(self._values.type):
            return None
        words = np.array([*self._values.dictionary.to_pylist(), None], dtype=object)
        codes = pc.fill_null(self._values.indices, len(words) - 1).to_numpy(zero_copy_only=False)
        return words, codes
