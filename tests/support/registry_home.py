"""A home with a trained candidate and baseline and their evidence, ready for `promote`, without lake, pictures or Feast."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
from builders import make_evidence, make_rows

from feature_repo.files import write_bytes, write_json
from feature_repo.settings import Settings
from ml.config import FusionConfig
from ml.evidence import Evidence
from ml.fusion_model import FusionPredictor
from ml.served_model import Origin, feature_specs, tabular_array, write_served_model
from pipelines.candidates import BASELINE, CANDIDATE, GRID_ORDER, ORDER_AT_MOMENT
from pipelines.dataset import FEATURE_SERVICE
from pipelines.evaluation import write_evidence

N_RACES = 40


def write_trained(settings: Settings, *, candidate_hits: int = 6, baseline_hits: int = 4, seed: int = 0) -> None:
    """A trained candidate (a small tabular net of this seed) and baseline, and an evaluation in which they scored as given.

    Args:
        settings: the home.
        candidate_hits: exact hits of the candidate in every race of 20 cars.
        baseline_hits: of the baseline.
        seed: another seed is another candidate.
    """
    rows = make_rows(np.random.default_rng(seed), 8)
    config = FusionConfig(name=CANDIDATE, use_pictures=False, epochs=2, tabular_hidden=(8,), tabular_dim=8, fusion_hidden=(8,))
    train, validation = rows.take(rows.race_code < 6), rows.take(rows.race_code >= 6)
    specs = feature_specs(rows.features, list(rows.features.columns))
    race = rows.take(rows.race_code == 7)
    question = {"tabular": tabular_array(race.features, specs), "pictures": [None] * len(race)}
    for name in (CANDIDATE, BASELINE):
        model = FusionPredictor(config.model_copy(update={"name": name, "seed": seed}))
        model.fit(train, validation)
        write_served_model(
            settings.models_dir / name,
            model,
            specs=specs,
            origin=origin(),
            encoder=None,
            question=question,
        )
    write_evaluation(settings, evidence(candidate_hits, baseline_hits))


def origin(data_hash: str = "d" * 64, recipe: str = "r" * 64) -> Origin:
    """Where the models of this home come from."""
    return Origin(
        feature_service=FEATURE_SERVICE,
        data_hash=data_hash,
        recipe=recipe,
        moment="fraction:0.5",
        fitted_until="2018_06",
        validated_until="2019_02",
    )


def evidence(candidate_hits: int, baseline_hits: int) -> dict[str, Evidence]:
    """What an evaluation found, per model."""

    def scored(name: str, hits: int, error: int) -> Evidence:
        return replace(make_evidence(name, [hits] * N_RACES, absolute_error=[error] * N_RACES), services=(FEATURE_SERVICE,))

    return {
        CANDIDATE: scored(CANDIDATE, candidate_hits, 45),
        BASELINE: scored(BASELINE, baseline_hits, 50),
        GRID_ORDER: scored(GRID_ORDER, baseline_hits - 1, 60),
        ORDER_AT_MOMENT: scored(ORDER_AT_MOMENT, candidate_hits + 2, 40),
    }


def write_evaluation(
    settings: Settings, found: dict[str, Evidence], *, data_hash: str = "d" * 64, recipe: str = "r" * 64
) -> None:
    """The reports of an evaluation on data and with recipes of these hashes."""
    write_evidence(settings.reports_dir, found)
    report: dict[str, Any] = {"data_hash": data_hash, "test_seasons": [2020, 2021], "moment": settings.moment}
    report["recipes"] = {CANDIDATE: recipe, BASELINE: recipe}
    write_json(settings.reports_dir / "evaluation.json", json.loads(json.dumps(report)))
    write_bytes(settings.reports_dir / "evaluation.png", b"stands for the report; promotion only stores it")
