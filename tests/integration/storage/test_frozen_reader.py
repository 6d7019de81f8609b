"""A process that is stopped while PostgreSQL answers it: it must not keep what it has locked."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nubabel_workers.adapters.storage.connection import BoundedConnection
from nubabel_workers.adapters.storage.database import Database, DatabaseLimits
from nubabel_workers.domain.errors import TransientError
from nubabel_workers.embedded.ports import free_port
from nubabel_workers.embedded.postgres import EmbeddedPostgres
from tests.waiting import eventually_true

pytestmark = pytest.mark.integration

LIMITS = DatabaseLimits(pool_min=0, pool_max=1, lock_timeout_s=0.2, unread_s=1.0)
MORE_THAN_BUFFERS_HOLD = "SELECT repeat('x', 1000000) AS part FROM generate_series(1, 40)"


async def begin_without_reading(database: Database, lock: str) -> BoundedConnection:
    """What a claim sends, from a process that is stopped right after it."""
    connection = await database._system_pool.getconn()
    connection.pgconn.enter_pipeline_mode()
    connection.pgconn.send_query_params(b"SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", [lock.encode()])
    connection.pgconn.send_query_params(MORE_THAN_BUFFERS_HOLD.encode(), None)
    connection.pgconn.pipeline_sync()
    connection.pgconn.flush()
    return connection


@asynccontextmanager
async def opened(url: str, limits: DatabaseLimits) -> AsyncIterator[Database]:
    database = Database(url, url, limits, application_name="tests")
    await database.open()
    yield database
    await database.close()


async def test_a_lock_is_free_again_soon_although_its_frozen_holder_reads_nothing(short_dir: Path) -> None:
    port = free_port()
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    with EmbeddedPostgres(short_dir / "pg", durable=False, tcp_port=port):
        async with opened(url, LIMITS) as frozen, opened(url, LIMITS) as lively:
            holder = await begin_without_reading(frozen, "claims")

            async def is_held() -> bool:
                row = await lively.system().one("SELECT count(*) AS n FROM pg_locks WHERE locktype = 'advisory'")
                return row == {"n": 1}

            async def is_had() -> bool:
                try:
                    return await lively.system(alone="claims").one("SELECT 1 AS one") == {"one": 1}
                except TransientError:
                    return False

            await eventually_true(is_held)
            assert not await is_had()
            await eventually_true(is_had)
            await frozen._system_pool.putconn(holder)
