"""What the offline store keeps in memory between retrievals: one bounded cache a process, of indexes and of columns.

A key names the files by path, time of change, size and inode, so a file that was replaced is never answered from memory.
"""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar


class Sized(Protocol):
    """Something that knows its size in memory."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""


T = TypeVar("T", bound=Sized)


class BoundedCache:
    """Least recently used values up to a number of bytes. Any number of threads; none waits for another one's retrieval."""

    def __init__(self) -> None:
        self._values: OrderedDict[Hashable, Sized] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._building: dict[Hashable, tuple[threading.Lock, list[None]]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all values held."""
        return self._bytes

    def find(self, key: Hashable, _kind: type[T]) -> T | None:
        """The value of `key`, which is then the most recently used; None: there is none."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value  # type: ignore[return-value]  # what was put under a key of this kind

    def put(self, key: Hashable, value: Sized, limit: int) -> None:
        """Hold `value`, and let go of the least recently used ones until all together take at most `limit` bytes."""
        size = value.nbytes
        with self._lock:
            self._discard(key)
            if size > limit:
                return
            self._values[key] = value
            self._bytes += size
            while self._bytes > limit:
                self._discard(next(iter(self._values)))

    @contextmanager
    def building(self, key: Hashable) -> Iterator[None]:
        """Only one thread at a time builds what belongs to `key`; the others wait and then find it."""
        with self._lock:
            lock, waiting = self._building.setdefault(key, (threading.Lock(), []))
            waiting.append(None)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                waiting.pop()
                if not waiting:
                    self._building.pop(key, None)

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._values.clear()
            self._bytes = 0

    def _discard(self, key: Hashable) -> None:
        value = self._values.pop(key, None)
        if value is not None:
            self._bytes -= value.nbytes
