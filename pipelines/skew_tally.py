"""Counts over chunks of the log: what is kept is bounded by the number of features, however many vectors there are."""

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ml.served_model import FeatureSpec
from pipelines.skew_compare import CLOSE, DIFFERENT, FIRST_MISMATCH, NULL_SERVED, VALUE_SERVED, Codes, RowTimes, canonical, plain
from pipelines.skew_report import Example, FeatureSkew, ViewSkew

_PAIRS = 1000
"""Differing pairs of numbers kept a feature, to see what they have in common."""
CONSTANT_ROWS = 20
"""Different rows of a view after which one value only is called constant: few circuits or few laps of one race say nothing."""


@dataclass
class FeatureTally:
    """Counts of one feature."""

    name: str
    view: str
    spec: FeatureSpec | None
    cells: int = 0
    inexact: int = 0
    mismatches: int = 0
    null_served: int = 0
    value_served: int = 0
    largest: float = 0.0
    example: Example | None = None
    out_of_range: int = 0
    out_example: Example | None = None
    _pairs: list[tuple[float, float]] = field(default_factory=list)
    _served: set[Hashable] = field(default_factory=set)
    _expected: set[Hashable] = field(default_factory=set)

    def add(self, served: pa.ChunkedArray, expected: list[Any], codes: Codes, said: list[Example]) -> None:
        """Count a chunk.

        Args:
            served: (N) as logged.
            expected: (N) from history.
            codes: (N) of `compare`.
            said: (N) who, when, which request.
        """
        self.cells += len(codes)
        self.inexact += int((codes >= CLOSE).sum())
        self.null_served += int((codes == NULL_SERVED).sum())
        self.value_served += int((codes == VALUE_SERVED).sum())
        broken = np.flatnonzero(codes >= FIRST_MISMATCH)
        self.mismatches += len(broken)
        if len(broken) and self.example is None:
            at = int(broken[0])
            self.example = {**said[at], "served": _json(served[at].as_py()), "expected": _json(expected[at])}
        if pa.types.is_floating(served.type):
            self._measure(served, expected, codes)
        self._distinct(served, expected)
        self._check_range(served, said)

    def _measure(self, served: pa.ChunkedArray, expected: list[Any], codes: Codes) -> None:
        both = np.flatnonzero((codes == CLOSE) | (codes == DIFFERENT))
        if not len(both):
            return
        mine = served.cast(pa.float64()).to_numpy(zero_copy_only=False)[both]
        theirs = np.array([expected[at] for at in both], dtype=np.float64)
        scale = np.maximum(np.abs(mine), np.abs(theirs))
        with np.errstate(invalid="ignore"):
            self.largest = max(self.largest, float(np.nan_to_num(np.abs(mine - theirs) / scale, nan=1.0, posinf=1.0).max()))
        different = codes[both] == DIFFERENT
        room = _PAIRS - len(self._pairs)
        self._pairs += list(zip(mine[different][:room].tolist(), theirs[different][:room].tolist(), strict=True))

    def _distinct(self, served: pa.ChunkedArray, expected: list[Any]) -> None:
        if len(self._served) < 2:
            values = served.to_pylist() if pa.types.is_nested(served.type) else served.unique().to_pylist()
            self._served |= set(list({canonical(value) for value in values})[:2])
        if len(self._expected) < 2:
            for value in expected:
                self._expected.add(canonical(value))
                if len(self._expected) > 1:
                    break

    def _check_range(self, served: pa.ChunkedArray, said: list[Example]) -> None:
        if self.spec is None or self.spec.distinct is None:
            return
        outside = self._outside(served, self.spec)
        self.out_of_range += int(outside.sum())
        if outside.any() and self.out_example is None:
            at = int(np.flatnonzero(outside)[0])
            self.out_example = {**said[at], "served": _json(served[at].as_py())}

    def _outside(self, served: pa.ChunkedArray, spec: FeatureSpec) -> NDArray[np.bool_]:
        if spec.categories is not None:
            return np.array([value is not None and value not in spec.categories for value in served.to_pylist()], dtype=np.bool_)
        if pa.types.is_nested(served.type) or pa.types.is_string(served.type):
            return np.zeros(len(served), dtype=np.bool_)
        numbers = served.cast(pa.float64()).to_numpy(zero_copy_only=False)
        if spec.low is None or spec.high is None:
            return ~np.isnan(numbers)  # in training there was no value at all
        return np.asarray((numbers < spec.low) | (numbers > spec.high), dtype=np.bool_)

    def line(self, rows_seen: int) -> FeatureSkew:
        """The feature's line of the report; `rows_seen` is how many different rows of its view were served."""
        varied = self.spec is not None and (self.spec.distinct or 0) > 1
        return FeatureSkew(
            name=self.name,
            view=self.view,
            cells=self.cells,
            inexact=self.inexact,
            mismatches=self.mismatches,
            null_served=self.null_served,
            value_served=self.value_served,
            share=self.mismatches / self.cells if self.cells else 0.0,
            largest_difference=self.largest if self.largest else None,
            pattern=_pattern(self._pairs),
            example=self.example,
            out_of_range=self.out_of_range,
            out_of_range_example=self.out_example,
            constant=varied and len(self._served) == 1 and rows_seen >= CONSTANT_ROWS,
            constant_in_history=len(self._expected) == 1,
        )


@dataclass
class ViewTally:
    """Counts of one view."""

    name: str
    rows: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("missing", "older", "newer", "future", "aged"), 0))
    largest_lag_s: float = 0.0
    expired_served: int = 0
    wrong_key: int = 0
    examples: dict[str, Example] = field(default_factory=dict)
    _seen: set[tuple[Hashable, ...]] = field(default_factory=set)

    def add(self, times: RowTimes, served_us: NDArray[np.int64], keys: pd.DataFrame, said: list[Example]) -> None:
        """Count a chunk: how rows lie in time, and which different ones there were (up to as many as matter)."""
        self.rows += len(said)
        self.largest_lag_s = max(self.largest_lag_s, float(times.lag_s.max(initial=0.0)))
        for kind in self.counts:
            mask = getattr(times, kind)
            self.counts[kind] += int(mask.sum())
            if mask.any() and kind not in self.examples and kind != "aged":
                at = int(np.flatnonzero(mask)[0])
                stamp = pd.Timestamp(int(served_us[at]), unit="us", tz="UTC").isoformat() if kind != "missing" else None
                self.examples[kind] = {**said[at], "row_of": stamp}
        if len(self._seen) < CONSTANT_ROWS:
            self._seen |= set(list(set(zip(*[keys[key] for key in keys], served_us.tolist(), strict=True)))[:CONSTANT_ROWS])

    @property
    def rows_seen(self) -> int:
        """Different rows served, counted up to `CONSTANT_ROWS` (a chunk may bring more)."""
        return len(self._seen)

    def line(self) -> ViewSkew:
        """The view's line of the report."""
        return ViewSkew(
            name=self.name,
            rows=self.rows,
            largest_lag_s=self.largest_lag_s,
            expired_served=self.expired_served,
            wrong_key=self.wrong_key,
            examples=self.examples,
            **self.counts,
        )


def _json(value: Any) -> Any:
    """A value as JSON can hold it; what it cannot hold (infinity, times, bytes) as text."""
    value = plain(value)
    if isinstance(value, list):
        return [_json(item) for item in value]
    holds = value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))
    return value if holds else str(value)


def _pattern(pairs: list[tuple[float, float]]) -> str:
    """What three or more (served, expected) pairs have in common: one factor or one offset, as a wrong unit gives."""
    if len(pairs) < 3:
        return ""
    served, expected = np.array(pairs).T
    if not np.isfinite(served).all() or not np.isfinite(expected).all() or len(np.unique(expected)) < 2:
        return ""
    if (expected != 0).all() and (served != 0).all():
        factors = served / expected
        if np.abs(factors / np.median(factors) - 1).max() < 1e-5:
            return f"times {np.median(factors):.6g}"
    offsets = served - expected
    middle = float(np.median(offsets))
    if middle and np.abs(offsets - middle).max() < 1e-5 * max(abs(middle), float(np.abs(expected).max())):
        return f"plus {middle:.6g}"
    return ""
