"""What is done with answers in the background harms nobody: a model that fails, too many questions, a service that ends."""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from serving import beside
from serving.beside import Beside
from serving.gate import FairGate
from serving.metrics import Metrics


@dataclass
class Log:
    """Remembers what it was given."""

    rows: list[tuple[str, str | None, str]] = field(default_factory=list)
    closed: bool = False

    def record(self, answer: Any, *, role: str | None = None, request_id: str) -> None:
        self.rows.append((answer.prediction.race_id, role or answer.model.role, request_id))

    def close(self) -> None:
        self.closed = True


def said(race_id: str, asked: str = "lap:3") -> Any:
    return SimpleNamespace(race_id=race_id, moment={"asked": asked, "as_of": f"{race_id} {asked}"}, fallbacks=[], stale={})


def answer(race_id: str, asked: str = "lap:3", role: str = "champion") -> Any:
    return SimpleNamespace(prediction=said(race_id, asked), model=SimpleNamespace(role=role, version="2"))


def service(predict: Callable[..., Any], *, shadow: bool = False, live: Callable[..., Any] | None = None) -> Any:
    predictor = SimpleNamespace(predict=predict, predict_live=live)
    other = SimpleNamespace(role="challenger", version="3", predictor=predictor)
    return SimpleNamespace(
        on_answer=[], on_close=[], gate=FairGate(1), settings=SimpleNamespace(challenger_shadow=shadow),
        models=SimpleNamespace(beside=lambda answered: nullcontext(None if answered.role == "baseline" else other)),
        metrics=Metrics(),
    )  # fmt: skip


def test_the_other_model_is_put_the_same_question_once() -> None:
    asked: list[tuple[str, str]] = []

    def predict(race_id: str, moment: Any) -> Any:
        asked.append((race_id, str(moment)))
        return said(race_id, str(moment))

    def live(race_id: str) -> Any:
        asked.append((race_id, "live"))
        return said(race_id, "live")

    log, state = Log(), service(predict, live=live, shadow=True)
    one = Beside(state, log)  # type: ignore[arg-type]
    for race_id, what in (("2024_01", "lap:3"), ("2024_01", "lap:3"), ("2024_01", "fraction:0.5"), ("2024_02", "live")):
        state.on_answer[0](answer(race_id, what))
    one.noted(answer("2024_01", role="baseline"))
    one.wait()
    assert asked == [("2024_01", "lap:3"), ("2024_01", "fraction:0.5"), ("2024_02", "live")]
    shown = [row for row in log.rows if row[1] != "shadow"]
    assert len(shown) == 5
    assert {row[2] for row in log.rows if row[1] == "shadow"} <= {row[2] for row in shown}
    state.on_close[0]()
    assert log.closed


def test_a_model_that_fails_is_asked_again_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    tries: list[str] = []

    def predict(race_id: str, moment: Any) -> Any:
        tries.append(race_id)
        if len(tries) == 1:
            raise RuntimeError("broken")
        return said(race_id)

    log, state = Log(), service(predict)
    one = Beside(state, log)  # type: ignore[arg-type]
    for _ in range(2):
        one.noted(answer("2024_01"))
        one.wait()
    one.close()
    assert "other_model_failed" in caplog.text
    assert [row[1] for row in log.rows] == ["champion", "champion", "challenger"]


def left_out(state: Any) -> float | None:
    count: float | None = state.metrics.registry.get_sample_value("pitwall_comparisons_left_out_total")
    return count


def test_questions_that_cannot_be_kept_up_with_are_left_out_and_answers_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "_WAITING", 2)
    go_on, begun = threading.Event(), threading.Event()

    def predict(race_id: str, moment: Any) -> Any:
        begun.set()
        go_on.wait()
        return said(race_id)

    log, state = Log(), service(predict)
    one = Beside(state, log)  # type: ignore[arg-type]
    one.noted(answer("2024_01"))
    begun.wait()
    for number in range(2, 7):
        one.noted(answer(f"2024_{number:02d}"))
    assert left_out(state) == 3
    go_on.set()
    one.wait()
    one.close()
    one.noted(answer("2024_09"))
    assert left_out(state) == 4, "a service that ends asks nothing more"
    assert [row[1] for row in log.rows].count("champion") == 7
    assert [row[1] for row in log.rows].count("challenger") == 3


def test_requests_go_first() -> None:
    asked, computed = threading.Event(), threading.Event()

    def predict(race_id: str, _moment: Any) -> Any:
        asked.set()
        return said(race_id)

    state = service(predict)
    one = Beside(state, Log())  # type: ignore[arg-type]

    def request() -> None:
        with state.gate.entered():
            computed.wait()

    waiting = threading.Thread(target=request)
    with state.gate.entered():
        waiting.start()
        while not state.gate.waiting:
            waiting.join(0.001)
        one.noted(answer("2024_01"))
        assert not asked.wait(0.1), "a request waits to be computed"
    assert not asked.wait(0.1), "it is being computed"
    computed.set()
    waiting.join()
    assert asked.wait(30)
    one.close()
