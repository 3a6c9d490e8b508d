"""The cache of the offline store: bounded in bytes, least recently used first to go, one builder a key."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from feature_repo.stores.offline_cache import BoundedCache


@dataclass(frozen=True)
class Value:
    """Something of a size."""

    nbytes: int


def test_the_least_recently_used_goes_first() -> None:
    cache, values = BoundedCache(), [Value(40), Value(40), Value(40)]
    cache.put("a", values[0], 100)
    cache.put("b", values[1], 100)
    assert cache.find("a", Value) is values[0]  # now "b" is the one used longest ago
    cache.put("c", values[2], 100)
    assert cache.find("b", Value) is None
    assert cache.find("a", Value) is values[0]
    assert cache.find("c", Value) is values[2]
    assert cache.nbytes == 80


def test_what_is_larger_than_the_limit_is_not_held() -> None:
    cache = BoundedCache()
    cache.put("a", Value(40), 100)
    cache.put("b", Value(101), 100)
    assert cache.find("b", Value) is None
    assert cache.find("a", Value) is not None


def test_a_value_is_replaced_and_a_smaller_limit_holds_at_once() -> None:
    cache = BoundedCache()
    cache.put("a", Value(40), 100)
    cache.put("a", Value(60), 100)
    assert cache.nbytes == 60
    cache.put("b", Value(10), 50)
    assert cache.nbytes == 10
    cache.clear()
    assert cache.nbytes == 0
    assert cache.find("b", Value) is None


def test_one_thread_builds_a_key_while_others_build_other_keys() -> None:
    cache, built, inside = BoundedCache(), [], threading.Barrier(2, timeout=20)

    def get(key: str) -> Value:
        with cache.building(key):
            value = cache.find(key, Value)
            if value is None:
                inside.wait()  # both keys are being built at once, or this never ends
                built.append(key)
                value = Value(1)
                cache.put(key, value, 100)
        return value

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(get, ["a", "b"] * 8))) == 16
    assert sorted(built) == ["a", "b"]
    assert cache._building == {}
