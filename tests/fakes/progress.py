"""Progress streams in lists; tests append, and may take the cache away."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.ports import ProgressStream
from nubabel_workers.domain.progress import ProgressItem, ProgressSource, ToolProgress, news_of

Entry = tuple[str, Mapping[str, Any]]


@dataclass
class FakeProgress(ProgressStream):
    streams: dict[tuple[str, str], list[Entry]] = field(default_factory=lambda: defaultdict(list))
    told: dict[tuple[str, str], dict[tuple[str, ...], str]] = field(default_factory=lambda: defaultdict(dict))
    away: bool = False
    readers: int = 0  # reading now
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _last_number: int = 0

    async def append(self, organization_id: str, execution_id: str, event: Mapping[str, Any]) -> None:
        async with self._changed:
            self._last_number += 1
            self.streams[organization_id, execution_id].append((f"{self._last_number}-0", event))
            self._changed.notify_all()

    async def tell(
        self, organization_id: str, execution_id: str, items: Sequence[ProgressItem], source: ProgressSource
    ) -> int:
        told = self.told[organization_id, execution_id]
        news = 0
        for item in items:
            name = item.name if isinstance(item, ToolProgress) else (item.part_id,)
            remembered = news_of(item, source, told.get(name))
            if remembered is not None:
                told[name] = remembered
                await self.append(organization_id, execution_id, item.event())
                news += 1
        return news

    def wipe(self) -> None:
        self.streams.clear()

    async def read(
        self, organization_id: str, execution_id: str, *, after: str, idle_s: float
    ) -> AsyncIterator[Entry | None]:
        last = _number(after)
        self.readers += 1
        try:
            while True:
                if self.away:
                    raise UnavailableError("the cache cannot be reached")
                found = [entry for entry in self.streams[organization_id, execution_id] if _number(entry[0]) > last]
                for entry in found:
                    last = _number(entry[0])
                    yield entry
                if not found and not await self._wait(idle_s):
                    yield None
        finally:
            self.readers -= 1

    async def _wait(self, idle_s: float) -> bool:
        try:
            async with asyncio.timeout(idle_s), self._changed:
                await self._changed.wait()
        except TimeoutError:
            return False
        return True


def _number(event_id: str) -> int:
    return int(event_id.partition("-")[0]) if event_id else 0
