"""A fair gate before work that needs the interpreter: few at once, first come, first served.

Thirty-two threads that all compute at once hand Python's interpreter lock round in turns of 5 ms: the median stays quick and
the slowest waits for a quarter of a second. Behind a gate each answer is made in one go, and nobody is overtaken.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class FairGate:
    """At most `slots` threads inside; those who wait enter in the order they came.

    `threading.Semaphore` wakes in order, but lets a newcomer take the slot before the one that was woken.

    Args:
        slots: how many may be inside at once.
    """

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()

    @property
    def waiting(self) -> int:
        """Threads outside."""
        return len(self._waiting)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Wait for a slot, hold it, hand it to whoever has waited longest."""
        with self._lock:
            turn = None
            if self._free > 0:
                self._free -= 1
            else:
                turn = threading.Lock()
                turn.acquire()
                self._waiting.append(turn)
        if turn is not None:
            turn.acquire()
        try:
            yield
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting.popleft().release()
                else:
                    self._free += 1
