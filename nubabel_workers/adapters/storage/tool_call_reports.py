"""Reads of the ledger of tool calls for operators."""

from collections.abc import Mapping
from typing import Any

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.domain.administration import ToolCallDetails, ToolCallFilter, ToolCallSummary
from nubabel_workers.domain.tool_calls import CallStatus, ToolCallError

_SUMMARY = """t.id, t.organization_id, t.execution_id, e.session_id, t.opencode_session_id, t.provider, t.tool_name,
              t.status, t.try_number, t.repeatable, t.started_at, t.ended_at, t.error"""
_LIST = f"""
SELECT {_SUMMARY}
FROM tool_calls t JOIN executions e ON e.id = t.execution_id
WHERE (%(organization_id)s::text IS NULL OR t.organization_id = %(organization_id)s)
  AND (%(execution_id)s::text IS NULL OR t.execution_id = %(execution_id)s)
  AND (%(session_id)s::text IS NULL OR %(session_id)s IN (e.session_id, t.opencode_session_id))
  AND (%(provider)s::text IS NULL OR t.provider = %(provider)s)
  AND (%(tool_name)s::text IS NULL OR t.tool_name = %(tool_name)s)
  AND (%(statuses)s::text[] IS NULL OR t.status = ANY(%(statuses)s))
ORDER BY t.started_at DESC, t.id DESC LIMIT %(limit)s
"""
_FIND = f"""
SELECT {_SUMMARY}, t.connection_id, t.call_id, t.message_id, t.arguments, t.result, t.altered
FROM tool_calls t JOIN executions e ON e.id = t.execution_id
WHERE t.organization_id = %(organization_id)s AND t.id = %(id)s
"""


class PostgresToolCallReports:
    """Implements ports.administration.ToolCallReports."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def organization_of(self, tool_call_id: str) -> str | None:
        row = await self._database.system().one(
            "SELECT organization_id FROM tool_calls WHERE id = %(id)s", {"id": tool_call_id}
        )
        return row["organization_id"] if row else None

    async def list(self, chosen: ToolCallFilter, *, limit: int) -> list[ToolCallSummary]:
        scope = self._database.tenant(chosen.organization_id) if chosen.organization_id else self._database.system()
        rows = await scope.all(
            _LIST,
            {
                "organization_id": chosen.organization_id,
                "execution_id": chosen.execution_id,
                "session_id": chosen.session_id,
                "provider": chosen.provider,
                "tool_name": chosen.tool_name,
                "statuses": sorted(chosen.statuses) if chosen.statuses is not None else None,
                "limit": limit,
            },
        )
        return [_summary(row) for row in rows]

    async def find(self, organization_id: str, tool_call_id: str) -> ToolCallDetails | None:
        row = await self._database.tenant(organization_id).one(
            _FIND, {"organization_id": organization_id, "id": tool_call_id}
        )
        if row is None:
            return None
        return ToolCallDetails(
            call=_summary(row),
            connection_id=row["connection_id"],
            opencode_call_id=row["call_id"],
            opencode_message_id=row["message_id"],
            arguments=row["arguments"],
            result=row["result"],
            error=ToolCallError(**row["error"]) if row["error"] else None,
            altered=row["altered"],
        )


def _summary(row: Mapping[str, Any]) -> ToolCallSummary:
    return ToolCallSummary(
        id=row["id"],
        organization_id=row["organization_id"],
        execution_id=row["execution_id"],
        session_id=row["session_id"],
        opencode_session_id=row["opencode_session_id"],
        provider=row["provider"],
        tool=row["tool_name"],
        status=CallStatus(row["status"]),
        tries=row["try_number"],
        repeatable=row["repeatable"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        error_code=row["error"]["code"] if row["error"] else None,
    )
