"""Dead letters in PostgreSQL, as workers write them. What operators do with them: `dead_letter_registry`."""

from typing import Any

from psycopg.types.json import Jsonb

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.domain.dead_letters import NewDeadLetter
from nubabel_workers.domain.ports import Chance

_ADD = """
INSERT INTO dead_letters (
  id, organization_id, queue, task, reason, error, subject_kind, subject_id, payload, headers, attempts)
VALUES (%(dead_letter_id)s, %(organization_id)s, %(queue)s, %(task)s, %(reason)s, %(error)s, %(subject_kind)s,
  %(subject_id)s, %(payload)s, %(headers)s, %(attempts)s)
"""


class PostgresDeadLetters:
    """Implements ports.DeadLetterStore."""

    def __init__(self, database: Database, chance: Chance) -> None:
        self._database = database
        self._chance = chance

    async def add(self, new: NewDeadLetter) -> str:
        dead_letter_id = self._chance.new_id("dlq")
        await self._database.system().execute(_ADD, dead_letter_params(dead_letter_id, new))
        return dead_letter_id


def dead_letter_params(dead_letter_id: str, new: NewDeadLetter) -> dict[str, Any]:
    """Parameters for the columns of a new dead letter, for the statements that write one with its cause."""
    return {
        "dead_letter_id": dead_letter_id,
        "organization_id": new.organization_id,
        "queue": new.queue,
        "task": new.task,
        "reason": new.reason.value,
        "error": new.error,
        "subject_kind": new.subject_kind.value,
        "subject_id": new.subject_id,
        "payload": new.payload,
        "headers": Jsonb(dict(new.headers)),
        "attempts": new.attempts,
    }
