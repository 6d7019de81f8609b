"""The ledger of tool calls. One statement per change, with its entry in the execution's timeline."""

from collections.abc import Mapping
from typing import Any

from psycopg.types.json import Jsonb

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.row_sets import OPEN_SQL, TOOL_CALL_ENDED_DETAIL_SQL
from nubabel_workers.domain.errors import NotFoundError
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.tool_calls import (
    UNKNOWN_OUTCOME,
    CallStatus,
    NewToolCall,
    ToolCallEnd,
    ToolCallError,
    ToolCallRecord,
)

COLUMNS = """t.id, t.organization_id, t.execution_id, t.opencode_session_id, t.call_id, t.connection_id, t.provider,
             t.tool_name, t.fingerprint, t.repeatable, t.status, t.try_number, t.started_at, t.ended_at, t.arguments,
             t.result, t.error, t.altered"""

# A row that somebody works on, or that is over, is left as it is. One whose process died: a repeatable call is begun
# again, another one is unknown from now on: both sides have to agree that it is, since what an operator says of a tool
# may have changed. Another call under the same id changes nothing.
_AGAIN = "(t.repeatable AND excluded.repeatable)"
_BEGIN = f"""
WITH begun AS (
  INSERT INTO tool_calls AS t (
    id, organization_id, execution_id, opencode_session_id, call_id, message_id, connection_id, provider, tool_name,
    fingerprint, arguments, repeatable, lease_owner, lease_until)
  SELECT %(id)s, e.organization_id, e.id, %(opencode_session_id)s, %(call_id)s, %(message_id)s, %(connection_id)s,
    %(provider)s, %(tool_name)s, %(fingerprint)s, %(arguments)s, %(repeatable)s, %(lease)s,
    now() + make_interval(secs => %(lease_s)s)
  FROM executions e
  WHERE e.id = %(execution_id)s AND e.organization_id = %(organization_id)s AND e.{OPEN_SQL}
    AND e.cancel_requested_at IS NULL
  ON CONFLICT (id) DO UPDATE SET
    status = CASE WHEN {_AGAIN} THEN 'started' ELSE 'unknown' END,
    try_number = t.try_number + CASE WHEN {_AGAIN} THEN 1 ELSE 0 END,
    lease_owner = CASE WHEN {_AGAIN} THEN excluded.lease_owner END,
    lease_until = CASE WHEN {_AGAIN} THEN excluded.lease_until END,
    started_at = CASE WHEN {_AGAIN} THEN now() ELSE t.started_at END,
    ended_at = CASE WHEN {_AGAIN} THEN NULL ELSE now() END,
    error = CASE WHEN {_AGAIN} THEN NULL ELSE %(unknown)s END
  WHERE t.fingerprint = excluded.fingerprint
    AND (t.status = 'started' AND t.lease_until < now() OR t.status = 'unknown' AND {_AGAIN})
  RETURNING {COLUMNS}, t.lease_owner
),
told AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT t.organization_id, t.execution_id, 'tool_call_started', jsonb_build_object(
      'id', t.id, 'provider', t.provider, 'tool', t.tool_name, 'try', t.try_number, 'session', t.opencode_session_id)
  FROM begun t WHERE t.status = 'started'
  UNION ALL
  SELECT t.organization_id, t.execution_id, 'tool_call_ended', {TOOL_CALL_ENDED_DETAIL_SQL}
  FROM begun t WHERE t.status = 'unknown'
)
SELECT * FROM begun
"""
_FIND = f"""
SELECT {COLUMNS} FROM tool_calls t WHERE t.id = %(id)s AND t.organization_id = %(organization_id)s
"""
_FINISH = f"""
WITH over AS (
  UPDATE tool_calls t
  SET status = %(status)s, result = %(result)s, error = %(error)s, altered = %(altered)s, ended_at = clock_timestamp(),
    lease_owner = NULL, lease_until = NULL
  WHERE t.id = %(id)s AND t.organization_id = %(organization_id)s AND t.try_number = %(try_number)s
    AND t.status IN ('started', 'unknown')
  RETURNING *
),
told AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT t.organization_id, t.execution_id, 'tool_call_ended', {TOOL_CALL_ENDED_DETAIL_SQL} FROM over t
)
SELECT id FROM over
"""


class PostgresToolCalls:
    """Implements ports.ToolCallLedger."""

    def __init__(self, database: Database, *, lease_s: float) -> None:
        self._database = database
        self._lease_s = lease_s

    async def begin(self, new: NewToolCall, lease: Lease) -> tuple[ToolCallRecord, bool]:
        request = new.request
        row = await self._database.tenant(request.organization_id).one(
            _BEGIN,
            {
                "id": new.id,
                "organization_id": request.organization_id,
                "execution_id": request.execution_id,
                "opencode_session_id": request.opencode_session_id,
                "call_id": request.call_id,
                "message_id": request.message_id,
                "connection_id": new.connection_id,
                "provider": new.provider,
                "tool_name": request.tool_name,
                "fingerprint": new.fingerprint,
                "arguments": Jsonb(new.arguments),
                "repeatable": new.repeatable,
                "unknown": _error_column(UNKNOWN_OUTCOME),
                "lease": lease.token,
                "lease_s": self._lease_s,
            },
        )
        if row is not None:
            return record_of(row), row["lease_owner"] == lease.token
        found = await self.find(request.organization_id, new.id)
        if found is None:
            raise NotFoundError("the execution is over, or about to be stopped", code="execution_over")
        return found, False

    async def finish(self, begun: ToolCallRecord, end: ToolCallEnd) -> bool:
        row = await self._database.tenant(begun.organization_id).one(
            _FINISH,
            {
                "id": begun.id,
                "organization_id": begun.organization_id,
                "try_number": begun.try_number,
                "status": end.status.value,
                "result": Jsonb(dict(end.result)) if end.result is not None else None,
                "error": _error_column(end.error),
                "altered": end.altered,
            },
        )
        return row is not None

    async def find(self, organization_id: str, tool_call_id: str) -> ToolCallRecord | None:
        row = await self._database.tenant(organization_id).one(
            _FIND, {"id": tool_call_id, "organization_id": organization_id}
        )
        return record_of(row) if row else None


def record_of(row: Mapping[str, Any]) -> ToolCallRecord:
    names = ToolCallRecord.__dataclass_fields__
    values = {name: value for name, value in row.items() if name in names}
    error = ToolCallError(**row["error"]) if row["error"] else None
    return ToolCallRecord(**values | {"status": CallStatus(row["status"]), "error": error})


def _error_column(error: ToolCallError | None) -> Jsonb | None:
    return Jsonb({"code": error.code, "message": error.message}) if error is not None else None
