"""Ids as an OpenCode server draws them: ascending in time, unique within one simulator."""

import itertools
import time

_MASK = (1 << 48) - 1


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class IdSource:
    """Draws ids. The tail counts instead of being random: cheaper, and just as unique here."""

    def __init__(self) -> None:
        self._tail = itertools.count(1)
        self._last_ms = 0
        self._n = 0

    def new(self, prefix: str) -> str:
        head = self.head()
        if prefix == "ses":
            head ^= _MASK
        return f"{prefix}_{head:012x}{next(self._tail):014d}"

    def head(self) -> int:
        """The time part of an id; never the same twice."""
        unix_ms = now_ms()
        if unix_ms > self._last_ms:
            self._last_ms, self._n = unix_ms, 0
        self._n += 1
        return ((self._last_ms << 12) + self._n) & _MASK
