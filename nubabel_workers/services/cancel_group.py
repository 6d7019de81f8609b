"""Cancel a group of executions, and read where it stands."""

from nubabel_workers.domain.errors import NotFoundError
from nubabel_workers.domain.executions import FINAL
from nubabel_workers.domain.foreign_ids import Sought
from nubabel_workers.domain.groups import ExecutionGroup, GroupState
from nubabel_workers.domain.ports import GroupStore
from nubabel_workers.services.cancel_execution import CancelExecution
from nubabel_workers.services.settle_groups import SettleGroups


class CancelGroup:
    """The wish is stored first: who dies in between leaves the rest to the scheduler."""

    def __init__(self, groups: GroupStore, one: CancelExecution, settle: SettleGroups) -> None:
        self._groups = groups
        self._one = one
        self._settle = settle

    async def cancel(self, organization_id: str, group_id: str, *, reason: str) -> ExecutionGroup:
        """Return the group as it is now; one that has ended stays as it is. Raises NotFoundError."""
        group = await self.find(organization_id, group_id)
        if group.state is not GroupState.RUNNING:
            return group
        await self._groups.request_cancel(organization_id, group_id, reason=reason)
        # The newest first: with the oldest first, the next one of its session would start in between.
        for item in reversed(group.items):
            if item.status not in FINAL:
                await self._one.cancel(organization_id, item.execution_id, reason=reason)
        await self._settle.settle(organization_id, group_id)
        return await self.find(organization_id, group_id)

    async def find(self, organization_id: str, group_id: str) -> ExecutionGroup:
        """Raises NotFoundError: another organization's batch does not exist."""
        group = await self._groups.find(organization_id, group_id)
        if group is None:
            raise NotFoundError("there is no such batch", sought=Sought(organization_id, group_id))
        return group
