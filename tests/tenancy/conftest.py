"""One installation with two organizations for the tests of a file."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.conftest import PostgresServer, RedisServer
from tests.tenancy.world import World, open_world


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(
    postgres_server: PostgresServer, migrated_template: str, redis_server: RedisServer
) -> AsyncIterator[World]:
    redis_server.flush()
    url = postgres_server.create_database(template=migrated_template)
    async with open_world(url, redis_server) as opened:
        yield opened
    postgres_server.drop_database(url)
