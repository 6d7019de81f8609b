"""Notifications in PostgreSQL: one row per thing told. What was sent is written before anything else happens."""

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg.types.json import Jsonb

from nubabel_workers.adapters.storage.claims import (
    CHOSEN,
    IS_CHOSEN,
    OTHERS_WAIT,
    UNREADABLE,
    candidates,
    each_readable,
)
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.dead_letters import dead_letter_params
from nubabel_workers.domain.dead_letters import DeadLetterReason, NewDeadLetter, letter_of_notification
from nubabel_workers.domain.errors import LeaseLostError
from nubabel_workers.domain.ids import ExecutionId, NotificationId, OrganizationId
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.notifications import Notification, NotificationKind
from nubabel_workers.domain.ports import Chance, ClaimedNotification

# Outcomes of one conversation are told in their order: one that waits for a limit or a look-up holds up the next.
_READY = """r.status = 'ready' AND r.not_before <= now()
    AND NOT (r.kind = 'outcome' AND EXISTS (
      SELECT 1 FROM notifications o
      WHERE o.session_id = r.session_id AND o.kind = 'outcome' AND o.status IN ('ready', 'sending')
        AND o.created_at < r.created_at))"""
_CLAIM = f"""
WITH {candidates("notifications", ready=_READY, rank="r.not_before")}, {CHOSEN},
taken AS (
  UPDATE notifications n
  SET status = 'sending', lease_owner = %(lease)s, lease_until = now() + make_interval(secs => %(lease_s)s),
    lone_deliveries = n.lone_deliveries + n.suspect::int
  WHERE n.{IS_CHOSEN}
  RETURNING n.*, {OTHERS_WAIT}
)
SELECT *, extract(epoch FROM now() - uncertain_since)::float8 AS uncertain_for_s FROM taken ORDER BY created_at
"""

_MARK_REPEATED = """
UPDATE notifications SET repeated = true, uncertain_since = now()
WHERE id = %(id)s AND lease_owner = %(lease)s AND status = 'sending'
RETURNING id
"""

_PART_SENT = """
UPDATE notifications
SET sent_parts = sent_parts || to_jsonb(%(part)s::text), uncertain = false, uncertain_since = NULL
WHERE id = %(id)s AND lease_owner = %(lease)s AND status = 'sending'
RETURNING id
"""

# A progress message may be written down at the moment at which its run ends, unseen by the statement that takes such
# messages away: it is taken away now.
_OUTLIVED = """(
  kind = 'progress' AND NOT payload ? 'removed'
  AND EXISTS (SELECT 1 FROM executions e WHERE e.id = notifications.execution_id AND e.finished_at IS NOT NULL))"""

# The outcome takes the working sign along. Where that did not work, the sign's own row does it.
_SIGN_LEFT = """
  UPDATE notifications n
  SET payload = n.payload || '{"removed": true}'::jsonb, revision = n.revision + 1, not_before = now(), status = 'ready'
  FROM %s AS o
  WHERE n.execution_id = o.execution_id AND n.kind = 'working' AND n.status = 'sent'"""

_SENT = f"""
WITH sent AS (
  UPDATE notifications
  SET status = CASE WHEN revision > %(revision)s OR {_OUTLIVED} THEN 'ready' ELSE 'sent' END,
    payload = CASE WHEN {_OUTLIVED} THEN payload || '{{"removed": true}}'::jsonb ELSE payload END,
    sent_revision = %(revision)s, sent_parts = %(parts)s, sent_at = now(), lease_owner = NULL, lease_until = NULL,
    suspect = false, lone_deliveries = 0, failures = 0, uncertain = false
  WHERE id = %(id)s AND lease_owner = %(lease)s AND status = 'sending'
  RETURNING id, organization_id, execution_id, session_id, kind, status, repeated, created_at
),
timeline AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT organization_id, execution_id, 'delivered', jsonb_build_object(
    'kind', kind, 'waited_s', round(extract(epoch FROM now() - created_at)::numeric, 3), 'repeated', repeated)
  FROM sent WHERE execution_id IS NOT NULL AND kind IN ('outcome', 'webhook')
),
left_over AS ({_SIGN_LEFT % "sent"} AND %(sign_left)s RETURNING n.id)
SELECT status = 'ready' OR EXISTS (SELECT 1 FROM left_over) OR (kind = 'outcome' AND EXISTS (
  SELECT 1 FROM notifications o
  WHERE o.session_id = sent.session_id AND o.kind = 'outcome' AND o.status = 'ready'
    AND o.created_at > sent.created_at)) AS again
FROM sent
"""

_RETRY = """
WITH again AS (
  UPDATE notifications
  SET status = 'ready', not_before = now() + make_interval(secs => %(wait_s)s), error = %(error)s,
    failures = failures + %(failed)s::int, uncertain = %(uncertain)s,
    uncertain_since = CASE
      WHEN %(unanswered)s THEN now()
      WHEN %(uncertain)s THEN COALESCE(uncertain_since, now() - interval '1 minute') END,
    lease_owner = NULL, lease_until = NULL, suspect = false, lone_deliveries = 0
  WHERE id = %(id)s AND lease_owner = %(lease)s AND status = 'sending'
  RETURNING id, organization_id, execution_id, kind
),
timeline AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT organization_id, execution_id, 'delivery_retry', jsonb_build_object(
    'kind', kind, 'wait_s', %(wait_s)s::float8, 'error', %(error)s::text)
  FROM again WHERE execution_id IS NOT NULL AND kind IN ('outcome', 'webhook')
)
SELECT id FROM again
"""

_FAIL = f"""
WITH failed AS (
  UPDATE notifications
  SET status = 'failed', error = %(error_text)s, lease_owner = NULL, lease_until = NULL
  WHERE id = %(id)s AND lease_owner = %(lease)s AND status = 'sending'
  RETURNING id, organization_id, execution_id, kind, payload
),
left_over AS ({_SIGN_LEFT % "failed"} AND o.payload ? 'clears_working'),
timeline AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT organization_id, execution_id, 'delivery_failed', jsonb_build_object(
    'kind', kind, 'error', %(error_text)s::text)
  FROM failed WHERE execution_id IS NOT NULL
)
INSERT INTO dead_letters (
  id, organization_id, queue, task, reason, error, subject_kind, subject_id, payload, headers, attempts)
SELECT %(dead_letter_id)s, organization_id, %(queue)s, %(task)s, %(reason)s, %(error)s, %(subject_kind)s,
  %(subject_id)s, %(payload)s, %(headers)s, %(attempts)s
FROM failed
RETURNING id
"""

_DROP = """
UPDATE notifications SET status = 'dropped', error = %(reason)s, lease_owner = NULL, lease_until = NULL
WHERE id = %(id)s AND lease_owner = %(lease)s AND status = 'sending'
RETURNING id
"""

_SHOW_PROGRESS = """
INSERT INTO notifications (
  id, organization_id, execution_id, session_id, kind, destination, payload, correlation_id, traceparent, uncertain,
  uncertain_since, created_at)
SELECT 'ntf_progress_' || substr(e.id, 5), e.organization_id, e.id, e.session_id, 'progress', e.reply, %(payload)s,
  e.correlation_id, e.traceparent, e.outcome_in_doubt, CASE WHEN e.outcome_in_doubt THEN now() END,
  CASE WHEN e.outcome_in_doubt THEN e.created_at ELSE now() END
FROM executions e
WHERE e.id = %(execution_id)s AND e.status IN ('dispatching', 'running')
  AND (e.reply->>'kind' = 'slack' OR e.reply->>'kind' = 'callbacks' AND e.reply->>'progress' IS NOT NULL)
ON CONFLICT (execution_id, kind, dedupe) DO UPDATE
SET payload = EXCLUDED.payload, revision = notifications.revision + 1,
  status = CASE WHEN notifications.status = 'sending' THEN 'sending' ELSE 'ready' END,
  not_before = GREATEST(now(), notifications.sent_at + make_interval(secs => %(pace_s)s))
WHERE notifications.payload IS DISTINCT FROM EXCLUDED.payload AND NOT notifications.payload ? 'removed'
  AND notifications.status IN ('ready', 'sending', 'sent')
RETURNING id, not_before <= now() AS due
"""


class PostgresNotifications:
    """Implements ports.NotificationStore."""

    def __init__(self, database: Database, chance: Chance, *, lease_s: float, lone_deliveries: int = 5) -> None:
        self._database = database
        self._chance = chance
        self._lease_s = lease_s
        self._lone_deliveries = lone_deliveries

    async def claim(self, *, notification_id: str | None, limit: int, lease: Lease) -> list[ClaimedNotification]:
        rows = await self._database.system(walks=True).all(
            _CLAIM,
            {
                "id": notification_id,
                "limit": limit,
                "lease": lease.token,
                "lease_s": self._lease_s,
            },
        )

        async def park(row: Mapping[str, Any]) -> None:
            notification = _salvaged(row)
            dead_letter = letter_of_notification(
                notification.id,
                notification.organization_id,
                reason=DeadLetterReason.TOO_MANY_DELIVERIES,
                error=f"unreadable: {UNREADABLE}",
                attempts=notification.failures + 1,
            )
            await self.fail(notification, lease, error=UNREADABLE, dead_letter=dead_letter)

        return await each_readable(rows, _claimed, park=park, lone_deliveries=self._lone_deliveries)

    async def part_sent(self, notification: Notification, lease: Lease, part_id: str) -> None:
        await self._change(notification, _PART_SENT, {"lease": lease.token, "part": part_id})

    async def mark_repeated(self, notification: Notification, lease: Lease) -> None:
        await self._change(notification, _MARK_REPEATED, {"lease": lease.token})

    async def sent(
        self, claimed: ClaimedNotification, lease: Lease, part_ids: Sequence[str], *, sign_left: bool = False
    ) -> bool:
        row = await self._change(
            claimed.notification,
            _SENT,
            {
                "lease": lease.token,
                "revision": claimed.revision,
                "parts": Jsonb(list(part_ids)),
                "sign_left": sign_left,
            },
        )
        return bool(row["again"])

    async def retry(
        self,
        notification: Notification,
        lease: Lease,
        *,
        wait_s: float,
        error: str,
        uncertain: bool,
        unanswered: bool = False,
        failed: bool = True,
    ) -> None:
        await self._change(
            notification,
            _RETRY,
            {
                "lease": lease.token,
                "wait_s": wait_s,
                "error": error,
                "uncertain": uncertain,
                "unanswered": unanswered,
                "failed": failed,
            },
        )

    async def fail(self, notification: Notification, lease: Lease, *, error: str, dead_letter: NewDeadLetter) -> None:
        params = dead_letter_params(self._chance.new_id("dlq"), dead_letter)
        await self._change(notification, _FAIL, params | {"lease": lease.token, "error_text": error})

    async def drop(self, notification: Notification, lease: Lease, *, reason: str) -> None:
        await self._change(notification, _DROP, {"lease": lease.token, "reason": reason})

    async def show_progress(self, organization_id: str, execution_id: str, text: str, *, pace_s: float) -> str | None:
        row = await self._database.tenant(organization_id).one(
            _SHOW_PROGRESS,
            {
                "execution_id": execution_id,
                "payload": Jsonb({"text": text}),
                "pace_s": pace_s,
            },
        )
        return row["id"] if row and row["due"] else None

    async def _change(self, notification: Notification, statement: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        row = await self._database.tenant(notification.organization_id).one(
            statement, {"id": notification.id, **params}
        )
        if row is None:
            raise LeaseLostError("the notification is no longer held under this lease")
        return row


def _salvaged(row: Mapping[str, Any]) -> Notification:
    """A row that cannot be read: enough to end it."""
    return _claimed({**row, "kind": NotificationKind.NOTICE, "sent_parts": ()}).notification


def _claimed(row: Mapping[str, Any]) -> ClaimedNotification:
    notification = Notification(
        id=NotificationId(row["id"]),
        organization_id=OrganizationId(row["organization_id"]),
        execution_id=ExecutionId(row["execution_id"]) if row["execution_id"] else None,
        session_id=row["session_id"],
        kind=NotificationKind(row["kind"]),
        destination=row["destination"],
        payload=row["payload"],
        failures=row["failures"],
        created_at=row["created_at"],
        sent_parts=tuple(row["sent_parts"]),
        uncertain=row["uncertain"],
        repeated=row["repeated"],
        uncertain_for_s=row["uncertain_for_s"],
        correlation_id=row["correlation_id"],
        traceparent=row["traceparent"],
    )
    return ClaimedNotification(
        notification,
        suspect=row["suspect"],
        others_wait=row["others_wait"],
        lone_deliveries=row["lone_deliveries"],
        revision=row["revision"],
    )
