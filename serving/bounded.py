"""A question to something that may hang: asked in a thread of its own, once at a time, and waited for no longer than one wants.

Where a server accepts and never answers, those who ask how it is would otherwise wait as long as those who need it, and each of
them would hold a thread.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Bounded(Generic[T]):
    """One question. Whoever asks while it is under way waits for the same answer.

    Args:
        question: what is asked.
        name: of the thread.
    """

    def __init__(self, question: Callable[[], T], name: str) -> None:
        self._question, self._name = question, name
        self._lock = threading.Lock()
        self._under_way: Future[T] | None = None

    def begin(self) -> "Future[T]":
        """Ask, or join those who are waiting already."""
        with self._lock:
            if self._under_way is None or self._under_way.done():
                answer: Future[T] = Future()
                self._under_way = answer
                threading.Thread(target=self._ask, args=(answer,), name=self._name, daemon=True).start()
            return self._under_way

    def answer(self, timeout_s: float) -> T:
        """The answer.

        Raises:
            TimeoutError: there was none in time; the question is still under way.
            Exception: whatever the question raised.
        """
        return self.begin().result(timeout_s)

    def _ask(self, answer: "Future[T]") -> None:
        try:
            answer.set_result(self._question())
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            answer.set_exception(error)
