"""`pitwall conformance`: what a Feast store gets right, case by case."""

import os
import sys
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from feature_repo.console import emit, err, progress_bar
from feature_repo.options import AsJson

EXAMPLES = 50


def conformance(
    store: Annotated[
        list[str] | None,
        typer.Option("--store", help="Offline store: asof, asof-spark, duckdb, dask, spark or a class path (repeat it)."),
    ] = None,
    online: Annotated[
        list[str] | None,
        typer.Option(
            "--online",
            help="Online store: sqlite, redis, postgres, packed-sqlite, packed-redis, packed-postgres or a class path "
            "(repeat it). Servers are started for the run.",
        ),
    ] = None,
    case: Annotated[list[str] | None, typer.Option("--case", help="Only these cases (repeat it).")] = None,
    examples: Annotated[int, typer.Option("--examples", min=0, help="Generated cases an offline store is asked.")] = EXAMPLES,
    markdown: Annotated[bool, typer.Option("--markdown", help="The tables of docs/conformance.md on stdout.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask Feast stores the golden questions about time; exit code 1 if one of them answers wrong."""
    if not store and not online:
        raise typer.BadParameter("nothing to test: give --store or --online")
    if store and examples and not case and find_spec("hypothesis") is None:
        raise typer.BadParameter("--examples needs hypothesis: pip install hypothesis, or give --examples 0")
    # Feast and the stores are imported only when this command runs.
    from pipelines.conformance import report
    from pipelines.conformance.cases import BY_NAME
    from pipelines.conformance.online import ONLINE_CASES
    from pipelines.conformance.run import run_offline, run_online, targets_of

    whys = {item.name: item.why for item in ONLINE_CASES}
    unknown = sorted(set(case or ()) - {*BY_NAME, *whys})
    if unknown:
        raise typer.BadParameter(f"--case: got {', '.join(unknown)}; known are {', '.join([*BY_NAME, *whys])}")
    targets_of(store or (), online or ())
    outcomes = []
    with progress_bar("conformance") as progress:
        for name in dict.fromkeys(store or ()):
            outcomes += run_offline(name, examples=0 if case else examples, names=case, progress=progress)
        for name in dict.fromkeys(online or ()):
            outcomes += run_online(name, names=case, progress=progress)
    found: dict[str, Any] = report.to_json(outcomes)
    if markdown and not as_json:
        sys.stdout.write(report.to_markdown(outcomes, whys) + os.linesep)
    else:
        emit(found, as_json=as_json, show=lambda: report.show(outcomes))
    failed = report.failures(outcomes)
    if failed:
        named = ", ".join(f"{outcome.store}/{outcome.case}" for outcome in failed)
        err.print(f"failed: {named}", style="red", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(1)
