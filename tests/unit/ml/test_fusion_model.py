"""`FusionPredictor` keeps the position model's contract for every loss, on disk too."""

import json
from pathlib import Path

import numpy as np
import pytest
from builders import make_rows

from feature_repo.errors import DamagedFileError, MissingInputError
from ml.config import FusionConfig
from ml.errors import ModelContractError, NotFittedError
from ml.fusion_model import MODEL_JSON, WEIGHTS, FusionPredictor
from ml.rows import PositionModel, Rows

SMALL = FusionConfig(
    name="small", tabular_hidden=(16,), tabular_dim=16, fusion_hidden=(16,), epochs=8, learning_rate=3e-3, n_seeds=2
)
CONFIGS = {
    "cross_entropy": SMALL,
    "mse": SMALL.model_copy(update={"loss": "mse"}),
    "listwise": SMALL.model_copy(
        update={
            "loss": "listwise",
            "race_relative_tabular": True,
            "race_relative_embedding": True,
            "embedding_pca": 8,
            "embedding_scaling": "common",
            "races_per_batch": 3,
            "model_retirements": True,
        }
    ),
    "tabular": SMALL.model_copy(update={"loss": "listwise", "use_pictures": False, "race_relative_tabular": True}),
}


@pytest.fixture(scope="module")
def parts() -> tuple[Rows, Rows, Rows]:
    rows = make_rows(np.random.default_rng(0), 48, races_per_season=12)
    season = rows.seasons
    return rows.take(season <= 2019), rows.take(season == 2020), rows.take(season == 2021)


@pytest.fixture(scope="module")
def fitted(parts: tuple[Rows, Rows, Rows]) -> dict[str, FusionPredictor]:
    models = {}
    for key, config in CONFIGS.items():
        models[key] = FusionPredictor(config, encoder_identity="trace:abc")
        models[key].fit(parts[0], parts[1])
    return models


@pytest.mark.parametrize("key", CONFIGS)
def test_probabilities_are_distributions_and_know_something(
    key: str, fitted: dict[str, FusionPredictor], parts: tuple[Rows, Rows, Rows]
) -> None:
    model: PositionModel = fitted[key]
    test = parts[2]
    probabilities = model.predict_proba(test)
    assert probabilities.shape == (len(test), 20)
    assert probabilities.dtype == np.float64
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-9)
    expected = probabilities @ np.arange(1, 21)
    assert np.abs(expected - test.position).mean() < 4.85  # guessing the middle of the field gives 5.0


@pytest.mark.parametrize("key", CONFIGS)
def test_save_and_load_predict_the_same(
    key: str, fitted: dict[str, FusionPredictor], parts: tuple[Rows, Rows, Rows], tmp_path: Path
) -> None:
    fitted[key].save(tmp_path / "model")
    again = FusionPredictor.load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict_proba(parts[2]), fitted[key].predict_proba(parts[2]))
    assert again.provenance == fitted[key].provenance
    again.save(tmp_path / "copy")
    assert (tmp_path / "copy" / WEIGHTS).read_bytes() == (tmp_path / "model" / WEIGHTS).read_bytes()


@pytest.mark.parametrize("key", CONFIGS)
def test_row_order_and_other_races_do_not_matter(
    key: str, fitted: dict[str, FusionPredictor], parts: tuple[Rows, Rows, Rows]
) -> None:
    test = parts[2]
    whole = fitted[key].predict_proba(test)
    order = np.concatenate([index[::-1] for _, index in test.races()])
    np.testing.assert_allclose(fitted[key].predict_proba(test.take(order)), whole[order], atol=1e-5)
    one = test.keys["race_id"].to_numpy() == test.keys["race_id"].iloc[0]
    np.testing.assert_allclose(fitted[key].predict_proba(test.take(one)), whole[one], atol=1e-5)


@pytest.mark.parametrize("key", ["cross_entropy", "listwise"])
def test_what_stands_in_for_a_missing_picture_does_not_matter(
    key: str, fitted: dict[str, FusionPredictor], parts: tuple[Rows, Rows, Rows]
) -> None:
    test = parts[2].take(np.arange(len(parts[2])))
    expected = fitted[key].predict_proba(test)
    test.embedding[~test.has_picture] = np.nan
    np.testing.assert_array_equal(fitted[key].predict_proba(test), expected)


def test_labels_are_not_read_in_prediction(fitted: dict[str, FusionPredictor], parts: tuple[Rows, Rows, Rows]) -> None:
    test = parts[2].take(np.arange(len(parts[2])))
    expected = fitted["listwise"].predict_proba(test)
    test.position[:] = 0
    test.finished[:] = False
    test.order[:] = np.nan
    np.testing.assert_array_equal(fitted["listwise"].predict_proba(test), expected)


def test_the_twin_does_not_see_pictures(fitted: dict[str, FusionPredictor], parts: tuple[Rows, Rows, Rows]) -> None:
    test = parts[2].take(np.arange(len(parts[2])))
    expected = fitted["tabular"].predict_proba(test)
    test.embedding[:] = 1e6
    np.testing.assert_array_equal(fitted["tabular"].predict_proba(test), expected)
    assert fitted["tabular"].encoder_identity == ""


def test_pictures_help_where_they_know_something(fitted: dict[str, FusionPredictor], parts: tuple[Rows, Rows, Rows]) -> None:
    test = parts[2]
    places = np.arange(1, 21)
    with_pictures, without = (fitted[key].predict_proba(test) @ places for key in ("listwise", "tabular"))
    assert np.abs(with_pictures - test.position).mean() < np.abs(without - test.position).mean()


def test_same_seed_same_model(parts: tuple[Rows, Rows, Rows], fitted: dict[str, FusionPredictor]) -> None:
    again = FusionPredictor(CONFIGS["listwise"], encoder_identity="trace:abc")
    again.fit(parts[0], parts[1])
    np.testing.assert_array_equal(again.predict_proba(parts[2]), fitted["listwise"].predict_proba(parts[2]))


def test_checkpoints_of_every_seed_and_resume(parts: tuple[Rows, Rows, Rows], tmp_path: Path) -> None:
    model = FusionPredictor(CONFIGS["tabular"], checkpoint_dir=tmp_path)
    model.fit(parts[0], parts[1])
    assert (tmp_path / "small" / "best_model.pt").is_file()
    assert (tmp_path / "small" / "seed_1" / "final_model.pt").is_file()
    about = json.loads((tmp_path / "small" / "best_model.json").read_text(encoding="utf-8"))
    assert about["feature_order"] == list(model.provenance.feature_order) if model.provenance else False
    again = FusionPredictor(CONFIGS["tabular"], checkpoint_dir=tmp_path, resume=True)
    again.fit(parts[0], parts[1])
    np.testing.assert_array_equal(again.predict_proba(parts[2]), model.predict_proba(parts[2]))


def test_unseen_category_and_missing_values_in_later_races(
    fitted: dict[str, FusionPredictor], parts: tuple[Rows, Rows, Rows]
) -> None:
    test = parts[2].take(np.arange(len(parts[2])))
    test.features.loc[::3, "tire_compound"] = "HYPERSOFT"
    test.features.loc[:, "grid_position"] = np.nan
    for model in fitted.values():
        assert np.isfinite(model.predict_proba(test)).all()


def test_misuse_is_named(parts: tuple[Rows, Rows, Rows], fitted: dict[str, FusionPredictor], tmp_path: Path) -> None:
    model = FusionPredictor(SMALL)
    with pytest.raises(NotFittedError):
        model.predict_proba(parts[2])
    with pytest.raises(NotFittedError):
        model.save(tmp_path)
    with pytest.raises(ModelContractError, match="training part too"):
        model.fit(parts[0], parts[0])
    short = parts[2].take(np.arange(len(parts[2])))
    del short.features["grid_position"]
    with pytest.raises(ModelContractError, match="grid_position"):
        fitted["mse"].predict_proba(short)


def test_damaged_models_are_not_loaded(fitted: dict[str, FusionPredictor], tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        FusionPredictor.load(tmp_path)
    fitted["mse"].save(tmp_path)
    weights = tmp_path / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DamagedFileError, match=WEIGHTS):
        FusionPredictor.load(tmp_path)
    (tmp_path / MODEL_JSON).write_text("{", encoding="utf-8")
    with pytest.raises(DamagedFileError, match="not JSON"):
        FusionPredictor.load(tmp_path)
