"""One picture of an evaluation: calibration, exact hits per season, gains with their intervals, loss curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from feature_repo.files import atomic_path

COLOURS = {
    "candidate": "#c8102e",
    "twin": "#e58a2e",
    "baseline": "#1f4e79",
    "reference": "#7a5195",
    "grid_order": "#8a8a8a",
    "order_at_moment": "#4d4d4d",
}
LABELS = {
    "candidate": "candidate",
    "twin": "candidate without pictures",
    "baseline": "tabular ensemble",
    "reference": "reference architecture",
    "grid_order": "grid order",
    "order_at_moment": "order at the moment",
    "shuffled_pictures": "with others' pictures",
    "blank_pictures": "with blank pictures",
}

LossCurves = Mapping[str, Sequence[Mapping[str, float]]]


def write_report(
    result: Mapping[str, Any],
    path_png: Path,
    *,
    curves: LossCurves | None = None,
    title: str = "",
    decision: Mapping[str, Any] | None = None,
) -> None:
    """Draw `result` into a 1500x1100 PNG, whole or not at all.

    Args:
        result: what `ml.results.evaluate` returned.
        path_png: the file.
        curves: per model its epochs of all folds, each with `season`, `epoch`, `train` and `validation` (losses).
        title: first line; says what was evaluated, and that data are simulated where they are.
        decision: `Decision.to_dict()`; its verdict and first reason become the second line.
    """
    figure = Figure(figsize=(15, 11), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    figure.suptitle("\n".join(filter(None, [title or "Evaluation", _summary(result), _verdict(decision)])), fontsize=13)
    _draw_seasons(axes[0, 0], result)
    _draw_gains(axes[0, 1], result)
    _draw_calibration(axes[1, 0], result)
    _draw_losses(axes[1, 1], curves or {})
    with atomic_path(path_png) as temporary:
        figure.savefig(temporary, format="png")


def _roles(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Every model that has a role, in drawing order."""
    found = {**result, **result["trivial"]}
    return {role: found[role] for role in COLOURS if role in found}


def _summary(result: Mapping[str, Any]) -> str:
    def shown(role: str) -> str:
        metrics = result[role]
        if metrics["accuracy"] is None:
            return f"{LABELS[role]}: broken"
        return f"{LABELS[role]} ({metrics['name']}): exact {metrics['accuracy']:.3f}, MAE {metrics['mae']:.2f}"

    return f"{result['n_races']} races, {result['n_rows']} cars.  {shown('candidate')}.  {shown('baseline')}."


def _verdict(decision: Mapping[str, Any] | None) -> str:
    if decision is None:
        return ""
    if decision["promote"]:
        return "Gate: promote"
    more = f" (and {len(decision['reasons']) - 1} more)" if len(decision["reasons"]) > 1 else ""
    reason = decision["reasons"][0]
    return f"Gate: refuse. {reason if len(reason) <= 150 else reason[:147] + '...'}{more}"


def _draw_seasons(axes: Axes, result: Mapping[str, Any]) -> None:
    roles = _roles(result)
    seasons = [str(season) for season in result["test_seasons"]]
    width = 0.84 / len(roles)
    for number, (role, metrics) in enumerate(roles.items()):
        heights = [metrics["per_season"].get(season, {}).get("accuracy") or 0.0 for season in seasons]
        places = [place - 0.42 + (number + 0.5) * width for place in range(len(seasons))]
        axes.bar(places, heights, width * 0.94, color=COLOURS[role], label=LABELS[role])
    axes.set_xticks(range(len(seasons)), seasons)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.3)
    axes.set(title="Exact position, per test season", ylabel="share of cars", xlabel="test season")
    axes.legend(ncols=2, fontsize=9, loc="upper left", frameon=False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _draw_gains(axes: Axes, result: Mapping[str, Any]) -> None:
    comparisons = {key.removeprefix("candidate_vs_"): gains for key, gains in result["comparisons"].items()}
    names = [name for name in LABELS if name in comparisons]
    markers = (("accuracy", "#c8102e", "o", -0.13, "exact hits"), ("mae", "#1f4e79", "s", 0.13, "absolute error (lower = gain)"))
    for metric, colour, marker, shift, label in markers:
        drawn = [
            (place, gain)
            for place, name in enumerate(names)
            if (gain := comparisons[name][metric]) and gain["estimate"] is not None
        ]
        for place, gain in drawn:
            low, high = (100 * (gain[end] if gain[end] is not None else gain["estimate"]) for end in ("low", "high"))
            axes.plot([low, high], [place + shift] * 2, color=colour, linewidth=2)
        axes.plot(
            [100 * gain["estimate"] for _, gain in drawn],
            [place + shift for place, _ in drawn],
            marker,
            color=colour,
            label=label,
        )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(5, color="grey", linewidth=0.8, linestyle="--", label="5 % (gate)")
    axes.set_yticks(range(len(names)), [LABELS[name] for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    left, right = axes.get_xlim()
    axes.set_xlim(max(left, -100), min(right, 150))  # a wide interval against a weak predictor must not hide the others
    axes.set(title="Gain of the candidate, with 95 % interval over races", xlabel="relative gain, %")
    axes.legend(fontsize=9, frameon=False)
    axes.grid(axis="x", alpha=0.3)


def _draw_calibration(axes: Axes, result: Mapping[str, Any]) -> None:
    end = 0.1
    for role, metrics in _roles(result).items():
        curve = metrics["calibration"]
        if curve is None or role == "order_at_moment":
            continue
        enough = [bin_ for bin_, count in enumerate(curve["count"]) if count >= 20]
        predicted, observed = ([curve[key][bin_] for bin_ in enough] for key in ("predicted", "observed"))
        end = max([end, *predicted, *observed])
        axes.plot(
            predicted, observed, "o-", color=COLOURS[role], label=f"{LABELS[role]} (error {curve['error']:.4f})", markersize=5
        )
    axes.plot([0, end], [0, end], color="black", linewidth=0.8, linestyle=":")
    axes.set(
        title="Calibration over all cars and positions (bins of 20 pairs and more)",
        xlabel="predicted probability",
        ylabel="share that came true",
    )
    axes.legend(fontsize=9, frameon=False, loc="upper left")
    axes.grid(alpha=0.3)


def _draw_losses(axes: Axes, curves: LossCurves) -> None:
    """Relative to each curve's first validation loss, because models are trained on different losses."""
    axes.set(title="Loss per epoch, one line a fold (solid: validation, dotted: training)", xlabel="epoch")
    axes.set_ylabel("loss / first validation loss")
    if not curves:
        axes.text(0.5, 0.5, "no training in this run", ha="center", va="center", transform=axes.transAxes, color="grey")
        return
    for number, (name, epochs) in enumerate(curves.items()):
        for order, season in enumerate(sorted({epoch["season"] for epoch in epochs})):
            line = sorted((epoch for epoch in epochs if epoch["season"] == season), key=lambda epoch: epoch["epoch"])
            steps, first = [epoch["epoch"] for epoch in line], line[0]["validation"]
            style = {"color": f"C{number}", "linewidth": 1.2, "alpha": 0.8}
            label = name if order == 0 else None
            axes.plot(steps, [epoch["validation"] / first for epoch in line], label=label, **style)
            axes.plot(steps, [epoch["train"] / first for epoch in line], linestyle=":", **style)
    axes.legend(fontsize=9, frameon=False)
    axes.grid(alpha=0.3)
