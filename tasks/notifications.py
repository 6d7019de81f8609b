"""Queue notifications."""

from config.queues import TaskName
from nubabel_workers.bootstrap import Services
from tasks.base import TaskDefinition


async def deliver(services: Services, notification_id: str, _delivery_id: str) -> str:
    """Tell the named notification, and others that are ready."""
    return await services.deliver_notifications.run(notification_id)


TASKS = (TaskDefinition(TaskName.DELIVER, deliver),)
