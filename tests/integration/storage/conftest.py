"""A migrated PostgreSQL database for each test, copied from a template that is migrated once per run."""

from collections.abc import AsyncIterator, Callable, Iterator
from urllib.parse import urlsplit

import pytest

from nubabel_workers.adapters.storage import schema
from nubabel_workers.adapters.storage.database import Database, DatabaseLimits
from nubabel_workers.adapters.storage.encryption import TokenCipher, generate_key
from tests.conftest import PostgresServer


@pytest.fixture(scope="session")
def migrated_template(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a database at the newest revision, without sessions, to copy from."""
    url = postgres_server.create_database()
    schema.upgrade(url)
    yield urlsplit(url).path.removeprefix("/")
    postgres_server.drop_database(url)


@pytest.fixture
def database_url(database_factory: Callable[..., str], migrated_template: str) -> str:
    """The owner's URL of a fresh, migrated database."""
    return database_factory(template=migrated_template)


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
