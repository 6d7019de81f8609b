"""Dead letters in PostgreSQL: kept, explained, replayable."""

from collections.abc import Mapping
from typing import Any

from psycopg.types.json import Jsonb

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.domain.dead_letters import (
    DeadLetter,
    DeadLetterReason,
    DeadLetterStatus,
    NewDeadLetter,
    SubjectKind,
)
from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.ids import DeadLetterId
from nubabel_workers.domain.ports import Chance

_ADD = """
INSERT INTO dead_letters (
  id, organization_id, queue, task, reason, error, subject_kind, subject_id, payload, headers, attempts)
VALUES (%(dead_letter_id)s, %(organization_id)s, %(queue)s, %(task)s, %(reason)s, %(error)s, %(subject_kind)s,
  %(subject_id)s, %(payload)s, %(headers)s, %(attempts)s)
"""

_LIST = """
SELECT * FROM dead_letters
WHERE (%(organization_id)s::text IS NULL OR organization_id = %(organization_id)s)
  AND (%(status)s::text IS NULL OR status = %(status)s)
  AND (%(reason)s::text IS NULL OR reason = %(reason)s)
ORDER BY created_at DESC
LIMIT %(limit)s
"""

_RESOLVED = """
  UPDATE dead_letters SET status = 'replayed', resolved_at = now(), resolved_by = %(actor)s
  WHERE id = %(id)s AND status = 'open'
  RETURNING id, subject_id, organization_id
"""

# A replay changes its subject only while that has still failed; what succeeded since is left as it is.
_REPLAY = {
    SubjectKind.EXECUTION: f"""
WITH letter AS ({_RESOLVED}),
subject AS (
  UPDATE executions e
  SET status = 'queued', failures = 0, replays = replays + 1, not_before = now(), suspect = false,
    lone_deliveries = 0, error = NULL, finished_at = NULL, cancel_requested_at = NULL,
    cancel_reason = NULL, answer_by = now() + (e.answer_by - e.created_at)
  FROM letter WHERE e.id = letter.subject_id AND e.status = 'failed'
  RETURNING e.id, e.organization_id
),
timeline AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT organization_id, id, 'replayed', jsonb_build_object('by', %(actor)s::text) FROM subject
)
SELECT id, organization_id FROM subject
""",
    SubjectKind.NOTIFICATION: f"""
WITH letter AS ({_RESOLVED})
UPDATE notifications n
SET status = 'ready', failures = 0, not_before = now(), suspect = false, lone_deliveries = 0, error = NULL
FROM letter WHERE n.id = letter.subject_id AND n.status = 'failed'
RETURNING n.id, n.organization_id
""",
    SubjectKind.INBOUND_EVENT: f"""
WITH letter AS ({_RESOLVED})
UPDATE inbound_events i
SET status = 'ready', failures = 0, not_before = now(), suspect = false, lone_deliveries = 0, outcome = NULL,
  done_at = NULL
FROM letter WHERE i.id = letter.subject_id AND i.status = 'failed'
RETURNING i.id, i.organization_id
""",
}
_WAKES = {
    SubjectKind.EXECUTION: HintTask.DISPATCH,
    SubjectKind.NOTIFICATION: HintTask.DELIVER,
    SubjectKind.INBOUND_EVENT: HintTask.PROCESS_SLACK_EVENTS,
}

_DISCARD = """
UPDATE dead_letters SET status = 'discarded', resolved_at = now(), resolved_by = %(actor)s, note = %(note)s
WHERE id = %(id)s AND status = 'open'
"""


class PostgresDeadLetters:
    """Implements ports.DeadLetterStore, for operators: across organizations."""

    def __init__(self, database: Database, chance: Chance) -> None:
        self._database = database
        self._chance = chance

    async def add(self, new: NewDeadLetter) -> str:
        dead_letter_id = self._chance.new_id("dlq")
        await self._database.system().execute(_ADD, dead_letter_params(dead_letter_id, new))
        return dead_letter_id

    async def find(self, dead_letter_id: str) -> DeadLetter | None:
        row = await self._database.system().one("SELECT * FROM dead_letters WHERE id = %(id)s", {"id": dead_letter_id})
        return _dead_letter(row) if row else None

    async def list(
        self, *, organization_id: str | None, status: str | None, reason: DeadLetterReason | None, limit: int
    ) -> list[DeadLetter]:
        rows = await self._database.system().all(
            _LIST, {"organization_id": organization_id, "status": status, "reason": reason, "limit": limit}
        )
        return [_dead_letter(row) for row in rows]

    async def replay(self, dead_letter_id: str, *, actor: str) -> Hint | None:
        """Make the subject ready again. A raw message has no subject: it stays open, to be discarded by hand."""
        letter = await self.find(dead_letter_id)
        if letter is None or letter.subject_kind not in _REPLAY:
            return None
        row = await self._database.system().one(_REPLAY[letter.subject_kind], {"id": dead_letter_id, "actor": actor})
        return Hint(_WAKES[letter.subject_kind], row["id"], row["organization_id"]) if row else None

    async def discard(self, dead_letter_id: str, *, actor: str, note: str) -> bool:
        touched = await self._database.system().execute(_DISCARD, {"id": dead_letter_id, "actor": actor, "note": note})
        return touched == 1


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


def _dead_letter(row: Mapping[str, Any]) -> DeadLetter:
    return DeadLetter(
        id=DeadLetterId(row["id"]),
        organization_id=row["organization_id"],
        queue=row["queue"],
        task=row["task"],
        reason=DeadLetterReason(row["reason"]),
        error=row["error"],
        status=DeadLetterStatus(row["status"]),
        created_at=row["created_at"],
        subject_kind=SubjectKind(row["subject_kind"]),
        subject_id=row["subject_id"],
        payload=row["payload"],
        headers=row["headers"],
        attempts=row["attempts"],
        resolved_at=row["resolved_at"],
        resolved_by=row["resolved_by"],
        note=row["note"],
    )
