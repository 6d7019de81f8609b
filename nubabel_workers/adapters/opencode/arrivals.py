"""How late an OpenCode server's events come, from the times in their ids. Pure.

    data: {"directory":"…","payload":{"id":"evt_21f40c3ee001hfKq3yUmlu972N","type":…

The twelve hex digits are the low 48 bits of `(unix_ms << 12) + n`, of the moment at which the event was made. Nothing
in a frame but its id can contain the bytes `"id":"evt_`: quotes inside of JSON strings are escaped. Measured on
opencode 1.18.33: 1 to 10 ms late while a server is idle, 5 s while 60 runs begin at once on two cores.
"""

from nubabel_workers.domain.opencode_events import EventLag

_ID = b'"id":"evt_'
_DIGITS = 12
_COUNTER_BITS = 12
_WRAP_MS = 1 << 36
# Whoever had to wait for a chunk for so long had read everything before it, even if this process was busy for a moment.
_WAITED_S = 0.05
_FULL_READ_BYTES = 128 * 1024  # there may be more behind a read of this size
_BASE_FOR_S = 300.0  # clocks are set now and then


class ArrivalWatch:
    """Of one connection. What this process was too slow to read is not the server's doing: an event counts as late by
    the time from its making until there was nothing to read and it was not there.
    """

    def __init__(self, *, check_s: float) -> None:
        self._check_s = check_s
        self._ends_at: float | None = None
        self._worst_s = 0.0
        self._measured = False
        self._drained_at: float | None = None  # when the last read left nothing behind
        self._base = _Lowest(_BASE_FOR_S)

    def saw(self, chunk: bytes, *, asked_at: float, read_at: float) -> list[EventLag]:
        """One EventLag at the end of each check. Unix seconds; asked_at: when the chunk began to be waited for."""
        waited = read_at - asked_at >= _WAITED_S
        empty_at = read_at if waited else self._drained_at
        self._drained_at = read_at if len(chunk) < _FULL_READ_BYTES else None
        made_at = event_made_at(chunk, read_at)
        if made_at is not None:
            base_s = self._base.with_another(read_at - made_at, at=read_at)
            if empty_at is not None:
                self._worst_s = max(self._worst_s, empty_at - made_at - base_s)
                self._measured = True
        return self._check(read_at)

    def _check(self, now: float) -> list[EventLag]:
        if self._ends_at is None:
            self._ends_at = now + self._check_s
        if now < self._ends_at or not self._measured:
            return []
        lag = EventLag(self._worst_s)
        self._ends_at, self._worst_s, self._measured = now + self._check_s, 0.0, False
        return [lag]


class _Lowest:
    """The lowest value of the last while: at least keep_s, at most twice as long."""

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._since: float | None = None
        self._lowest = self._before = float("inf")

    def with_another(self, value: float, *, at: float) -> float:
        if self._since is None or not self._since <= at < self._since + self._keep_s:
            self._since, self._before, self._lowest = at, self._lowest, float("inf")
        self._lowest = min(self._lowest, value)
        return min(self._lowest, self._before)


def event_made_at(chunk: bytes, now: float) -> float | None:
    """Unix seconds at which the chunk's first event was made, by the server's clock; None where no id is in it."""
    start = chunk.find(_ID) + len(_ID)
    digits = chunk[start : start + _DIGITS]
    if start < len(_ID) or len(digits) < _DIGITS:
        return None
    try:
        low_ms = int(digits, 16) >> _COUNTER_BITS
    except ValueError:
        return None
    now_ms = int(now * 1000)
    # Only 36 bits of it: of the moments that it may be, the nearest.
    ahead_ms = (low_ms - now_ms + _WRAP_MS // 2) % _WRAP_MS - _WRAP_MS // 2
    return (now_ms + ahead_ms) / 1000
