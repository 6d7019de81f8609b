"""Following an event stream across broken connections, on an injected clock and chance."""

import contextlib
from collections.abc import AsyncGenerator, Generator

import pytest

from nubabel_workers.domain.errors import CredentialsError, NubabelError, UnavailableError
from nubabel_workers.domain.opencode_events import Heartbeat, ServerConnected
from nubabel_workers.opencode.reconnection import Burst, Reconnection, ReconnectLimits, follow, sync_follow

LIMITS = ReconnectLimits(first_wait_s=1.0, max_wait_s=8.0)
AWAY = UnavailableError("away")
CONNECTED: Burst = [ServerConnected()]
BEAT: Burst = [Heartbeat()]


class Server:
    """Gives one connection after the other: its bursts, then its error."""

    def __init__(self, *connections: tuple[list[Burst], NubabelError]) -> None:
        self.waits: list[float] = []
        self.closed = 0
        self._connections = list(connections)

    def blocking(self) -> Generator[Burst, None, None]:
        bursts, error = self._connections.pop(0)
        try:
            yield from bursts
            raise error
        finally:
            self.closed += 1

    async def connection(self) -> AsyncGenerator[Burst, None]:
        for burst in self.blocking():
            yield burst

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def followed(self, limits: ReconnectLimits = LIMITS, jitter: float = 1.0) -> list[Burst]:
        """Every burst until the error that ends it."""
        heard: list[Burst] = []
        stream = follow(self.connection, limits, jitter=lambda: jitter, sleep=self.sleep)
        with contextlib.suppress(NubabelError):
            while True:
                heard.append(await anext(stream))
        return heard


REFUSED = CredentialsError("refused")


async def test_bursts_of_all_connections_come_one_after_the_other() -> None:
    server = Server(([CONNECTED, BEAT], AWAY), ([CONNECTED], REFUSED))

    assert await server.followed() == [CONNECTED, BEAT, [], CONNECTED]


async def test_waits_double_up_to_the_longest() -> None:
    server = Server(*[([], AWAY)] * 6, ([], REFUSED))

    await server.followed()

    assert server.waits == [1, 2, 4, 8, 8, 8]


async def test_chance_shortens_each_wait_to_half_of_it_at_most() -> None:
    server = Server(([], AWAY), ([], AWAY), ([], REFUSED))

    await server.followed(jitter=0.0)

    assert server.waits == [0.5, 1.0]


async def test_connection_that_told_something_starts_the_waits_anew() -> None:
    server = Server(([], AWAY), ([], AWAY), ([CONNECTED], AWAY), ([], AWAY), ([], REFUSED))

    await server.followed()

    assert server.waits == [1, 2, 1, 2]


async def test_refused_credentials_end_it_at_once() -> None:
    server = Server(([], REFUSED), ([CONNECTED], AWAY))

    assert await server.followed() == []
    assert server.waits == []


async def test_limit_of_failures_in_a_row_ends_it() -> None:
    server = Server(([], AWAY), ([CONNECTED], AWAY), ([], AWAY), ([], AWAY))

    heard = await server.followed(ReconnectLimits(max_failures=3))

    assert heard == [[], CONNECTED, [], []]


async def test_leaving_closes_the_connection() -> None:
    server = Server(([CONNECTED, BEAT], AWAY))

    stream = follow(server.connection, LIMITS)
    await anext(stream)
    await stream.aclose()

    assert server.waits == []


def test_blocking_twin_does_the_same() -> None:
    server = Server(([CONNECTED], AWAY), ([], AWAY), ([BEAT], REFUSED))
    heard: list[Burst] = []

    stream = sync_follow(server.blocking, LIMITS, jitter=lambda: 1.0, sleep=server.waits.append)
    with pytest.raises(CredentialsError):
        heard.extend(stream)

    assert heard == [CONNECTED, [], [], BEAT]
    assert server.waits == [1, 2]
    assert server.closed == 3


def test_many_failures_do_not_overflow() -> None:
    reconnection = Reconnection(LIMITS, lambda: 1.0)

    waits = [reconnection.wait_after(AWAY) for _ in range(2000)]

    assert waits[-1] == 8.0
