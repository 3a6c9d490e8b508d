"""Which rounds of a season are read, and lists of them as `--rounds` takes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import SourceMissingError
from pipelines.ingest.base import IngestReport
from pipelines.ingest.rounds import as_option, listed, rounds_to_read
from pipelines.ingest.seasons import parse_rounds


@given(st.sets(st.integers(1, 99), min_size=1))
def test_the_option_gives_the_rounds_back(rounds: set[int]) -> None:
    assert parse_rounds(as_option(rounds)) == sorted(rounds)


def test_a_list_for_people_keeps_its_order() -> None:
    assert listed([3.0, 1, 2]) == "3, 1, 2"


def read(asked: list[int] | None, *, is_only_season: bool) -> tuple[list[int], list[str]]:
    report = IngestReport("somebody", is_simulated=False, seasons=[2030])
    rounds = rounds_to_read("somebody", 2030, asked, {3, 1, 2, 5}, report, is_only_season=is_only_season)
    return rounds, report.notes


@pytest.mark.parametrize("is_only_season", [True, False])
def test_all_rounds_are_read_where_none_are_asked_for(is_only_season: bool) -> None:
    assert read(None, is_only_season=is_only_season) == ([1, 2, 3, 5], [])
    assert read([5, 2, 5], is_only_season=is_only_season) == ([2, 5], [])


def test_a_round_that_is_not_there_is_noted_where_another_season_may_have_it() -> None:
    said = "somebody: season 2030: got no rounds 4, 9, expected rounds 1-3,5"
    assert read([9, 4, 1], is_only_season=False) == ([1], [said])
    with pytest.raises(SourceMissingError, match=f"{said}; ask for some of those"):
        read([9, 4, 1], is_only_season=True)
    with pytest.raises(SourceMissingError, match="got no rounds 4, 6, expected"):
        read([6, 4], is_only_season=False)
