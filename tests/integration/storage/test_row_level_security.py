"""The database's own guard between tenants, behind the scoping in code."""

import secrets

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from nubabel_workers.adapters.storage.database import Database, DatabaseLimits
from nubabel_workers.adapters.storage.models import Base
from nubabel_workers.adapters.storage.readiness import PostgresReadiness
from nubabel_workers.adapters.storage.row_sets import TENANT_TABLES
from nubabel_workers.domain.errors import PermanentError
from tests.integration.storage.seeds import ROWS_OF_TABLES, add_tenant

pytestmark = pytest.mark.integration


@pytest.fixture
async def two_tenants(database: Database) -> Database:
    """org_a and org_b, each with what the rows of ROWS_OF_TABLES refer to."""
    for organization_id in ("org_a", "org_b"):
        await add_tenant(database, organization_id)
    return database


def test_every_tenant_table_has_a_row_to_try() -> None:
    assert set(ROWS_OF_TABLES) == set(TENANT_TABLES)


def test_every_table_with_an_organization_is_protected_or_known_not_to_be() -> None:
    with_organization = {name for name, table in Base.metadata.tables.items() if "organization_id" in table.columns}

    assert with_organization - set(TENANT_TABLES) == {"instances"}  # no grant to the tenant role at all


@pytest.mark.parametrize("table", TENANT_TABLES)
async def test_without_a_scope_the_tenant_role_sees_nothing(table: str, two_tenants: Database) -> None:
    if table != "organizations":
        await two_tenants.system().execute(ROWS_OF_TABLES[table].format(o="org_a", n=7))

    assert await two_tenants.system().all(f"SELECT 1 FROM {table}")
    assert await two_tenants.unscoped_tenant().all(f"SELECT 1 FROM {table}") == []


@pytest.mark.parametrize("table", TENANT_TABLES)
async def test_a_tenant_sees_its_own_rows_only(table: str, two_tenants: Database) -> None:
    column = "id" if table == "organizations" else "organization_id"
    for number, organization_id in enumerate(("org_a", "org_b"), start=7):
        if table != "organizations":
            await two_tenants.system().execute(ROWS_OF_TABLES[table].format(o=organization_id, n=number))

    rows = await two_tenants.tenant("org_b").all(f"SELECT {column} AS organization_id FROM {table}")

    assert {row["organization_id"] for row in rows} == {"org_b"}


@pytest.mark.parametrize("table", TENANT_TABLES)
async def test_a_row_for_another_organization_is_refused(table: str, two_tenants: Database) -> None:
    organization_id = "org_c" if table == "organizations" else "org_b"

    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        await two_tenants.tenant("org_a").execute(ROWS_OF_TABLES[table].format(o=organization_id, n=7))


# The audit log is append-only: an attempt to change it is refused outright, see the statements below.
@pytest.mark.parametrize("table", sorted(set(TENANT_TABLES) - {"audit_log"}))
async def test_another_organizations_rows_are_not_changed(table: str, two_tenants: Database) -> None:
    if table != "organizations":
        await two_tenants.system().execute(ROWS_OF_TABLES[table].format(o="org_b", n=7))
    column = "id" if table == "organizations" else "organization_id"

    changed = await two_tenants.tenant("org_a").execute(
        f"UPDATE {table} SET {column} = {column} WHERE {column} = 'org_b'"
    )

    assert changed == 0


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1 FROM instances",
        "SELECT 1 FROM submit_nonces",
        "DELETE FROM executions",
        "DELETE FROM audit_log",
        "UPDATE audit_log SET actor = 'somebody else'",
        "ALTER TABLE executions DISABLE ROW LEVEL SECURITY",
        "SET ROLE nubabel_system",
        "CREATE TABLE mine (id int)",
    ],
)
async def test_the_tenant_role_may_do_no_more_than_it_needs(statement: str, two_tenants: Database) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await two_tenants.tenant("org_a").execute(statement)


async def test_a_scope_ends_with_its_statement(two_tenants: Database) -> None:
    await two_tenants.tenant("org_a").all("SELECT 1")

    for _ in range(4):  # whichever pooled connection is taken
        assert await two_tenants.unscoped_tenant().all("SELECT 1 FROM organizations") == []


# --- what /ready and doctor say about it -----------------------------------------------------------------------------


async def test_a_bound_tenant_role_passes_the_readiness_check(database: Database) -> None:
    readiness = PostgresReadiness(database)

    assert "PostgreSQL" in await readiness.reachable()
    assert "bound by row-level security" in await readiness.tenant_role_bound()
    assert "revision" in await readiness.schema_current()


async def test_an_owner_in_the_tenants_place_is_found_out(database_url: str) -> None:
    as_owner = Database(database_url, database_url, DatabaseLimits(pool_min=0), application_name="tests")
    await as_owner.open()

    with pytest.raises(PermanentError, match="exempt"):
        await PostgresReadiness(as_owner).tenant_role_bound()
    await as_owner.close()


async def test_a_role_that_row_level_security_does_not_bind_is_found_out(database_url: str) -> None:
    """No superuser and no owner: BYPASSRLS alone."""
    role = f"nubabel_test_unbound_{secrets.token_hex(4)}"
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
        await owner.execute(f"CREATE ROLE {role} LOGIN NOSUPERUSER BYPASSRLS PASSWORD 'unbound'")
        unbound = make_conninfo(database_url, user=role, password="unbound")
        database = Database(unbound, unbound, DatabaseLimits(pool_min=0), application_name="tests")
        await database.open()
        try:
            with pytest.raises(PermanentError, match="exempt"):
                await PostgresReadiness(database).tenant_role_bound()
        finally:
            await database.close()
            await owner.execute(f"DROP ROLE {role}")


async def test_a_table_without_its_guard_is_named(database: Database, database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
        await owner.execute("ALTER TABLE usage DISABLE ROW LEVEL SECURITY")

    with pytest.raises(PermanentError, match="usage"):
        await PostgresReadiness(database).tenant_role_bound()


async def test_not_even_the_system_role_rewrites_the_audit_log(database: Database) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await database.system().execute("UPDATE audit_log SET actor = 'somebody else'")
