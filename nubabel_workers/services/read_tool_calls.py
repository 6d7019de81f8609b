"""Look at the ledger of tool calls, as operators do."""

from collections.abc import Sequence

from nubabel_workers.domain.administration import (
    AuditAction,
    AuditEntry,
    ToolCallDetails,
    ToolCallFilter,
    ToolCallSummary,
)
from nubabel_workers.domain.errors import NotFoundError
from nubabel_workers.domain.ports.administration import AuditTrail, ToolCallReports


class ReadToolCalls:
    def __init__(self, reports: ToolCallReports, audit: AuditTrail) -> None:
        self._reports = reports
        self._audit = audit

    async def list(self, chosen: ToolCallFilter, *, limit: int) -> Sequence[ToolCallSummary]:
        """Newest first, without what went in and came out."""
        return await self._reports.list(chosen, limit=limit)

    async def show(self, tool_call_id: str, *, actor: str) -> ToolCallDetails:
        """It shows a tenant's content, hence the entry in the audit log. Raises NotFoundError."""
        owner = await self._reports.organization_of(tool_call_id)
        if owner is None:
            raise _unknown(tool_call_id)
        await self._audit.add(AuditEntry(actor, AuditAction.TOOL_CALL_SHOWN, owner, tool_call_id))
        found = await self._reports.find(owner, tool_call_id)
        if found is None:  # its time to be kept ended just now
            raise _unknown(tool_call_id)
        return found


def _unknown(tool_call_id: str) -> NotFoundError:
    return NotFoundError(f"there is no tool call {tool_call_id!r}; `nubabel tool-calls list` shows them")
