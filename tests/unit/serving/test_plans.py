"""Plans are read once a minute; while the registry fails or hangs the old ones are used, and it is asked by one at a time."""

import gc
import logging
import threading
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from feature_repo.errors import UnknownServiceError
from feature_repo.stores.errors import FeatureRegistryUnavailableError
from serving import plans
from serving.plans import Plans


class Store:
    """Stands for an open Feast store."""


class Registry:
    """A registry that answers with how often it was read, or fails, or says nothing until it is told to."""

    def __init__(self) -> None:
        self.reads, self.failure = 0, None
        self.speaks = threading.Event()
        self.speaks.set()

    def read(self, _store: Any, service: str) -> str:
        self.reads += 1
        assert self.speaks.wait(30)
        if self.failure is not None:
            raise self.failure
        return f"{service} {self.reads}"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which only the test moves."""
    now = [1000.0]
    monkeypatch.setattr(plans, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(plans, "PATIENCE_S", 0.05)
    return now


GONE = FeatureRegistryUnavailableError("feature registry at nowhere: no answer")


def test_a_plan_is_read_again_after_a_minute(clock: list[float]) -> None:
    registry, store = Registry(), Store()
    of = Plans(registry.read).of
    assert [of(store, "a"), of(store, "a"), of(store, "b"), of(Store(), "a")] == ["a 1", "a 1", "b 2", "a 3"]
    clock[0] += plans.PLAN_FOR_S
    assert of(store, "a") == "a 1"
    clock[0] += 0.1
    assert of(store, "a") == "a 4"


def test_an_old_plan_is_used_while_the_registry_is_away_and_it_is_asked_once_a_pause(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "serving.plans")
    registry, store = Registry(), Store()
    one, other = Plans(registry.read), Plans(lambda *asked: registry.read(*asked))
    assert (one.of(store, "a"), other.of(store, "a")) == ("a 1", "a 2")
    registry.failure = GONE
    clock[0] += 100
    for _ in range(3):
        assert (one.of(store, "a"), other.of(store, "a")) == ("a 1", "a 2")
    assert registry.reads == 3, "one found out for all"
    with pytest.raises(FeatureRegistryUnavailableError, match="at nowhere"):
        one.of(store, "b")
    assert registry.reads == 3
    clock[0] += plans.PAUSE_S
    assert [one.of(store, "a") for _ in range(3)] == ["a 1"] * 3
    assert registry.reads == 4
    registry.failure = None
    clock[0] += plans.PAUSE_S
    assert (one.of(store, "a"), other.of(store, "a"), one.of(store, "b")) == ("a 5", "a 6", "b 7")
    assert [record.getMessage().split()[0] for record in caplog.records] == ["registry_away", "registry_back"]


def test_nobody_waits_long_for_a_registry_that_hangs_and_its_late_answer_counts(clock: list[float]) -> None:
    registry, store = Registry(), Store()
    of = Plans(registry.read).of
    assert of(store, "a") == "a 1"
    registry.speaks.clear()
    clock[0] += 100
    for _ in range(3):
        assert of(store, "a") == "a 1"
        clock[0] += 100
    assert registry.reads == 2, "one question is under way"
    with pytest.raises(FeatureRegistryUnavailableError, match=r"no answer within 0\.05 s"):
        of(store, "b")
    registry.speaks.set()
    for thread in threading.enumerate():
        if thread.name == "pitwall-registry":
            thread.join(30)
    assert (of(store, "a"), registry.reads) == ("a 3", 3), "read before it was asked for again"


def test_what_the_registry_says_no_to_is_an_error_and_not_an_outage(clock: list[float]) -> None:
    registry, store = Registry(), Store()
    of = Plans(registry.read).of
    assert of(store, "a") == "a 1"
    registry.failure = UnknownServiceError("feature service: got 'a'")
    clock[0] += 100
    with pytest.raises(UnknownServiceError):
        of(store, "a")
    registry.failure = None
    assert of(store, "a") == "a 3"


def test_a_store_that_nobody_uses_is_let_go(clock: list[float]) -> None:
    store, of = Store(), Plans(Registry().read).of
    of(store, "a")
    alive = weakref.ref(store)
    del store
    gc.collect()
    assert alive() is None
