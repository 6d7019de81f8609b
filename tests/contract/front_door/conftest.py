"""What the front door's tests believe of the stores, checked on the fakes and on PostgreSQL and Valkey alike."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from nubabel_workers.adapters.cache import connection
from nubabel_workers.adapters.cache.progress import RedisProgress
from nubabel_workers.adapters.process import SystemChance, SystemClock
from nubabel_workers.adapters.storage.database import Database, DatabaseLimits
from nubabel_workers.adapters.storage.executions import PostgresExecutions
from nubabel_workers.domain.ports import ExecutionStore, ProgressStream
from tests.conftest import PostgresServer
from tests.fakes.accepted_executions import AcceptedExecutions
from tests.fakes.clock import FakeChance, FakeClock
from tests.fakes.progress import FakeProgress
from tests.integration.storage.seeds import fair_turns

BOTH = ["fake", pytest.param("real", marks=pytest.mark.integration)]
ORGANIZATIONS = ("org_one", "org_two")


@pytest.fixture(params=BOTH)
async def executions(request: pytest.FixtureRequest) -> AsyncIterator[ExecutionStore]:
    if request.param == "fake":
        yield AcceptedExecutions(FakeClock(), FakeChance()).store()
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    owner: str = request.getfixturevalue("database_url")
    name = urlsplit(owner).path.removeprefix("/")
    database = Database(
        server.url(name, user="nubabel_tenant"),
        server.url(name, user="nubabel_system"),
        DatabaseLimits(pool_min=0),
        application_name="tests",
    )
    await database.open()
    for organization_id in ORGANIZATIONS:
        await database.system().execute(
            "INSERT INTO organizations (id, name) VALUES (%(id)s, %(id)s)", {"id": organization_id}
        )
    yield PostgresExecutions(database, SystemClock(), SystemChance(), fair_turns(database), lease_s=10)
    await database.close()


@pytest.fixture(params=BOTH)
async def progress(request: pytest.FixtureRequest) -> AsyncIterator[ProgressStream]:
    if request.param == "fake":
        yield FakeProgress()
        return
    cache_url: str = request.getfixturevalue("cache_url")
    clients = [connection.connect(cache_url, timeout_s=timeout_s, max_connections=5) for timeout_s in (2, 5)]
    yield RedisProgress(*clients, keep_s=60)
    for client in clients:
        await client.aclose()
