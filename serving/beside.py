"""What happens to an answer after it was given: it is logged, and the model it is compared with is asked the same question.

The other model is asked in the background, when no request is waiting to be computed, and not twice about the same moment: an
answer takes no longer because somebody compares. What cannot be kept up with is left out and counted
(`pitwall_comparisons_left_out_total`).
"""

import logging
import threading
import time
import uuid
from collections import OrderedDict, deque
from dataclasses import dataclass

from feature_repo.spine import Moment
from ml.registry import CHALLENGER
from serving.models import LoadedModel
from serving.prediction_log import SHADOW, PredictionLog
from serving.state import Answer, ServingState

LIVE = "live"
_WAITING, _REMEMBERED = 256, 4096
_PAUSE_S = 0.02

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Question:
    race_id: str
    asked: str
    as_of: str
    request_id: str
    answered: LoadedModel


class Beside:
    """Logs the answers of a service, and those of the model beside the one that answers.

    Args:
        state: of the service; this listens to its answers until it ends.
        log: where answers go; closed with the service.
    """

    def __init__(self, state: ServingState, log: PredictionLog) -> None:
        self._state, self._log = state, log
        self._questions: deque[_Question] = deque()
        self._asked: OrderedDict[tuple[str, str, str], None] = OrderedDict()
        self._changed = threading.Condition()
        self._busy = self._closed = False
        self._worker: threading.Thread | None = None
        state.on_answer.append(self.noted)
        state.on_close.append(self.close)

    def noted(self, answer: Answer) -> None:
        """Log an answer, and have the other model asked."""
        request_id = uuid.uuid4().hex
        self._log.record(answer, request_id=request_id)
        said = answer.prediction
        with self._state.models.beside(answer.model) as other:
            if other is None:
                return
        question = _Question(said.race_id, str(said.moment["asked"]), str(said.moment["as_of"]), request_id, answer.model)
        with self._changed:
            if self._closed or len(self._questions) >= _WAITING:
                self._state.metrics.comparisons_left_out.inc()
                return
            if self._worker is None:
                self._worker = threading.Thread(target=self._run, name="pitwall-beside", daemon=True)
                self._worker.start()
            self._questions.append(question)
            self._changed.notify_all()

    def wait(self) -> None:
        """Return when every question so far was put to the other model."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not (self._questions or self._busy))

    def close(self) -> None:
        """Ask nothing more, and write what is buffered."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._worker is not None:
            self._worker.join(timeout=5.0)
        self._log.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or bool(self._questions))
                if self._closed:
                    return
                question = self._questions.popleft()
                self._busy = True
            try:
                self._ask(question)
            except Exception:
                logger.exception("other_model_failed race=%s asked=%s", question.race_id, question.asked)
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _ask(self, question: _Question) -> None:
        with self._state.models.beside(question.answered) as other:
            if other is None:
                return
            key = (question.race_id, question.as_of, f"{other.role} {other.version}")
            if key in self._asked:
                self._asked.move_to_end(key)
                return
            while self._state.gate.waiting and not self._closed:
                time.sleep(_PAUSE_S)
            started = time.perf_counter()
            with self._state.gate.entered():
                if question.asked == LIVE:
                    said = other.predictor.predict_live(question.race_id)
                else:
                    said = other.predictor.predict(question.race_id, Moment.parse(question.asked))
        answer = Answer(said, other, list(said.fallbacks), said.stale, (time.perf_counter() - started) * 1e3)
        self._log.record(answer, role=self._role(other), request_id=question.request_id)
        self._asked[key] = None
        if len(self._asked) > _REMEMBERED:
            self._asked.popitem(last=False)

    def _role(self, other: LoadedModel) -> str:
        """A challenger whose answers nobody is shown only shadows; one that is shown about other races does not."""
        return SHADOW if other.role == CHALLENGER and self._state.settings.challenger_shadow else other.role
