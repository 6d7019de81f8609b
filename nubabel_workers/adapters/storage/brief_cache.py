"""A small in-process memory of what was looked up a moment ago."""

import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BriefCache(Generic[K, V]):
    """Keeps at most max_entries for keep_s seconds each, so that what was revoked ends within keep_s everywhere.

    Only put in what exists: made-up keys must not push out real ones.
    """

    def __init__(self, *, keep_s: float, max_entries: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._keep_s = keep_s
        self._max_entries = max_entries
        self._monotonic = monotonic
        self._entries: dict[K, tuple[float, V]] = {}  # in the order they were put in, so the oldest comes first

    def get(self, key: K) -> V | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        until, value = entry
        if self._monotonic() >= until:
            del self._entries[key]
            return None
        return value

    def put(self, key: K, value: V) -> None:
        self._entries.pop(key, None)
        if len(self._entries) >= self._max_entries:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = (self._monotonic() + self._keep_s, value)

    def clear(self) -> None:
        self._entries.clear()
