"""Keeps what each of several worker processes measures of itself up to date for whichever of them is asked for `/metrics`.

A process that is asked measures itself; the others have told what they measured last, at most a second ago.
"""

import logging
import threading

from serving.metrics import IN_FILES
from serving.state import ServingState

EVERY_S = 1.0

logger = logging.getLogger(__name__)


class SharedGauges:
    """Measures a service every second until it ends, where it is one of several processes.

    Args:
        state: of the service.
        every_s: seconds between two looks.
    """

    def __init__(self, state: ServingState, *, every_s: float = EVERY_S) -> None:
        self._state, self._every_s = state, every_s
        self._stopped = threading.Event()
        if IN_FILES:
            threading.Thread(target=self._run, name="pitwall-gauges", daemon=True).start()
            state.on_close.append(self._stopped.set)

    def _run(self) -> None:
        while True:
            try:
                self._state.measure()
            except Exception:
                logger.exception("not_measured")
            if self._stopped.wait(self._every_s):
                return
