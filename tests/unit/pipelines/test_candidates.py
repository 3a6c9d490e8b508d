"""Which models are compared: the twin differs from the candidate by its pictures only, and every fold gets a new model."""

from pathlib import Path

import pytest

from feature_repo.settings import Settings
from ml.baselines import GridOrder, OrderAtMoment
from ml.ensemble import EnsemblePredictor
from ml.fusion_model import FusionPredictor
from pipelines.candidates import (
    BASELINE,
    CANDIDATE,
    GRID_ORDER,
    ORDER_AT_MOMENT,
    REFERENCE,
    TRAINED,
    TWIN,
    factories,
    fusion_config,
    make_model,
)


def test_the_twin_is_the_candidate_without_pictures() -> None:
    candidate, twin = fusion_config(CANDIDATE).model_dump(), fusion_config(TWIN).model_dump()
    assert {name for name in candidate if candidate[name] != twin[name]} == {"name", "use_pictures"}
    assert (candidate["use_pictures"], twin["use_pictures"]) == (True, False)
    assert fusion_config(REFERENCE).use_pictures


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (CANDIDATE, FusionPredictor),
        (REFERENCE, FusionPredictor),
        (TWIN, FusionPredictor),
        (BASELINE, EnsemblePredictor),
        (GRID_ORDER, GridOrder),
        (ORDER_AT_MOMENT, OrderAtMoment),
    ],
)
def test_each_name_is_a_model_that_bears_it(settings: Settings, name: str, kind: type) -> None:
    model = make_model(settings, name, encoder="0123456789abcdef")
    assert isinstance(model, kind)
    assert model.name == name


def test_the_comparison_holds_all_models_and_makes_new_ones(settings: Settings, tmp_path: Path) -> None:
    made = factories(settings, encoder="0123456789abcdef")
    assert tuple(made) == (*TRAINED, GRID_ORDER, ORDER_AT_MOMENT)
    for name, factory in made.items():
        one, two = factory(2023), factory(2024)
        assert one is not two
        assert one.name == name, "each factory makes its own model, not the last one's"
