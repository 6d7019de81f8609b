"""Erase the rows of one organization, in an order and in amounts that keep nobody else waiting."""

from collections.abc import Mapping, Sequence
from typing import Any

from nubabel_workers.adapters.storage.audit import audit_params, audited
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.row_sets import OPEN_SQL, TENANT_TABLES
from nubabel_workers.domain.administration import AuditAction, AuditEntry
from nubabel_workers.domain.directories import Directory
from nubabel_workers.domain.ports.administration import ErasureBegun

_OWN_SERVERS = "SELECT i.id FROM instances i WHERE i.organization_id = %(id)s AND i.status <> 'removed'"
# A server that is added from now on is not this organization's: see PostgresInstances.add.
_BEGIN = f"""
UPDATE organizations
SET disabled_at = coalesce(disabled_at, now()), erasing_at = coalesce(erasing_at, now())
WHERE id = %(id)s AND NOT EXISTS ({_OWN_SERVERS})
RETURNING extract(epoch FROM now() - erasing_at)::float8 AS for_s
"""
# What runs is not tried again when it is stopped. Nobody is told: whom it was for is erased too.
_END_OPEN = f"""
UPDATE executions
SET status = CASE WHEN status = 'queued' THEN 'cancelled' ELSE status END,
  finished_at = CASE WHEN status = 'queued' THEN now() END,
  cancel_requested_at = coalesce(cancel_requested_at, now()), cancel_reason = coalesce(cancel_reason, 'erased'),
  check_at = CASE WHEN status = 'running' THEN now() ELSE check_at END
WHERE organization_id = %(id)s AND {OPEN_SQL}
"""
_HELD = """
SELECT count(*) AS held FROM executions
WHERE organization_id = %(id)s
  AND (status IN ('queued', 'dispatching') OR status = 'running' AND orchestrator <> 'opencode')
"""
_OPENCODE_SESSIONS = """
SELECT DISTINCT instance_id, opencode_session_id FROM (
  SELECT instance_id, opencode_session_id FROM attempts WHERE organization_id = %(id)s
  UNION ALL
  SELECT instance_id, opencode_session_id FROM sessions WHERE organization_id = %(id)s) AS o
WHERE instance_id IS NOT NULL AND opencode_session_id IS NOT NULL
ORDER BY instance_id, opencode_session_id
"""
_DIRECTORIES = """
SELECT instance_id, organization_id, path FROM instance_directories WHERE organization_id = %(id)s ORDER BY instance_id
"""
_NAMES = """
SELECT id FROM executions WHERE organization_id = %(id)s
UNION ALL SELECT id FROM sessions WHERE organization_id = %(id)s
UNION ALL SELECT id FROM workspaces WHERE organization_id = %(id)s
UNION ALL SELECT id FROM mcp_connections WHERE organization_id = %(id)s
UNION ALL SELECT opencode_session_id FROM attempts
WHERE organization_id = %(id)s AND opencode_session_id IS NOT NULL
"""
# Whom the tombstone names is gone; what it says is of no person. All other entries are the organization's own data.
_DELETE = """
WITH deleted AS (
  DELETE FROM {table} WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM {table} WHERE {whose} LIMIT %(batch)s))
  RETURNING {key})
SELECT (SELECT count(*) FROM deleted) AS {table}{went_along}
"""
# The statement's snapshot still has what its deletion takes along.
_WENT_ALONG = ", (SELECT count(*) FROM {table} WHERE {column} IN (SELECT id FROM deleted)) AS {table}"
_ITS_OWN = "organization_id = %(id)s"
# What operators were told of who named whose ids belongs to no organization, and speaks of both.
_WHOSE = {
    "audit_log": f"""({_ITS_OWN} AND action <> '{AuditAction.ORGANIZATION_ERASED}' OR organization_id IS NULL
        AND action IN ('{AuditAction.FOREIGN_ID_NAMED}', '{AuditAction.FOREIGN_IDS_NOT_LISTED}')
        AND %(id)s::text IN (detail->>'organization', detail->>'owner'))"""
}
# What goes along by foreign key: the column that names what is deleted, and the tables. All have an index for it.
TAKES_ALONG: Mapping[str, tuple[str, Sequence[str]]] = {
    "executions": (
        "execution_id",
        ("attempts", "execution_events", "notifications", "usage", "budget_holds", "tool_calls"),
    ),
    "workspaces": ("workspace_id", ("inbound_events",)),
    "mcp_connections": ("connection_id", ("mcp_authorizations",)),
}
_BATCHES = {"executions": 100}  # each takes its events, attempts, notifications and tool calls along, by their indexes
_BATCH = 1000
_END = f"""
DELETE FROM organizations WHERE id = %(id)s AND erasing_at IS NOT NULL AND NOT EXISTS ({_OWN_SERVERS}) RETURNING id
"""


class PostgresErasure:
    """Implements ports.administration.Erasure. As the system role, each statement bound to the organization."""

    # Executions first: most of the others hang on them. The organization itself goes last, by `finish`.
    tables: Sequence[str] = ("executions", *(t for t in TENANT_TABLES if t not in {"executions", "organizations"}))

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, organization_id: str, *, actor: str) -> ErasureBegun | None:
        entry = AuditEntry(actor, AuditAction.ORGANIZATION_ERASURE_BEGUN, organization_id, organization_id)
        row = await self._one(audited(_BEGIN), organization_id, audit_params(entry))
        return ErasureBegun(row["for_s"]) if row else None

    async def own_servers(self, organization_id: str) -> list[str]:
        return [row["id"] for row in await self._database.system().all(_OWN_SERVERS, {"id": organization_id})]

    async def end_open(self, organization_id: str) -> None:
        await self._database.system().execute(_END_OPEN, {"id": organization_id})

    async def held(self, organization_id: str) -> int:
        row = await self._one(_HELD, organization_id)
        return int(row["held"]) if row else 0

    async def opencode_sessions(self, organization_id: str) -> list[tuple[str, str]]:
        rows = await self._database.system().all(_OPENCODE_SESSIONS, {"id": organization_id})
        return [(row["instance_id"], row["opencode_session_id"]) for row in rows]

    async def directories(self, organization_id: str) -> list[Directory]:
        rows = await self._database.system().all(_DIRECTORIES, {"id": organization_id})
        return [Directory(**row) for row in rows]

    async def names(self, organization_id: str) -> set[str]:
        rows = await self._database.system().all(_NAMES, {"id": organization_id})
        return {organization_id, *(row["id"] for row in rows)}

    async def has_connections(self, organization_id: str) -> bool:
        return (
            await self._one("SELECT 1 FROM mcp_connections WHERE organization_id = %(id)s LIMIT 1", organization_id)
            is not None
        )

    async def delete_some(self, organization_id: str, table: str) -> Mapping[str, int]:
        if table not in self.tables:
            raise ValueError(f"{table} is no table of tenants")
        column, along = TAKES_ALONG.get(table, ("", ()))
        went_along = "".join(_WENT_ALONG.format(table=other, column=column) for other in along)
        counts = await self._one(
            _DELETE.format(
                table=table, whose=_WHOSE.get(table, _ITS_OWN), key="id" if along else "1", went_along=went_along
            ),
            organization_id,
            {"batch": _BATCHES.get(table, _BATCH)},
        )
        return {name: count for name, count in (counts or {}).items() if count}

    async def finish(self, organization_id: str, counts: Mapping[str, int], *, actor: str) -> bool:
        entry = AuditEntry(actor, AuditAction.ORGANIZATION_ERASED, organization_id, organization_id, {"rows": counts})
        return await self._one(audited(_END), organization_id, audit_params(entry)) is not None

    async def _one(
        self, statement: str, organization_id: str, params: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | None:
        return await self._database.system().one(statement, {"id": organization_id, **(params or {})})
