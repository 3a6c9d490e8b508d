"""What must hold of preprocessing, Plackett-Luce and masks for any input."""

import numpy as np
import pandas as pd
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from ml.config import FusionConfig
from ml.fusion import MultiModalFusionModel
from ml.losses import plackett_luce
from ml.plackett_luce import position_probabilities
from ml.preprocessing import TabularPreprocessor

SCORES = st.integers(1, 20).flatmap(lambda n: arrays(np.float64, n, elements=st.floats(-30, 30)))
RELATIVE = FusionConfig(
    name="x", tabular_hidden=(), tabular_dim=4, fusion_hidden=(8,), race_relative_tabular=True, race_relative_embedding=True
)


@given(SCORES, st.floats(-100, 100))
@settings(max_examples=40, deadline=None)
def test_position_probabilities_are_doubly_stochastic_and_shift_invariant(scores: NDArray[np.float64], shift: float) -> None:
    probabilities = position_probabilities(scores)
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-9)
    np.testing.assert_allclose(position_probabilities(scores + shift), probabilities, atol=1e-9)


@given(SCORES)
@settings(max_examples=40, deadline=None)
def test_a_higher_score_is_a_better_expected_place(scores: NDArray[np.float64]) -> None:
    expected = position_probabilities(scores) @ np.arange(1, len(scores) + 1)
    order = np.argsort(-scores)
    assert (np.diff(expected[order]) > -1e-7).all()


@given(arrays(np.float64, 12, elements=st.floats(-5, 5)), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_listwise_loss_does_not_depend_on_row_order(scores: NDArray[np.float64], seed: int) -> None:
    rng = np.random.default_rng(seed)
    race = np.repeat([0, 1], [7, 5])
    position = np.concatenate([rng.permutation(7) + 1, rng.permutation(5) + 1])
    shuffled = rng.permutation(12)
    finished = rng.random(12) < 0.8

    def loss(index: NDArray[np.int64]) -> float:
        parts = (torch.from_numpy(array[index]) for array in (scores, position, finished, race))
        return float(plackett_luce(*parts, rank_retired=False))

    np.testing.assert_allclose(loss(np.arange(12)), loss(shuffled), atol=1e-12)


@st.composite
def feature_frames(draw: st.DrawFn) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    n = draw(st.integers(2, 30))
    number = st.one_of(st.none(), st.floats(-1e6, 1e6))
    columns = {f"f{i}": pd.array(draw(st.lists(number, min_size=n, max_size=n)), dtype="object") for i in range(3)}
    frame = pd.DataFrame(columns).astype(np.float64)
    frame["always"] = np.arange(n, dtype=np.float64)
    frame["kind"] = pd.Series(draw(st.lists(st.sampled_from(["a", "b", None]), min_size=n, max_size=n)), dtype=object)
    return frame, np.sort(np.array(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), dtype=np.int64))


@given(feature_frames(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_inputs_are_finite_clipped_and_follow_their_rows(given_frame: tuple[pd.DataFrame, NDArray[np.int64]], seed: int) -> None:
    frame, race = given_frame
    fitted = TabularPreprocessor.fit(frame, race, RELATIVE)
    inputs = fitted.transform(frame, race)
    assert inputs.shape == (len(frame), fitted.width)
    assert np.isfinite(inputs).all()
    assert np.abs(inputs).max() <= RELATIVE.clip_sd
    shuffled = np.random.default_rng(seed).permutation(len(frame))
    turned = fitted.transform(frame.iloc[shuffled].reset_index(drop=True), race[shuffled])
    np.testing.assert_allclose(turned, inputs[shuffled], atol=1e-5)


@given(feature_frames())
@settings(max_examples=40, deadline=None)
def test_other_races_do_not_change_a_races_inputs(given_frame: tuple[pd.DataFrame, NDArray[np.int64]]) -> None:
    frame, race = given_frame
    fitted = TabularPreprocessor.fit(frame, race, RELATIVE)
    one = race == race[0]
    alone = fitted.transform(frame[one].reset_index(drop=True), race[one])
    np.testing.assert_array_equal(alone, fitted.transform(frame, race)[one])


@given(
    arrays(np.bool_, 10),
    arrays(np.float32, (10, 1), elements=st.sampled_from([float("nan"), float("inf"), -3e38, 0.0, 7.0])),
)
@settings(max_examples=40, deadline=None)
def test_whatever_stands_in_for_a_missing_picture_changes_nothing(mask: NDArray[np.bool_], junk: NDArray[np.float32]) -> None:
    torch.manual_seed(0)
    model = MultiModalFusionModel(RELATIVE, 3).eval_mode()
    tabular, race = torch.randn(10, 3), torch.tensor([0] * 4 + [1] * 6)
    images, has_picture = torch.randn(10, 512), torch.from_numpy(mask)
    dirty = torch.where(has_picture[:, None], images, torch.from_numpy(junk))
    with torch.no_grad():
        clean_output = model(images, tabular, has_picture=has_picture, race=race)
        assert torch.equal(model(dirty, tabular, has_picture=has_picture, race=race), clean_output)
