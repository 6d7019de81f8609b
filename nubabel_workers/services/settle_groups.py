"""Groups of executions come to their end: the rest is stopped where that was wished, and one reply tells all."""

import structlog

from nubabel_workers.domain.errors import NubabelError
from nubabel_workers.domain.executions import Status
from nubabel_workers.domain.groups import GroupState, combined_reply, reason_to_stop, state_at_the_end
from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.ports import GroupStore, HintPublisher

log = structlog.get_logger(__name__)

_AT_ONCE = 100


class SettleGroups:
    """Safe to run twice and at once: what is told is told by one conditional statement."""

    def __init__(self, groups: GroupStore, hints: HintPublisher) -> None:
        self._groups = groups
        self._hints = hints

    async def after_end(self, organization_id: str, group_id: str) -> None:
        """One of its executions has ended. What does not work now is the scheduler's: the end itself is committed."""
        try:
            await self.settle(organization_id, group_id)
        except NubabelError as error:
            log.warning("batch.not_settled", organization_id=organization_id, batch_id=group_id, error=str(error))

    async def settle(self, organization_id: str, group_id: str) -> None:
        standing = await self._groups.standing(organization_id, group_id)
        if standing is None or standing.state is not GroupState.RUNNING:
            return
        if (reason := reason_to_stop(standing)) is not None:
            for execution_id, status in await self._groups.stop_rest(organization_id, group_id, reason=reason):
                # Queued ones are ended by the scheduler, those in dispatch by their dispatcher.
                if status is Status.RUNNING:
                    self._hints.publish(Hint(HintTask.COMPLETE, execution_id, organization_id))
        if standing.is_over:
            await self._finish(organization_id, group_id)

    async def _finish(self, organization_id: str, group_id: str) -> None:
        group = await self._groups.find(organization_id, group_id)
        if group is None or not group.is_over:  # one of it was replayed a moment ago
            return
        state = state_at_the_end(group)
        notification_ids = await self._groups.finish(group, state, reply=combined_reply(group, state))
        if notification_ids is None:
            return
        log.info("batch.finished", organization_id=organization_id, batch_id=group_id, state=state)
        for notification_id in notification_ids:
            self._hints.publish(Hint(HintTask.DELIVER, notification_id, organization_id))

    async def settle_due(self) -> int:
        """The scheduler's round: groups whose last end, or whose failure, nobody acted on."""
        due = await self._groups.due(limit=_AT_ONCE)
        for organization_id, group_id in due:
            try:
                await self.settle(organization_id, group_id)
            except NubabelError:
                raise
            except Exception:
                # One bad group, not everybody's reply.
                log.exception("batch.not_settled", organization_id=organization_id, batch_id=group_id)
        return len(due)
