"""Cases made by Hypothesis and judged by the oracle: what nobody thought of writing down.

Times are drawn from a handful of instants and their microsecond neighbours, so that edges, ties and late rows keep colliding.
The seed is fixed: a store that passed today is asked the same questions tomorrow.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from pipelines.conformance.model import DAY, Case, View
from pipelines.conformance.outcome import Outcome

SEED = 7
# Each attempt to make a failing case smaller costs a query; this many are enough for a readable one.
SHRINKS = 60
_STEP = timedelta(minutes=10)
_TTLS = (None, timedelta(0), _STEP, 3 * _STEP)
_DRIVERS = ("a", "ab", "b")
_RACES = ("b", "c")


@dataclass(frozen=True)
class Generated:
    """What came of the generated cases.

    Attributes:
        outcome: right, or the verdict on the smallest failing case found.
        asked: cases tried, shrinking included.
        case: the failing case.
    """

    outcome: Outcome
    asked: int
    case: Case | None


def instants() -> st.SearchStrategy[datetime]:
    """One of seven instants ten minutes apart, or a microsecond before or after it."""
    return st.builds(
        lambda step, shift: DAY + step * _STEP + timedelta(microseconds=shift),
        st.integers(0, 6),
        st.sampled_from((0, 0, 0, -1, 1)),
    )


@st.composite
def views(draw: st.DrawFn, name: str) -> View:
    """A view of one or two keys with up to twelve rows, each of which has a value of its own (sometimes null)."""
    keys = draw(st.sampled_from(({"driver": "string"}, {"race": "string", "driver": "string"})))
    rows: list[dict[str, Any]] = []
    stamps: set[tuple[Any, ...]] = set()
    for number in range(draw(st.integers(0, 12))):
        event = draw(instants())
        created = draw(st.one_of(st.just(event), instants(), st.none()))
        key = {"driver": draw(st.sampled_from(_DRIVERS)), "race": draw(st.sampled_from(_RACES))}
        stamp = (*[key[part] for part in keys], event, created)
        # Two rows with the same key, event and created time have no newest among them: any answer would be as good.
        if stamp in stamps:
            continue
        stamps.add(stamp)
        value = draw(st.sampled_from((float(number), float(number), None)))
        rows.append({"event": event, "created": created, **{part: key[part] for part in keys}, f"{name}_value": value})
    return View(name, keys, {f"{name}_value": "float64"}, rows, ttl=draw(st.sampled_from(_TTLS)))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """One or two views, asked for at up to ten moments by known, unknown and null keys."""
    chosen = [draw(views(name)) for name in ("left", "right")[: draw(st.integers(1, 2))]]
    asked = [
        {
            "moment": draw(instants()),
            "driver": draw(st.sampled_from((*_DRIVERS, "nobody", None))),
            "race": draw(st.sampled_from((*_RACES, None))),
        }
        for _ in range(draw(st.integers(1, 10)))
    ]
    case = Case("generated", "by the oracle", chosen, asked, [])
    return replace(case, expected=case.derived())


def run_generated(ask: Callable[[Case], Outcome], *, examples: int, seed: int = SEED) -> Generated:
    """Ask `examples` generated cases; after the first failure, look for a smaller one and stop.

    Args:
        ask: runs a case on the store.
        examples: how many cases.
        seed: of the cases; the same seed makes the same cases.
    """
    verdicts: dict[str, Outcome] = {}
    failures: list[tuple[Case, Outcome]] = []
    shrinks = 0

    def judged(case: Case) -> None:
        nonlocal shrinks
        known = verdicts.get(repr(case))
        if known is None:
            if failures and shrinks >= SHRINKS:
                return  # enough: Hypothesis takes this as "not smaller" and comes to an end
            shrinks += bool(failures)
            known = verdicts[repr(case)] = ask(case)
        if known.verdict != "right":
            failures.append((case, known))
            raise AssertionError(known.got)

    limits = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    # Hypothesis wants a function made for it; drawn cases are its only argument.
    test = seeded(seed)(limits(given(cases())(judged)))
    try:
        test()
    except AssertionError:
        case, outcome = min(failures, key=lambda failure: _size(failure[0]))
        shown = f"{outcome.got} | asked {_shown(case)}"
        return Generated(replace(outcome, case="generated", got=shown[:1500]), len(verdicts), case)
    some = next(iter(verdicts.values()))
    return Generated(replace(some, case="generated", verdict="right", got="", expected=""), len(verdicts), None)


def _size(case: Case) -> tuple[int, int, int]:
    return sum(len(view.rows) for view in case.views), len(case.asked), len(repr(case))


def _shown(case: Case) -> str:
    """A failing case in one line: rows as (key, event, created, value), times as HH:MM."""

    def clock(stamp: datetime | None) -> str:
        return "null" if stamp is None else stamp.strftime("%H:%M:%S.%f").rstrip("0").rstrip(".")

    tables = []
    for view in case.views:
        rows = [
            f"({'/'.join(str(row[key]) for key in view.keys)}, {clock(row['event'])}, known {clock(row['created'])}, "
            f"{row[next(iter(view.features))]})"
            for row in view.rows
        ]
        tables.append(f"{view.name}[{', '.join(rows)}] ttl {view.ttl}")
    questions = [f"({row['race']}/{row['driver']} at {clock(row['moment'])})" for row in case.asked]
    return f"{', '.join(questions)} of {'; '.join(tables)}"
