"""What services need and give: read from Feast's registry once a minute, and kept for as long as that is away.

Reading takes longer than the features themselves, and a registry behind a server may be gone or hang. It is therefore read in a
thread of its own, and waited for only a little where an earlier answer is there to go on with.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from feast import FeatureStore

from feature_repo.stores.errors import FeatureRegistryUnavailableError
from serving.bounded import Bounded

PLAN_FOR_S = 60.0
"""How long a plan is used before the registry is read again."""

PAUSE_S = 2.0
"""How long a registry that did not answer is left alone; then one request finds out whether it is back."""

PATIENCE_S = 1.0
"""How long a request waits for the registry where there is an older plan, or where the registry did not answer before."""

FIRST_PATIENCE_S = 10.0
"""How long it waits else, as in a process that has just begun."""

Plan = TypeVar("Plan")

logger = logging.getLogger(__name__)


class Plans(Generic[Plan]):
    """The plans of services by open store and name. Safe to share between threads.

    Args:
        make: reads the plan of a service from the registry of a store.
    """

    def __init__(self, make: Callable[[FeatureStore, str], Plan]) -> None:
        self._make = make

    def of(self, store: FeatureStore, service: str) -> Plan:
        """The plan of a service: at most a minute old while the registry answers, else the newest there is.

        Raises:
            FeatureRegistryUnavailableError: the registry does not answer, and never did for this service.
            Exception: whatever `make` raises.
        """
        plan: Plan = _registries.setdefault(store, _Registry()).plan((self._make, service), store)
        return plan


class _Registry:
    """What was read from the registry of one store, and whether it answers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[Hashable, tuple[float, Any]] = {}
        self._under_way: dict[Hashable, tuple[float, Future[Any]]] = {}
        self._failure: FeatureRegistryUnavailableError | None = None
        self._again_at = 0.0

    def plan(self, key: tuple[Callable[[FeatureStore, str], Any], str], store: FeatureStore) -> Any:
        with self._lock:
            now = time.monotonic()
            made, plan = self._kept.get(key, (None, None))
            if made is not None and now - made <= PLAN_FOR_S:
                return plan
            if key not in self._under_way:
                if self._failure is not None and now < self._again_at:
                    return _old_or(self._failure, made, plan)
                self._again_at = now + PAUSE_S
                reading = Bounded(functools.partial(self._read, key, store), "pitwall-registry")
                self._under_way[key] = now, reading.begin()
            asked, answer = self._under_way[key]
            patience_s = FIRST_PATIENCE_S if made is None and self._failure is None else PATIENCE_S
        try:
            return answer.result(max(asked + patience_s - now, 0.0))
        except TimeoutError:
            failure = FeatureRegistryUnavailableError(f"feature registry: no answer within {patience_s:g} s; see /readyz")
        except FeatureRegistryUnavailableError as error:
            failure = error
        self._note(failure)
        return _old_or(failure, made, plan)

    def _read(self, key: tuple[Callable[[FeatureStore, str], Any], str], store: FeatureStore) -> Any:
        make, service = key
        try:
            plan = make(store, service)
        except FeatureRegistryUnavailableError:
            raise
        except Exception:
            self._note(None)  # it answered, if only that there is no such service
            raise
        else:
            self._note(None)
            with self._lock:
                self._kept[key] = time.monotonic(), plan
            return plan
        finally:
            with self._lock:
                del self._under_way[key]

    def _note(self, failure: FeatureRegistryUnavailableError | None) -> None:
        with self._lock:
            before, self._failure = self._failure, failure
            self._again_at = time.monotonic() + PAUSE_S
        if failure is not None and before is None:
            logger.warning("registry_away %s; what was read before goes on being used", failure)
        elif failure is None and before is not None:
            logger.info("registry_back")


_registries: WeakKeyDictionary[FeatureStore, _Registry] = WeakKeyDictionary()


def _old_or(failure: FeatureRegistryUnavailableError, made: float | None, plan: Any) -> Any:
    if made is None:
        raise FeatureRegistryUnavailableError(*failure.args)
    return plan
