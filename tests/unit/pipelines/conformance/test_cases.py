"""The kit's own truth: every hand-written answer is the oracle's, and the oracle reads the rule as the rest of Pitwall does."""

from datetime import timedelta

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.visibility import CREATED, EVENT, latest_visible
from pipelines.conformance.cases import BY_NAME, CASES
from pipelines.conformance.generated import cases
from pipelines.conformance.model import Case, View, answer, ask, at, row
from pipelines.conformance.offline import entity_frame, feature_table
from pipelines.conformance.online import ONLINE_CASES
from pipelines.conformance.oracle import visible_row


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hand_written_answers_are_the_oracles(case: Case) -> None:
    assert case.derived() == [dict(row) for row in case.expected]
    assert case.why.endswith(".")
    assert len(entity_frame(case)) == len(case.asked)


def test_names_are_unique_and_every_case_says_why() -> None:
    assert len(BY_NAME) == len(CASES)
    names = [case.name for case in ONLINE_CASES]
    assert len(names) == len(set(names))
    assert all(case.why for case in ONLINE_CASES)
    assert [case.name for case in ONLINE_CASES if case.advisory] == ["expired_value_is_marked"]


def test_the_oracle_by_hand() -> None:
    rows = [row("12:00", "12:00", k=1, v="old"), row("13:00", "15:00", k=1, v="late"), row("12:00", "14:00", k=1, v="fixed")]
    moments = ["11:59", "12:00", "14:00", "15:00"]
    found = [visible_row(rows, {"k": 1}, at(moment), None) for moment in moments]
    assert [None if known is None else known["v"] for known in found] == [None, "old", "fixed", "late"]
    hour = timedelta(hours=1)
    assert visible_row(rows, {"k": 1}, at("14:00"), hour) is None
    assert visible_row(rows[:1], {"k": 1}, at("13:00"), hour) == rows[0]
    assert visible_row(rows[:1], {"k": 1}, at("13:00:00.000001"), hour) is None
    assert visible_row(rows, {"k": None}, at("15:00"), None) is None
    assert visible_row([row("12:00", None, k=1)], {"k": 1}, at("15:00"), None) is None


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_oracle_agrees_with_the_comparator_of_pitwall(case: Case) -> None:
    for question, expected in zip(case.asked, case.expected, strict=True):
        for view in case.views:
            [value] = view.features
            assert _by_comparator(view, question) == (None if expected[value] is None else expected[value])


def _by_comparator(view: View, question: dict[str, object]) -> object:
    [value] = view.features
    if not view.rows:
        return None
    frame = pd.DataFrame([{EVENT: r["event"], CREATED: r["created"], **r} for r in view.rows])
    for column in (EVENT, CREATED):
        frame[column] = pd.to_datetime(frame[column], utc=True)
    if view.ttl:
        frame = frame[frame[EVENT] >= question["moment"] - view.ttl]
    known = latest_visible(frame, list(view.keys), question["moment"])
    for key in view.keys:
        known = known[known[key] == question[key]]
    return None if known.empty or pd.isna(known[value].iloc[0]) else known[value].iloc[0]


@given(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=5, unique=True))
@settings(max_examples=30, deadline=None)
def test_tables_hold_the_instants_whatever_their_unit_and_zone(seconds: list[int]) -> None:
    rows = [{"event": at("1970-01-01T00:00:00") + timedelta(seconds=s), "created": None, "k": "a", "v": 1.0} for s in seconds]
    for unit in ("ms", "us", "ns"):
        for zone in ("UTC", "Europe/London", None):
            table = feature_table(View("v", {"k": "string"}, {"v": "float64"}, rows, unit=unit, zone=zone))
            column = table.column("event_timestamp").to_pandas()
            utc = column.dt.tz_localize("UTC") if zone is None else column.dt.tz_convert("UTC")
            assert [int(stamp.timestamp()) for stamp in utc] == seconds
            assert table.column("created_timestamp").null_count == len(rows)


def test_a_question_is_answered_view_by_view() -> None:
    view = View(
        "pace", {"driver": "string"}, {"s": "float64"}, [row("12:00", driver="b", s=1.0)], asked_by={"driver": "rival"}, alias="x"
    )
    assert answer([view], ask("12:00", rival="b"), full_names=True) == {"x__s": 1.0}
    assert answer([view], ask("12:00", rival="a")) == {"s": None}
