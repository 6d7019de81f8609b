"""`nubabel migrate` on a real database, where it may not or cannot do what was asked."""

from urllib.parse import urlsplit

import psycopg
import pytest
from pydantic import SecretStr

from nubabel_workers.adapters.storage import schema
from nubabel_workers.cli.migrations import OwnerMigrations
from nubabel_workers.domain.errors import InvalidInputError, UnavailableError
from tests.conftest import PostgresServer

pytestmark = pytest.mark.integration


@pytest.fixture
def as_a_role(database_url: str, postgres_server: PostgresServer) -> OwnerMigrations:
    """What a process has that works as one of the two roles, as all do in the compose file."""
    url = postgres_server.url(urlsplit(database_url).path.removeprefix("/"), user="nubabel_system")
    return OwnerMigrations(SecretStr(url), [("nubabel_tenant", SecretStr("postgresql://nubabel_tenant:new@host/db"))])


def test_whoever_is_not_the_owner_is_told_which_setting_is_wrong(as_a_role: OwnerMigrations) -> None:
    with pytest.raises(InvalidInputError, match="NUBABEL_DATABASE_URL must name the owner"):
        as_a_role.set_role_passwords()
    with pytest.raises(InvalidInputError, match="docker compose run --rm migrate"):
        as_a_role.down("base")


def test_a_table_that_stays_in_use_is_not_called_a_database_that_is_away(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_LOCK_TIMEOUT_S", 0.05)
    owner = OwnerMigrations(SecretStr(database_url), [])

    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT count(*) FROM executions")
        with pytest.raises(UnavailableError, match="in use for too long and nothing was changed"):
            owner.down("base")

    assert owner.current() == owner.head()
