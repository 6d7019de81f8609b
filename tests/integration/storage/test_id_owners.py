"""Whose an id is, by every kind that callers can name, and by what plan it is found."""

import psycopg
import pytest

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.id_owners import _OWNERS, PostgresIdOwners
from nubabel_workers.domain.foreign_ids import IdKind
from tests.integration.storage.seeds import add_row_of_every_table

pytestmark = pytest.mark.integration

TABLES = {IdKind.EXECUTION: "executions", IdKind.BATCH: "execution_groups", IdKind.CONNECTION: "mcp_connections"}


@pytest.fixture
async def two_tenants(database: Database) -> Database:
    for number, organization_id in enumerate(("org_a", "org_b")):
        await add_row_of_every_table(database, organization_id, number=number)
    return database


@pytest.mark.parametrize("kind", TABLES)
async def test_an_id_is_of_the_organization_of_its_row(kind: IdKind, two_tenants: Database) -> None:
    owners = PostgresIdOwners(two_tenants)
    rows = await two_tenants.system().all(f"SELECT id, organization_id FROM {TABLES[kind]}")

    assert {row["organization_id"] for row in rows} == {"org_a", "org_b"}
    for row in rows:
        assert await owners.owners(kind, row["id"]) == {row["organization_id"]}
    assert await owners.owners(kind, "exe_nobodys") == frozenset()


async def test_a_session_is_found_by_our_id_and_by_opencodes(two_tenants: Database) -> None:
    owners = PostgresIdOwners(two_tenants)
    system = two_tenants.system()
    ours = await system.one("SELECT id FROM sessions WHERE organization_id = 'org_a'")
    await system.execute("UPDATE attempts SET opencode_session_id = 'ses_as' WHERE organization_id = 'org_a'")

    assert ours is not None
    assert await owners.owners(IdKind.SESSION, ours["id"]) == {"org_a"}
    assert await owners.owners(IdKind.SESSION, "ses_as") == {"org_a"}


async def test_what_two_servers_call_the_same_is_of_both(two_tenants: Database) -> None:
    await two_tenants.system().execute("UPDATE attempts SET opencode_session_id = 'ses_same'")

    assert await PostgresIdOwners(two_tenants).owners(IdKind.SESSION, "ses_same") == {"org_a", "org_b"}


@pytest.mark.parametrize("kind", IdKind)
def test_every_look_goes_by_an_index(kind: IdKind, database_url: str) -> None:
    """A whole table is read, however dear that is made, where there is no index."""
    with psycopg.connect(database_url) as connection:
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute(f"EXPLAIN {_OWNERS[kind]}", {"name": "exe_nobodys"}).fetchall()

    assert "Index" in str(plan)
    assert "Seq Scan" not in str(plan)
