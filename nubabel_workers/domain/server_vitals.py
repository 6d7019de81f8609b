"""Whether an OpenCode server that answers is all the same not well: its memory, and how late its events come. Pure."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from statistics import median

_QUARTERS = 4
_COVERED = 0.9  # of the window, by samples, before growth is judged
_CALM = 0.9  # of the bound: one that was above it is well again below this
_RELIEF = 1.5  # times the horizon: the same for growth
_GB, _MB = 1e9, 1e6
_MINUTE_S = 60.0


class Vital(StrEnum):
    """What is looked at."""

    MEMORY = "memory"
    EVENTS = "events"


@dataclass(frozen=True)
class MemorySample:
    """at_s: Unix seconds, of the database. resident_bytes: of the server's process, without what it started."""

    at_s: float
    resident_bytes: int


@dataclass(frozen=True)
class MemoryHistory:
    """samples: of the process that runs now, the oldest first. strained: whether the last of them was judged so."""

    samples: Sequence[MemorySample]
    strained: bool


@dataclass(frozen=True)
class MemoryLimits:
    """bound_bytes: a server has no more than this. within_s: growth that would reach it sooner is too much already.

    window_s: growth is that of all of this time: a server that loads its directories grows, and then stops.
    """

    bound_bytes: int = 3_000_000_000
    within_s: float = 900.0
    window_s: float = 600.0


@dataclass(frozen=True)
class EventLagLimits:
    """Later than limit_s in so many checks in a row is too late; as many in time, and it is well again."""

    limit_s: float = 10.0
    checks: int = 3


def memory_strain(history: MemoryHistory, limits: MemoryLimits) -> str | None:
    """Why a server's memory is out of bounds, for an operator to read; None where it is not."""
    if not history.samples:
        return None
    now = history.samples[-1]
    if now.resident_bytes > limits.bound_bytes * (_CALM if history.strained else 1):
        return f"its memory is {_size(now.resident_bytes)}, the bound {_size(limits.bound_bytes)}"
    per_s = _steady_growth(history.samples, limits.window_s)
    left_bytes = limits.bound_bytes - now.resident_bytes
    if per_s <= 0 or left_bytes / per_s > limits.within_s * (_RELIEF if history.strained else 1):
        return None
    return (
        f"its memory grows by {_size(per_s * _MINUTE_S)} a minute: {_size(now.resident_bytes)} now, the bound "
        f"{_size(limits.bound_bytes)} in {max(1, round(left_bytes / per_s / _MINUTE_S))} min"
    )


def _steady_growth(samples: Sequence[MemorySample], window_s: float) -> float:
    """Bytes a second that memory grew by at least from each quarter of the window to the next, by their medians: what
    was loaded at once, or is collected now and then, is no leak.
    """
    quarter_s = window_s / _QUARTERS
    quarters: list[list[int]] = [[] for _ in range(_QUARTERS)]
    for one in samples:
        ago_s = samples[-1].at_s - one.at_s
        if ago_s < window_s:
            quarters[-1 - int(ago_s / quarter_s)].append(one.resident_bytes)
    if samples[-1].at_s - samples[0].at_s < window_s * _COVERED or not all(quarters):
        return 0.0
    medians = [median(quarter) for quarter in quarters]
    return min(later - before for before, later in pairwise(medians)) / quarter_s


class EventLagJudge:
    """Of one event stream. One late check says little: fifty runs that begin at once delay a server for seconds."""

    def __init__(self, limits: EventLagLimits) -> None:
        self._limits = limits
        self._last: deque[float] = deque(maxlen=limits.checks)
        self.strained = False

    def saw(self, lag_s: float) -> str | None:
        """lag_s: the latest event of a check. Why the stream is too late; None where it is not."""
        self._last.append(lag_s)
        late = [lag_s > self._limits.limit_s for lag_s in self._last]
        if len(late) == self._limits.checks and len(set(late)) == 1:
            self.strained = late[0]
        if not self.strained:
            return None
        return f"its events come {max(self._last):.0f} s late, {self._limits.limit_s:g} s are allowed"


def _size(size: float) -> str:
    return f"{size / _GB:.1f} GB" if size >= _GB else f"{size / _MB:.0f} MB"
