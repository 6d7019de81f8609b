"""What is to be woken after an execution's state changed. Hints only: the rows are committed."""

from nubabel_workers.domain.executions import Execution
from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.ports import Finished, HintPublisher


def publish_after_finish(hints: HintPublisher, execution: Execution, finished: Finished) -> None:
    """Deliver what has to be told; start the session's next execution."""
    for notification_id in finished.notification_ids:
        hints.publish(Hint(HintTask.DELIVER, notification_id, execution.organization_id))
    if finished.next_execution_id is not None:
        hints.publish(Hint(HintTask.DISPATCH, finished.next_execution_id, execution.organization_id))
