"""The database's own guard between tenants, behind the scoping in code."""

import psycopg
import pytest

from nubabel_workers.adapters.storage.database import Database, DatabaseLimits
from nubabel_workers.adapters.storage.models import Base
from nubabel_workers.adapters.storage.readiness import PostgresReadiness
from nubabel_workers.adapters.storage.row_sets import TENANT_TABLES
from nubabel_workers.domain.errors import PermanentError
from tests.integration.storage.seeds import ExecutionSeed, add_execution, add_organization

pytestmark = pytest.mark.integration

# One row of every tenant table, for organization {o}. Written by the system role, tried by the tenant role.
_ROWS = {
    "organizations": "INSERT INTO organizations (id, name) VALUES ('{o}', '{o}')",
    "workspaces": """INSERT INTO workspaces (id, organization_id, installation_key, team_id, bot_user_id, bot_token)
                     VALUES ('wsp_{n}', '{o}', '-:T{n}', 'T{n}', 'U', '')""",
    "service_tokens": """INSERT INTO service_tokens (id, organization_id, name, token_hash)
                         VALUES ('tok_{n}', '{o}', 'n', 'hash{n}')""",
    "submit_keys": "INSERT INTO submit_keys (id, organization_id, name, secret) VALUES ('key_{n}', '{o}', 'n', '')",
    "sessions": """INSERT INTO sessions (id, organization_id, session_key, source)
                   VALUES ('ses_{n}', '{o}', 'k{n}', 's')""",
    "executions": """INSERT INTO executions (id, organization_id, session_id, source, prompt, reply, idempotency_key,
                                             request_hash, message_created_ms, answer_by)
                     VALUES ('exe_{n}', '{o}', 'ses_{o}', 's', 'p', '{{}}', 'i{n}', '', 0, now())""",
    "attempts": """INSERT INTO attempts (execution_id, number, organization_id, instance_id, opencode_session_id,
                                         message_id) VALUES ('exe_{o}', {n}, '{o}', 'i', 's', 'm')""",
    "execution_events": """INSERT INTO execution_events (organization_id, execution_id, kind)
                           VALUES ('{o}', 'exe_{o}', 'accepted')""",
    "notifications": """INSERT INTO notifications (id, organization_id, execution_id, kind, dedupe, destination,
                                                   payload)
                        VALUES ('ntf_{n}', '{o}', 'exe_{o}', 'outcome', '{n}', '{{}}', '{{}}')""",
    "inbound_events": """INSERT INTO inbound_events (id, organization_id, workspace_id, provider_event_id, dedupe_key,
                                                     conversation_key, kind, event)
                         VALUES ('inb_{n}', '{o}', 'wsp_{o}', 'p{n}', 'd{n}', 'c', 'mention', '{{}}')""",
    "dead_letters": """INSERT INTO dead_letters (id, organization_id, queue, task, reason, error, subject_kind)
                       VALUES ('dlq_{n}', '{o}', 'q', 't', 'invalid', 'e', 'message')""",
    "usage": """INSERT INTO usage (execution_id, model, organization_id, day, input_tokens, output_tokens,
                                   reasoning_tokens, cache_read_tokens, cache_write_tokens, cost)
                VALUES ('exe_{o}', 'm{n}', '{o}', '2026-01-01', 0, 0, 0, 0, 0, 0)""",
    "tool_calls": """INSERT INTO tool_calls (id, organization_id, execution_id, opencode_session_id, call_id,
                                             connection_id, provider, tool_name, fingerprint, arguments, repeatable)
                     VALUES ('tc_{n}', '{o}', 'exe_{o}', 's', 'c', 'con', 'p', 't', 'f', '{{}}', false)""",
    "mcp_connections": """INSERT INTO mcp_connections (id, organization_id, provider, kind, authentication, status)
                          VALUES ('mcp_{n}', '{o}', 'p{n}', 'http', 'none', 'active')""",
    "mcp_authorizations": """INSERT INTO mcp_authorizations (id, organization_id, connection_id, state_hash, terms,
                                                             secrets, actor, expires_at)
                             VALUES ('mca_{n}', '{o}', 'mcp_{o}', 'h{n}', '{{}}', '', 'a', now())""",
    "audit_log": "INSERT INTO audit_log (organization_id, actor, action) VALUES ('{o}', 'a', 'x')",
}


@pytest.fixture
async def two_tenants(database: Database) -> Database:
    """org_a and org_b, each with what the rows of _ROWS refer to."""
    for organization_id in ("org_a", "org_b"):
        await add_organization(database, organization_id)
        for referred in ("workspaces", "mcp_connections"):
            await database.system().execute(_ROWS[referred].format(o=organization_id, n=organization_id))
        await add_execution(
            database, ExecutionSeed(f"exe_{organization_id}", organization_id, session_id=f"ses_{organization_id}")
        )
    return database


def test_every_tenant_table_has_a_row_to_try() -> None:
    assert set(_ROWS) == set(TENANT_TABLES)


def test_every_table_with_an_organization_is_protected_or_known_not_to_be() -> None:
    with_organization = {name for name, table in Base.metadata.tables.items() if "organization_id" in table.columns}

    assert with_organization - set(TENANT_TABLES) == {"instances"}  # no grant to the tenant role at all


@pytest.mark.parametrize("table", TENANT_TABLES)
async def test_without_a_scope_the_tenant_role_sees_nothing(table: str, two_tenants: Database) -> None:
    if table != "organizations":
        await two_tenants.system().execute(_ROWS[table].format(o="org_a", n=7))

    assert await two_tenants.system().all(f"SELECT 1 FROM {table}")
    assert await two_tenants.unscoped_tenant().all(f"SELECT 1 FROM {table}") == []


@pytest.mark.parametrize("table", TENANT_TABLES)
async def test_a_tenant_sees_its_own_rows_only(table: str, two_tenants: Database) -> None:
    column = "id" if table == "organizations" else "organization_id"
    for number, organization_id in enumerate(("org_a", "org_b"), start=7):
        if table != "organizations":
            await two_tenants.system().execute(_ROWS[table].format(o=organization_id, n=number))

    rows = await two_tenants.tenant("org_b").all(f"SELECT {column} AS organization_id FROM {table}")

    assert {row["organization_id"] for row in rows} == {"org_b"}


@pytest.mark.parametrize("table", TENANT_TABLES)
async def test_a_row_for_another_organization_is_refused(table: str, two_tenants: Database) -> None:
    organization_id = "org_c" if table == "organizations" else "org_b"

    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        await two_tenants.tenant("org_a").execute(_ROWS[table].format(o=organization_id, n=7))


# The audit log is append-only: an attempt to change it is refused outright, see the statements below.
@pytest.mark.parametrize("table", sorted(set(TENANT_TABLES) - {"audit_log"}))
async def test_another_organizations_rows_are_not_changed(table: str, two_tenants: Database) -> None:
    if table != "organizations":
        await two_tenants.system().execute(_ROWS[table].format(o="org_b", n=7))
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


async def test_a_table_without_its_guard_is_named(database: Database, database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
        await owner.execute("ALTER TABLE usage DISABLE ROW LEVEL SECURITY")

    with pytest.raises(PermanentError, match="usage"):
        await PostgresReadiness(database).tenant_role_bound()


async def test_not_even_the_system_role_rewrites_the_audit_log(database: Database) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await database.system().execute("UPDATE audit_log SET actor = 'somebody else'")
