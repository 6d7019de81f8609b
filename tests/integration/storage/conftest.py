"""What the adapters of PostgreSQL are tried on."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from nubabel_workers.adapters.storage.database import Database, DatabaseLimits
from nubabel_workers.adapters.storage.encryption import TokenCipher, generate_key
from tests.conftest import PostgresServer


@pytest.fixture
async def database(database_url: str, postgres_server: PostgresServer) -> AsyncIterator[Database]:
    """Both roles' pools on the fresh database."""
    name = urlsplit(database_url).path.removeprefix("/")
    opened = Database(
        postgres_server.url(name, user="nubabel_tenant"),
        postgres_server.url(name, user="nubabel_system"),
        DatabaseLimits(pool_min=0, pool_max=4),
        application_name="tests",
    )
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def cipher() -> TokenCipher:
    return TokenCipher([generate_key()])
