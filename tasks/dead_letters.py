"""Queue dead-letter: messages that could not be written to the database where they were set aside."""

from collections.abc import Mapping
from typing import Any

from config.queues import TaskName
from nubabel_workers.adapters.broker.parking import dead_letter_from_json
from nubabel_workers.bootstrap import Services
from tasks.base import Carries, TaskDefinition


async def park(services: Services, letter: Mapping[str, Any], _delivery_id: str) -> str:
    """Write down a dead letter that had to travel through the broker."""
    return f"kept {await services.dead_letters.add(dead_letter_from_json(letter))}"


TASKS = (TaskDefinition(TaskName.PARK, park, carries=Carries.CONTENT),)
