"""`pitwall sources`: where races can come from, and what each source gives, needs and allows."""

import sys
from typing import Annotated

import typer

from feature_repo.console import emit, out, table
from feature_repo.options import AsJson


def sources(
    markdown: Annotated[bool, typer.Option("--markdown", help="docs/sources.md on stdout.")] = False,
    as_json: AsJson = False,
) -> None:
    """What each source gives (tables, seasons), its licence, and how often it may be asked."""
    if markdown and as_json:
        raise typer.BadParameter("give one of --markdown and --json")
    from pipelines.ingest import catalogue

    if markdown:
        sys.stdout.write(catalogue.as_markdown())
        return
    emit({"sources": [info.to_json() for info in catalogue.sources()]}, as_json=as_json, show=_show)


def _show() -> None:
    from pipelines.ingest import catalogue

    rows = [
        [info.name, info.seasons, ", ".join(info.tables), info.licence, catalogue.limits_text(info)]
        for info in catalogue.sources()
    ]
    table("sources", ["source", "seasons", "tables", "licence", "limits"], rows)
    out.print("more, and what is believed when two of them differ: docs/sources.md", highlight=False)
