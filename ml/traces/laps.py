"""The laps of one car that a picture draws, checked once at the boundary.

Speeds are average lap speeds: circuit length divided by lap time, km/h. A lap that is not there is a gap; it is never a NaN.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.errors import InvalidLapDataError

MAX_LAP_NUMBER = 999


@dataclass(frozen=True)
class LapTrace:
    """One car's laps in order, as drawn.

    Attributes:
        lap_numbers: (n,) int64, strictly increasing, 1..999, n >= 1; a missing number is a gap in the line.
        speeds_kph: (n,) float64, finite, >= 0; a stationary lap is 0.
    """

    lap_numbers: NDArray[np.int64]
    speeds_kph: NDArray[np.float64]

    @property
    def mean_kph(self) -> float:
        """Arithmetic mean over every lap drawn, slow ones included."""
        return float(self.speeds_kph.mean())


def lap_trace(laps: Any, speeds_kph: Any, *, where: str = "lap data") -> LapTrace:
    """Checked laps of one car, sorted by lap number.

    Args:
        laps: (n,) whole lap numbers, each once, in any order.
        speeds_kph: (n,) km/h.
        where: what the laps belong to (`2024_08 max_verstappen`), named in errors.
    Raises:
        InvalidLapDataError: there are no laps, the lengths differ, a value is None, non-numeric, NaN, infinite or negative, or a
            lap number is not whole, outside 1..999, or given twice.
    """
    numbers = _numbers(laps, where, "lap")
    speeds = _numbers(speeds_kph, where, "speed_kph")
    if len(numbers) != len(speeds):
        raise InvalidLapDataError(
            f"{where}: got {len(numbers)} lap numbers and {len(speeds)} speeds, expected as many; give one speed per lap"
        )
    if len(numbers) == 0:
        raise InvalidLapDataError(f"{where}: got no laps, expected at least one; a car without laps has no picture, leave it out")
    if (speeds < 0).any():
        at = int(np.argmax(speeds < 0))
        raise InvalidLapDataError(
            f"{where}: lap {numbers[at]:g}: got {speeds[at]:g} km/h, expected 0 or more; correct the lap time or leave it out"
        )
    whole = numbers.astype(np.int64)
    wrong = (whole != numbers) | (whole < 1) | (whole > MAX_LAP_NUMBER)
    if wrong.any():
        raise InvalidLapDataError(
            f"{where}: got lap number {numbers[wrong][0]:g}, expected a whole number 1..{MAX_LAP_NUMBER}; laps count from 1"
        )
    if len(whole) > 1 and not (whole[1:] > whole[:-1]).all():
        order = np.argsort(whole, kind="stable")
        whole, speeds = whole[order], speeds[order]
        repeated = whole[1:] == whole[:-1]
        if repeated.any():
            raise InvalidLapDataError(
                f"{where}: got lap {whole[1:][repeated][0]} twice, expected each lap once; keep the corrected one"
            )
    return LapTrace(whole, speeds)


def parse_lap_data(lap_data: Any, *, where: str = "lap data") -> LapTrace:
    """Checked laps from any of the shapes callers hold.

    Args:
        lap_data: a mapping lap -> km/h, a sequence of km/h (laps 1..n), a frame with columns `lap` and `speed_kph`, or
            a LapTrace.
        where: named in errors.
    Raises:
        InvalidLapDataError: it is none of these, or its values are not laps (see `lap_trace`).
    """
    if isinstance(lap_data, LapTrace):
        return lap_trace(lap_data.lap_numbers, lap_data.speeds_kph, where=where)
    if isinstance(lap_data, pd.DataFrame):
        missing = [column for column in ("lap", "speed_kph") if column not in lap_data.columns]
        if missing:
            raise InvalidLapDataError(
                f"{where}: got columns {list(map(str, lap_data.columns))}, expected 'lap' and 'speed_kph'; add {missing}"
            )
        return lap_trace(lap_data["lap"].to_numpy(), lap_data["speed_kph"].to_numpy(), where=where)
    if isinstance(lap_data, Mapping):
        return lap_trace(list(lap_data.keys()), list(lap_data.values()), where=where)
    if isinstance(lap_data, (np.ndarray, pd.Series)) or (
        isinstance(lap_data, Sequence) and not isinstance(lap_data, (str, bytes))
    ):
        speeds = lap_data.to_numpy() if isinstance(lap_data, pd.Series) else lap_data
        return lap_trace(np.arange(1, len(speeds) + 1), speeds, where=where)
    raise InvalidLapDataError(
        f"{where}: got {type(lap_data).__name__}, expected a mapping lap -> km/h, a sequence of km/h (laps 1..n) or a frame with "
        "'lap' and 'speed_kph'; convert it first"
    )


def _numbers(values: Any, where: str, column: str) -> NDArray[np.float64]:
    """`values` as (n,) finite float64; text, booleans and None are refused rather than guessed at."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
        array = values.astype(np.float64)
    else:
        entries = list(values)
        for index, entry in enumerate(entries):
            if isinstance(entry, (bool, np.bool_)) or not isinstance(entry, (int, float, np.integer, np.floating)):
                raise InvalidLapDataError(
                    f"{where}: {column} at place {index + 1}: got {entry!r:.60}, expected a number; leave untimed laps out"
                )
        array = np.asarray(entries, dtype=np.float64)
    if array.ndim != 1:
        raise InvalidLapDataError(
            f"{where}: {column}: got an array of shape {array.shape}, expected one dimension; give one car at a time"
        )
    finite = np.isfinite(array)
    if not finite.all():
        at = int(np.argmin(finite))
        raise InvalidLapDataError(
            f"{where}: {column} at place {at + 1}: got {array[at]}, expected a finite number; leave a lap without a time out"
        )
    return array
