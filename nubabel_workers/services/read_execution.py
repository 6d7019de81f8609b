"""Read executions as their organization sees them."""

from nubabel_workers.domain.errors import NotFoundError
from nubabel_workers.domain.executions import Execution, TimelineEvent
from nubabel_workers.domain.foreign_ids import Sought
from nubabel_workers.domain.ports import ExecutionStore
from nubabel_workers.services.submit_execution import stored_key


class ReadExecution:
    """Every look-up is scoped: another organization's execution does not exist."""

    def __init__(self, executions: ExecutionStore) -> None:
        self._executions = executions

    async def by_id(self, organization_id: str, execution_id: str) -> Execution:
        """Raises NotFoundError."""
        execution = await self._executions.find(organization_id, execution_id)
        if execution is None:
            raise NotFoundError("there is no such execution", sought=Sought(organization_id, execution_id))
        return execution

    async def by_session(self, organization_id: str, session_id: str) -> Execution:
        """What a session works on, else its newest. session_id: ours or OpenCode's. Raises NotFoundError."""
        execution_id = await self._executions.newest_in_session(organization_id, session_id)
        if execution_id is None:
            sought = Sought(organization_id, session_id)
            raise NotFoundError("there is no such session, or nothing was asked in it", sought=sought)
        return await self.by_id(organization_id, execution_id)

    async def of_session(self, organization_id: str, session_id: str, execution_id: str) -> Execution:
        """Raises NotFoundError for one of another session."""
        execution = await self.by_id(organization_id, execution_id)
        if execution.session_id != session_id:
            raise NotFoundError("the session has no such execution")
        return execution

    async def by_idempotency_key(self, organization_id: str, idempotency_key: str) -> Execution | None:
        """The execution that was accepted under the key, by whichever door; None while (or if) there is none."""
        execution_id = await self._executions.by_key(organization_id, stored_key(idempotency_key))
        return None if execution_id is None else await self._executions.find(organization_id, execution_id)

    async def timeline(self, organization_id: str, execution_id: str) -> list[TimelineEvent]:
        """Raises NotFoundError."""
        await self.by_id(organization_id, execution_id)
        return await self._executions.timeline(organization_id, execution_id)
