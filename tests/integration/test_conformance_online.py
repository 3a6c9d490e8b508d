"""The golden suite on online stores, with real servers: ours gets everything right, Feast's fail where the document says.

Whether two racing writers harm a store that does not order them is chance, so that case is compared for ours only.
"""

import os

import pytest
from conformance_docs import documented

from pipelines.conformance.online import ONLINE_CASES
from pipelines.conformance.outcome import Outcome
from pipelines.conformance.run import run_online
from pipelines.conformance.services import missing_programs

RACY = "concurrent_writers"


def _run(store: str, needs: str | None, names: list[str] | None = None) -> list[Outcome]:
    missing = missing_programs(needs) if needs else []
    if missing:
        reason = f"{', '.join(missing)} not on PATH; install the {needs} server"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return run_online(store, names=names)


@pytest.mark.parametrize(
    ("store", "needs"), [("packed-sqlite", None), ("packed-redis", "redis"), ("packed-postgres", "postgres")]
)
def test_ours_get_every_case_right(store: str, needs: str | None) -> None:
    outcomes = _run(store, needs)
    assert [outcome for outcome in outcomes if outcome.failed] == []
    assert [outcome.case for outcome in outcomes] == [case.name for case in ONLINE_CASES]


@pytest.mark.parametrize(("store", "needs"), [("sqlite", None), ("redis", "redis"), ("postgres", "postgres")])
def test_feasts_stores_fail_where_documented(store: str, needs: str | None) -> None:
    names = [case.name for case in ONLINE_CASES if case.name != RACY]
    told = {case: verdict for (_, case), verdict in documented(store).items() if case != RACY}
    assert {outcome.case: outcome.verdict for outcome in _run(store, needs, names)} == told
