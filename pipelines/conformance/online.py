"""Cases for online stores: the newest known row of a key is served, with its time, whatever was written when and by whom.

Each case is a function of a `Bench`; its first line says why the answer is right.
"""

import inspect
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pipelines.conformance.bench import Bench, MismatchError, expect, in_processes, open_store, read_rows, write_rows
from pipelines.conformance.model import View, at, row
from pipelines.conformance.outcome import Outcome
from pipelines.conformance.targets import Target

PACE = View("pace", {"driver": "string"}, {"pace_s": "float64"}, [])
NORRIS = {"driver": "norris"}
WRITERS = 4
ROUNDS = 12
KEYS_A_ROUND = 20
ROUND_SECONDS = 0.15


@dataclass(frozen=True)
class OnlineCase:
    """A named case. `advisory` ones are shown but not needed to pass."""

    name: str
    why: str
    run: Callable[[Bench], None]
    advisory: bool = False


ONLINE_CASES: list[OnlineCase] = []


def _case(function: Callable[[Bench], None]) -> Callable[[Bench], None]:
    why = " ".join((inspect.getdoc(function) or "").split())
    ONLINE_CASES.append(OnlineCase(function.__name__, why, function))
    return function


def run_case(target: Target, name: str, options: Mapping[str, Any]) -> Outcome:
    """Run a case on a store; whatever the store raises is an outcome, not an error of the kit."""
    number, case = next((number, case) for number, case in enumerate(ONLINE_CASES) if case.name == name)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        files = {"path": str(Path(folder) / "online.db")} if "path" in target.fields else {}
        known = {key: value for key, value in options.items() if key in target.fields}
        bench = Bench(target, Path(folder), f"c{number}", {**files, **known})
        verdict: Any = "right"
        got = expected = ""
        try:
            case.run(bench)
        except MismatchError as error:
            verdict, got, expected = "wrong", error.got, error.expected
        except Exception as error:  # noqa: BLE001  a store may fail in any way; that it does is the finding
            verdict = "not supported" if isinstance(error, NotImplementedError) else "error"
            got, expected = f"{type(error).__name__}: {' '.join(str(error).split())}", case.why
    return Outcome(target.name, "online", name, verdict, got[:400], expected[:400], time.perf_counter() - started, case.advisory)


def _lap(event: str, pace_s: float | None, created: str = "=", **key: Any) -> dict[str, Any]:
    return row(event, created, **(key or NORRIS), pace_s=pace_s)


def _holds(bench: Bench, pace_s: float | None) -> None:
    expect(bench.values(PACE, NORRIS), [{"pace_s": pace_s}])


@_case
def newer_replaces_older(bench: Bench) -> None:
    """Of two writes the newer event is served."""
    bench.apply(PACE)
    bench.write(PACE, _lap("12:00", 80.0))
    bench.write(PACE, _lap("13:00", 81.0))
    _holds(bench, 81.0)


@_case
def older_never_replaces_newer(bench: Bench) -> None:
    """An older event that is written later changes nothing."""
    bench.apply(PACE)
    bench.write(PACE, _lap("13:00", 81.0))
    bench.write(PACE, _lap("12:00", 80.0))
    _holds(bench, 81.0)


@_case
def newest_of_one_batch(bench: Bench) -> None:
    """Of several rows of a key in one batch the newest is served, whatever their order."""
    bench.apply(PACE)
    bench.write(PACE, _lap("12:00", 80.0), _lap("13:00", 81.0), _lap("12:30", 82.0))
    _holds(bench, 81.0)


@_case
def backfill_of_an_older_window(bench: Bench) -> None:
    """Materializing an older window after a newer one leaves what the newer one wrote."""
    rows = [_lap("12:00", 80.0), _lap("13:00", 81.0), _lap("12:00", 70.0, driver="hamilton")]
    view = View("pace", PACE.keys, PACE.features, rows)
    bench.apply(view)
    bench.materialize(view, at("12:30"), at("13:30"))
    bench.materialize(view, at("11:30"), at("12:30"))
    expect(bench.values(view, NORRIS, {"driver": "hamilton"}), [{"pace_s": 81.0}, {"pace_s": 70.0}])


@_case
def correction_is_taken(bench: Bench) -> None:
    """Of equal events the later created wins: a correction replaces what it corrects."""
    bench.apply(PACE)
    bench.write(PACE, _lap("12:00", 80.0, "12:00"))
    bench.write(PACE, _lap("12:00", 79.0, "15:00"))
    _holds(bench, 79.0)


@_case
def corrected_value_stays_corrected(bench: Bench) -> None:
    """Of equal events the later created wins: writing the uncorrected row again changes nothing."""
    bench.apply(PACE)
    bench.write(PACE, _lap("12:00", 79.0, "15:00"))
    bench.write(PACE, _lap("12:00", 80.0, "12:00"))
    _holds(bench, 79.0)


@_case
def correction_of_an_older_event(bench: Bench) -> None:
    """A correction of an older event, known later than the newer event, does not replace it."""
    bench.apply(PACE)
    bench.write(PACE, _lap("13:00", 81.0, "13:00"))
    bench.write(PACE, _lap("12:00", 79.0, "18:00"))
    _holds(bench, 81.0)


@_case
def computed_again(bench: Bench) -> None:
    """Equal event and created times with another value: the table was computed again, the new value is served."""
    bench.apply(PACE)
    bench.write(PACE, _lap("12:00", 80.0))
    bench.write(PACE, _lap("12:00", 80.5))
    _holds(bench, 80.5)


@_case
def without_created_time(bench: Bench) -> None:
    """Without a created column the event decides alone: older never replaces newer, equal ones replace."""
    view = View("pace", PACE.keys, PACE.features, [], created_column=None)
    bench.apply(view)
    bench.write(view, _lap("13:00", 81.0))
    bench.write(view, _lap("12:00", 80.0))
    expect(bench.values(view, NORRIS), [{"pace_s": 81.0}])
    bench.write(view, _lap("13:00", 82.0))
    expect(bench.values(view, NORRIS), [{"pace_s": 82.0}])


@_case
def missing_key(bench: Bench) -> None:
    """A key that was never written is answered with nulls that are not called present, in its place among the others."""
    bench.apply(PACE)
    bench.write(PACE, _lap("12:00", 80.0))
    found = bench.read(PACE, {"driver": "nobody"}, NORRIS, {"driver": "nobody"})
    expect(
        [(served["pace_s"].value, served["pace_s"].is_present) for served in found], [(None, False), (80.0, True), (None, False)]
    )


@_case
def missing_feature(bench: Bench) -> None:
    """A null in the newest row is served as null; the older row's value does not shine through."""
    view = View("pace", PACE.keys, {"pace_s": "float64", "gap_s": "float64"}, [])
    bench.apply(view)
    bench.write(view, row("12:00", **NORRIS, pace_s=80.0, gap_s=1.0))
    bench.write(view, row("13:00", **NORRIS, pace_s=81.0, gap_s=None))
    expect(bench.values(view, NORRIS), [{"pace_s": 81.0, "gap_s": None}])


@_case
def event_time_served(bench: Bench) -> None:
    """With the value comes the event time of its row, so that its age can be told."""
    bench.apply(PACE)
    bench.write(PACE, _lap("12:00", 80.0, "15:00"))
    expect(bench.read(PACE, NORRIS)[0]["pace_s"].event, at("12:00"))


@_case
def event_time_to_the_microsecond(bench: Bench) -> None:
    """The event time is served with the microseconds it was written with."""
    bench.apply(PACE)
    bench.write(PACE, _lap("12:00:00.123456", 80.0))
    expect(bench.read(PACE, NORRIS)[0]["pace_s"].event.isoformat(), at("12:00:00.123456").isoformat())


@_case
def microseconds_decide(bench: Bench) -> None:
    """An event one microsecond older is older: it does not replace."""
    bench.apply(PACE)
    bench.write(PACE, _lap("12:00:00.000002", 82.0))
    bench.write(PACE, _lap("12:00:00.000001", 81.0))
    _holds(bench, 82.0)


@_case
def before_1970(bench: Bench) -> None:
    """Times before the epoch order like all others: 13 May 1950, 15:00 is newer than 14:00."""
    bench.apply(PACE)
    bench.write(PACE, _lap("1950-05-13T15:00:00", 2.0))
    bench.write(PACE, _lap("1950-05-13T14:00:00", 1.0))
    served = bench.read(PACE, NORRIS)[0]["pace_s"]
    expect((served.value, served.event), (2.0, at("1950-05-13T15:00:00")))


@_case
def time_zones_of_processes(bench: Bench) -> None:
    """TZ of the writing and of the reading process change nothing about the event time that is served."""
    bench.apply(PACE)
    in_processes([(_write, bench.settings(), PACE, [_lap("12:00", 80.0)])], zone="Europe/London")
    [event] = in_processes([(_read_event, bench.settings(), PACE, NORRIS)], zone="America/New_York")
    expect(event, at("12:00"))


@_case
def concurrent_writers(bench: Bench) -> None:
    """Four processes write the same keys at the same instant, each another row: the newest row of every key is served."""
    bench.apply(PACE)
    start = time.time() + 1.5
    in_processes([(_write_rounds, bench.settings(), PACE, writer, start) for writer in range(WRITERS)])
    keys = [{"driver": f"d{number}"} for number in range(ROUNDS * KEYS_A_ROUND)]
    older = sum(served["pace_s"] != float(WRITERS - 1) for served in bench.values(PACE, *keys))
    expect("an older row in some keys" if older else "the newest row in every key", "the newest row in every key")


@_case
def deleted_view_comes_back_empty(bench: Bench) -> None:
    """A view that is deleted and applied again holds nothing; its neighbour with the same key keeps its values."""
    other = View("grid", PACE.keys, {"grid": "int64"}, [])
    bench.apply(PACE, other)
    bench.write(PACE, _lap("12:00", 80.0))
    bench.write(other, row("12:00", **NORRIS, grid=4))
    bench.delete(PACE)
    bench.apply(PACE, other)
    _holds(bench, None)
    expect(bench.values(other, NORRIS), [{"grid": 4}])


@_case
def feature_added_later(bench: Bench) -> None:
    """A feature that is added to a view is null until it is written; a row written afterwards has it."""
    wider = View("pace", PACE.keys, {"pace_s": "float64", "gap_s": "float64"}, [])
    bench.apply(PACE)
    bench.write(PACE, _lap("12:00", 80.0))
    bench.apply(wider)
    expect(bench.values(wider, NORRIS)[0]["gap_s"], None)
    bench.write(wider, row("13:00", **NORRIS, pace_s=81.0, gap_s=1.5))
    expect(bench.values(wider, NORRIS), [{"pace_s": 81.0, "gap_s": 1.5}])


def _keys_stay_apart(bench: Bench, kinds: Mapping[str, str], written: list[dict[str, Any]], unknown: dict[str, Any]) -> None:
    view = View("keyed", kinds, PACE.features, [])
    bench.apply(view)
    bench.write(view, *[row("12:00", **key, pace_s=float(number)) for number, key in enumerate(written)])
    expect(
        bench.values(view, *written, unknown), [{"pace_s": float(number)} for number in range(len(written))] + [{"pace_s": None}]
    )


@_case
def unicode_keys(bench: Bench) -> None:
    """Keys are compared as they are: case, accents, composed forms and the empty string differ."""
    names = ["pérez", "pe\u0301rez", "Pérez", "", " ", "周冠宇", "o'ward; --"]
    _keys_stay_apart(bench, {"driver": "string"}, [{"driver": name} for name in names], {"driver": "perez"})


@_case
def int_keys(bench: Bench) -> None:
    """64-bit keys keep all their digits and their sign."""
    keys = [{"car": number} for number in (0, 7, -7, 2**53, 2**53 + 1, 2**63 - 1, -(2**63))]
    _keys_stay_apart(bench, {"car": "int64"}, keys, {"car": 8})


@_case
def bytes_keys(bench: Bench) -> None:
    """Keys of bytes may hold any byte."""
    _keys_stay_apart(bench, {"chip": "bytes"}, [{"chip": b"\x00"}, {"chip": b"\x00\xff"}, {"chip": b"%"}], {"chip": b"\x00\x00"})


@_case
def composite_keys(bench: Bench) -> None:
    """All parts of a key count; parts that would join to the same text are different keys."""
    parts = [("a", "bc", 1), ("ab", "c", 1), ("a", "bc", 11), ("a", "b", 1)]
    keys = [{"race": race, "driver": driver, "stint": stint} for race, driver, stint in parts]
    _keys_stay_apart(
        bench, {"race": "string", "driver": "string", "stint": "int64"}, keys, {"race": "a", "driver": "c", "stint": 1}
    )


@_case
def same_key_asked_twice(bench: Bench) -> None:
    """A key asked for several times in one read is answered every time."""
    bench.apply(PACE)
    bench.write(PACE, _lap("12:00", 80.0), _lap("12:00", 90.0, driver="hamilton"))
    asked = [NORRIS, {"driver": "hamilton"}, NORRIS, NORRIS]
    expect([served["pace_s"] for served in bench.values(PACE, *asked)], [80.0, 90.0, 80.0, 80.0])


@_case
def values_of_all_types(bench: Bench) -> None:
    """Arrays, strings, bytes, booleans and large integers come back as they were written; empty is not null."""
    kinds = {"n": "int64", "text": "string", "flag": "bool", "blob": "bytes", "curve": "float32[]", "tags": "string[]"}
    view = View("all_types", {"driver": "string"}, kinds, [])
    full: dict[str, Any] = {
        "n": 2**53 + 1,
        "text": "SÖFT",
        "flag": False,
        "blob": b"\x00\xff",
        "curve": [0.5, -1.5],
        "tags": ["wet", ""],
    }
    empty: dict[str, Any] = {"n": 0, "text": "", "flag": True, "blob": b"", "curve": [0.0], "tags": [""]}
    bench.apply(view)
    bench.write(view, row("12:00", driver="a", **full), row("12:00", driver="b", **empty))
    expect(bench.values(view, {"driver": "a"}, {"driver": "b"}), [full, empty])


@_case
def long_view_names(bench: Bench) -> None:
    """Two views whose names begin with the same seventy letters are two views."""
    left, right = (View("v" * 70 + end, PACE.keys, PACE.features, []) for end in ("left", "right1"))
    bench.apply(left, right)
    bench.write(left, _lap("12:00", 1.0))
    bench.write(right, _lap("13:00", 2.0))
    expect([*bench.values(left, NORRIS), *bench.values(right, NORRIS)], [{"pace_s": 1.0}, {"pace_s": 2.0}])


def expired_value_is_marked(bench: Bench) -> None:
    """A value older than its view's ttl is not called present. (Feast leaves this to the caller, who has the event time.)"""
    view = View("pace", PACE.keys, PACE.features, [], ttl=timedelta(hours=1))
    bench.apply(view)
    bench.write(view, _lap("12:00", 80.0))
    expect(bench.read(view, NORRIS)[0]["pace_s"].is_present, False)


ONLINE_CASES.append(
    OnlineCase("expired_value_is_marked", inspect.getdoc(expired_value_is_marked) or "", expired_value_is_marked, True)
)


def _write(settings: Mapping[str, Any], view: View, rows: list[dict[str, Any]]) -> None:
    write_rows(open_store(settings), view, rows)


def _read_event(settings: Mapping[str, Any], view: View, key: Mapping[str, Any]) -> Any:
    return read_rows(open_store(settings), view, [key])[0]["pace_s"].event


def _write_rounds(settings: Mapping[str, Any], view: View, writer: int, start: float) -> None:
    """In each round, all writers write the keys of that round at once; a writer's number is its row's minute and value."""
    store = open_store(settings)
    store.get_feature_view(view.name)  # opened before the start, so that the writes themselves coincide
    for number in range(ROUNDS):
        keys = range(number * KEYS_A_ROUND, (number + 1) * KEYS_A_ROUND)
        rows = [_lap(f"12:{writer:02d}", float(writer), driver=f"d{key}") for key in keys]
        time.sleep(max(0.0, start + number * ROUND_SECONDS - time.time()))
        write_rows(store, view, rows)
