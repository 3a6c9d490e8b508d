"""The command `pitwall ab-report`: champion and challenger compared on what they really answered."""

from typing import Annotated

import pandas as pd
import typer

from feature_repo.console import emit, instant, out, table
from feature_repo.options import AsJson, Home, settings_of


def ab_report(
    since: Annotated[
        pd.Timestamp | None,
        typer.Option("--since", parser=instant, metavar="INSTANT", help="Only answers served from then on, UTC."),
    ] = None,
    until: Annotated[
        pd.Timestamp | None, typer.Option("--until", parser=instant, metavar="INSTANT", help="Only answers served until then.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Compare champion and challenger on the races both answered about, once their results are known."""
    if since is not None and until is not None and since > until:
        raise typer.BadParameter(f"--since {since.isoformat()} is after --until {until.isoformat()}")
    from serving.ab import ab_report as compare

    report = compare(settings_of(home), since=since, until=until)

    def show() -> None:
        for one in report.comparisons:
            rows = [
                [name, metric.champion, metric.other, metric.gap.estimate, metric.gap.low, metric.gap.high, metric.better or "-"]
                for name, metric in one.metrics.items()
            ]
            title = (
                f"champion version {one.champion.version} and {one.other.role} version {one.other.version}: {one.n_races} races, "
                f"{one.n_moments} moments, {one.n_rows} cars"
            )
            table(title, ["metric", "champion", one.other.role, "difference", "low", "high", "better"], rows)
            out.print(one.conclusion, highlight=False)
            for what, races in (("result not known yet", one.waiting), ("a model learnt from it", one.learnt_from)):
                if races:
                    out.print(f"left out, {what}: {', '.join(races)}", highlight=False)
        if not report.comparisons:
            said = ", ".join(f"{arm['role']} version {arm['version']}: {arm['answers']}" for arm in report.arms)
            out.print(f"no two models answered about the same moment ({said})", highlight=False)
        if report.unreadable:
            out.print(f"{len(report.unreadable)} files cannot be read: {', '.join(report.unreadable[:3])}", highlight=False)
        if report.dropped_until is not None:
            out.print(f"answers up to {report.dropped_until.isoformat()} were dropped to bound the log", highlight=False)

    emit(report.to_json(), as_json=as_json, show=show)
