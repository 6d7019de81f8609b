"""Time and chance: what makes a process's decisions differ from run to run."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """This process's time. Times that two processes compare come from the database instead (DESIGN invariant 11)."""

    def now(self) -> datetime: ...
    def monotonic(self) -> float: ...


class Chance(Protocol):
    """Randomness, injected so that decisions can be tested."""

    def jitter(self) -> float:
        """A number in [0, 1)."""
        ...

    def new_id(self, prefix: str) -> str: ...

    def new_traceparent(self) -> str:
        """A new W3C trace context, as the header's value."""
        ...
