"""`pitwall skew`: was what was served what training would have seen?"""

from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
import typer

from feature_repo.console import emit, instant, out, progress_bar, table
from feature_repo.options import AsJson, Home, settings_of
from pipelines.errors import SkewAboveLimitError

if TYPE_CHECKING:  # the command line starts without what only this command needs
    from pipelines.skew_report import FeatureSkew, ServiceSkew, SkewReport

_SHOWN = 5


def skew(
    since: Annotated[pd.Timestamp, typer.Option("--since", parser=instant, help="Served at or after this UTC instant.")],
    until: Annotated[
        pd.Timestamp | None, typer.Option("--until", parser=instant, help="Served at or before this UTC instant [now].")
    ] = None,
    service: Annotated[str | None, typer.Option("--service", help="Feature service [all that were served].")] = None,
    limit: Annotated[
        float | None, typer.Option("--limit", min=0, max=1, help="Share of values that may differ [PITWALL_SKEW_LIMIT, 0.001].")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Compute every served vector again as of its moment and compare; exit code 1 above the limit."""
    if until is not None and since > until:
        raise typer.BadParameter(f"--since {since.isoformat()} is after --until {until.isoformat()}")
    from pipelines.skew import skew as step

    settings = settings_of(home)
    with progress_bar("skew") as progress:
        found = step(settings, since=since, until=until, service=service, limit=limit, progress=progress)
    emit(found.to_json(), as_json=as_json, show=lambda: _show(found))
    above = [report for report in found.services if not report.within_limit]
    if above:
        raise SkewAboveLimitError("; ".join(_summary(report) for report in above))


def _summary(report: "ServiceSkew") -> str:
    first = "; ".join(report.problems[:_SHOWN])
    more = f"; and {len(report.problems) - _SHOWN} more" if len(report.problems) > _SHOWN else ""
    return (
        f"{report.service}: {report.mismatches} of {report.cells} served values differ from history (limit {report.limit:.3g}), "
        f"{report.wrong_keys} vectors of another car, {report.future_rows} from the future: {first}{more}"
    )


def _show(found: "SkewReport") -> None:
    for report in found.services:
        title = f"{report.service}: {report.vectors:,} vectors of {report.requests:,} answers, {report.since} to {report.until}"
        table(title, _FEATURE_COLUMNS, [_feature_row(report, line) for line in report.features])
        rows: list[list[Any]] = [
            [line.name, line.missing, line.older, line.largest_lag_s, line.newer, line.future, line.aged, line.wrong_key]
            for line in report.views
        ]
        table("rows", ["view", "missing", "older", "lag s", "newer", "future", "aged", "of another car"], rows)
        for what, sentences in (("problem", report.problems), ("note", report.warnings)):
            for sentence in sentences:
                out.print(f"{what}: {sentence}", highlight=False, markup=False)
        verdict = "within" if report.within_limit else "ABOVE"
        ranges = report.ranges_from or "none: no trained model says"
        out.print(f"{report.service}: share {report.share:.3g}, {verdict} the limit {report.limit:.3g}; ranges of {ranges}")


_FEATURE_COLUMNS = [
    "feature",
    "cells",
    "inexact",
    "mismatches",
    "null served",
    "value served",
    "out of range",
    "constant",
    "like",
]


def _feature_row(report: "ServiceSkew", line: "FeatureSkew") -> list[Any]:
    counts = [line.cells, line.inexact, line.mismatches, line.null_served, line.value_served]
    return [line.name, *counts, line.out_of_range if report.ranges_from else None, line.constant, line.pattern or None]
