"""A line in which nobody's crowd hides what another brings: each has so many places, and they are served in turn."""

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Who = TypeVar("Who", bound=Hashable)
What = TypeVar("What")


class FairLine(Generic[Who, What]):
    """places_each: of one, places: of all together."""

    def __init__(self, *, places_each: int, places: int) -> None:
        self._places_each = places_each
        self._places = places
        self._lines: OrderedDict[Who, deque[What]] = OrderedDict()  # none of them is empty; the next to be served first
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def join(self, who: Who, what: What) -> What | None:
        """What has no place now, if anything: this, or the last of whoever has the most places when all are taken."""
        own = len(self._lines.get(who, ()))
        if own >= self._places_each:
            return what
        without = None
        if self._waiting >= self._places:
            longest = max(self._lines.values(), key=len)
            if len(longest) <= own + 1:  # whoever gave way would have fewer places than this one
                return what
            without = longest.pop()
            self._waiting -= 1
        self._lines.setdefault(who, deque()).append(what)
        self._waiting += 1
        return without

    def serve(self) -> What | None:
        """The first of whoever has waited longest for a turn; None when nobody waits."""
        if not self._lines:
            return None
        who, line = self._lines.popitem(last=False)
        served = line.popleft()
        self._waiting -= 1
        if line:
            self._lines[who] = line
        return served
