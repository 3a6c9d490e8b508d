"""Charts as inline SVG text: bars, distributions, tyre strips, intervals and histograms.

Pure functions. Every chart has a title and a description for those who do not see it. Widths are in percent, so that a chart fits
a phone while its letters keep their size; colours come from the page's style sheet by class, because the pages allow no inline
style.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

_BAR_HEIGHT, _DISTRIBUTION_HEIGHT, _STRIP_HEIGHT, _HISTOGRAM_HEIGHT = 10, 30, 18, 56
_ROW_HEIGHT, _AXIS_HEIGHT = 52, 22
_LETTERS = {
    "HYPERSOFT": "HS",
    "ULTRASOFT": "US",
    "SUPERSOFT": "SS",
    "SOFT": "S",
    "MEDIUM": "M",
    "HARD": "H",
    "INTERMEDIATE": "I",
    "WET": "W",
}

COMPOUNDS = tuple(_LETTERS)
"""Every compound that is known, softest first, then those for rain."""
OLD_COMPOUNDS = ("HYPERSOFT", "ULTRASOFT", "SUPERSOFT")
"""Used until 2018."""


@dataclass(frozen=True)
class Stint:
    """Laps on one set of tyres.

    Attributes:
        start, end: first and last lap, both driven on it; 1 = the first lap of the race.
        compound: such as `SOFT`; None where unknown.
    """

    start: int
    end: int
    compound: str | None


@dataclass(frozen=True)
class Interval:
    """A relative gain with its interval.

    Attributes:
        label: of what.
        estimate: 0.05 = 5 % better.
        low, high: ends of the interval; None where it could not be computed.
    """

    label: str
    estimate: float
    low: float | None
    high: float | None


def compound_letter(compound: str | None) -> str:
    """`MEDIUM` -> `M`; `?` for one that is not known."""
    return _LETTERS.get(compound or "", "?")


def compound_class(compound: str | None) -> str:
    """The CSS class of a compound."""
    return f"c-{compound.lower()}" if compound in _LETTERS else "c-unknown"


def probability_bar(p_win: float, p_podium: float, p_points: float) -> Markup:
    """Three probabilities as one bar: a win lies inside a podium, a podium inside the points.

    Args:
        p_win, p_podium, p_points: 0..1.
    """
    parts = "".join(
        f'<rect class="{name}" x="0" y="0" width="{_percent(value)}" height="{_BAR_HEIGHT}"/>'
        for name, value in (("b-points", p_points), ("b-podium", p_podium), ("b-win", p_win))
    )
    said = f"Win {_said(p_win)}, podium {_said(p_podium)}, points {_said(p_points)}"
    return _svg(
        "chart bar",
        _BAR_HEIGHT,
        "Probabilities",
        said,
        f'<rect class="b-track" x="0" y="0" width="100%" height="{_BAR_HEIGHT}"/>{parts}',
    )


def distribution(probabilities: Sequence[float], *, place: int, actual: int | None = None) -> Markup:
    """The probability of each finishing place, as columns; the tallest fills the height.

    Args:
        probabilities: of places 1, 2, ...
        place: the place assigned, drawn stronger.
        actual: the place of the result, marked below; None while it is not known.
    """
    n_places, top = len(probabilities), max([*probabilities, 1e-9])
    room = _DISTRIBUTION_HEIGHT - 5
    columns = []
    for number, value in enumerate(probabilities, start=1):
        height = max(room * value / top, 0.5)
        name = "d-place" if number == place else "d-col"
        left, width = 100 * (number - 1) / n_places, 100 / n_places * 0.78
        columns.append(
            f'<rect class="{name}" x="{left:.2f}%" y="{room - height:.1f}" width="{width:.2f}%" height="{height:.1f}"/>'
        )
        if number == actual:
            columns.append(f'<rect class="d-actual" x="{left:.2f}%" y="{room + 2}" width="{width:.2f}%" height="3"/>')
    likeliest = max(range(n_places), key=lambda at: probabilities[at])
    said = f"Likeliest place {likeliest + 1} ({_said(probabilities[likeliest])}); assigned place {place}"
    if actual is not None:
        said += f"; finished {actual} ({_said(probabilities[actual - 1]) if actual <= n_places else 'outside the places shown'})"
    return _svg("chart distribution", _DISTRIBUTION_HEIGHT, "Probability of each finishing place", said, "".join(columns))


def tyre_strip(stints: Sequence[Stint], *, lap: int, scheduled_laps: int, who: str) -> Markup:
    """Which tyres a car has run on, lap by lap.

    Args:
        stints: in order.
        lap: the leader's lap now, marked.
        scheduled_laps: the width, laps.
        who: the driver, for the title.
    """
    parts = [f'<rect class="t-track" x="0" y="5" width="100%" height="{_STRIP_HEIGHT - 10}"/>']
    for stint in stints:
        left, right = _share(stint.start - 1, scheduled_laps), _share(stint.end, scheduled_laps)
        letter = compound_letter(stint.compound)
        parts.append(
            f'<rect class="t-stint {compound_class(stint.compound)}" x="{left:.2f}%" y="1" width="{max(right - left, 0.4):.2f}%" '
            f'height="{_STRIP_HEIGHT - 2}" rx="2"/>'
        )
        if right - left >= 4 * len(letter):  # narrower than this a letter does not fit on a phone
            parts.append(f'<text class="t-letter" x="{(left + right) / 2:.2f}%" y="13" text-anchor="middle">{letter}</text>')
    parts.append(_now_line(lap, scheduled_laps, _STRIP_HEIGHT))
    said = "; ".join(f"{(stint.compound or 'unknown').lower()} laps {stint.start} to {stint.end}" for stint in stints)
    return _svg("chart tyres", _STRIP_HEIGHT, f"Tyres of {who}", said or "no lap completed", "".join(parts))


def rain_band(spans: Sequence[tuple[float, float]], *, lap: int, scheduled_laps: int) -> Markup:
    """When rain was measured, along the leader's laps.

    Args:
        spans: start and end of each shower, leader's laps with fractions.
        lap: the leader's lap now, marked.
        scheduled_laps: the width, laps.
    """
    parts = ['<rect class="t-track" x="0" y="2" width="100%" height="8"/>']
    for start, end in spans:
        left, right = _share(start, scheduled_laps), _share(end, scheduled_laps)
        parts.append(f'<rect class="r-rain" x="{left:.2f}%" y="0" width="{max(right - left, 0.6):.2f}%" height="12"/>')
    parts.append(_now_line(lap, scheduled_laps, 12))
    said = "; ".join(f"rain from lap {start:.0f} to {end:.0f}" for start, end in spans) or "no rain measured up to this lap"
    return _svg("chart rain", 12, "Rain so far", said, "".join(parts))


def lap_axis(scheduled_laps: int) -> Markup:
    """Lap numbers under tyre strips."""
    step = next((step for step in (5, 10, 20, 50, 100) if scheduled_laps / step <= 8), 200)
    marks = "".join(
        f'<text class="a-tick" x="{_share(at, scheduled_laps):.2f}%" y="11" '
        f'text-anchor="{_anchor(at, 0, scheduled_laps)}">{at}</text>'
        for at in range(0, scheduled_laps + 1, step)
    )
    return Markup(f'<svg class="chart axis" width="100%" height="14" aria-hidden="true">{marks}</svg>')


def interval_plot(rows: Sequence[Interval], *, limit: float | None, title: str) -> Markup:
    """Relative gains as points with their intervals on one axis; each with zero and the gate's limit.

    Args:
        rows: what to show, from top to bottom.
        limit: the gain that the gate asks for; None draws none.
        title: what is compared.
    """
    ends = [value for row in rows for value in (row.estimate, row.low, row.high) if value is not None]
    low, high = min([0.0, *ends]), max([limit or 0.0, 0.05, *ends])
    margin = 0.06 * (high - low)
    low, high = low - margin, high + margin

    def at(value: float) -> str:
        return f"{100 * (value - low) / (high - low):.2f}%"

    height = _ROW_HEIGHT * len(rows) + _AXIS_HEIGHT
    parts = []
    said = []
    for number, row in enumerate(rows):
        top = number * _ROW_HEIGHT
        ends_known = row.low is not None and row.high is not None
        shown = f"{_signed(row.estimate)} [{_signed(row.low)}, {_signed(row.high)}]" if ends_known else _signed(row.estimate)
        said.append(f"{row.label}: {shown}")
        name = "i-good" if row.low is not None and row.low > 0 else "i-bad" if row.high is not None and row.high < 0 else "i-open"
        parts.append(f'<text class="i-label" x="0" y="{top + 13}">{escape(row.label)}</text>')
        parts.append(f'<text class="i-value" x="0" y="{top + 28}">{escape(shown)}</text>')
        middle = top + 41
        parts.append(f'<line class="i-zero" x1="{at(0)}" x2="{at(0)}" y1="{middle - 7}" y2="{middle + 7}"/>')
        if limit is not None:
            parts.append(f'<line class="i-limit" x1="{at(limit)}" x2="{at(limit)}" y1="{middle - 7}" y2="{middle + 7}"/>')
        if row.low is not None and row.high is not None:
            parts.append(f'<line class="i-span {name}" x1="{at(row.low)}" x2="{at(row.high)}" y1="{middle}" y2="{middle}"/>')
        parts.append(f'<circle class="i-point {name}" cx="{at(row.estimate)}" cy="{middle}" r="5"/>')
    parts.extend(
        f'<text class="a-tick" x="{at(value)}" y="{height - 7}" text-anchor="middle">{_tick(value)}</text>'
        for value in _ticks(low, high)
    )
    return _svg("chart intervals", height, title, "; ".join(said), "".join(parts))


def histogram(counts: Sequence[int], edges: Sequence[float], *, name: str) -> Markup:
    """How values are distributed: columns between bin edges.

    Args:
        counts: per bin.
        edges: one more than bins, ascending.
        name: of the feature.
    """
    top, n_bins = max([*counts, 1]), max(len(counts), 1)
    columns = "".join(
        f'<rect class="h-col" x="{100 * at / n_bins:.2f}%" y="{_HISTOGRAM_HEIGHT - height:.1f}" '
        f'width="{100 / n_bins * 0.9:.2f}%" height="{height:.1f}"/>'
        for at, count in enumerate(counts)
        if (height := max(_HISTOGRAM_HEIGHT * count / top, 1.0 if count else 0.0))
    )
    fullest = max(range(len(counts)), key=lambda at: counts[at], default=0)
    said = (
        f"from {edges[0]:.4g} to {edges[-1]:.4g}, most often {edges[fullest]:.4g} to {edges[fullest + 1]:.4g}"
        if counts
        else "no values"
    )
    base = f'<line class="h-base" x1="0" x2="100%" y1="{_HISTOGRAM_HEIGHT}" y2="{_HISTOGRAM_HEIGHT}"/>'
    return _svg("chart histogram", _HISTOGRAM_HEIGHT + 1, f"Distribution of {name}", said, columns + base)


def category_bars(names: Sequence[str], counts: Sequence[int], *, name: str) -> Markup:
    """How often each of a few values occurs: one bar each.

    Args:
        names: the values, in drawing order.
        counts: of each.
        name: of the feature.
    """
    total, top = max(sum(counts), 1), max([*counts, 1])
    parts = []
    for number, (value, count) in enumerate(zip(names, counts, strict=True)):
        y = 16 * number
        parts.append(f'<rect class="h-bar" x="0" y="{y + 1}" width="{100 * count / top:.2f}%" height="13"/>')
        parts.append(f'<text class="h-name" x="4" y="{y + 12}">{escape(value)}</text>')
        parts.append(f'<text class="h-name" x="100%" y="{y + 12}" text-anchor="end">{100 * count / total:.0f} %</text>')
    said = ", ".join(f"{value} {100 * count / total:.0f} %" for value, count in zip(names, counts, strict=True))
    return _svg("chart categories", max(16 * len(names), 1), f"Values of {name}", said or "no values", "".join(parts))


def _svg(classes: str, height: float, title: str, description: str, content: str) -> Markup:
    return Markup(
        f'<svg class="{classes}" role="img" width="100%" height="{height}" focusable="false">'
        f"<title>{escape(title)}: {escape(description)}</title>{content}</svg>"
    )


def _now_line(lap: int, scheduled_laps: int, height: int) -> str:
    at = f"{_share(lap, scheduled_laps):.2f}%"
    return f'<line class="t-now" x1="{at}" x2="{at}" y1="0" y2="{height}"/>'


def _share(value: float, whole: float) -> float:
    return min(max(100 * value / max(whole, 1), 0.0), 100.0)


def _percent(value: float) -> str:
    return f"{_share(value, 1):.1f}%"


def _said(value: float) -> str:
    return f"{100 * value:.0f} %"


def _signed(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:+.1f} %"


def _tick(value: float) -> str:
    return "0 %" if abs(value) < 1e-9 else f"{100 * value:+.0f} %"


def _anchor(value: float, first: float, last: float) -> str:
    return "start" if value == first else "end" if value == last else "middle"


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round values inside the ends."""
    step = next((step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if (high - low) / step <= 6), 100.0)
    first = int(low / step) - 1
    inside = [at * step for at in range(first, first + 40)]
    margin = 0.05 * (high - low)
    return [value for value in inside if low + margin <= value <= high - margin]
