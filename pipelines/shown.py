"""How each report is shown to a person: a table or a few lines on stdout. The JSON form is the report itself."""

from collections.abc import Callable
from typing import Any

from feature_repo.console import out, table
from pipelines.flows import StepOutcome

Json = dict[str, Any]
SHOWN_DIFFERENCES = 40


def show(what: str, report: Json) -> None:
    """Print the report of a step or command."""
    _VIEWS[what](report)


def show_step(outcome: StepOutcome) -> None:
    """One line a step of `run`: how long, how much memory, what it did."""
    said = _LINES[outcome.step](outcome.report)
    out.print(f"{outcome.step:<12}{outcome.seconds:>8.1f} s {outcome.peak_mib:>7.0f} MiB  {said}", highlight=False)


def _ingest_line(report: Json) -> str:
    mark = " SIMULATED" if report["is_simulated"] else ""
    if report["skipped_up_to_date"]:
        return f"seasons {report['seasons'][0]}-{report['seasons'][-1]} up to date{mark}"
    written = {name: account["rows_written"] for name, account in report["tables"].items()}
    quarantined = sum(account["rows_quarantined"] for account in report["tables"].values())
    counts = f"{written.get('races', 0):,} races, {written.get('entries', 0):,} entries, {written.get('laps', 0):,} laps"
    return f"{counts}, {quarantined} rows quarantined{mark}"


def _show_ingest(report: Json) -> None:
    columns = ["rows_read", "rows_written", "rows_quarantined", "rows_duplicate", "rows_replaced", "rows_other_season"]
    columns += ["rows_other_session"]
    rows = [[name, *[account[column] for column in columns]] for name, account in report["tables"].items()]
    kind = "SIMULATED " if report["is_simulated"] else ""
    state = ", up to date" if report["skipped_up_to_date"] else ""
    table(f"{kind}lake from {report['source']}{state}", ["table", *[name.removeprefix("rows_") for name in columns]], rows)
    for name, reasons in report["quarantine_reasons"].items():
        for reason, count in reasons.items():
            out.print(f"quarantined: {name}: {count} x {reason}", highlight=False)
    for name, count in report["corrected"].items():
        out.print(f"corrected: {name}: {count} rows say something else than before; the earlier ones stay", highlight=False)
    for note in report["notes"]:
        out.print(f"note: {note}", highlight=False)


def _show_differences(report: Json) -> None:
    columns = [
        [
            entry["table"],
            entry["column"],
            entry["believed"],
            entry["other"],
            entry["compared"],
            entry["differ"],
            f"{entry['differ'] / entry['compared']:.3%}",
            "" if entry["largest"] is None else f"{entry['largest']:.4g}",
        ]
        for entry in report["columns"]
    ]
    seasons = "; ".join(f"{season} from {', '.join(sources)}" for season, sources in report["seasons"].items())
    table(
        f"where sources disagree: {seasons}",
        ["table", "column", "believed", "other", "compared", "differ", "share", "largest"],
        columns,
    )
    for entry in report["only_in"]:
        out.print(
            f"only in {entry['source']}: {entry['rows']} rows of {entry['table']} in races that others have too", highlight=False
        )
    shown = report["differences"][:SHOWN_DIFFERENCES]
    heads = ["table", "column", "race_id", "key", "source", "value", "other_source", "other_value"]
    table("differences", heads, [[entry[head] for head in heads] for entry in shown])
    if len(report["differences"]) > len(shown):
        out.print(f"{len(report['differences']) - len(shown):,} more differences: --json lists all of them", highlight=False)


def _features_line(report: Json) -> str:
    return f"{len(report['rows'])} tables, {sum(report['rows'].values()):,} rows" + (", up to date" if report["skipped"] else "")


def _show_features(report: Json) -> None:
    out.print(_features_line(report), highlight=False)
    table("feature tables", ["table", "rows"], [[name, rows] for name, rows in report["rows"].items()])


def _apply_line(report: Json) -> str:
    removed = f", removed {', '.join(report['deleted'])}" if report["deleted"] else ""
    return f"{len(report['views'])} views, services {', '.join(report['services'])}{removed}"


def _materialize_line(report: Json) -> str:
    written = sum(view["written"] for view in report["views"])
    held = sum(view["rows"] for view in report["views"])
    return f"{len(report['views'])} views, {held:,} keys online, {written:,} written"


def _show_materialize(report: Json) -> None:
    rows = [
        [
            view["view"],
            view["rows"],
            _time(view["newest"]),
            _days(view["age_s"]),
            view["written"],
            view["unchanged"],
            view["held_back"],
        ]
        for view in report["views"]
    ]
    columns = ["view", "rows", "newest (UTC)", "age", "written", "unchanged", "held back"]
    table("online store", columns, rows)


def _traces_line(report: Json) -> str:
    return (
        f"{report['rendered'] + report['up_to_date']:,} pictures ({report['rendered']:,} drawn now), "
        f"{report['share']:.1%} of entrants with laps, {len(report['missing'])} without a lap by the moment, "
        f"{len(report['failed'])} failed"
    )


def _show_traces(report: Json) -> None:
    out.print(_traces_line(report), highlight=False)
    for name in ("missing", "failed", "skipped"):
        if report[name]:
            shown = ", ".join(report[name][:8]) + (", ..." if len(report[name]) > 8 else "")
            out.print(f"{name}: {shown}", highlight=False)


def _embed_line(report: Json) -> str:
    identity = report["identity"]
    return f"{report['count']:,} embeddings ({report['new']:,} new), encoder {identity['kind']} {identity['weights_sha256'][:12]}"


def _train_line(report: Json) -> str:
    now = ", ".join(report["trained"]) or "nothing new"
    return f"{report['rows']:,} + {report['validation_rows']:,} rows, {report['picture_share']:.1%} with a picture; trained {now}"


def _evaluate_line(report: Json) -> str:
    candidate, baseline = report["candidate"], report["baseline"]
    state = ", up to date" if report.get("up_to_date") else ""
    exact = f"exact {_number(candidate['accuracy'])} against {_number(baseline['accuracy'])}"
    return f"{report['n_races']} races, {exact}, MAE {_number(candidate['mae'])} against {_number(baseline['mae'])}{state}"


def _show_evaluate(report: Json) -> None:
    named = [("candidate", report["candidate"]), ("baseline", report["baseline"])]
    named += [(role, report[role]) for role in ("twin", "reference") if role in report]
    named += [(f"trivial: {name}", scores) for name, scores in report["trivial"].items()]
    named += [(f"control: {name}", scores) for name, scores in report["controls"].items()]
    columns = ["accuracy", "top3", "mae", "rps", "log_loss"]
    rows = [[role, scores["name"], *[scores[column] for column in columns]] for role, scores in named]
    seasons = ", ".join(str(season) for season in report["test_seasons"])
    table(
        f"{report['n_races']} races, {report['n_rows']:,} rows, test seasons {seasons}, moment {report['moment']}",
        ["role", "model", "exact", "top 3", "MAE", "RPS", "log loss"],
        rows,
    )
    for name, gains in report["comparisons"].items():
        for metric, gain in gains.items():
            if gain is not None:
                out.print(f"{name} {metric}: {_gain(gain)}", highlight=False)
    if "decision" in report:
        _show_decision(report["decision"])


def _show_decision(decision: Json) -> None:
    verdict = "PROMOTE" if decision["promote"] else "REFUSE"
    gain = decision["relative_gain"]
    numbers = "gain cannot be computed"
    if gain is not None:
        shown = _gain({"estimate": gain, "low": decision["gain_low"], "high": decision["gain_high"], "confidence": 0.95})
        bound = next((check["value"] for check in decision["checks"] if check["name"] == "gain_bound"), None)
        decides = "" if bound is None else f"; its one-sided lower bound, which decides, is {bound:+.1%}"
        numbers = f"relative gain in exact accuracy {shown}{decides}"
    out.print(f"gate: {verdict}: {numbers}", style="bold", highlight=False)
    for check in decision["checks"]:
        out.print(f"  {'passed' if check['passed'] else 'FAILED'}  {check['message']}", highlight=False)


def _promote_line(report: Json) -> str:
    verdict = "promoted" if report["decision"]["promote"] else "refused"
    return f"version {report['version']} {verdict}, champion {report['champion'] or 'none'}"


def _show_promote(report: Json) -> None:
    if report["moved"]:
        out.print(f"champion: version {report['champion']}, before {report['previous_champion'] or 'none'}", highlight=False)
    elif report["champion"] is None:
        out.print(
            f"champion: none; predictions come from the tabular baseline (version {report['baseline_version']})", highlight=False
        )
    else:
        out.print(f"champion: still version {report['champion']}", highlight=False)


def _show_promotion(report: Json) -> None:
    state = " (decided before)" if report["already_decided"] else ""
    out.print(f"candidate: version {report['version']}{state}; baseline: version {report['baseline_version']}", highlight=False)
    _show_decision(report["decision"])
    _show_promote(report)


def _show_replay(report: Json) -> None:
    out.print(f"version {report['version']}: {'same verdict' if report['same'] else 'ANOTHER VERDICT'}", highlight=False)
    _show_decision(report["stored"])
    if not report["same"]:
        _show_decision(report["replayed"])


def _show_rollback(report: Json) -> None:
    now = f"version {report['version']}" if report["version"] else "none; the tabular baseline answers"
    out.print(f"champion: {now}; taken back: version {report['previous']}", highlight=False)


def _show_status(report: Json) -> None:
    kind = " (SIMULATED races)" if report["simulated"] else ""
    out.print(f"home {report['home']}{kind}", highlight=False)
    lake = report["lake"]
    out.print(
        f"lake: {lake['races']:,} races, {lake['entries']:,} entries, {lake['laps']:,} laps, "
        f"{lake['quarantined']:,} rows quarantined",
        highlight=False,
    )
    traces, embeddings = report["traces"], report["embeddings"]
    out.print(f"pictures: {traces['count']:,}, entrants without one: {traces['missing']:,}", highlight=False)
    out.print(f"embeddings: {embeddings['count']:,}", highlight=False)
    rows = [
        [view, counts["rows"], online.get("rows"), _time(online.get("newest")), _days(online.get("age_s"))]
        for view, counts in report["features"].items()
        for online in [report["online"].get(view, {})]
    ]
    table("features", ["view", "rows", "online", "newest online (UTC)", "age"], rows)
    table(
        "models",
        ["version", "model", "role", "verdict", "created"],
        [[model[key] for key in ("version", "model", "role", "verdict", "created")] for model in report["models"]],
    )
    out.print(f"champion: {report['champion'] or 'none'}", highlight=False)


def _show_lines(line: Callable[[Json], str]) -> Callable[[Json], None]:
    return lambda report: out.print(line(report), highlight=False)


def _show_pretrained(report: Json) -> None:
    for name, value in report.items():
        out.print(f"{name}: {value}", highlight=False)


def _gain(gain: Json) -> str:
    """A relative gain with its interval; null is what is not finite: no estimate at all, or an end without limit."""
    if gain["estimate"] is None:
        return "cannot be computed"
    low, high = ("no limit" if gain[end] is None else f"{gain[end]:+.1%}" for end in ("low", "high"))
    return f"{gain['estimate']:+.1%} ({gain['confidence']:.0%} interval {low} ... {high})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _time(stamp: Any) -> str | None:
    return None if stamp is None else str(stamp)[:19].replace("T", " ")


def _days(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds / 86400:,.1f} d"


_LINES: dict[str, Callable[[Json], str]] = {
    "ingest": _ingest_line,
    "features": _features_line,
    "apply": _apply_line,
    "materialize": _materialize_line,
    "traces": _traces_line,
    "embed": _embed_line,
    "train": _train_line,
    "evaluate": _evaluate_line,
    "promote": _promote_line,
}
_VIEWS: dict[str, Callable[[Json], None]] = {
    "ingest": _show_ingest,
    "differences": _show_differences,
    "features": _show_features,
    "apply": _show_lines(_apply_line),
    "materialize": _show_materialize,
    "traces": _show_traces,
    "embed": _show_lines(_embed_line),
    "pretrain-encoder": _show_pretrained,
    "train": _show_lines(_train_line),
    "evaluate": _show_evaluate,
    "promote": _show_promotion,
    "replay": _show_replay,
    "rollback": _show_rollback,
    "status": _show_status,
}
