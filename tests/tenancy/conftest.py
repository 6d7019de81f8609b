"""One installation with two organizations for the tests of a file; what was tried is printed at the end of the run."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.conftest import PostgresServer, RedisServer
from tests.tenancy.matrix import table, tried
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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    attempts = tried(report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, ()))
    if attempts:
        terminalreporter.section("attempts to reach another organization: door, position of the id, method and count")
        for line in table(attempts):
            terminalreporter.write_line(line)
