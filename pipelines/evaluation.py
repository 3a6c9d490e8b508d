"""The evaluation step: rolling origin over seasons, all models on the same rows, controls, and the evidence for the gate.

Reads the training set; writes `reports/evaluation.json` (numbers), `reports/evidence.json` (counts per race for the gate) and
`reports/evaluation.png`. Unchanged data, configurations and code are not evaluated again.
"""

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from feature_repo.files import read_json, write_json
from feature_repo.progress import Progress
from feature_repo.settings import Settings
from ml.datasets import rows_hash
from ml.evaluation import default_test_seasons, rolling_origin
from ml.evidence import Evidence
from ml.fusion_model import FusionPredictor
from ml.report import write_report
from ml.results import evaluate as summarise
from ml.results import evidence
from ml.rows import PositionModel
from ml.torch_threads import torch_threads
from pipelines.candidates import (
    BASELINE,
    CANDIDATE,
    GRID_ORDER,
    ORDER_AT_MOMENT,
    REFERENCE,
    TRAINED,
    TWIN,
    factories,
    recipe,
)
from pipelines.dataset import FEATURE_SERVICE, STATE_SERVICE, TRACE_SERVICE, build_training_set, load_training_set
from pipelines.encoder_choice import encoder_identity
from pipelines.errors import NothingToLearnError
from pipelines.steps import code_hash, record, recorded

_EVIDENCE = TypeAdapter(dict[str, Evidence], config=ConfigDict(ser_json_inf_nan="strings"))

logger = logging.getLogger(__name__)


def evaluate(
    settings: Settings,
    *,
    test_seasons: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score every model on every test season, having learnt from earlier seasons only.

    Args:
        settings: which home.
        test_seasons: default every season with at least two earlier ones.
        progress: called with (what, fits done, fits in all).
    Returns:
        What `ml.results.evaluate` returns, plus `moment`, `encoder`, `data_hash`, `recipes`, `usual_seasons` (the gate's),
        `up_to_date` and `seconds`; also in
        `reports/evaluation.json`.
    Raises:
        NothingToLearnError: too few seasons.
    """
    started = time.perf_counter()
    build_training_set(settings)
    rows = load_training_set(settings)
    usual = default_test_seasons(rows)
    seasons = sorted(test_seasons) if test_seasons else usual
    if not seasons:
        have = sorted({int(season) for season in rows.seasons})
        raise NothingToLearnError(f"evaluation: got seasons {have}, expected at least three (two to learn from, one to test on)")
    identity = encoder_identity(settings)
    data_hash = rows_hash(rows)
    recipes = {name: recipe(settings, name, encoder=identity.key) for name in TRAINED}
    depends_on = {"data": data_hash, "recipes": recipes, "seasons": seasons, "code": code_hash("pipelines/evaluation.py")}
    folder = reports_folder(settings, None if seasons == usual else seasons)
    paths = [folder / name for name in ("evaluation.json", "evidence.json", "evaluation.png")]
    step = "evaluate" if seasons == usual else f"evaluate-{folder.name}"
    if recorded(settings, step, depends_on) is not None and all(path.exists() for path in paths):
        return {**read_json(paths[0]), "up_to_date": True, "seconds": round(time.perf_counter() - started, 3)}

    curves: dict[str, list[dict[str, Any]]] = {}

    def keep_curve(name: str, season: int, model: PositionModel) -> None:
        if isinstance(model, FusionPredictor):
            curves.setdefault(name, []).extend(
                {"season": season, "train": epoch.train_loss, "validation": epoch.validation_loss, "epoch": epoch.epoch}
                for epoch in model.results[0].epochs
            )

    with torch_threads(settings.threads):
        predictions = rolling_origin(
            rows,
            factories(settings, encoder=identity.key),
            test_seasons=seasons,
            picture_controls=(CANDIDATE,),
            seed=settings.seed,
            progress=None if progress is None else (lambda done, total, what: progress(what, done, total)),
            on_fitted=keep_curve,
        )
    result = summarise(
        predictions,
        candidate=CANDIDATE,
        baseline=BASELINE,
        twin=TWIN,
        reference=REFERENCE,
        trivial=(GRID_ORDER, ORDER_AT_MOMENT),
    )
    result |= {"moment": settings.moment, "encoder": identity.to_json(), "data_hash": data_hash, "recipes": recipes}
    result["usual_seasons"] = seasons == usual
    result["seconds"] = round(time.perf_counter() - started, 3)
    names = (CANDIDATE, BASELINE, TWIN, REFERENCE, GRID_ORDER, ORDER_AT_MOMENT)
    found = {name: evidence(predictions, name, services=_services(name)) for name in names}
    write_report(result, paths[2], curves=curves)
    write_evidence(folder, found)
    write_json(paths[0], result)
    record(settings, step, depends_on, {"candidate": CANDIDATE})
    logger.info("evaluated seasons=%s rows=%d seconds=%.1f", seasons, result["n_rows"], result["seconds"])
    return {**result, "up_to_date": False}


def reports_folder(settings: Settings, test_seasons: Sequence[int] | None) -> Path:
    """Where an evaluation's reports are: the gate's evidence in `reports/`, chosen seasons beside it, never in its place."""
    if test_seasons is None:
        return settings.reports_dir
    return settings.reports_dir / ("seasons_" + "_".join(str(season) for season in sorted(test_seasons)))


def write_evidence(folder: Path, found: dict[str, Evidence]) -> None:
    """Store what an evaluation found, per model, for the gate."""
    write_json(folder / "evidence.json", json.loads(_EVIDENCE.dump_json(found)))


def load_evidence(folder: Path) -> dict[str, Evidence]:
    """What the evaluation with reports in `folder` found, per model.

    Raises:
        MissingInputError: nothing was evaluated yet.
    """
    return _EVIDENCE.validate_json(json.dumps(read_json(folder / "evidence.json")))


def _services(name: str) -> tuple[str, ...]:
    """Feature services a model reads; pictures are drawn from the trace service."""
    if name == ORDER_AT_MOMENT:
        return (STATE_SERVICE,)
    return (FEATURE_SERVICE, TRACE_SERVICE) if name in (CANDIDATE, REFERENCE) else (FEATURE_SERVICE,)
