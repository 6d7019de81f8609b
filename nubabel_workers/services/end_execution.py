"""The end of an execution: its last transaction, and who hears of it. Whatever ends one comes through here."""

import structlog

from nubabel_workers.domain.executions import Execution
from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.outcomes import CANNED, REUSED
from nubabel_workers.domain.ports import (
    Clock,
    Ends,
    ExecutionStore,
    Finish,
    Finished,
    HintPublisher,
    ProgressStream,
)
from nubabel_workers.domain.progress import state_event
from nubabel_workers.services.reuse_answers import ReuseAnswers
from nubabel_workers.services.settle_groups import SettleGroups

log = structlog.get_logger(__name__)


class EndExecution:
    """The rows come first; hints and progress follow the commit and may be lost."""

    def __init__(
        self,
        executions: ExecutionStore,
        hints: HintPublisher,
        progress: ProgressStream,
        groups: SettleGroups,
        reuse: ReuseAnswers,
        ends: Ends,
        clock: Clock,
    ) -> None:
        self._executions = executions
        self._hints = hints
        self._progress = progress
        self._groups = groups
        self._reuse = reuse
        self._ends = ends
        self._clock = clock

    async def held(self, execution: Execution, lease: Lease, finish: Finish) -> None:
        """End an execution that this process holds. Raises LeaseLostError."""
        await self._tell(execution, finish, await self._executions.finish(execution, lease, finish))

    async def queued(self, execution: Execution, finish: Finish) -> bool:
        """End one that nobody holds; False when it is not queued any more."""
        finished = await self._executions.cancel_queued(execution, finish)
        if finished is not None:
            await self._tell(execution, finish, finished)
        return finished is not None

    async def _tell(self, execution: Execution, finish: Finish, finished: Finished) -> None:
        """Deliver what has to be told, start the session's next execution, end the streams that follow this one."""
        log.info(
            "execution.finished",
            status=finish.status,
            orchestrator=execution.orchestrator,
            verdict=finish.verdict,
            organization_id=execution.organization_id,
            execution_id=execution.id,
        )
        after_s = (self._clock.now() - execution.created_at).total_seconds()
        # What nobody worked on must not look like a success of who was to answer.
        ended = CANNED if finish.verdict == CANNED else finish.status.value
        self._ends.execution_ended(
            execution.orchestrator, ended, organization_id=execution.organization_id, after_s=after_s
        )
        for notification_id in finished.notification_ids:
            self._hints.publish(Hint(HintTask.DELIVER, notification_id, execution.organization_id))
        if finished.next_execution_id is not None:
            self._hints.publish(Hint(HintTask.DISPATCH, finished.next_execution_id, execution.organization_id))
        await self._progress.append(execution.organization_id, execution.id, state_event(finish.status))
        if finish.verdict not in {REUSED, CANNED}:
            await self._reuse.keep(execution, finish)
        if execution.group_id is not None:
            await self._groups.after_end(execution.organization_id, execution.group_id)
