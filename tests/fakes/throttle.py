"""Windows that are counted in memory, by a test's clock."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from nubabel_workers.domain.ports import Clock


@dataclass
class FakeThrottle:
    """away: as when the cache is not there, then everything is allowed. asked: how often anybody took something."""

    clock: Clock
    away: bool = False
    asked: int = 0
    _taken: Counter[tuple[str, int]] = field(default_factory=Counter)

    async def take(self, key: str, *, per_s: float, limit: int, wanted: int = 1) -> int:
        self.asked += 1
        await asyncio.sleep(0)  # as if somebody else were asked: others get their turn meanwhile
        if self.away:
            return wanted
        window = key, int(self.clock.now().timestamp() / per_s)
        self._taken[window] += wanted
        return max(0, min(wanted, limit - (self._taken[window] - wanted)))

    async def blocked_for_s(self, key: str) -> float:
        return 0.0

    async def block(self, key: str, *, for_s: float) -> None:
        """Nobody blocks here."""
