"""Rolling-origin evaluation: for each test season, models fitted on the seasons before it, all scored on the same rows.

The last races of the earlier seasons are the validation part (early stopping, weights of members); a test season is seen by
nothing before it is predicted. What comes out are `Predictions`; `ml.results` turns them into numbers and evidence.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.assignment import assign_positions
from ml.baselines import AssignsPositions
from ml.errors import FoldError, ProbabilityError
from ml.evidence import FoldEvidence
from ml.metrics import check_probabilities
from ml.rows import N_POSITIONS, PositionModel, Rows

logger = logging.getLogger(__name__)

VALIDATION_SHARE = 0.18
MOST_TEST_SEASONS = 5
SHUFFLED, BLANK = "shuffled_pictures", "blank_pictures"

ModelFactory = Callable[[int], PositionModel]


class Progress(Protocol):
    """Called before each step of long work."""

    def __call__(self, done: int, total: int, what: str) -> None:
        """`done` of `total` steps are finished, `what` comes next ("" after the last)."""
        ...


@dataclass(frozen=True)
class Fold:
    """One test season and what may be learnt from before it.

    Attributes:
        test_season: the season scored.
        train: row positions to fit on: the earlier races but the last ones.
        validation: row positions to stop early on: the last races before the test season.
        test: row positions scored.
    """

    test_season: int
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True)
class Predictions:
    """What every model said about every test row.

    Attributes:
        keys: (N) frame of the test rows, as in `Rows.keys`, folds one after the other.
        position: (N,) finishing positions 1..20.
        probabilities: per model (N, 20); a model that broke has NaN rows, and is scored as broken.
        assigned: per model (N,) positions, 0 in a race whose probabilities are not finite.
        folds: what each fold's models had seen.
    """

    keys: pd.DataFrame
    position: NDArray[np.int64]
    probabilities: dict[str, NDArray[np.float64]]
    assigned: dict[str, NDArray[np.int64]]
    folds: tuple[FoldEvidence, ...]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def race_code(self) -> NDArray[np.int64]:
        """(N,) races numbered chronologically."""
        return np.asarray(pd.factorize(self.keys["race_id"], sort=True)[0], dtype=np.int64)


def control_name(model: str, control: str) -> str:
    """The name under which `Predictions` hold a model that was given wrong pictures."""
    return f"{model}:{control}"


def default_test_seasons(rows: Rows) -> list[int]:
    """The newest five seasons that have at least two earlier ones: fewer leave too little to learn from.

    Five, so that the cost of an evaluation grows with the races and not with their square.
    """
    return sorted({int(season) for season in rows.seasons})[2:][-MOST_TEST_SEASONS:]


def folds(rows: Rows, test_seasons: Sequence[int] | None = None, *, validation_share: float = VALIDATION_SHARE) -> list[Fold]:
    """Rolling-origin folds, one a test season, in chronological order.

    Args:
        rows: all rows.
        test_seasons: seasons to score; None = `default_test_seasons`.
        validation_share: share of the earlier races, the last ones, that become the validation part; at least one race.
    Raises:
        FoldError: no season to test on, a season without rows or with fewer than two earlier races, or rows whose
            moments contradict the order of their races (then "earlier" would not mean earlier).
    """
    wanted = default_test_seasons(rows) if test_seasons is None else sorted(set(test_seasons))
    have = sorted({int(season) for season in rows.seasons})
    if not wanted:
        raise FoldError(f"folds: rows of seasons {have}, expected at least three seasons (or name test_seasons)")
    if not 0.0 < validation_share < 1.0:
        raise FoldError(f"folds: validation_share: got {validation_share}, expected more than 0 and less than 1")
    race_code, seasons = rows.race_code, rows.seasons
    result = []
    for season in wanted:
        earlier = np.unique(race_code[seasons < season])
        if season not in have or len(earlier) < 2:
            raise FoldError(f"folds: test season {season}: {len(earlier)} earlier races; rows are of seasons {have}")
        n_validation = min(max(1, round(validation_share * len(earlier))), len(earlier) - 1)
        fold = Fold(
            test_season=season,
            train=np.flatnonzero(np.isin(race_code, earlier[:-n_validation])),
            validation=np.flatnonzero(np.isin(race_code, earlier[-n_validation:])),
            test=np.flatnonzero(seasons == season),
        )
        _require_chronological(rows, fold)
        result.append(fold)
    return result


def _require_chronological(rows: Rows, fold: Fold) -> None:
    """Parts share no row and no race, and each ends before the next begins."""
    moments = rows.keys["event_timestamp"].to_numpy(dtype="datetime64[us]")
    races = rows.race_code
    parts = (("train", fold.train), ("validation", fold.validation), ("test", fold.test))
    for (name, earlier), (next_name, later) in pairwise(parts):
        if moments[earlier].max() >= moments[later].min() or races[earlier].max() >= races[later].min():
            last = rows.keys.iloc[earlier[int(np.argmax(moments[earlier]))]]
            first = rows.keys.iloc[later[int(np.argmin(moments[later]))]]
            raise FoldError(
                f"folds: test season {fold.test_season}: the last moment of {name} is {last.event_timestamp} ({last.race_id}), "
                f"the first of {next_name} is {first.event_timestamp} ({first.race_id}); expected {name} to end before"
            )


def rolling_origin(
    rows: Rows,
    models: Mapping[str, ModelFactory],
    *,
    test_seasons: Sequence[int] | None = None,
    validation_share: float = VALIDATION_SHARE,
    picture_controls: Iterable[str] = (),
    seed: int = 7,
    progress: Progress | None = None,
    on_fitted: Callable[[str, int, PositionModel], None] | None = None,
) -> Predictions:
    """Fit every model anew for each test season and collect what it says about that season.

    Args:
        rows: all rows.
        models: per name a function that makes an unfitted model for a test season.
        test_seasons: as in `folds`.
        validation_share: as in `folds`.
        picture_controls: models that are asked twice more after fitting: with pictures of other races
            (`<name>:shuffled_pictures`) and with none (`<name>:blank_pictures`).
        seed: of the shuffling.
        progress: told before each fit.
        on_fitted: given each fitted model (name, test season, model), for loss curves and checkpoints.
    Raises:
        FoldError: as in `folds`.
        ProbabilityError: a model's answer has the wrong shape or does not sum to 1. (NaN is recorded, not raised.)
    """
    parts = folds(rows, test_seasons, validation_share=validation_share)
    controls = frozenset(picture_controls)
    said: dict[str, list[NDArray[np.float64]]] = {}
    chosen: dict[str, list[NDArray[np.int64]]] = {}

    def ask(name: str, model: PositionModel, asked: Rows) -> None:
        probabilities, assigned = _answer(name, model, asked)
        said.setdefault(name, []).append(probabilities)
        chosen.setdefault(name, []).append(assigned)

    done, total = 0, len(parts) * len(models)
    for fold in parts:
        train, validation, test = rows.take(fold.train), rows.take(fold.validation), rows.take(fold.test)
        for name, make in models.items():
            if progress is not None:
                progress(done, total, f"{fold.test_season} {name}")
            model = make(fold.test_season)
            model.fit(train, validation)
            ask(name, model, test)
            if name in controls:
                rng = np.random.default_rng([seed, fold.test_season])
                ask(control_name(name, SHUFFLED), model, shuffle_pictures(test, rng))
                ask(control_name(name, BLANK), model, blank_pictures(test))
            if on_fitted is not None:
                on_fitted(name, fold.test_season, model)
            done += 1
    if progress is not None:
        progress(done, total, "")
    scored = rows.take(np.concatenate([fold.test for fold in parts]))
    logger.info("rolling_origin_done folds=%d models=%d rows=%d", len(parts), len(said), len(scored))
    return Predictions(
        keys=scored.keys,
        position=scored.position,
        probabilities={name: np.concatenate(values) for name, values in said.items()},
        assigned={name: np.concatenate(values) for name, values in chosen.items()},
        folds=tuple(_fold_evidence(rows, fold) for fold in parts),
    )


def _answer(name: str, model: PositionModel, rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """A model's probabilities and assigned positions; races with a probability that is not finite get position 0."""
    probabilities = np.asarray(model.predict_proba(rows), dtype=np.float64)
    if probabilities.shape != (len(rows), N_POSITIONS):
        raise ProbabilityError(f"{name}: predict_proba: got shape {probabilities.shape}, expected {(len(rows), N_POSITIONS)}")
    race = rows.race_code
    broken = np.isin(race, np.unique(race[~np.isfinite(probabilities).all(axis=1)]))
    if broken.any():
        logger.warning("probabilities_not_finite model=%s rows=%d", name, int(broken.sum()))
    whole = ~broken
    check_probabilities(probabilities[whole], where=f"{name}: predict_proba")
    assigned = np.zeros(len(rows), dtype=np.int64)
    if isinstance(model, AssignsPositions):
        assigned[whole] = model.assign(rows)[whole]
    elif whole.any():
        assigned[whole] = assign_positions(probabilities[whole], race[whole])
    return probabilities, assigned


def _fold_evidence(rows: Rows, fold: Fold) -> FoldEvidence:
    seen = rows.keys["race_id"].iloc[np.concatenate([fold.train, fold.validation])]
    return FoldEvidence(
        test_season=fold.test_season, last_race_seen=str(seen.max()), n_train=len(fold.train), n_validation=len(fold.validation)
    )


def shuffle_pictures(rows: Rows, rng: np.random.Generator) -> Rows:
    """`rows` with every picture (or its absence) taken from a row of another race, each used once.

    With one race the pictures are shuffled among its cars.
    """
    race, n = rows.race_code, len(rows)
    order = rng.permutation(n)
    if len(np.unique(race)) > 1:
        while len(same := np.flatnonzero(race[order] == race)) > 0:
            for row in same:  # swap with any row where neither then has a picture of its own race
                other = rng.integers(n)
                if race[order[other]] != race[row] and race[order[row]] != race[other]:
                    order[[row, other]] = order[[other, row]]
            if (np.bincount(race).max() * 2) > n:
                break  # a race with more than half of the rows cannot be given only others' pictures
    return replace(
        rows, embedding=rows.embedding[order], has_picture=rows.has_picture[order], picture_sha256=rows.picture_sha256[order]
    )


def blank_pictures(rows: Rows) -> Rows:
    """`rows` without pictures."""
    return replace(
        rows,
        embedding=np.zeros_like(rows.embedding),
        has_picture=np.zeros_like(rows.has_picture),
        picture_sha256=np.full(len(rows), "", dtype=object),
    )
