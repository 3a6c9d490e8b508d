"""Every benchmark still runs and its results are still equal to its reference's; how quick anything is, is not judged here."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import (
    bench_embedding,
    bench_leak,
    bench_lookup,
    bench_materialize,
    bench_prediction,
    bench_retrieval,
    bench_traces,
    bench_training,
    run,
)

from ml.encoders import pretrain, transforms
from ml.encoders.weights import LoadedWeights, state_sha256
from pipelines import training


def check(rows: list[dict[str, Any]], *, n_rows: int = 1) -> None:
    assert len(rows) == n_rows
    assert all(row["equal"] for row in rows), [row.get("detail") for row in rows]
    assert all(row["ours_s"] > 0 and row["reference_s"] > 0 for row in rows)
    assert all(row["ratio"] == pytest.approx(row["reference_s"] / row["ours_s"]) for row in rows)
    assert json.loads(json.dumps([run.judged("some", row) for row in rows]))


def test_traces() -> None:
    check(bench_traces.run(quick=True))


def test_training() -> None:
    check(bench_training.run(quick=True))


def test_retrieval_agrees_with_pandas_polars_duckdb_and_plain_arrays() -> None:
    check(bench_retrieval.run(quick=True), n_rows=8)


def test_materialized_rows_are_those_that_feast_writes() -> None:
    check(bench_materialize.run(quick=True), n_rows=3)


def test_predictions_with_and_without_a_memory_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "TRAINED", (bench_prediction.BASELINE, bench_prediction.FUSION))
    check(bench_prediction.run(quick=True), n_rows=3)


def test_lookups_are_those_of_feast() -> None:
    check(bench_lookup.run(quick=True), n_rows=5 if shutil.which("redis-server") else 2)


def test_no_moment_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "TRAINED", bench_leak.MODELS)
    check(bench_leak.run(quick=True))


def test_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights that were never taught, whose embeddings bfloat16 need not keep; so `equal` may be false here."""
    pngs = bench_embedding._pngs()[:3]
    pictures = pretrain.draw_race(np.random.default_rng(7), cars=4).pictures
    state = pretrain.random_state(7, pictures, transform=transforms.TRACE)
    weights = LoadedWeights("file", state, state_sha256(state), "", transforms.TRACE)
    monkeypatch.setattr(bench_embedding, "_pngs", lambda: pngs)
    monkeypatch.setattr(bench_embedding, "_weights", lambda: (weights, "never taught"))
    monkeypatch.setattr(bench_embedding, "_REPEATS", 1)
    rows = bench_embedding.run()
    assert "cosine" in rows[0]["detail"]
    check([{**row, "equal": True} for row in rows])


@pytest.mark.parametrize(
    ("row", "met"),
    [
        ({"ratio": 15.0, "goal": 15.0, "equal": True}, True),
        ({"ratio": 14.9, "goal": 15.0, "equal": True}, False),
        ({"ratio": 99.0, "goal": 15.0, "equal": False}, False),
        ({"ratio": 2.0, "goal": None, "equal": True}, None),
        ({"ratio": 2.0, "ours_s": 0.011, "goal_s": 0.012, "equal": True}, True),
        ({"ratio": 2.0, "ours_s": 0.012, "goal_s": 0.012, "equal": True}, False),
    ],
)
def test_a_goal_is_met_only_by_equal_results(row: dict[str, Any], met: bool | None) -> None:
    assert run.met(row) is met


def test_a_result_that_differs_from_its_reference_shows_no_ratio_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"name": "quick but wrong", "ours_s": 0.001, "reference_s": 1.0, "ratio": 1000.0, "goal": 2.0}
    for equal, code in ((True, 0), (False, 1)):
        monkeypatch.setattr(run, "measure", lambda name, equal=equal: [run.judged(name, {**row, "equal": equal})])
        assert run.main(["--only", "traces"]) == code
        said = capsys.readouterr().out
        assert ("1000.00x" in said) is equal
        assert ("not counted" in said) is not equal


def test_every_benchmark_of_the_folder_is_run() -> None:
    files = {path.stem for path in Path(run.__file__).parent.glob("bench_*.py")}
    assert files == set(run.BENCHMARKS.values())
