"""Following an event stream across broken connections. The waiting is decided in one pure place; two shells do it."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from dataclasses import dataclass

from nubabel_workers.domain.errors import NubabelError, PermanentError
from nubabel_workers.domain.opencode_events import ServerEvent

Burst = list[ServerEvent]
Jitter = Callable[[], float]  # a number in [0, 1)

_MAX_DOUBLINGS = 30


@dataclass(frozen=True, slots=True)
class ReconnectLimits:
    """Waits double from first_wait_s to max_wait_s (seconds), each shortened by chance to half of it at most.

    max_failures: connections in a row that told nothing, after which the error is raised; None: never. A connection
    that tells something starts the count anew.
    """

    first_wait_s: float = 0.5
    max_wait_s: float = 15.0
    max_failures: int | None = None


class Reconnection:
    """Whether and when to connect again."""

    def __init__(self, limits: ReconnectLimits, jitter: Jitter) -> None:
        self._limits = limits
        self._jitter = jitter
        self._failures = 0

    def heard(self) -> None:
        self._failures = 0

    def wait_after(self, error: NubabelError) -> float:
        """Seconds. Raises the error when trying again is pointless: refused credentials, no event stream there."""
        self._failures += 1
        limit = self._limits.max_failures
        if isinstance(error, PermanentError) or (limit is not None and self._failures >= limit):
            raise error
        doublings = min(self._failures - 1, _MAX_DOUBLINGS)
        ceiling = min(self._limits.max_wait_s, self._limits.first_wait_s * 2.0**doublings)
        return ceiling * (0.5 + self._jitter() / 2)


async def follow(
    connect: Callable[[], AsyncGenerator[Burst, None]],
    limits: ReconnectLimits,
    *,
    jitter: Jitter = random.random,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncGenerator[Burst, None]:
    """Bursts of events for ever, an empty one for each connection that broke.

    Each connection begins with ServerConnected; what was told between two of them is lost.
    """
    reconnection = Reconnection(limits, jitter)
    while True:
        try:
            async with contextlib.aclosing(connect()) as bursts:
                async for burst in bursts:
                    reconnection.heard()
                    yield burst
        except NubabelError as error:
            wait_s = reconnection.wait_after(error)
            yield []
        else:
            wait_s = 0.0
        await sleep(wait_s)


def sync_follow(
    connect: Callable[[], Generator[Burst, None, None]],
    limits: ReconnectLimits,
    *,
    jitter: Jitter = random.random,
    sleep: Callable[[float], None] = time.sleep,
) -> Generator[Burst, None, None]:
    """As `follow`, blocking."""
    reconnection = Reconnection(limits, jitter)
    while True:
        try:
            with contextlib.closing(connect()) as bursts:
                for burst in bursts:
                    reconnection.heard()
                    yield burst
        except NubabelError as error:
            wait_s = reconnection.wait_after(error)
            yield []
        else:
            wait_s = 0.0
        sleep(wait_s)
