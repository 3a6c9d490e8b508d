"""Trivial predictors say the order they read; the ensemble learns, ignores pictures and labels, and survives its files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import make_rows
from sklearn.linear_model import LogisticRegression

from feature_repo.errors import DamagedFileError, MissingInputError
from ml.baselines import AssignsPositions, EnsemblePredictor, GridOrder, OrderAtMoment, rank_within_race
from ml.config import parse_config
from ml.ensemble import mixture_weights
from ml.ensemble_members import Labelled, Logistic
from ml.errors import ModelContractError, NotFittedError
from ml.metrics import check_probabilities, log_loss
from ml.placing import consistent, sharpen
from ml.rows import Rows

SMALL_NET = {
    "name": "small_net",
    "use_pictures": False,
    "race_relative_tabular": True,
    "tabular_hidden": [],
    "tabular_dim": 16,
    "fusion_hidden": [16],
    "loss": "listwise",
    "epochs": 4,
}


@pytest.fixture(scope="module")
def parts() -> tuple[Rows, Rows, Rows]:
    """Training, validation and test races, 25, 8 and 8 of them."""
    rows = make_rows(np.random.default_rng(6), 41)
    race = rows.race_code
    return rows.take(race < 25), rows.take((race >= 25) & (race < 33)), rows.take(race >= 33)


@pytest.fixture(scope="module")
def fitted(parts: tuple[Rows, Rows, Rows]) -> EnsemblePredictor:
    ensemble = EnsemblePredictor(net=parse_config(SMALL_NET, origin="test"), threads=1)
    ensemble.fit(parts[0], parts[1])
    return ensemble


def test_grid_order_is_the_grid(parts: tuple[Rows, Rows, Rows]) -> None:
    model = GridOrder()
    model.fit(parts[0], parts[1])
    np.testing.assert_array_equal(model.assign(parts[2]), parts[2].features["grid_position"])
    check_probabilities(model.predict_proba(parts[2]))
    assert isinstance(model, AssignsPositions)


def test_order_at_moment_puts_cars_that_stopped_last(parts: tuple[Rows, Rows, Rows]) -> None:
    rows = parts[2]
    assigned = OrderAtMoment().assign(rows)
    for _, index in rows.races():
        assert sorted(assigned[index]) == list(range(1, 21))
        running = ~np.isnan(rows.order[index])
        if not running.all():
            assert assigned[index][running].max() < assigned[index][~running].min()


def test_rank_probabilities_are_the_training_frequencies(parts: tuple[Rows, Rows, Rows]) -> None:
    """Of 25 races the pole sitter won w: the table says (w + prior) / 27."""
    train = parts[0]
    model = GridOrder()
    model.fit(train, parts[1])
    pole = train.features["grid_position"].to_numpy() == 1
    wins = int((train.position[pole] == 1).sum())
    said = model.predict_proba(train)[pole][0, 0]
    assert wins / 27 < said < (wins + 2) / 27


def test_trivial_predictors_do_not_read_labels(parts: tuple[Rows, Rows, Rows]) -> None:
    model = GridOrder()
    model.fit(parts[0], parts[1])
    other = replace(parts[2], position=parts[2].position[::-1].copy())
    np.testing.assert_array_equal(model.predict_proba(other), model.predict_proba(parts[2]))


def test_missing_grid_comes_last_in_row_order() -> None:
    rows = make_rows(np.random.default_rng(1), 1, n_cars=4)
    ranks = rank_within_race(np.array([np.nan, 2.0, np.nan, 1.0]), rows)
    assert ranks.tolist() == [3, 2, 4, 1]


def test_grid_order_without_a_grid_column_is_an_error(parts: tuple[Rows, Rows, Rows]) -> None:
    with pytest.raises(ModelContractError, match="no feature 'starting_place'"):
        GridOrder("starting_place").assign(parts[0])


def test_ensemble_beats_chance_and_its_shares_sum_to_one(fitted: EnsemblePredictor, parts: tuple[Rows, Rows, Rows]) -> None:
    probabilities = fitted.predict_proba(parts[2])
    check_probabilities(probabilities, n_rows=len(parts[2]))
    assert log_loss(probabilities, parts[2].position) < np.log(20) - 0.15
    assert set(fitted.weights) == {"boosting", "forest", "logistic", "net"}
    assert sum(fitted.weights.values()) == pytest.approx(1.0)
    assert min(fitted.weights.values()) >= 0


def test_ensemble_is_the_sharpened_weighted_mean_of_its_members(
    fitted: EnsemblePredictor, parts: tuple[Rows, Rows, Rows]
) -> None:
    said = fitted.member_probabilities(parts[2])
    expected = sum(fitted.weights[name] * probabilities for name, probabilities in said.items())
    np.testing.assert_allclose(fitted.predict_proba(parts[2]), sharpen(expected, parts[2].race_code, 1.15), atol=1e-12)


def test_ensemble_reads_neither_pictures_nor_labels_nor_running_order(
    fitted: EnsemblePredictor, parts: tuple[Rows, Rows, Rows]
) -> None:
    rows = parts[2]
    changed = replace(
        rows,
        embedding=rows.embedding + 1,
        has_picture=~rows.has_picture,
        position=rows.position[::-1].copy(),
        order=rows.order[::-1].copy(),
    )
    np.testing.assert_array_equal(fitted.predict_proba(changed), fitted.predict_proba(rows))


def test_each_race_is_judged_alone(fitted: EnsemblePredictor, parts: tuple[Rows, Rows, Rows]) -> None:
    rows = parts[2]
    one = rows.race_code == 3
    np.testing.assert_allclose(fitted.predict_proba(rows.take(one)), fitted.predict_proba(rows)[one], atol=1e-6)


def test_saved_ensemble_answers_the_same_and_holds_no_pickle(
    fitted: EnsemblePredictor, parts: tuple[Rows, Rows, Rows], tmp_path: Path
) -> None:
    fitted.save(tmp_path / "model")
    loaded = EnsemblePredictor.load(tmp_path / "model", threads=1)
    np.testing.assert_allclose(loaded.predict_proba(parts[2]), fitted.predict_proba(parts[2]), atol=1e-6)
    assert loaded.feature_names == fitted.feature_names
    kinds = {path.suffix for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert kinds == {".json", ".txt", ".npz", ".safetensors"}
    for path in (tmp_path / "model").rglob("*.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            assert len(arrays.files) > 0


def test_damaged_or_missing_files_are_noticed(fitted: EnsemblePredictor, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    (tmp_path / "forest.txt").write_text("tree")
    with pytest.raises(DamagedFileError, match=r"forest\.txt"):
        EnsemblePredictor.load(tmp_path)
    with pytest.raises(MissingInputError):
        EnsemblePredictor.load(tmp_path / "elsewhere")


def test_unfitted_models_say_so(parts: tuple[Rows, Rows, Rows], tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        EnsemblePredictor().predict_proba(parts[0])
    with pytest.raises(NotFittedError):
        EnsemblePredictor().save(tmp_path)
    with pytest.raises(NotFittedError):
        GridOrder().predict_proba(parts[0])


def test_mixture_weights_find_the_true_member() -> None:
    rng = np.random.default_rng(2)
    truth = rng.dirichlet(np.full(20, 0.3), size=3000)
    position = np.array([rng.choice(20, p=row) + 1 for row in truth])
    noise = rng.dirichlet(np.full(20, 0.3), size=3000)
    weights = mixture_weights([noise, truth], position)
    assert weights.sum() == pytest.approx(1.0)
    assert weights[1] > 0.9


def test_members_that_say_the_same_share_equally() -> None:
    said = np.random.default_rng(2).dirichlet(np.full(20, 0.5), size=50)
    np.testing.assert_allclose(mixture_weights([said] * 3, np.arange(50) % 20 + 1), 1 / 3, atol=1e-6)


def test_logistic_is_sklearns_per_threshold() -> None:
    rng = np.random.default_rng(5)
    matrix = rng.normal(size=(400, 6)).astype(np.float32)
    race = np.repeat(np.arange(20), 20)
    position = np.concatenate([rng.permutation(20) + 1 for _ in range(20)])
    prepared = Labelled(matrix, race, position, np.ones(400, dtype=bool))
    member = Logistic(inverse_strengths=(0.01,))
    member.fit(prepared, prepared)
    at_most = np.ones((400, 20))
    for place in range(1, 20):
        model = LogisticRegression(C=0.01, max_iter=200, tol=1e-3).fit(matrix, position <= place)
        at_most[:, place - 1] = model.predict_proba(matrix)[:, 1]
    expected = np.diff(np.maximum.accumulate(at_most, axis=1), axis=1, prepend=0.0)
    np.testing.assert_allclose(member.predict_proba(prepared), consistent(0.98 * expected + 0.02 / 20, race), atol=1e-6)
