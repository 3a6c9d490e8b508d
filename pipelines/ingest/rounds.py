"""Rounds of a season: which of those asked for there are, and lists of them in words and as an option."""

from collections.abc import Collection, Iterable

from pipelines.errors import SourceMissingError
from pipelines.ingest.base import IngestReport


def listed(rounds: Iterable[float]) -> str:
    """`5, 6, 8`: in the order given."""
    return ", ".join(f"{round_:.0f}" for round_ in rounds)


def as_option(rounds: Iterable[int]) -> str:
    """`5-6,8`: ascending, as `--rounds` takes them."""
    spans: list[list[int]] = []
    for round_ in sorted(set(rounds)):
        if spans and round_ == spans[-1][1] + 1:
            spans[-1][1] = round_
        else:
            spans.append([round_, round_])
    return ",".join(f"{first}-{last}" if first < last else f"{first}" for first, last in spans)


def rounds_to_read(
    source: str, season: int, asked: Collection[int] | None, known: Collection[int], report: IngestReport, *, is_only_season: bool
) -> list[int]:
    """The rounds of a season to read, ascending; a note says which of those asked for it does not have.

    Args:
        source: who has the season.
        season: which one.
        asked: rounds asked for; None: all.
        known: rounds that the season has.
        report: where the note goes.
        is_only_season: no other season is asked for, so that every round should be one of this one.
    Raises:
        SourceMissingError: the season has none of the rounds, or not all of them and no other season may have them.
    """
    if asked is None:
        return sorted(known)
    missing = sorted(set(asked) - set(known))
    if missing:
        said = f"{source}: season {season}: got no rounds {listed(missing)}, expected rounds {as_option(known)}"
        if is_only_season or len(missing) == len(set(asked)):
            raise SourceMissingError(f"{said}; ask for some of those")
        report.note(said)
    return sorted(set(asked) & set(known))
