"""Cancel executions that an operator names, or everything that an organization has queued; audited one by one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nubabel_workers.domain.administration import AuditAction, AuditEntry
from nubabel_workers.domain.errors import NotFoundError
from nubabel_workers.domain.executions import FINAL, Execution, Status
from nubabel_workers.domain.ports.administration import AuditTrail, ExecutionReports
from nubabel_workers.services.cancel_execution import CancelExecution

_QUEUED = frozenset({Status.QUEUED})


@dataclass(frozen=True)
class CancelReport:
    """Ids by what became of them. stopping: OpenCode was told. more: others are queued beyond the limit."""

    cancelled: Sequence[str] = ()
    stopping: Sequence[str] = ()
    over: Sequence[str] = ()
    unknown: Sequence[str] = ()
    more: bool = False
    dry_run: bool = False


class CancelByOperator:
    def __init__(self, cancel: CancelExecution, reports: ExecutionReports, audit: AuditTrail) -> None:
        self._cancel = cancel
        self._reports = reports
        self._audit = audit

    async def one(self, execution_id: str, *, reason: str, actor: str) -> Execution:
        """As it is now; what is over stays as it is. Raises NotFoundError."""
        owner = await self._reports.organization_of(execution_id)
        if owner is None:
            raise NotFoundError(f"there is no execution {execution_id!r}; `nubabel executions list` shows them")
        execution = await self._cancel.cancel(owner, execution_id, reason=reason)
        entry = AuditEntry(actor, AuditAction.EXECUTION_CANCELLED, owner, execution_id, detail={"reason": reason})
        await self._audit.add(entry)
        return execution

    async def several(self, execution_ids: Sequence[str], *, reason: str, actor: str) -> CancelReport:
        """Each that there is. The newest first (ids sort by time): else the next of a session would start in between.

        Broken off, it may be run again: what it has cancelled is over then.
        """
        cancelled, stopping, over, unknown = list[str](), list[str](), list[str](), list[str]()
        for execution_id in sorted(set(execution_ids), reverse=True):
            try:
                found = await self.one(execution_id, reason=reason, actor=actor)
            except NotFoundError:
                unknown.append(execution_id)
                continue
            ended = over if found.status in FINAL else stopping
            (cancelled if found.status is Status.CANCELLED else ended).append(execution_id)
        return CancelReport(cancelled, stopping, over, unknown)

    async def queued_of(
        self, organization_id: str, *, limit: int, dry_run: bool, reason: str, actor: str
    ) -> CancelReport:
        """What waits in the queue, the newest first. One that begins in that moment is stopped."""
        found = await self._reports.list(organization_id=organization_id, statuses=_QUEUED, limit=limit + 1)
        ids = [one.id for one in found[:limit]]
        more = len(found) > limit
        if dry_run:
            return CancelReport(ids, more=more, dry_run=True)
        done = await self.several(ids, reason=reason, actor=actor)
        return replace(done, more=more)
