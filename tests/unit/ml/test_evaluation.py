"""Folds never look ahead, every model is scored on the same rows, and broken models are shown as broken."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders import make_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ml.baselines import GridOrder, OrderAtMoment
from ml.errors import EvidenceError, FoldError, ProbabilityError
from ml.evaluation import (
    BLANK,
    SHUFFLED,
    Predictions,
    blank_pictures,
    control_name,
    default_test_seasons,
    folds,
    rolling_origin,
    shuffle_pictures,
)
from ml.plackett_luce import race_probabilities
from ml.results import compare, evaluate, evidence, rows_sha256
from ml.rows import PositionModel, Rows


class Reader:
    """Ranks by one column of what it is given: the tabular one, or the first embedding value."""

    def __init__(self, what: str) -> None:
        self.name = what
        self.seen: list[str] = []

    def fit(self, train: Rows, validation: Rows) -> None:
        self.seen = [*train.keys["race_id"], *validation.keys["race_id"]]

    def predict_proba(self, rows: Rows) -> NDArray[np.float64]:
        if self.name == "nan":
            return np.full((len(rows), 20), np.nan)
        if self.name == "wrong_sum":
            return np.full((len(rows), 20), 0.04)
        if self.name == "tabular":
            strength = -rows.features["finish_mean_5"].fillna(10.5).to_numpy() / 4
        else:
            strength = 0.6 * rows.embedding[:, :8].mean(axis=1).astype(np.float64)
        return race_probabilities(strength, rows.race_code)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return make_rows(np.random.default_rng(8), 30)  # 5 seasons of 6 races


@pytest.fixture(scope="module")
def predictions(rows: Rows) -> Predictions:
    models = {
        "picture": lambda _: Reader("picture"),
        "tabular": lambda _: Reader("tabular"),
        "grid_order": lambda _: GridOrder(),
        "order_at_moment": lambda _: OrderAtMoment(),
    }
    return rolling_origin(rows, models, picture_controls=["picture"])


def test_default_test_seasons_have_two_before_them(rows: Rows) -> None:
    assert default_test_seasons(rows) == [2020, 2021, 2022]


@settings(max_examples=15, deadline=None)
@given(st.integers(8, 30), st.integers(2, 7), st.floats(0.01, 0.9))
def test_folds_are_disjoint_whole_and_in_order(n_races: int, races_per_season: int, share: float) -> None:
    rows = make_rows(np.random.default_rng(1), n_races, n_cars=3, races_per_season=races_per_season, n_noise=0)
    if not default_test_seasons(rows):
        with pytest.raises(FoldError, match="at least three seasons"):
            folds(rows, validation_share=share)
        return
    race, season = rows.race_code, rows.seasons
    for fold in folds(rows, validation_share=share):
        assert race[fold.train].max() < race[fold.validation].min()
        assert race[fold.validation].max() < race[fold.test].min()
        assert set(season[fold.test]) == {fold.test_season}
        assert len(fold.train) + len(fold.validation) == (season < fold.test_season).sum()


def test_validation_is_the_share_asked_for(rows: Rows) -> None:
    last = folds(rows)[-1]  # 24 earlier races
    assert len(np.unique(rows.race_code[last.validation])) == round(0.18 * 24)


@pytest.mark.parametrize(("seasons", "part"), [([2018], "0 earlier races"), ([2030], "30 earlier races"), ([], "at least three")])
def test_seasons_that_cannot_be_tested_are_refused(rows: Rows, seasons: list[int], part: str) -> None:
    with pytest.raises(FoldError, match=part):
        folds(rows, seasons)


def test_a_moment_out_of_order_is_refused(rows: Rows) -> None:
    """A race filed under 2018 that was asked about in 2022 must not be trained on for 2020."""
    keys = rows.keys.copy()
    keys.loc[0, "event_timestamp"] = pd.Timestamp("2022-06-01", tz="UTC")
    with pytest.raises(FoldError, match=r"2018_01.*expected train to end before"):
        folds(replace(rows, keys=keys))


def test_models_see_only_earlier_races(rows: Rows) -> None:
    fitted: dict[int, PositionModel] = {}
    rolling_origin(
        rows, {"tabular": lambda _: Reader("tabular")}, on_fitted=lambda _, season, model: fitted.update({season: model})
    )
    assert sorted(fitted) == [2020, 2021, 2022]
    for season, model in fitted.items():
        assert isinstance(model, Reader)
        assert all(int(race_id[:4]) < season for race_id in model.seen)


def test_changing_the_future_changes_no_earlier_prediction(rows: Rows, predictions: Predictions) -> None:
    future = rows.seasons == 2022
    changed = replace(rows, position=np.where(future, 21 - rows.position, rows.position))
    again = rolling_origin(changed, {"grid_order": lambda _: GridOrder()}, test_seasons=[2020, 2021])
    earlier = predictions.keys["season"].to_numpy() < 2022
    np.testing.assert_array_equal(again.probabilities["grid_order"], predictions.probabilities["grid_order"][earlier])


def test_every_model_is_scored_on_the_same_rows(predictions: Predictions) -> None:
    found = {name: evidence(predictions, name) for name in predictions.probabilities}
    rows_scored = {name: [(race.race_id, race.rows_sha256) for race in model.races] for name, model in found.items()}
    assert len(set(map(str, rows_scored.values()))) == 1
    assert found["picture"].n_rows == len(predictions) == 18 * 20


def test_evidence_agrees_with_the_metrics(predictions: Predictions) -> None:
    found = evidence(predictions, "tabular", services=["finish_position_v1"], version="4")
    assert found.hits / found.n_rows == pytest.approx(found.metrics["accuracy"])
    assert sum(race.absolute_error for race in found.races) / found.n_rows == pytest.approx(found.metrics["mae"])
    assert [fold.last_race_seen for fold in found.folds] == ["2019_06", "2020_06", "2021_06"]
    assert (found.services, found.version) == (("finish_position_v1",), "4")


def test_trivial_orders_are_assigned_as_they_stand(rows: Rows, predictions: Predictions) -> None:
    tested = rows.seasons >= 2020
    np.testing.assert_array_equal(predictions.assigned["grid_order"], rows.features["grid_position"][tested])


def test_evaluate_reports_everything_as_json(predictions: Predictions) -> None:
    result = evaluate(predictions, candidate="picture", baseline="tabular")
    json.dumps(result, allow_nan=False)
    for part in (result["candidate"], result["baseline"], *result["trivial"].values(), *result["controls"].values()):
        assert {"accuracy", "top3", "mae", "rps", "log_loss"} <= set(part)
        assert set(part["per_season"]) == {"2020", "2021", "2022"}
    assert set(result["trivial"]) == {"grid_order", "order_at_moment"}
    assert set(result["controls"]) == {SHUFFLED, BLANK}
    assert (result["n_races"], result["n_rows"]) == (18, 360)
    gain = result["comparisons"]["candidate_vs_baseline"]["accuracy"]
    assert gain["low"] <= gain["estimate"] <= gain["high"]
    assert "twin" not in result


def test_wrong_pictures_take_away_what_pictures_give(predictions: Predictions) -> None:
    """The picture reader knows nothing else: with others' pictures, or none, it is a guess."""
    result = evaluate(predictions, candidate="picture", baseline="tabular")
    assert result["candidate"]["log_loss"] < np.log(20) - 0.02
    for control in (SHUFFLED, BLANK):
        assert result["controls"][control]["log_loss"] > result["candidate"]["log_loss"] + 0.02
    np.testing.assert_allclose(predictions.probabilities[control_name("picture", BLANK)], 0.05)


def test_a_model_that_says_nan_is_scored_as_broken_not_skipped(rows: Rows) -> None:
    models = {"nan": lambda _: Reader("nan"), "tabular": lambda _: Reader("tabular"), "grid_order": lambda _: GridOrder()}
    predictions = rolling_origin(rows, models, test_seasons=[2022])
    result = evaluate(predictions, candidate="nan", baseline="tabular", trivial=["grid_order"])
    json.dumps(result, allow_nan=False)
    assert result["candidate"]["accuracy"] is None
    assert result["candidate"]["calibration"] is None
    found = evidence(predictions, "nan")
    assert found.hits == 0
    assert np.isnan(found.metrics["mae"])


def test_probabilities_that_do_not_sum_to_one_are_an_error(rows: Rows) -> None:
    with pytest.raises(ProbabilityError, match="wrong_sum"):
        rolling_origin(rows, {"wrong_sum": lambda _: Reader("wrong_sum")}, test_seasons=[2022])


def test_a_model_that_was_not_run_is_named(predictions: Predictions) -> None:
    with pytest.raises(EvidenceError, match="no predictions of twin"):
        evaluate(predictions, candidate="picture", baseline="tabular", twin="twin")


def test_progress_counts_every_fit(rows: Rows) -> None:
    calls: list[tuple[int, int, str]] = []
    rolling_origin(
        rows, {"grid_order": lambda _: GridOrder()}, progress=lambda done, total, what: calls.append((done, total, what))
    )
    assert calls == [(0, 3, "2020 grid_order"), (1, 3, "2021 grid_order"), (2, 3, "2022 grid_order"), (3, 3, "")]


def test_shuffled_pictures_come_from_other_races_each_once(rows: Rows) -> None:
    unique = replace(rows, picture_sha256=np.array([f"{i:064x}" for i in range(len(rows))], dtype=object))
    shuffled = shuffle_pictures(unique, np.random.default_rng(1))
    came_from = np.array([int(sha, 16) for sha in shuffled.picture_sha256])
    assert sorted(came_from) == list(range(len(rows)))
    assert (rows.race_code[came_from] != rows.race_code).all()
    np.testing.assert_array_equal(shuffled.embedding, rows.embedding[came_from])
    np.testing.assert_array_equal(shuffled.has_picture, rows.has_picture[came_from])
    np.testing.assert_array_equal(shuffled.position, rows.position)
    again = shuffle_pictures(unique, np.random.default_rng(1))
    assert list(again.picture_sha256) == list(shuffled.picture_sha256)


@pytest.mark.parametrize("n_races", [1, 2])
def test_shuffling_one_or_two_races_ends(n_races: int) -> None:
    rows = make_rows(np.random.default_rng(2), n_races)
    shuffled = shuffle_pictures(rows, np.random.default_rng(3))
    assert sorted(shuffled.picture_sha256) == sorted(rows.picture_sha256)


def test_shuffling_with_one_race_of_most_rows_ends() -> None:
    rows = make_rows(np.random.default_rng(2), 2)
    shuffled = shuffle_pictures(rows.take(np.arange(27)), np.random.default_rng(3))
    assert len(shuffled) == 27


def test_blank_pictures_leave_the_rest(rows: Rows) -> None:
    blank = blank_pictures(rows)
    assert not blank.has_picture.any()
    assert not blank.embedding.any()
    assert blank.features is rows.features


def test_row_hashes_notice_labels_and_moments_but_not_order(rows: Rows) -> None:
    keys, position = rows.keys, rows.position
    before = rows_sha256(keys, position)
    order = np.random.default_rng(1).permutation(len(keys))
    assert rows_sha256(keys.iloc[order], position[order]) == before
    swapped = position.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    corrected = rows_sha256(keys, swapped)
    assert {race_id for race_id in before if before[race_id] != corrected[race_id]} == {"2018_01"}
    later = keys.assign(lap=keys["lap"] + (keys["race_id"] == "2019_02"))
    moved = rows_sha256(later, position)
    assert {race_id for race_id in before if before[race_id] != moved[race_id]} == {"2019_02"}


def test_one_race_has_no_interval(rows: Rows) -> None:
    race = rows.keys["race_id"].to_numpy()
    few = rows.take((rows.seasons < 2022) | (race == "2022_01"))
    models = {"tabular": lambda _: Reader("tabular"), "grid_order": lambda _: GridOrder()}
    predictions = rolling_origin(few, models, test_seasons=[2022])
    assert compare(predictions, "tabular", "grid_order") == {"accuracy": None, "mae": None}
