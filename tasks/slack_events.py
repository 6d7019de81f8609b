"""Queue slack-events."""

from config.queues import TaskName
from nubabel_workers.bootstrap import Services
from tasks.base import TaskDefinition


async def process(services: Services, event_id: str, _delivery_id: str) -> str:
    """Turn the named Slack event, and others that are ready, into executions or cancellations."""
    return await services.process_slack_events.run(event_id)


TASKS = (TaskDefinition(TaskName.PROCESS_SLACK_EVENTS, process),)
