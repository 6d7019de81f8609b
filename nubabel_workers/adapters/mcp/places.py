"""How many calls one connection may have under way at once. A connection without calls costs nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.tools import ToolConnection


@dataclass
class _Places:
    free: asyncio.Semaphore
    users: int = 0  # in a place, or waiting for one


class Places:
    """at_once: calls to one connection. wait_s: for one of them to end."""

    def __init__(self, *, at_once: int, wait_s: float) -> None:
        self._at_once = at_once
        self._wait_s = wait_s
        self._of: dict[str, _Places] = {}  # by connection, while it has users

    def __len__(self) -> int:
        return len(self._of)

    @asynccontextmanager
    async def place(self, connection: ToolConnection) -> AsyncIterator[None]:
        """Raises UnavailableError when none becomes free in time."""
        places = self._of.setdefault(connection.id, _Places(asyncio.Semaphore(self._at_once)))
        places.users += 1
        try:
            await self._acquire(places, connection)
            try:
                yield
            finally:
                places.free.release()
        finally:
            places.users -= 1
            if not places.users:
                del self._of[connection.id]

    async def _acquire(self, places: _Places, connection: ToolConnection) -> None:
        try:
            async with asyncio.timeout(self._wait_s):
                await places.free.acquire()
        except TimeoutError:
            raise UnavailableError(
                f"{connection.provider} has {self._at_once} calls under way already; try again in a moment"
            ) from None
