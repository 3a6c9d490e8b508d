"""Preprocessing learns from the training part only and always gives finite inputs."""

import json
import logging

import numpy as np
import pandas as pd
import pytest

from ml.config import FusionConfig
from ml.errors import ModelContractError
from ml.preprocessing import TabularPreprocessor

RELATIVE = FusionConfig(name="x", race_relative_tabular=True)
PLAIN = FusionConfig(name="x")
RACE = np.array([0, 0, 0, 1, 1, 1])


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "grid": [1.0, 2.0, 3.0, 1.0, 2.0, 6.0],
            "air_temp_c": [20.0, 20.0, 20.0, 30.0, 30.0, 30.0],
            "gap": [0.5, np.nan, 1.5, 2.5, np.nan, 3.5],
            "constant": [7.0] * 6,
            "empty": [np.nan] * 6,
            "compound": ["SOFT", "HARD", None, "SOFT", "SOFT", "HARD"],
        }
    )


def test_inputs_are_standardised_relative_indicated_and_coded() -> None:
    fitted = TabularPreprocessor.fit(frame(), RACE, RELATIVE)
    assert fitted.input_names == [
        "grid",
        "air_temp_c",
        "gap",
        "grid - race mean",
        "gap - race mean",
        "gap missing",
        "compound = HARD",
        "compound = SOFT",
        "compound = None",
    ]
    got = pd.DataFrame(fitted.transform(frame(), RACE), columns=fitted.input_names)
    assert fitted.width == got.shape[1]
    assert got["grid"].mean() == pytest.approx(0, abs=1e-6)
    assert got["grid"].std(ddof=0) == pytest.approx(1, abs=1e-6)
    difference = np.array([-1, 0, 1, -2, -1, 3])
    np.testing.assert_allclose(got["grid - race mean"], difference / difference.std(), rtol=1e-6)
    assert got["gap - race mean"][1] == 0  # missing: the mean of those known
    assert got["gap missing"].tolist() == [0, 1, 0, 0, 1, 0]
    assert got["gap"][1] == got["gap"][4]  # the training median
    assert got["compound = None"].tolist() == [0, 0, 1, 0, 0, 0]


def test_a_gap_dropped_in_later_is_imputed_with_the_training_median() -> None:
    fitted = TabularPreprocessor.fit(frame(), RACE, PLAIN)
    later = frame()
    later.loc[2, ["grid", "gap"]] = np.nan
    got = pd.DataFrame(fitted.transform(later, RACE), columns=fitted.input_names)
    at = fitted.absolute.index("grid")
    assert got["grid"][2] == pytest.approx((2.0 - fitted.mean[at]) / fitted.spread[at])
    assert got["gap missing"][2] == 1
    assert np.isfinite(got.to_numpy()).all()


def test_nothing_is_learnt_from_rows_that_are_only_transformed() -> None:
    fitted = TabularPreprocessor.fit(frame(), RACE, RELATIVE)
    before = fitted.transform(frame(), RACE)
    wild = pd.concat([frame(), frame().assign(grid=1e6, compound="WET")], ignore_index=True)
    got = fitted.transform(wild, np.concatenate([RACE, RACE + 10]))
    np.testing.assert_array_equal(got[:6], before)
    assert np.abs(got).max() <= RELATIVE.clip_sd


def test_unseen_category_is_zero_everywhere_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    fitted = TabularPreprocessor.fit(frame(), RACE, PLAIN)
    with caplog.at_level(logging.WARNING):
        got = pd.DataFrame(fitted.transform(frame().assign(compound="HYPERSOFT"), RACE), columns=fitted.input_names)
    assert not got[[name for name in got if name.startswith("compound")]].to_numpy().any()
    assert "HYPERSOFT" in caplog.text


def test_state_survives_json_exactly() -> None:
    fitted = TabularPreprocessor.fit(frame(), RACE, RELATIVE)
    again = TabularPreprocessor.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again == fitted
    np.testing.assert_array_equal(again.transform(frame(), RACE), fitted.transform(frame(), RACE))


def test_columns_are_found_by_name_and_extra_ones_ignored() -> None:
    fitted = TabularPreprocessor.fit(frame(), RACE, PLAIN)
    turned = frame().assign(extra=1.0)[["extra", "compound", "gap", "grid", "air_temp_c", "constant"]]
    np.testing.assert_array_equal(fitted.transform(turned, RACE), fitted.transform(frame(), RACE))


@pytest.mark.parametrize("rows", [slice(0, 3), slice(3, 4), slice(0, 6)], ids=["one_race", "one_car", "two_races"])
def test_columns_without_a_frame_give_the_same_inputs(rows: slice) -> None:
    fitted = TabularPreprocessor.fit(frame(), RACE, RELATIVE)
    asked = frame()[rows]
    columns = {name: asked[name].to_numpy() for name in asked}
    np.testing.assert_array_equal(fitted.transform(columns, RACE[rows]), fitted.transform(asked, RACE[rows]))


def test_a_race_alone_gives_the_inputs_it_has_among_others() -> None:
    fitted = TabularPreprocessor.fit(frame(), RACE, RELATIVE)
    np.testing.assert_array_equal(fitted.transform(frame()[:3], RACE[:3]), fitted.transform(frame(), RACE)[:3])


def test_excluded_features_are_no_inputs() -> None:
    fitted = TabularPreprocessor.fit(frame(), RACE, PLAIN.model_copy(update={"exclude_features": ("air_*", "compound")}))
    assert fitted.feature_names == ("grid", "gap", "constant")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="gap"), "gap absent"),
        (lambda f: f.assign(grid=np.inf), "infinity"),
        (lambda f: f.assign(grid="pole"), "got text"),
    ],
)
def test_wrong_frames_are_refused(change: object, message: str) -> None:
    fitted = TabularPreprocessor.fit(frame(), RACE, PLAIN)
    with pytest.raises(ModelContractError, match=message):
        fitted.transform(change(frame()), RACE)  # type: ignore[operator]


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(ModelContractError, match="0 rows"):
        TabularPreprocessor.fit(frame().iloc[:0], RACE[:0], PLAIN)
    with pytest.raises(ModelContractError, match="varies"):
        TabularPreprocessor.fit(frame()[["constant", "empty"]], RACE, PLAIN)
    with pytest.raises(ModelContractError, match="mixed"):
        TabularPreprocessor.fit(frame().assign(odd=[1, "a", 2, 3, 4, 5]), RACE, PLAIN)
