"""The benchmark of the service runs and agrees with Feast, and load loses no answer; how quick it is, is not judged here."""

from pathlib import Path

import pytest
from benchmarks import bench_serving, load_200
from loop_home import copy_of
from loop_setup import MLFLOW_WARNS, Loop, loop_environment

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)


def test_answers_agree_with_feasts(loop: Loop, tmp_path: Path) -> None:
    rows = bench_serving.run(quick=True, settings=copy_of(loop, tmp_path / "home"))
    assert [row["equal"] for row in rows] == [True] * 9, [row.get("detail") for row in rows]
    assert all(row["ours_s"] > 0 and row["reference_s"] > 0 for row in rows)
    assert {row["goal_s"] for row in rows if "goal_s" in row} == {0.008, 0.025, 0.1}


def test_many_clients_lose_no_answer(loop: Loop, tmp_path: Path) -> None:
    home = copy_of(loop, tmp_path / "home").home
    report = load_200.run(loop_environment(home), clients=200, seconds=3.0)
    assert load_200.kept_every_answer(report), report
    assert report["answers"] >= 200
