"""Time and chance that tests decide."""

import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from nubabel_workers.domain.ids import compose_id

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@dataclass
class FakeClock:
    """Stands still until advance() is called."""

    at: datetime = START
    elapsed_s: float = 0.0

    def now(self) -> datetime:
        return self.at + timedelta(seconds=self.elapsed_s)

    def monotonic(self) -> float:
        return 1000.0 + self.elapsed_s

    def advance(self, seconds: float) -> None:
        self.elapsed_s += seconds


@dataclass
class FakeChance:
    """Ids that count up; the jitter that was asked for."""

    fixed_jitter: float = 0.5
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def jitter(self) -> float:
        return self.fixed_jitter

    def new_id(self, prefix: str) -> str:
        return compose_id(prefix, 0, next(self._numbers).to_bytes(10, "big"))

    def new_traceparent(self) -> str:
        return f"00-{next(self._numbers):032x}-00000000000000aa-01"
