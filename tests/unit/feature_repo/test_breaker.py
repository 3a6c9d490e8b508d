"""After one failure nobody else waits: calls fail at once, and one after each pause finds out whether the server is back."""

import logging

import pytest

from feature_repo.stores.breaker import Breaker

PAUSE_S = 2.0


class Server:
    """A server behind a breaker, with a clock of its own."""

    def __init__(self, pause_s: float = PAUSE_S) -> None:
        self.now, self.is_there, self.asked = 0.0, True, 0
        self._breaker = Breaker("the server", pause_s, clock=lambda: self.now)

    def ask(self) -> str:
        with self._breaker.passed(ConnectionError, TimeoutError):
            self.asked += 1
            if not self.is_there:
                raise ConnectionError(f"no answer to {self.asked}")
            return "answer"

    def refuse(self) -> None:
        with self._breaker.passed(ConnectionError):
            raise ValueError("that is no question")


def test_calls_fail_at_once_until_a_pause_is_over_and_then_one_asks() -> None:
    server = Server()
    server.is_there = False
    for now in (0.0, 0.5, 1.9):
        server.now = now
        with pytest.raises(ConnectionError) as failed:
            server.ask()
        assert str(failed.value) == "no answer to 1", "what went wrong is said again"
    assert server.asked == 1
    server.now = 2.0
    with pytest.raises(ConnectionError):
        server.ask()
    with pytest.raises(ConnectionError):
        server.ask()
    assert server.asked == 2, "one asked for all"


def test_it_comes_back_with_the_first_answer() -> None:
    server = Server()
    server.is_there = False
    with pytest.raises(ConnectionError):
        server.ask()
    server.is_there, server.now = True, PAUSE_S
    assert [server.ask() for _ in range(3)] == ["answer"] * 3
    assert server.asked == 4


def test_while_one_finds_out_the_others_fail_at_once() -> None:
    server = Server()
    server.is_there = False
    with pytest.raises(ConnectionError):
        server.ask()
    server.is_there, server.now = True, PAUSE_S
    with server._breaker.passed(ConnectionError), pytest.raises(ConnectionError):
        server.ask()
    assert server.ask() == "answer"


def test_a_refusal_is_an_answer() -> None:
    server = Server()
    with pytest.raises(ValueError, match="no question"):
        server.refuse()
    assert server.ask() == "answer"
    server.is_there = False
    with pytest.raises(ConnectionError):
        server.ask()
    server.is_there, server.now = True, PAUSE_S
    with pytest.raises(ValueError, match="no question"):
        server.refuse()
    assert server.ask() == "answer"


def test_without_a_pause_every_call_asks_and_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(pause_s=0.0)
    server.is_there = False
    for _ in range(3):
        with pytest.raises(ConnectionError):
            server.ask()
    assert server.asked == 3
    assert not caplog.records


def test_an_outage_is_two_lines_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    server = Server()
    server.is_there = False
    for now in range(10):
        server.now = float(now)
        with pytest.raises(ConnectionError):
            server.ask()
    server.is_there, server.now = True, 20.0
    server.ask()
    server.ask()
    assert [record.getMessage() for record in caplog.records] == [
        "no_answer the server: no answer to 1",
        "answers_again the server",
    ]
