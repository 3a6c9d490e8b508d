"""Tabular features to net inputs: imputed, standardised, compared within the race; all of it learnt from the training part."""

import functools
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.config import FusionConfig
from ml.errors import ModelContractError

logger = logging.getLogger(__name__)

_MIN_SPREAD = 1e-9  # relative to the column's magnitude: below this a column is constant in the training part


@dataclass(frozen=True)
class TabularPreprocessor:
    """A fitted map from a frame of features to an (N, width) float32 matrix. Make one with `fit`.

    The matrix holds, in this order: numeric features standardised (missing = the training median), the same minus their mean over
    the race's cars (missing = 0, the mean), one 0/1 column per numeric feature that was missing somewhere in the training part,
    and one 0/1 column per category seen in the training part. An unseen category is zero in all columns of its feature. Columns
    that were constant in the training part are left out: they say nothing there, and would be untrained weights later.

    Attributes:
        numeric: names of all numeric inputs expected, in order.
        median: per numeric feature, of the training part.
        absolute: which numeric features enter as they are.
        mean: their training mean after imputation.
        spread: their training standard deviation after imputation.
        relative: which numeric features enter relative to the race.
        relative_spread: training standard deviation of the differences.
        indicated: numeric features with a missing-value column.
        categories: per category feature the values of the training part; None stands for missing.
        clip_sd: standardised values are clipped to plus or minus this.
    """

    numeric: tuple[str, ...]
    median: tuple[float, ...]
    absolute: tuple[str, ...]
    mean: tuple[float, ...]
    spread: tuple[float, ...]
    relative: tuple[str, ...]
    relative_spread: tuple[float, ...]
    indicated: tuple[str, ...]
    categories: dict[str, tuple[str | None, ...]]
    clip_sd: float

    @classmethod
    def fit(cls, features: pd.DataFrame, race: NDArray[np.int64], config: FusionConfig) -> Self:
        """Learn medians, means, spreads and categories.

        Args:
            features: (N, F) of the training part, NaN or None for missing; whole races.
            race: (N,) race of each row.
            config: which inputs, which features not.
        Raises:
            ModelContractError: no row, no usable feature, infinite values, or a column that mixes numbers and text.
        """
        if len(features) == 0:
            raise ModelContractError("features: got 0 rows, expected the training part")
        excluded = config.exclude_features
        names = [name for name in features.columns if not any(fnmatchcase(name, pattern) for pattern in excluded)]
        text = [name for name in names if _is_text(features[name])]
        numeric = tuple(name for name in names if name not in text and bool(features[name].notna().any()))
        values = _numbers(features, numeric)
        missing = np.isnan(values)
        median = np.nanmedian(values, axis=0) if numeric else np.zeros(0)
        imputed = np.where(missing, median, values)
        mean, spread = imputed.mean(axis=0), imputed.std(axis=0)
        difference = _minus_race_mean(values, race)
        difference_spread = difference.std(axis=0)
        floor = _MIN_SPREAD * (1 + np.abs(mean))
        absolute = np.flatnonzero(spread > floor) if config.keep_absolute_tabular else np.zeros(0, dtype=int)
        relative = np.flatnonzero(difference_spread > floor) if config.race_relative_tabular else np.zeros(0, dtype=int)
        categories = {name: _values_seen(features[name]) for name in text}
        fitted = cls(
            numeric=numeric,
            median=_floats(median),
            absolute=tuple(numeric[i] for i in absolute),
            mean=_floats(mean[absolute]),
            spread=_floats(spread[absolute]),
            relative=tuple(numeric[i] for i in relative),
            relative_spread=_floats(difference_spread[relative]),
            indicated=tuple(numeric[i] for i in np.flatnonzero(missing.any(axis=0))),
            categories={name: seen for name, seen in categories.items() if len(seen) > 1},
            clip_sd=config.clip_sd,
        )
        if fitted.width == 0:
            raise ModelContractError(
                f"features: none of {len(names)} columns varies in the training part of {len(features)} rows"
            )
        return fitted

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Columns a frame must have for `transform`."""
        return (*self.numeric, *self.categories)

    @property
    def input_names(self) -> list[str]:
        """(width) what each column of the matrix is."""
        return [
            *self.absolute,
            *(f"{name} - race mean" for name in self.relative),
            *(f"{name} missing" for name in self.indicated),
            *(f"{name} = {value}" for name, seen in self.categories.items() for value in seen),
        ]

    @property
    def width(self) -> int:
        """Columns of the matrix."""
        n_categories = sum(len(seen) for seen in self.categories.values())
        return len(self.absolute) + len(self.relative) + len(self.indicated) + n_categories

    def transform(
        self, features: pd.DataFrame | Mapping[str, NDArray[Any]], race: NDArray[np.int64]
    ) -> NDArray[np.float32]:  # fmt: skip
        """Prepare rows for the net; columns are taken by name, others are ignored.

        Args:
            features: (N, F), a frame or its columns; whole races when the configuration is race-relative.
            race: (N,) race of each row.
        Returns:
            (N, width) float32, always finite.
        Raises:
            ModelContractError: an expected column is absent, of another kind, or infinite somewhere.
        """
        absent = [name for name in self.feature_names if name not in features]
        if absent:
            raise ModelContractError(
                f"features: {', '.join(absent[:8])} absent ({len(absent)} of {len(self.feature_names)} expected columns); "
                "ask for the feature service this model was trained with"
            )
        values = _numbers(features, self.numeric)
        missing, learnt = np.isnan(values), self._learnt
        parts: list[NDArray[Any]] = []
        if self.absolute:
            imputed = np.where(missing, learnt.median, values)[:, learnt.absolute]
            parts.append(np.clip((imputed - learnt.mean) / learnt.spread, -self.clip_sd, self.clip_sd))
        if self.relative:
            difference = _minus_race_mean(values[:, learnt.relative], race)
            parts.append(np.clip(difference / learnt.relative_spread, -self.clip_sd, self.clip_sd))
        parts.append(missing[:, learnt.indicated])
        parts += [_one_hot(name, np.asarray(features[name], dtype=object), seen) for name, seen in self.categories.items()]
        return np.concatenate(parts, axis=1).astype(np.float32)

    @functools.cached_property
    def _learnt(self) -> "_Learnt":
        at = {name: i for i, name in enumerate(self.numeric)}
        numbers = [np.array(values) for values in (self.median, self.mean, self.spread, self.relative_spread)]
        chosen = (self.absolute, self.relative, self.indicated)
        index = [np.array([at[name] for name in names], dtype=np.int64) for names in chosen]
        return _Learnt(*numbers, *index)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values (lists, no tuples); floats survive JSON exactly."""
        state = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return state | {"categories": {name: list(seen) for name, seen in self.categories.items()}}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """What `to_dict` gave, also after JSON.

        Raises:
            ModelContractError: keys are missing or unexpected.
        """
        try:
            tuples: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list | tuple) else value for key, value in state.items()
            }
            tuples["categories"] = {name: tuple(seen) for name, seen in state["categories"].items()}
            return cls(**tuples)
        except (KeyError, TypeError) as error:
            raise ModelContractError(f"preprocessing state: {error}; it was not written by this version") from error


@dataclass(frozen=True, eq=False)
class _Learnt:
    """What was learnt, as arrays: the numbers, and which columns of the numeric features they are for."""

    median: NDArray[np.float64]
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    relative_spread: NDArray[np.float64]
    absolute: NDArray[np.int64]
    relative: NDArray[np.int64]
    indicated: NDArray[np.int64]


def _is_text(column: pd.Series) -> bool:
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return False
    kinds = {isinstance(value, str) for value in column.dropna().unique()}
    if kinds == {True, False}:
        raise ModelContractError(f"feature {column.name}: got numbers and text mixed, expected one kind")
    return kinds == {True}


def _numbers(features: pd.DataFrame | Mapping[str, NDArray[Any]], names: tuple[str, ...]) -> NDArray[np.float64]:
    """(N, len(names)) float64 with NaN for missing."""
    try:
        if isinstance(features, pd.DataFrame):
            values: NDArray[np.float64] = features[list(names)].to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            values = np.array([features[name] for name in names], dtype=np.float64).T
    except (TypeError, ValueError) as error:
        wrong = [name for name in names if _is_text(pd.Series(features[name]))]
        raise ModelContractError(f"features {', '.join(wrong[:8])}: got text, expected numbers as in training") from error
    infinite = np.isinf(values).any(axis=0)
    if infinite.any():
        raise ModelContractError(f"features {', '.join(np.array(names)[infinite][:8])}: got infinity, expected finite or missing")
    return values


def _minus_race_mean(values: NDArray[np.float64], race: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N, F) values minus the mean over the race's known values; 0 where the value is missing."""
    known = ~np.isnan(values)
    if len(race) and (race == race[0]).all():
        total = np.add.reduce(np.ascontiguousarray(np.where(known, values, 0.0)), axis=0)
        return np.where(known, values - total / np.maximum(np.add.reduce(known, axis=0), 1), 0.0)
    _, code = np.unique(race, return_inverse=True)
    total = np.zeros((int(code.max()) + 1 if len(code) else 0, values.shape[1]))
    count = np.zeros_like(total)
    np.add.at(total, code, np.where(known, values, 0.0))
    np.add.at(count, code, known)
    mean = total / np.maximum(count, 1)
    return np.where(known, values - mean[code], 0.0)


def _values_seen(column: pd.Series) -> tuple[str | None, ...]:
    seen = sorted(str(value) for value in column.dropna().unique())
    return (*seen, None) if bool(column.isna().any()) else tuple(seen)


def _one_hot(name: str, values: NDArray[np.object_], seen: tuple[str | None, ...]) -> NDArray[np.bool_]:
    """(N, len(seen)) bool; a value not in `seen` gives a row of False."""
    absent = pd.isna(values).tolist()
    at = {value: column for column, value in enumerate(seen)}
    columns = [at.get(None if gone else value, -1) for value, gone in zip(values, absent, strict=True)]
    if -1 in columns:
        rows = zip(values, columns, absent, strict=True)
        unseen = sorted({str(value) for value, column, gone in rows if column < 0 and not gone})
        if unseen:
            logger.warning("feature %s: categories not in the training part: %s", name, ", ".join(unseen[:8]))
    return np.array(columns, dtype=np.int64)[:, None] == np.arange(len(seen))


def _floats(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
