"""The benchmark of materialization into servers still runs, and its results are equal to Feast's."""

import os

import pytest
from benchmarks import bench_materialize_servers

from pipelines.conformance.services import missing_programs


def test_materialization_into_servers_equals_feasts() -> None:
    missing = [program for kind in ("redis", "postgres") for program in missing_programs(kind)]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"{', '.join(missing)} not found on PATH")
    assert not missing
    rows = bench_materialize_servers.run(quick=True)
    assert [row["equal"] for row in rows] == [True] * 4
    assert all(row["ours_s"] > 0 and row["reference_s"] > 0 for row in rows)
