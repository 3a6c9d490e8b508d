"""Numbers, times and ids as the pages write them."""

import math
import re
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

_DAY = 86_400
_UNITS = (
    (730 * _DAY, "y", 365 * _DAY, "d", _DAY),
    (_DAY, "d", _DAY, "h", 3600),
    (3600, "h", 3600, "min", 60),
    (60, "min", 60, "s", 1),
)
"""From how many seconds on, unit and its seconds, smaller unit and its seconds; a year is 365 days."""

_SMALL_WORDS = {"de", "do", "of", "di"}


def percent(value: float) -> str:
    """0.453 -> `45%`; a small chance stays visible as `<1%`, a near certainty as `>99%`."""
    shown = f"{100 * value:.0f}%"
    if shown == "0%" and value > 0:
        return "<1%"
    return ">99%" if shown == "100%" and value < 1 else shown


def ordinal(place: int) -> str:
    """1 -> `1st`."""
    ending = "th" if 10 <= place % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"


def age(seconds: float | None) -> str:
    """Seconds as the two largest units: `2 d 3 h`; nothing is written as a dash."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    whole = round(abs(seconds))
    sign = "-" if seconds < 0 and whole else ""
    for least, unit, size, smaller, small in _UNITS:
        if whole >= least:
            rest = (whole % size) // small
            return f"{sign}{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{sign}{whole} s"


def when(instant: pd.Timestamp | str | None) -> str:
    """A UTC instant to the second: `26 May 2024 13:05:12 UTC`."""
    if instant is None:
        return "–"
    stamp = pd.Timestamp(instant)
    return f"{stamp.day} {stamp:%b %Y %H:%M:%S} UTC"


def day(instant: pd.Timestamp | str) -> str:
    """A date: `26 May 2024`."""
    stamp = pd.Timestamp(instant)
    return f"{stamp.day} {stamp:%b %Y}"


def celsius(degrees: float | None) -> str:
    """21.4 -> `21 °C`; `unknown` where it was not measured."""
    return "unknown" if degrees is None else f"{degrees:.0f} °C"


def value(item: Any) -> str:
    """A feature's value in a few letters; lists by their ends."""
    if item is None:
        return "–"
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, float):
        return f"{item:.4g}" if abs(item) < 1e4 else f"{item:.0f}"
    if isinstance(item, list):
        shown = ", ".join(value(one) for one in (item if len(item) <= 4 else [item[0], item[-1]]))
        return f"[{shown}]" if len(item) <= 4 else f"{len(item)} values, {value(item[0])} … {value(item[-1])}"
    return str(item)


def name_of(ref: str) -> str:
    """An id as a name: `red_bull` -> `Red Bull`."""
    return " ".join(word if word in _SMALL_WORDS else word.capitalize() for word in ref.split("_"))


def breakable(name: str) -> Markup:
    """A long name that may break after its underscores, on a phone."""
    return Markup(str(escape(name)).replace("_", "_<wbr>"))


def coded(text: str) -> Markup:
    """Text in which what stands between backticks is code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))
