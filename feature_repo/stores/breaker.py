"""A breaker before a server that may be away: one who got no answer is enough, the others need not wait for it as well."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


class Breaker:
    """After a failure calls fail at once for `pause_s`; then one is let through, and the others once that one was answered.

    Args:
        name: of what is asked, for the log: one line when it goes away and one when it is back.
        pause_s: seconds; 0 lets every call through and logs nothing: who asks is told.
        clock: seconds of a monotonic clock.
    """

    def __init__(self, name: str, pause_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._pause_s, self._clock = name, pause_s, clock
        self._lock = threading.Lock()
        self._failure: Exception | None = None
        self._again_at = 0.0

    @contextmanager
    def passed(self, *failures: type[Exception]) -> Iterator[None]:
        """Ask inside the block.

        Args:
            failures: what is raised where no answer came; anything else is an answer.
        Raises:
            Exception: the last failure again, where nobody is let through.
        """
        self._enter()
        failure = None
        try:
            yield
        except failures as error:
            failure = error
            raise
        finally:
            self._note(failure)

    def _enter(self) -> None:
        with self._lock:
            if self._failure is None:
                return
            now = self._clock()
            if now < self._again_at:
                raise type(self._failure)(*self._failure.args)
            self._again_at = now + self._pause_s

    def _note(self, failure: Exception | None) -> None:
        with self._lock:
            before, self._failure = self._failure, failure
            if failure is not None:
                self._again_at = self._clock() + self._pause_s
        if not self._pause_s:
            return
        if failure is not None and before is None:
            logger.warning("no_answer %s: %s", self._name, failure)
        elif failure is None and before is not None:
            logger.warning("answers_again %s", self._name)
