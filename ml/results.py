"""What an evaluation says in numbers: metrics per model and season, paired gains, and evidence for the gate."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feature_repo.files import sha256_json
from ml.errors import EvidenceError
from ml.evaluation import BLANK, SHUFFLED, Predictions, control_name
from ml.evidence import Evidence, RaceEvidence
from ml.metrics import calibration, score
from ml.rows import N_POSITIONS
from ml.statistics import relative_gain

TRIVIAL = ("grid_order", "order_at_moment")
_CALIBRATION_UPPER = 0.6  # positions are rarely surer than this half way through a race; the last bin takes the rest


def evaluate(
    predictions: Predictions,
    *,
    candidate: str,
    baseline: str,
    twin: str | None = None,
    reference: str | None = None,
    trivial: Sequence[str] = TRIVIAL,
) -> dict[str, Any]:
    """All numbers of an evaluation as one JSON value (no NaN: what cannot be computed is null).

    Args:
        predictions: of all models named below.
        candidate: name of the candidate in `predictions`; its picture controls are reported if they are there.
        baseline: the tabular baseline.
        twin: the candidate without pictures.
        reference: the reference architecture.
        trivial: trivial predictors.
    Returns:
        `baseline, candidate, twin, reference` (metrics, `per_season`, `calibration`), `trivial{name}`,
        `controls{shuffled_pictures, blank_pictures}`, `others{name}` for models not named,
        `comparisons{candidate_vs_<role>: {accuracy, mae}}` (relative gains with two-sided 95 % intervals over races; a positive
        gain of `mae` is a smaller error), `n_races, n_rows, test_seasons, folds, rows_sha256`.
    Raises:
        EvidenceError: a model named is not in `predictions`.
    """
    roles = {"candidate": candidate, "baseline": baseline, "twin": twin, "reference": reference}
    named = {role: name for role, name in roles.items() if name is not None}
    controls = {control: control_name(candidate, control) for control in (SHUFFLED, BLANK)}
    controls = {control: name for control, name in controls.items() if name in predictions.probabilities}
    absent = sorted({*named.values(), *trivial} - set(predictions.probabilities))
    if absent:
        raise EvidenceError(f"evaluate: no predictions of {', '.join(absent)}; there are {', '.join(predictions.probabilities)}")
    others = [name for name in predictions.probabilities if name not in {*named.values(), *trivial, *controls.values()}]
    against = {role: name for role, name in named.items() if role != "candidate"} | {name: name for name in trivial} | controls
    return {
        **{role: model_report(predictions, name) for role, name in named.items()},
        "trivial": {name: model_report(predictions, name) for name in trivial},
        "controls": {control: model_report(predictions, name) for control, name in controls.items()},
        "others": {name: model_report(predictions, name) for name in others},
        "comparisons": {f"candidate_vs_{role}": compare(predictions, candidate, name) for role, name in against.items()},
        "n_races": int(predictions.keys["race_id"].nunique()),
        "n_rows": len(predictions),
        "test_seasons": [fold.test_season for fold in predictions.folds],
        "folds": [vars(fold) for fold in predictions.folds],
        "rows_sha256": sha256_json([race.rows_sha256 for race in evidence(predictions, candidate).races]),
    }


def model_report(predictions: Predictions, name: str) -> dict[str, Any]:
    """Metrics of one model on all rows and per season, and its calibration (null if it broke)."""
    probabilities, assigned, position = predictions.probabilities[name], predictions.assigned[name], predictions.position
    seasons = predictions.keys["season"].to_numpy(dtype=np.int64)
    per_season = {
        str(season): score(probabilities[chosen], assigned[chosen], position[chosen]).to_dict()
        for season in np.unique(seasons)
        if (chosen := seasons == season).any()
    }
    finite = bool(np.isfinite(probabilities).all())
    curve = calibration(probabilities, position, n_bins=12, upper=_CALIBRATION_UPPER).to_dict() if finite else None
    return {
        "name": name,
        **score(probabilities, assigned, position).to_dict(),
        "per_season": per_season,
        "calibration": curve,
    }


def compare(predictions: Predictions, name: str, other: str) -> dict[str, Any]:
    """Paired relative gains of `name` over `other` in exact hits and in absolute error; null with fewer than two races."""
    mine, theirs = _race_sums(predictions, name), _race_sums(predictions, other)
    if len(mine) < 2:
        return {"accuracy": None, "mae": None}
    accuracy = relative_gain(mine["hits"].to_numpy(), theirs["hits"].to_numpy())
    mae = relative_gain(mine["absolute_error"].to_numpy(), theirs["absolute_error"].to_numpy(), lower_is_better=True)
    return {"accuracy": accuracy.to_dict(), "mae": mae.to_dict()}


def evidence(predictions: Predictions, name: str, *, services: Sequence[str] = (), version: str = "") -> Evidence:
    """What the gate needs to know of one model.

    Args:
        predictions: of the evaluation.
        name: the model in `predictions`.
        services: feature services it reads.
        version: its registry version, "" before it has one.
    """
    sums = _race_sums(predictions, name)
    scores = score(predictions.probabilities[name], predictions.assigned[name], predictions.position)
    metrics = {metric: float(getattr(scores, metric)) for metric in ("accuracy", "top3", "mae", "rps", "log_loss")}
    hashes = rows_sha256(predictions.keys, predictions.position)
    races = tuple(
        RaceEvidence(
            race_id=str(race.race_id),
            n_rows=int(race.n_rows),
            hits=int(race.hits),
            absolute_error=int(race.absolute_error),
            rows_sha256=hashes[str(race.race_id)],
        )
        for race in sums.itertuples()
    )
    return Evidence(name=name, races=races, folds=predictions.folds, metrics=metrics, services=tuple(services), version=version)


def rows_sha256(keys: pd.DataFrame, position: NDArray[np.int64]) -> dict[str, str]:
    """Per race the hash of what was scored: drivers, the moment asked about, finishing positions. Row order does not matter."""
    frame = pd.DataFrame(
        {
            "race_id": keys["race_id"].astype(str),
            "driver_id": keys["driver_id"].astype(str),
            "lap": keys["lap"].astype(int),
            "moment": keys["event_timestamp"].map(lambda moment: moment.isoformat()),
            "position": position.astype(int),
        }
    ).sort_values(["race_id", "driver_id"])
    return {
        str(race_id): sha256_json(race.drop(columns="race_id").to_numpy().tolist()) for race_id, race in frame.groupby("race_id")
    }


def _race_sums(predictions: Predictions, name: str) -> pd.DataFrame:
    """Per race, sorted by id: rows, exact hits, absolute error. A race without assigned positions has no hit and full error."""
    assigned, position = predictions.assigned[name], predictions.position
    error = np.where(assigned > 0, np.abs(assigned - position), N_POSITIONS - 1)
    frame = pd.DataFrame(
        {"race_id": predictions.keys["race_id"].to_numpy(), "hits": assigned == position, "absolute_error": error}
    )
    grouped = frame.groupby("race_id", sort=True)
    return grouped.agg(n_rows=("hits", "size"), hits=("hits", "sum"), absolute_error=("absolute_error", "sum")).reset_index()
