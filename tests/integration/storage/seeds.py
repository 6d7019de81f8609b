"""Rows that storage tests start from, written with the owner's rights through the system role."""

from dataclasses import dataclass, field
from typing import Any

from psycopg.types.json import Jsonb
from pydantic import SecretStr

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.turns import FairPolicy, FairTurns
from nubabel_workers.domain.administration import Installation
from nubabel_workers.domain.ids import InstanceId, OrganizationId
from nubabel_workers.domain.limits import parse_plans
from nubabel_workers.domain.placement import Placement, Pool
from nubabel_workers.domain.tenants import Instance

_BOT_TOKEN = SecretStr("xoxb-1")

# One row of every tenant table, for organization {o}. Written by the system role, tried by the tenant role.
ROWS_OF_TABLES = {
    "organizations": "INSERT INTO organizations (id, name) VALUES ('{o}', '{o}')",
    "workspaces": """INSERT INTO workspaces (id, organization_id, installation_key, team_id, bot_user_id, bot_token)
                     VALUES ('wsp_{n}', '{o}', '-:T{n}', 'T{n}', 'U', '')""",
    "service_tokens": """INSERT INTO service_tokens (id, organization_id, name, token_hash)
                         VALUES ('tok_{n}', '{o}', 'n', 'hash{n}')""",
    "submit_keys": "INSERT INTO submit_keys (id, organization_id, name, secret) VALUES ('key_{n}', '{o}', 'n', '')",
    "sessions": """INSERT INTO sessions (id, organization_id, session_key, source)
                   VALUES ('ses_{n}', '{o}', 'k{n}', 's')""",
    "execution_groups": """INSERT INTO execution_groups (id, organization_id, reply, idempotency_key, request_hash)
                           VALUES ('bat_{n}', '{o}', '{{}}', 'i{n}', '')""",
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
    "budget_holds": """INSERT INTO budget_holds (execution_id, organization_id, cost, tokens)
                       VALUES ('exe_{o}', '{o}', 0, 0)""",
    "instance_directories": """INSERT INTO instance_directories (instance_id, organization_id, path, state)
                               VALUES ('ins_{n}', '{o}', '/srv/directories/{o}', 'disposed')""",
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


def pool_of(organization_id: str | None = None, **capacities: int) -> Pool:
    """Servers on which nothing runs: an organization's own, or shared ones."""
    owner = None if organization_id is None else OrganizationId(organization_id)
    servers = [
        Instance(InstanceId(name), "http://localhost", "", None, capacity_runs=runs, organization_id=owner)
        for name, runs in capacities.items()
    ]
    return Placement(servers).pool(organization_id)


POOL = pool_of(ins_seed=100)  # with room for all that tests claim


def fair_turns(database: Database) -> FairTurns:
    return FairTurns(database, parse_plans(), FairPolicy())


async def add_organization(database: Database, organization_id: str, name: str = "") -> str:
    await database.system().execute(
        "INSERT INTO organizations (id, name) VALUES (%(id)s, %(name)s)",
        {"id": organization_id, "name": name or organization_id},
    )
    return organization_id


@dataclass
class ExecutionSeed:
    id: str
    organization_id: str
    status: str = "queued"
    session_id: str = ""
    workspace_id: str | None = None
    instance_id: str | None = None
    prompt: str = "hello"
    columns: dict[str, Any] = field(default_factory=dict)


async def add_execution(database: Database, seed: ExecutionSeed) -> str:
    """With a session of its own unless session_id names one."""
    session_id = seed.session_id or f"ses_of_{seed.id}"
    system = database.system()
    await system.execute(
        """INSERT INTO sessions (id, organization_id, session_key, source)
           VALUES (%(id)s, %(organization)s, %(id)s, 'api') ON CONFLICT DO NOTHING""",
        {"id": session_id, "organization": seed.organization_id},
    )
    values = {
        "id": seed.id,
        "organization_id": seed.organization_id,
        "session_id": session_id,
        "source": "api",
        "status": seed.status,
        "prompt": seed.prompt,
        "workspace_id": seed.workspace_id,
        "instance_id": seed.instance_id,
        "reply": Jsonb({"kind": "none"}),
        "idempotency_key": f"key:{seed.id}",
        "request_hash": "",
        "message_created_ms": 0,
        "answer_by": "2999-01-01T00:00:00Z",
        **seed.columns,
    }
    names = ", ".join(values)
    places = ", ".join(f"%({name})s" for name in values)
    await system.execute(f"INSERT INTO executions ({names}) VALUES ({places})", values)
    return seed.id


def installation(
    team_id: str | None = "T1", enterprise_id: str | None = None, *, bot_token: SecretStr = _BOT_TOKEN
) -> Installation:
    return Installation(
        team_id=team_id,
        enterprise_id=enterprise_id,
        team_name="Acme",
        bot_user_id="UBOT",
        bot_token=bot_token,
        bot_id="BBOT",
        scopes=("chat:write", "reactions:write"),
    )


async def add_tenant(database: Database, organization_id: str) -> None:
    """An organization with what the rows of ROWS_OF_TABLES refer to."""
    await add_organization(database, organization_id)
    for referred in ("workspaces", "mcp_connections"):
        await database.system().execute(ROWS_OF_TABLES[referred].format(o=organization_id, n=organization_id))
    await add_execution(
        database, ExecutionSeed(f"exe_{organization_id}", organization_id, session_id=f"ses_{organization_id}")
    )


async def add_row_of_every_table(database: Database, organization_id: str, *, number: int) -> None:
    """number: another one for each organization, since ids are unique across them."""
    await add_tenant(database, organization_id)
    for table, statement in ROWS_OF_TABLES.items():
        if table != "organizations":
            await database.system().execute(statement.format(o=organization_id, n=number))
