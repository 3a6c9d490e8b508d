"""The golden suite on offline stores: ours gets everything right, Feast's fail exactly where the document says they do.

A release of Feast that mends a failure fails these tests: then `docs/conformance.md` is made again.
"""

import importlib.util
import json
import os
import shutil

import pytest
from conformance_docs import documented
from loop_setup import Pitwall

from pipelines.conformance import run
from pipelines.conformance.cases import CASES
from pipelines.conformance.outcome import Outcome
from pipelines.conformance.run import run_offline

EXAMPLES = 60


def _verdicts(outcomes: list[Outcome]) -> dict[tuple[str, str], str]:
    return {(outcome.suite, outcome.case): outcome.verdict for outcome in outcomes}


def test_ours_gets_every_case_right() -> None:
    outcomes = run_offline("asof", examples=EXAMPLES, unflagged=False)
    assert [outcome for outcome in outcomes if outcome.verdict != "right"] == []
    assert len(outcomes) == len(CASES) + 1


@pytest.mark.parametrize("store", ["duckdb", "dask"])
def test_feasts_stores_fail_where_documented(store: str) -> None:
    assert _verdicts(run_offline(store, examples=10)) == documented(store)


@pytest.mark.slow
def test_spark_fails_where_documented() -> None:
    missing = [
        name for name, found in (("pyspark", importlib.util.find_spec("pyspark")), ("java", shutil.which("java"))) if not found
    ]
    if missing:
        reason = f"{', '.join(missing)} not installed; pip install '.[spark]' and Java 17"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    # A JVM a time zone: the cases of the first only, and of those a sample of each verdict.
    told = {case: verdict for (suite, case), verdict in documented("spark").items() if suite == "offline" and case != "generated"}
    chosen = [case.name for case in CASES if case.process_zone == "UTC" and case.name in told]
    sample = [name for name in chosen if told[name] != "right"] + [name for name in chosen if told[name] == "right"][::8]
    found = run_offline("spark", examples=0, names=sample, unflagged=False)
    assert {outcome.case: outcome.verdict for outcome in found} == {name: told[name] for name in sample}


def test_a_store_in_trouble_costs_the_case_and_not_the_run() -> None:
    names = ["event_edge", "empty_entity_frame", "ttl_of_days", "ttl_edge"]
    found = {outcome.case: outcome for outcome in run_offline("broken_stores.TroubledOfflineStore", examples=0, names=names)}
    assert {name: outcome.verdict for name, outcome in found.items()} == {
        "event_edge": "right",
        "empty_entity_frame": "error",
        "ttl_of_days": "not supported",
        "ttl_edge": "right",
    }
    assert found["empty_entity_frame"].got.startswith("process ended with 9")
    assert found["ttl_of_days"].got == "NotImplementedError: no pairs here"
    assert found["ttl_of_days"].failed


def test_a_store_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "START_SECONDS", 1.0)
    monkeypatch.setattr(run, "CASE_SECONDS", 1.0)
    [outcome] = run_offline("broken_stores.HangingOfflineStore", examples=0, names=["event_edge"], unflagged=False)
    assert (outcome.verdict, outcome.got) == ("error", "no answer within 2 s; stopped")


def test_the_command_passes_fails_and_says_why(pitwall: Pitwall, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Outcome("duckdb", "offline", "event_edge", "right")
    monkeypatch.setattr(run, "run_offline", lambda *_, **__: [right])
    passed = pitwall("conformance", "--store", "duckdb", "--json")
    assert passed.code == 0
    assert json.loads(passed.out)["stores"]["offline: duckdb"]["right"] == 1
    wrong = Outcome("duckdb", "offline", "ttl_edge", "error", "boom", "80.0")
    monkeypatch.setattr(run, "run_offline", lambda *_, **__: [right, wrong])
    failed = pitwall("conformance", "--store", "duckdb")
    assert failed.code == 1
    assert "failed: duckdb/ttl_edge" in failed.err
    assert "duckdb offline ttl_edge: error" in failed.out
    shown = pitwall("conformance", "--store", "duckdb", "--markdown")
    assert "| ttl_edge | ✗ error |" in shown.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "nothing to test"),
        (("--store", "duckbd"), 2, "expected one of asof, duckdb"),
        (("--online", "feast.infra.offline_stores.duckdb.DuckDBOfflineStore"), 2, "is no feast OnlineStore"),
        (("--store", "duckdb", "--case", "no_such_case"), 2, "got no_such_case; known are event_edge"),
        (("--store", "duckdb", "--examples", "-1"), 2, "examples"),
    ],
)
def test_the_command_refuses_what_it_does_not_know(pitwall: Pitwall, arguments: tuple[str, ...], code: int, message: str) -> None:
    ended = pitwall("conformance", *arguments)
    assert ended.code == code
    assert message in " ".join(ended.err.replace("│", " ").split())
