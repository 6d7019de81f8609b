"""What a follow-up does while its session still works: wait its turn, replace the earlier ones, or be refused."""

import structlog

from nubabel_workers.domain import outcomes
from nubabel_workers.domain.errors import PermanentError
from nubabel_workers.domain.executions import Status
from nubabel_workers.domain.ports import Accepted, ExecutionStore
from nubabel_workers.domain.tenants import BusyPolicy
from nubabel_workers.services.cancel_execution import CancelExecution
from nubabel_workers.services.end_execution import EndExecution

log = structlog.get_logger(__name__)


class ApplyBusyPolicy:
    """Runs after the follow-up is stored. Dying in between leaves it queued, which is what `queue` means."""

    def __init__(self, executions: ExecutionStore, canceller: CancelExecution, end: EndExecution) -> None:
        self._executions = executions
        self._canceller = canceller
        self._end = end

    async def apply(self, organization_id: str, policy: BusyPolicy, accepted: Accepted) -> Status:
        """The status that the follow-up has now."""
        if not accepted.busy_execution_ids or policy is BusyPolicy.QUEUE:
            return Status.QUEUED
        if policy is BusyPolicy.REJECT:
            return await self._reject(organization_id, accepted.execution_id)
        for execution_id in accepted.busy_execution_ids:
            try:
                await self._canceller.cancel(organization_id, execution_id, reason=outcomes.REPLACED)
            except PermanentError:  # it ended, or was deleted, a moment ago
                log.info("execution.not_interrupted", execution_id=execution_id)
        return Status.QUEUED

    async def _reject(self, organization_id: str, execution_id: str) -> Status:
        execution = await self._executions.find(organization_id, execution_id)
        if execution is None or execution.status is not Status.QUEUED:
            return Status.QUEUED if execution is None else execution.status
        refused = await self._end.queued(execution, outcomes.refused_as_busy(execution))
        return Status.REJECTED if refused else Status.QUEUED
