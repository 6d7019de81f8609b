"""Cancel executions: from the thread, the API or the command line, down to OpenCode's abort."""

from dataclasses import dataclass

import structlog

from nubabel_workers.domain import outcomes
from nubabel_workers.domain.errors import NotFoundError
from nubabel_workers.domain.executions import FINAL, Execution, Status
from nubabel_workers.domain.foreign_ids import Sought
from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.ports import ExecutionStore, HintPublisher
from nubabel_workers.services.end_execution import EndExecution

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Cancellation:
    """What came of asking for it."""

    execution: Execution  # as it is now
    was_over: bool  # it had ended before it was asked for: nothing changed


class CancelExecution:
    """Marks the wish in the row first: whichever process holds the execution now acts on it."""

    def __init__(self, executions: ExecutionStore, end: EndExecution, hints: HintPublisher) -> None:
        self._executions = executions
        self._end = end
        self._hints = hints

    async def cancel(
        self, organization_id: str, execution_id: str, *, reason: str, operator: str | None = None
    ) -> Cancellation:
        """A final one stays as it is. operator: who asks for it, for the audit log. Raises NotFoundError."""
        wish = await self._executions.request_cancel(organization_id, execution_id, reason=reason, operator=operator)
        if wish is None:
            raise NotFoundError("there is no such execution", sought=Sought(organization_id, execution_id))
        execution = wish.execution
        if execution.status in FINAL:
            return Cancellation(execution, was_over=not wish.is_new)
        log.info(
            "execution.cancel_requested", organization_id=organization_id, execution_id=execution.id, reason=reason
        )
        if execution.status in {Status.QUEUED, Status.WAITING_BUDGET}:
            return Cancellation(await self._cancel_queued(execution, reason), was_over=False)
        # Running: the completing task aborts it. Dispatching: the dispatcher finds the wish when it is done.
        self._hints.publish(Hint(HintTask.COMPLETE, execution.id, organization_id))
        return Cancellation(execution, was_over=False)

    async def _cancel_queued(self, execution: Execution, reason: str) -> Execution:
        await self._end.queued(execution, outcomes.cancelled(execution, reason=reason))
        return await self._executions.find(execution.organization_id, execution.id) or execution

    async def cancel_session(self, organization_id: str, session_key: str, *, reason: str) -> list[str]:
        """Cancel everything of a conversation that is not final; return the ids."""
        open_ids = await self._executions.open_in_session(organization_id, session_key)
        return await self._cancel_all(organization_id, open_ids, reason)

    async def cancel_workspace(self, organization_id: str, workspace_id: str, *, reason: str) -> list[str]:
        """Cancel everything that a Slack workspace asked for: nobody can be told any more."""
        open_ids = await self._executions.open_of_workspace(organization_id, workspace_id)
        return await self._cancel_all(organization_id, open_ids, reason)

    async def _cancel_all(self, organization_id: str, execution_ids: list[str], reason: str) -> list[str]:
        # The newest first: with the oldest first, the next one of the session would start in between.
        for execution_id in reversed(execution_ids):
            await self.cancel(organization_id, execution_id, reason=reason)
        return execution_ids
