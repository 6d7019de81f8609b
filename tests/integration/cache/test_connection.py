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
