"""Season lists are read as people write them, and refused clearly otherwise."""

import pytest

from pipelines.errors import SeasonsError
from pipelines.ingest import parse_seasons


@pytest.mark.parametrize(
    ("text", "seasons"),
    [
        ("2018-2024", list(range(2018, 2025))),
        ("2018,2020-2022", [2018, 2020, 2021, 2022]),
        (" 2024 , 2018 ", [2018, 2024]),
        ("2020-2020,2020", [2020]),
    ],
)
def test_ranges_and_lists(text: str, seasons: list[int]) -> None:
    assert parse_seasons(text) == seasons


@pytest.mark.parametrize("text", ["", "abc", "2018-", "18-20", "2018--2020", "2018;2019", "2018,,2019", "٢٠١٨", "2018-2020-2022"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(SeasonsError, match="expected years and ranges"):
        parse_seasons(text)


def test_backward_range_says_how_to_write_it() -> None:
    with pytest.raises(SeasonsError, match="'2018-2024'"):
        parse_seasons("2024-2018")


@pytest.mark.parametrize("text", ["1949", "2100-2101"])
def test_years_without_a_championship_are_refused(text: str) -> None:
    with pytest.raises(SeasonsError, match="1950 to 2099"):
        parse_seasons(text)
