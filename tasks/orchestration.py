"""Queue orchestration."""

from collections.abc import Mapping
from typing import Any

from config.queues import TaskName
from nubabel_workers.bootstrap import Services
from nubabel_workers.services.accept_submission import Refused
from tasks.base import Carries, TaskDefinition


async def dispatch(services: Services, _execution_id: str, _delivery_id: str) -> str:
    """Get the executions whose turn it is going: the named one too, when it is its organization's next."""
    return await services.dispatch_executions.run()


async def complete(services: Services, execution_id: str, _delivery_id: str) -> str:
    """Look at the named run, and others that are due, and finish those that ended."""
    return await services.complete_executions.run(execution_id)


async def submit(services: Services, submission: Mapping[str, Any], delivery_id: str) -> str:
    """Accept a producer's request. The message is all there is of it until this has returned."""
    outcome = await services.accept_submission.accept(submission, delivery_id=delivery_id)
    if isinstance(outcome, Refused):
        return f"refused ({outcome.code}), dead letter {outcome.dead_letter_id}"
    return f"accepted {outcome.execution_id}" if outcome.created else f"known already: {outcome.execution_id}"


TASKS = (
    TaskDefinition(TaskName.DISPATCH, dispatch),
    TaskDefinition(TaskName.COMPLETE, complete),
    TaskDefinition(TaskName.SUBMIT, submit, carries=Carries.CONTENT),
)
