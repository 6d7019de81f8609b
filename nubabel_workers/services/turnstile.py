"""Claims of one process, one after the other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turnstile:
    """One passes at a time, and one waits. Whoever comes then need not: who waits passes later, and sees what is there.

    The database lets one claim through at a time over all processes; without this a flood of hints would queue there,
    each with a connection, and each but the first to find what the one before has left.
    """

    def __init__(self) -> None:
        self._passing = asyncio.Lock()
        self._somebody_waits = False

    @property
    def somebody_waits(self) -> bool:
        """Who comes now is served by the one that waits."""
        return self._somebody_waits

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Wait for the one before, then be the one."""
        self._somebody_waits = True
        try:
            await self._passing.acquire()
        finally:
            self._somebody_waits = False
        try:
            yield
        finally:
            self._passing.release()
