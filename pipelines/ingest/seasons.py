"""Lists of seasons and rounds as people write them: `2018-2024`, `2018,2020-2022`, `5-8`."""

import re

from pipelines.errors import SeasonsError

_PART = re.compile(r"(\d{4})(?:-(\d{4}))?", re.ASCII)
FIRST_SEASON, LAST_SEASON = 1950, 2099


def parse_seasons(text: str) -> list[int]:
    """`'2018,2020-2022'` -> `[2018, 2020, 2021, 2022]`: ascending, each once.

    Raises:
        SeasonsError: empty, a part is not a year or a range of years, a range runs backwards, or a year is outside 1950-2099.
    """
    seasons: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise SeasonsError(
                f"seasons: got {part.strip()!r} in {text!r}, expected years and ranges such as '2018-2024' or '2018,2020-2022'"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise SeasonsError(f"seasons: got {part.strip()!r}, expected the earlier year first: '{last}-{first}'")
        if first < FIRST_SEASON or last > LAST_SEASON:
            raise SeasonsError(f"seasons: got {part.strip()!r}, expected years from {FIRST_SEASON} to {LAST_SEASON}")
        seasons.update(range(first, last + 1))
    return sorted(seasons)


def parse_rounds(text: str) -> list[int]:
    """`'1,5-8'` -> `[1, 5, 6, 7, 8]`: ascending, each once.

    Raises:
        SeasonsError: empty, a part is not a round or a range of rounds, a range runs backwards, or a round is outside 1-99.
    """
    rounds: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,2})(?:-(\d{1,2}))?", part.strip(), re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if first < 1 or last < first:
            raise SeasonsError(f"rounds: got {part.strip()!r} in {text!r}, expected rounds and ranges such as '5-8' or '1,5-8'")
        rounds.update(range(first, last + 1))
    return sorted(rounds)
