"""The split of the final training: whole races, the last ones to stop early on."""

import numpy as np
import pytest
from builders import make_rows

from pipelines.errors import NothingToLearnError
from pipelines.training import TrainReport, final_split


@pytest.mark.parametrize(("races", "validation"), [(2, 1), (5, 1), (12, 2), (50, 9)])
def test_the_last_races_stop_training_and_no_race_is_torn_apart(races: int, validation: int) -> None:
    rows = make_rows(np.random.default_rng(1), races, n_cars=4)
    shuffled = rows.take(np.random.default_rng(2).permutation(len(rows)))
    train, later = final_split(shuffled)
    assert sorted([*train, *later]) == list(range(len(rows)))
    assert len(set(shuffled.race_code[later])) == validation
    assert shuffled.race_code[train].max() < shuffled.race_code[later].min()


@pytest.mark.parametrize("races", [1])
def test_one_race_is_too_few(races: int) -> None:
    with pytest.raises(NothingToLearnError, match="got 1 races with a result, expected at least 2"):
        final_split(make_rows(np.random.default_rng(1), races, n_cars=4))


def test_the_report_is_json() -> None:
    report = TrainReport(["a"], [], 10, 2, 0.9, "d" * 64, 1.0)
    assert report.to_json()["validation_rows"] == 2
