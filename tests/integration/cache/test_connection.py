"""Connections to the cache are shared: who waits for one gets it as soon as it is free."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from nubabel_workers.adapters.cache import connection

pytestmark = pytest.mark.integration

_TURNS = 5  # of the event loop, until somebody who waits really does


async def test_a_waiter_that_is_cancelled_when_its_turn_has_come_passes_the_connection_on(cache_url: str) -> None:
    client = connection.connect(cache_url, timeout_s=10, max_connections=1)
    pool: Any = client.connection_pool  # partly untyped
    held = await pool.get_connection()
    first, second = asyncio.create_task(pool.get_connection()), asyncio.create_task(pool.get_connection())
    for _ in range(_TURNS):
        await asyncio.sleep(0)

    await pool.release(held)
    first.cancel()

    with suppress(asyncio.CancelledError):
        await first
    async with asyncio.timeout(1):
        assert await second is held
    await pool.release(held)
    await client.aclose()


async def test_connections_that_the_cache_closed_are_opened_again_before_they_are_used(cache_url: str) -> None:
    client = connection.connect(cache_url, timeout_s=10, max_connections=3)
    pool: Any = client.connection_pool  # partly untyped
    held = [await pool.get_connection() for _ in range(3)]
    for one in held:
        await pool.release(one)

    async with connection.connect(cache_url, timeout_s=10, max_connections=1) as server:
        await server.client_kill_filter(_type="normal", skipme=True)
    async with asyncio.timeout(1):
        for one in held:
            while not await one.can_read():  # until its end has arrived  # noqa: ASYNC110
                await asyncio.sleep(0)

    counted = await asyncio.gather(*(client.incr("counted") for _ in range(3)))
    assert sorted(counted) == [1, 2, 3]
    await client.aclose()
