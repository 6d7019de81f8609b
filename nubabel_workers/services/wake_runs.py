"""Something says that a run has ended, and it is looked at soon: the one hint of listener, plugin and comparison."""

from collections.abc import Sequence

from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.ports import ExecutionStore, HintPublisher


async def wake_runs(
    executions: ExecutionStore, hints: HintPublisher, instance_id: str, opencode_session_ids: Sequence[str]
) -> list[str]:
    """Make what runs in these sessions due, and hint its completion, which reads from OpenCode what is true.

    Ids of the executions. Any number of times, in any order, also of what has ended: it changes nothing else.
    """
    woken = await executions.wake_by_sessions(instance_id, opencode_session_ids)
    for execution_id in woken:
        hints.publish(Hint(HintTask.COMPLETE, execution_id))
    return woken
