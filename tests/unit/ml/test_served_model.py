"""A model folder answers as the model did, notices damage, and refuses inputs that do not fit."""

import json
import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from builders import COMPOUNDS, make_rows
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from feature_repo.errors import DamagedFileError, MissingInputError
from ml import known_answer
from ml.config import FusionConfig
from ml.encoders import transforms
from ml.encoders.vision import EncoderIdentity
from ml.encoders.weights import LoadedWeights, state_sha256, store_weights
from ml.ensemble import EnsemblePredictor
from ml.errors import ModelContractError
from ml.fusion_model import FusionPredictor
from ml.rows import Rows
from ml.served_model import (
    DESCRIPTION,
    ENCODER,
    PREDICTOR,
    QUESTION,
    FeatureSpec,
    Origin,
    ServedModel,
    decode_pictures,
    feature_specs,
    is_served_model,
    read_question,
    tabular_array,
    tabular_frame,
    write_served_model,
)

N_CARS = 20


ORIGIN = Origin(
    feature_service="finish_position_v1",
    data_hash="d" * 64,
    recipe="r" * 64,
    moment="fraction:0.5",
    fitted_until="2018_06",
    validated_until="2019_01",
)


def test_an_origin_says_which_races_are_no_test_of_the_model() -> None:
    assert [ORIGIN.saw(race_id) for race_id in ("2017_21", "2018_06", "2018_07", "2019_01", "2019_02")] == [
        "training",
        "training",
        "validation",
        "validation",
        "no",
    ]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return make_rows(np.random.default_rng(5), 8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> LoadedWeights:
    """An untrained encoder on disk."""
    from ml.encoders.torchvision_ops import torchvision_models

    torch.manual_seed(3)
    state = torchvision_models().resnet18(weights=None).state_dict()
    loaded = LoadedWeights("random", state, state_sha256(state), "for tests", transforms.IMAGENET)
    return store_weights(loaded, tmp_path_factory.mktemp("weights") / "random.safetensors")


def png(number: int) -> bytes:
    """A small white picture with a line of its own."""
    pixels = np.full((60, 80, 3), 255, dtype=np.uint8)
    pixels[5 + 2 * number, 5:70] = (200, 30, 30)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(
    folder: Path, rows: Rows, weights: LoadedWeights | None, *, pictures: Sequence[bytes | None] | None = None
) -> tuple[Any, tuple[FeatureSpec, ...], Rows]:
    """A small fitted net, with pictures if there are weights, written to `folder`; its last race is the question."""
    config = FusionConfig(
        name="small", use_pictures=weights is not None, epochs=2, tabular_hidden=(8,), tabular_dim=8, fusion_hidden=(8,)
    )
    model = FusionPredictor(config, encoder_identity="" if weights is None else "e" * 16)
    model.fit(rows.take(rows.race_code < 6), rows.take(rows.race_code == 6))
    race = rows.take(rows.race_code == 7)
    specs = feature_specs(rows.features, list(rows.features.columns))
    identity = None if weights is None else EncoderIdentity(weights.kind, weights.sha256, weights.transform)
    write_served_model(
        folder,
        model,
        specs=specs,
        origin=ORIGIN,
        encoder=None if identity is None or weights is None or weights.file is None else (weights.file, identity),
        question={"tabular": tabular_array(race.features, specs), "pictures": pictures or [None] * len(race)},
    )
    return model, specs, race


@pytest.fixture(scope="module")
def tabular(rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, tuple[FeatureSpec, ...], Rows]:
    folder = tmp_path_factory.mktemp("models") / "tabular"
    return (folder, *write(folder, rows, None))


@pytest.fixture(scope="module")
def visual(rows: Rows, weights: LoadedWeights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "visual"
    write(folder, rows, weights, pictures=[None, *[png(car) for car in range(1, N_CARS)]])
    return folder


def test_the_folder_answers_as_the_model_does(tabular: tuple[Path, Any, tuple[FeatureSpec, ...], Rows]) -> None:
    folder, model, specs, race = tabular
    served = ServedModel(folder)
    assert (served.name, served.origin) == ("small", ORIGIN)
    assert served.specs == specs
    assert not served.uses_pictures
    answer = served.predict(tabular_array(race.features, specs))
    np.testing.assert_allclose(answer, model.predict_proba(race), atol=1e-6)
    np.testing.assert_allclose(answer.sum(axis=1), 1)
    with pytest.raises(
        ModelContractError, match="small: a tabular model has no encoder; ask a model whose `uses_pictures` is true"
    ):
        served.encoder()


def test_an_ensemble_is_served_too(rows: Rows, tmp_path: Path) -> None:
    model = EnsemblePredictor(seed=1, threads=1)
    few = rows.take(np.flatnonzero(rows.race_code < 5))
    model.fit(few.take(few.race_code < 4), few.take(few.race_code == 4))
    race = rows.take(rows.race_code == 7)
    specs = feature_specs(rows.features, list(rows.features.columns))
    question = {"tabular": tabular_array(race.features, specs), "pictures": [None] * len(race)}
    write_served_model(tmp_path / "m", model, specs=specs, origin=ORIGIN, encoder=None, question=question)
    answer = ServedModel(tmp_path / "m").predict(question["tabular"])
    np.testing.assert_allclose(answer, model.predict_proba(race), atol=1e-5)


def test_pictures_decide_and_a_missing_one_is_missing(visual: Path) -> None:
    served = ServedModel(visual)
    numbers, images, expected = read_question(visual / QUESTION)
    assert served.uses_pictures
    assert images.shape == (N_CARS, 60, 80, 3)
    assert not images[0].any(), "the first car has none"
    np.testing.assert_allclose(served.predict(numbers, images), expected, atol=1e-6)
    assert not np.allclose(served.predict(numbers, None), expected, atol=1e-4)
    changed = images.copy()
    changed[3] = images[10]
    assert not np.allclose(served.predict(numbers, changed)[3], expected[3], atol=1e-6)


def test_larger_pictures_of_any_shape_are_taken_and_other_arrays_refused(visual: Path) -> None:
    served = ServedModel(visual)
    numbers, images, _ = read_question(visual / QUESTION)
    assert served.predict(numbers, images[:, :50, :70]).shape == (N_CARS, 20)
    wrongs: list[Any] = [images[..., :1], images[:-1], images[0]]
    for wrong in wrongs:
        with pytest.raises(ModelContractError, match=r"image: got shape .*, expected \(20, height, width, 3\)"):
            served.predict(numbers, wrong)


def test_a_wrong_number_of_features_is_refused(tabular: tuple[Path, Any, Any, Any]) -> None:
    folder, _, specs, race = tabular
    array = tabular_array(race.features, specs)
    wrongs: list[Any] = [array[:, :-1], array[0], np.hstack([array, array])]
    for wrong in wrongs:
        with pytest.raises(ModelContractError, match=r"tabular: got shape .*, expected \(cars, "):
            ServedModel(folder).predict(wrong)


@pytest.mark.parametrize("code", [-1.0, 3.0, 0.5])
def test_a_category_code_that_was_never_seen_is_refused(tabular: tuple[Path, Any, Any, Any], code: float) -> None:
    _, _, specs, race = tabular
    array = tabular_array(race.features, specs)
    array[0, [spec.name for spec in specs].index("tire_compound")] = code
    with pytest.raises(ModelContractError, match=r"tire_compound: expected codes 0\.\.2"):
        tabular_frame(array, specs)


def test_categories_are_the_values_seen_in_order() -> None:
    frame = pd.DataFrame({"compound": ["SOFT", None, "HARD"], "laps": [1.0, math.nan, 3.0], "empty": [None, None, None]})
    specs = feature_specs(frame, ["laps", "compound", "empty"])
    assert specs == (
        FeatureSpec("laps", None, low=1.0, high=3.0, distinct=2),
        FeatureSpec("compound", ("HARD", "SOFT"), distinct=2),
        FeatureSpec("empty", None, distinct=0),
    )
    assert FeatureSpec.from_json({"name": "laps", "categories": None}) == FeatureSpec("laps", None), "older models kept no ranges"
    array = tabular_array(frame, specs)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array[:, 1], np.array([1, np.nan, 0], dtype=np.float32))
    assert np.isnan(array[:, 2]).all()
    new = tabular_array(frame.assign(compound=["HYPERSOFT", "SOFT", None]), specs)
    np.testing.assert_array_equal(new[:, 1], np.array([np.nan, 1, np.nan], dtype=np.float32))


@given(
    st.lists(
        st.tuples(st.one_of(st.none(), st.floats(width=32, allow_nan=False, allow_infinity=False)),
                  st.one_of(st.none(), st.sampled_from(COMPOUNDS))),
        min_size=1, max_size=20,
    )
)  # fmt: skip
def test_the_array_holds_what_the_frame_held(cars: list[tuple[float | None, str | None]]) -> None:
    specs = (FeatureSpec("number", None), FeatureSpec("compound", tuple(sorted(COMPOUNDS))))
    frame = pd.DataFrame({"number": pd.Series([n for n, _ in cars], dtype="float64"),
                          "compound": pd.Series([c for _, c in cars], dtype=object)})  # fmt: skip
    back = tabular_frame(tabular_array(frame, specs), specs)
    np.testing.assert_array_equal(back["number"], frame["number"])
    assert list(back["compound"]) == list(frame["compound"])


def test_pictures_are_decoded_to_one_array() -> None:
    images = decode_pictures([None, png(3), None])
    assert images.shape == (3, 60, 80, 3)
    assert not images[[0, 2]].any()
    assert images[1].any()
    assert decode_pictures([None, None]).shape == (2, 1, 1, 3)


def damage_weights(folder: Path) -> None:
    path = next((folder / PREDICTOR).rglob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def lose_a_file(folder: Path) -> None:
    next((folder / PREDICTOR).rglob("*.safetensors")).unlink()


def other_format(folder: Path) -> None:
    described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    (folder / DESCRIPTION).write_text(json.dumps({**described, "format": 99}), encoding="utf-8")


def other_kind(folder: Path) -> None:
    described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    (folder / DESCRIPTION).write_text(json.dumps({**described, "kind": "pickle"}), encoding="utf-8")


@pytest.mark.parametrize("damage", [damage_weights, lose_a_file, other_format, other_kind])
def test_damage_is_noticed(rows: Rows, tmp_path: Path, damage: Any) -> None:
    write(tmp_path / "model", rows, None)
    damage(tmp_path / "model")
    with pytest.raises(DamagedFileError, match="run `pitwall train`"):
        ServedModel(tmp_path / "model")


def test_swapped_encoder_weights_are_noticed(rows: Rows, weights: LoadedWeights, tmp_path: Path) -> None:
    write(tmp_path / "model", rows, weights, pictures=[png(car) for car in range(N_CARS)])
    path = tmp_path / "model" / ENCODER
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(DamagedFileError, match=ENCODER):
        ServedModel(tmp_path / "model")


def test_a_folder_without_a_description_is_no_model(tmp_path: Path) -> None:
    assert not is_served_model(tmp_path)
    with pytest.raises(MissingInputError):
        ServedModel(tmp_path)


def test_a_model_that_cannot_answer_its_question_is_not_kept(rows: Rows, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write(folder, rows, None)
    model = FusionPredictor(FusionConfig(name="x", use_pictures=False, epochs=1, tabular_hidden=(4,), tabular_dim=4))
    model.fit(rows.take(rows.race_code < 6), rows.take(rows.race_code == 6))
    specs = feature_specs(rows.features, list(rows.features.columns))
    question = {"tabular": np.zeros((N_CARS, 2), dtype=np.float32), "pictures": [None] * N_CARS}
    with pytest.raises(ModelContractError):
        write_served_model(folder, model, specs=specs, origin=ORIGIN, encoder=None, question=question)
    assert not is_served_model(folder), "and the model before it is gone, because its files were replaced"


def test_a_new_model_leaves_nothing_of_the_old_one(rows: Rows, weights: LoadedWeights, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write(folder, rows, weights, pictures=[png(car) for car in range(N_CARS)])
    (folder / PREDICTOR / "left_over").write_bytes(b"of an older design")
    write(folder, rows, weights, pictures=[None] * N_CARS)
    assert not (folder / PREDICTOR / "left_over").exists()
    assert list((folder / QUESTION).glob("*.png")) == []
    _, images, _ = read_question(folder / QUESTION)
    assert not images.any()


def test_a_trained_folder_answers_its_question(visual: Path, tabular: tuple[Path, Any, Any, Any], tmp_path: Path) -> None:
    for folder in (visual, tabular[0]):
        found = known_answer.ask(str(folder))
        assert (found.loaded, found.answered) == (True, True), found.detail
        assert found.largest_difference < 1e-6
    absent = known_answer.ask(str(tmp_path))
    assert (absent.loaded, absent.answered) == (False, False)
    assert "MissingInputError" in absent.detail
    stored = visual / QUESTION / "question.json"
    kept = stored.read_text(encoding="utf-8")
    try:
        question = json.loads(kept)
        stored.write_text(json.dumps({**question, "answer": question["answer"][:-1]}), encoding="utf-8")
        assert (known_answer.ask(str(visual)).loaded, known_answer.ask(str(visual)).answered) == (True, False)
    finally:
        stored.write_text(kept, encoding="utf-8")
