"""Statistics of a history's last N values; missing values are left out, and a window without any is missing."""

import numpy as np

from pipelines.features.knowledge import FloatArray


def last(values: FloatArray, n: int) -> FloatArray:
    """The values present among the last `n`."""
    window = values[-n:]
    return window[~np.isnan(window)]


def mean_last(values: FloatArray, n: int) -> float:
    """Mean of the values present among the last `n`; NaN when there is none."""
    window = last(values, n)
    return float(window.mean()) if len(window) else np.nan


def median_last(values: FloatArray, n: int) -> float:
    """Median of the values present among the last `n`; NaN when there is none."""
    window = last(values, n)
    return float(np.median(window)) if len(window) else np.nan


def std_last(values: FloatArray, n: int) -> float:
    """Population standard deviation of the values present among the last `n`; NaN when there are fewer than two."""
    window = last(values, n)
    return float(window.std()) if len(window) > 1 else np.nan
