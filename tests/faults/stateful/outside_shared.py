"""What processes share and may lose at any time, in memory and on the loop's clock; and their dice."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from nubabel_workers.adapters.process import SystemChance
from nubabel_workers.domain.hints import Hint
from nubabel_workers.domain.ports import SessionMapping
from nubabel_workers.domain.progress import ProgressItem, ProgressSource
from tests.faults.stateful.outside_breakers import Standings


class CyclicChance(SystemChance):
    """Jitter that is the same in every run."""

    def __init__(self) -> None:
        self._jitters = itertools.cycle((0.5, 0.0, 0.75))

    def jitter(self) -> float:
        return next(self._jitters)


class SharedMemory:
    """Broker and cache. `wipe` is FLUSHALL."""

    def __init__(self) -> None:
        self.hints: list[Hint] = []
        self.breakers: Standings = {}
        self._windows: dict[tuple[str, int], int] = {}
        self._blocks: dict[str, float] = {}
        self._mappings: dict[tuple[str, str], SessionMapping] = {}

    def wipe(self) -> None:
        self.hints.clear()
        self.breakers.clear()
        self._windows.clear()
        self._blocks.clear()
        self._mappings.clear()

    # --- HintPublisher ---

    def publish(self, hint: Hint) -> None:
        self.hints.append(hint)

    # --- Throttle ---

    async def take(self, key: str, *, per_s: float, limit: int, wanted: int = 1) -> int:
        window = key, int(asyncio.get_running_loop().time() / per_s)
        granted = max(0, min(wanted, limit - self._windows.get(window, 0)))
        self._windows[window] = self._windows.get(window, 0) + wanted
        return granted

    async def blocked_for_s(self, key: str) -> float:
        return max(0.0, self._blocks.get(key, 0.0) - asyncio.get_running_loop().time())

    async def block(self, key: str, *, for_s: float) -> None:
        self._blocks[key] = asyncio.get_running_loop().time() + for_s

    # --- SessionMappings ---

    async def find(self, organization_id: str, session_id: str) -> SessionMapping | None:
        return self._mappings.get((organization_id, session_id))

    async def session_of(self, instance_id: str, opencode_session_id: str) -> tuple[str, str] | None:
        return None

    async def remember(self, organization_id: str, session_id: str, mapping: SessionMapping) -> None:
        self._mappings[organization_id, session_id] = mapping

    async def forget(self, organization_id: str, session_id: str) -> None:
        self._mappings.pop((organization_id, session_id), None)

    # --- ProgressStream ---

    async def append(self, organization_id: str, execution_id: str, event: Mapping[str, Any]) -> None:
        return None

    async def tell(
        self, organization_id: str, execution_id: str, items: Sequence[ProgressItem], source: ProgressSource
    ) -> int:
        return len(items)

    def read(
        self, organization_id: str, execution_id: str, *, after: str, idle_s: float
    ) -> AsyncIterator[tuple[str, Mapping[str, Any]] | None]:
        raise NotImplementedError("nobody reads progress here")
