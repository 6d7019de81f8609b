"""Names that travel on the wire: queues, tasks, and which queue each task takes. Renaming one breaks producers."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class QueueName(StrEnum):
    SLACK_EVENTS = "slack-events"
    ORCHESTRATION = "orchestration"
    NOTIFICATIONS = "notifications"
    DEAD_LETTER = "dead-letter"


class TaskName(StrEnum):
    # Hints: one argument, the id of the row to take first.
    PROCESS_SLACK_EVENTS = "slack_events.process"
    DISPATCH = "orchestration.dispatch"
    COMPLETE = "orchestration.complete"
    DELIVER = "notifications.deliver"
    # Messages that carry their content: one argument, a JSON object.
    SUBMIT = "orchestration.submit"
    PARK = "dead_letters.park"


QUEUE_OF_TASK: Mapping[TaskName, QueueName] = MappingProxyType(
    {
        TaskName.PROCESS_SLACK_EVENTS: QueueName.SLACK_EVENTS,
        TaskName.DISPATCH: QueueName.ORCHESTRATION,
        TaskName.COMPLETE: QueueName.ORCHESTRATION,
        TaskName.SUBMIT: QueueName.ORCHESTRATION,
        TaskName.DELIVER: QueueName.NOTIFICATIONS,
        TaskName.PARK: QueueName.DEAD_LETTER,
    }
)
