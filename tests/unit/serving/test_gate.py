"""The gate: few at once, and nobody overtaken."""

import threading
import time

import pytest

from serving.gate import FairGate


def test_threads_enter_in_the_order_they_came() -> None:
    gate, entered = FairGate(1), []

    def go(number: int) -> None:
        with gate.entered():
            entered.append(number)

    threads = []
    with gate.entered():
        for number in range(20):
            threads.append(threading.Thread(target=go, args=(number,)))
            threads[-1].start()
            while gate.waiting != number + 1:  # the next one comes only once this one waits
                time.sleep(0.0005)
    for thread in threads:
        thread.join()
    assert entered == list(range(20))
    assert gate.waiting == 0


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_no_more_than_its_slots_are_inside_and_all_are_used(slots: int) -> None:
    gate, lock, together = FairGate(slots), threading.Lock(), threading.Barrier(slots, timeout=10)
    inside, most = 0, 0

    def go() -> None:
        nonlocal inside, most
        with gate.entered():
            with lock:
                inside += 1
                most = max(most, inside)
            together.wait()
            with lock:
                inside -= 1

    threads = [threading.Thread(target=go) for _ in range(4 * slots)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == slots


def test_a_slot_comes_back_after_an_error() -> None:
    gate = FairGate(1)
    with pytest.raises(ValueError, match="wrong"), gate.entered():
        raise ValueError("wrong")
    with gate.entered():
        assert gate.waiting == 0
