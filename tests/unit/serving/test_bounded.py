"""A question that may hang is asked once at a time, and nobody waits longer than they want."""

import threading

import pytest

from serving.bounded import Bounded


def test_who_asks_while_it_is_under_way_gets_the_same_answer() -> None:
    go, asked = threading.Event(), []

    def question() -> int:
        asked.append(threading.current_thread().name)
        go.wait(10)
        return len(asked)

    bounded = Bounded(question, "asking")
    first, second = bounded.begin(), bounded.begin()
    assert first is second
    with pytest.raises(TimeoutError):
        bounded.answer(0.01)
    go.set()
    assert first.result(10) == 1
    assert asked == ["asking"]
    assert bounded.answer(10) == 2, "asked anew once answered"


def test_what_goes_wrong_is_said_to_who_asked() -> None:
    def question() -> int:
        raise LookupError("no such thing")

    bounded = Bounded(question, "asking")
    for _ in range(2):
        with pytest.raises(LookupError, match="no such thing"):
            bounded.answer(10)
