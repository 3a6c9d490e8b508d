"""The suite's findings as a table for the terminal, as JSON and as Markdown: store x case, and every failure in words."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from feature_repo.console import out, table
from pipelines.conformance.cases import BY_NAME
from pipelines.conformance.outcome import Outcome

SIGNS = {"right": "✓", "wrong": "✗ wrong", "error": "✗ error", "not supported": "– not supported"}
_TITLES = {
    "offline": "Offline, with the created cutoff",
    "offline default": "Offline, Feast's default (no created cutoff)",
    "online": "Online",
}
_PACKAGES = ("feast", "duckdb", "ibis-framework", "dask", "pyspark", "redis", "psycopg", "pandas", "pyarrow")


def failures(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes because of which a store does not pass. Feast's default is shown beside the rule, it is not judged."""
    return [outcome for outcome in outcomes if outcome.failed and outcome.suite != "offline default"]


def to_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """One object: versions, a summary a store, every outcome."""
    return {
        "passed": not failures(outcomes),
        "versions": versions(),
        "stores": {f"{suite}: {store}": summary for (suite, store), summary in _summaries(outcomes).items()},
        "outcomes": [
            {
                "suite": outcome.suite,
                "store": outcome.store,
                "case": outcome.case,
                "verdict": outcome.verdict,
                "advisory": outcome.advisory,
                "got": outcome.got,
                "expected": outcome.expected,
                "seconds": round(outcome.seconds, 3),
            }
            for outcome in outcomes
        ],
    }


def show(outcomes: Sequence[Outcome]) -> None:
    """Print a table a suite, then each failure in words."""
    for suite, grid in _grids(outcomes).items():
        stores = list(grid)
        cases = list(dict.fromkeys(case for verdicts in grid.values() for case in verdicts))
        table(_TITLES[suite], ["case", *stores], [[case, *[_cell(grid[store].get(case)) for store in stores]] for case in cases])
    for outcome in outcomes:
        if outcome.verdict != "right":
            note = " (advisory)" if outcome.advisory else ""
            out.print(f"{outcome.store} {outcome.suite} {outcome.case}: {outcome.verdict}{note}", markup=False, highlight=False)
            out.print(f"    got      {outcome.got}", markup=False, highlight=False)
            out.print(f"    expected {outcome.expected}", markup=False, highlight=False)
    for (suite, store), counts in _summaries(outcomes).items():
        told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        out.print(f"{store} {suite}: {told}", markup=False, highlight=False)


def to_markdown(outcomes: Sequence[Outcome], whys: Mapping[str, str]) -> str:
    """The tables of `docs/conformance.md`.

    Args:
        outcomes: of all stores.
        whys: case -> why its answer is right, for the online cases; the offline ones are known here.
    """
    lines = [f"Versions: {', '.join(f'{name} {number}' for name, number in versions().items())}.", ""]
    for suite, grid in _grids(outcomes).items():
        stores = list(grid)
        cases = list(dict.fromkeys(case for verdicts in grid.values() for case in verdicts))
        lines += [f"### {_TITLES[suite]}", "", f"| case | {' | '.join(stores)} | why |", f"|---|{'---|' * len(stores)}---|"]
        for case in cases:
            cells = " | ".join(_cell(grid[store].get(case)) for store in stores)
            why = BY_NAME[case].why if case in BY_NAME else whys.get(case, "by the oracle, for cases made by Hypothesis")
            lines.append(f"| {case} | {cells} | {why} |")
        passed = " | ".join(_share(grid[store].values()) for store in stores)
        lines += [f"| **right** | {passed} | |", ""]
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """What the stores were tested with."""
    found = {"python": ".".join(str(part) for part in sys.version_info[:3])}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return "–"
    return SIGNS[outcome.verdict] + (" (advisory)" if outcome.advisory and outcome.verdict != "right" else "")


def _share(outcomes: Iterable[Outcome]) -> str:
    judged = [outcome for outcome in outcomes if not outcome.advisory]
    return f"{sum(outcome.verdict == 'right' for outcome in judged)} of {len(judged)}"


def _grids(outcomes: Iterable[Outcome]) -> dict[str, dict[str, dict[str, Outcome]]]:
    """suite -> store -> case -> outcome, in the order of `_TITLES` and of the run."""
    grids: dict[str, dict[str, dict[str, Outcome]]] = {suite: {} for suite in _TITLES}
    for outcome in outcomes:
        grids[outcome.suite].setdefault(outcome.store, {})[outcome.case] = outcome
    return {suite: grid for suite, grid in grids.items() if grid}


def _summaries(outcomes: Iterable[Outcome]) -> dict[tuple[str, str], dict[str, int]]:
    found: dict[tuple[str, str], dict[str, int]] = {}
    for outcome in outcomes:
        counts = found.setdefault((outcome.suite, outcome.store), dict.fromkeys(SIGNS, 0))
        counts[outcome.verdict] += 1
    return found
