"""What came in from Slack, in PostgreSQL. Unique by Slack's event id and by what happened (channel and ts)."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from psycopg.types.json import Jsonb

from nubabel_workers.adapters.storage.claims import (
    CHOSEN,
    IS_CHOSEN,
    OTHERS_WAIT,
    UNREADABLE,
    candidates,
    each_readable,
    from_stored,
)
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.dead_letters import dead_letter_params
from nubabel_workers.domain.dead_letters import DeadLetterReason, NewDeadLetter, letter_of_event
from nubabel_workers.domain.errors import LeaseLostError
from nubabel_workers.domain.ids import derived_id
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.notifications import NewNotification, NotificationKind, SlackTarget
from nubabel_workers.domain.ports import Chance, ClaimedInbound
from nubabel_workers.domain.slack_events import SlackEvent, SlackEventKind, SlackFile
from nubabel_workers.domain.tenants import Workspace
from nubabel_workers.domain.wording import language_of, say

_ADDRESSED = frozenset({SlackEventKind.MENTION, SlackEventKind.DIRECT_MESSAGE, SlackEventKind.THREAD_REPLY})

# A thread message without a mention counts only in a thread that is ours: one with a session, or with a mention that
# is still on its way to one. A deletion or an edit counts only for a message that was stored.
_ADD = """
INSERT INTO inbound_events (
  id, organization_id, workspace_id, provider_event_id, dedupe_key, conversation_key, kind, event, correlation_id,
  traceparent)
SELECT %(id)s, %(organization_id)s, %(workspace_id)s, %(event_id)s, %(dedupe_key)s, %(conversation_key)s, %(kind)s,
  %(event)s, %(correlation_id)s, %(traceparent)s
WHERE CASE %(kind)s::text
  WHEN 'thread_reply' THEN
    EXISTS (SELECT 1 FROM sessions WHERE organization_id = %(organization_id)s AND session_key = %(session_key)s)
    OR EXISTS (
      SELECT 1 FROM inbound_events i
      WHERE i.workspace_id = %(workspace_id)s AND i.conversation_key = %(conversation_key)s AND i.status = 'ready')
  ELSE
    %(kind)s NOT IN ('deleted', 'edited')
    OR EXISTS (
      SELECT 1 FROM inbound_events i
      WHERE i.workspace_id = %(workspace_id)s AND i.dedupe_key = %(changed_message_key)s)
END
ON CONFLICT DO NOTHING
RETURNING id
"""

# Events of one conversation are taken one after the other, in the order of their arrival.
_READY = """r.status = 'ready' AND r.lease_owner IS NULL AND r.not_before <= now()
    AND (NOT EXISTS (
      SELECT 1 FROM inbound_events b
      WHERE b.workspace_id = r.workspace_id AND b.conversation_key = r.conversation_key AND b.conversation_key <> ''
        AND b.status = 'ready' AND b.position < r.position)) IS TRUE"""
_CLAIM = f"""
WITH {candidates("inbound_events", ready=_READY, rank="r.position")}, {CHOSEN},
taken AS (
  UPDATE inbound_events i
  SET lease_owner = %(lease)s, lease_until = now() + make_interval(secs => %(lease_s)s),
    lone_deliveries = i.lone_deliveries + i.suspect::int
  WHERE i.{IS_CHOSEN}
  RETURNING i.*, {OTHERS_WAIT}
)
SELECT i.*, o.busy_policy, w.status <> 'active' AS workspace_ended, w.installed_at,
  w.installed_at > i.received_at AS installed_since
FROM taken i JOIN organizations o ON o.id = i.organization_id JOIN workspaces w ON w.id = i.workspace_id
ORDER BY i.position
"""

_TELL = """
told AS (
  INSERT INTO notifications (id, organization_id, kind, destination, payload, correlation_id, traceparent)
  SELECT n.id, %(organization_id)s, n.kind, n.destination, n.payload, ended.correlation_id, ended.traceparent
  FROM ended, jsonb_to_recordset(%(notifications)s) AS n(id text, kind text, destination jsonb, payload jsonb)
  ON CONFLICT (id) DO NOTHING
  RETURNING id
)
SELECT ended.id, (SELECT id FROM told) AS notification_id FROM ended
"""

_DONE = f"""
WITH ended AS (
  UPDATE inbound_events
  SET status = 'done', outcome = %(outcome)s, done_at = now(), lease_owner = NULL, lease_until = NULL, suspect = false
  WHERE id = %(id)s AND lease_owner = %(lease)s AND status = 'ready'
  RETURNING id, correlation_id, traceparent
), {_TELL}"""

_RETRY = """
UPDATE inbound_events
SET not_before = now() + make_interval(secs => %(wait_s)s), failures = failures + 1, lease_owner = NULL,
  lease_until = NULL, suspect = false, lone_deliveries = 0
WHERE id = %(id)s AND lease_owner = %(lease)s AND status = 'ready'
RETURNING id
"""

_FAIL = f"""
WITH ended AS (
  UPDATE inbound_events
  SET status = 'failed', outcome = %(reason)s, done_at = now(), lease_owner = NULL, lease_until = NULL
  WHERE id = %(id)s AND lease_owner = %(lease)s AND status = 'ready'
  RETURNING id, correlation_id, traceparent
),
parked AS (
  INSERT INTO dead_letters (
    id, organization_id, queue, task, reason, error, subject_kind, subject_id, payload, headers, attempts)
  SELECT %(dead_letter_id)s, %(organization_id)s, %(queue)s, %(task)s, %(reason)s, %(error)s, %(subject_kind)s,
    %(subject_id)s, %(payload)s, %(headers)s, %(attempts)s
  FROM ended
), {_TELL}"""


class PostgresInbound:
    """Implements ports.InboundStore."""

    def __init__(self, database: Database, chance: Chance, *, lease_s: float, lone_deliveries: int = 5) -> None:
        self._database = database
        self._chance = chance
        self._lease_s = lease_s
        self._lone_deliveries = lone_deliveries

    async def add(
        self, workspace: Workspace, event: SlackEvent, *, correlation_id: str, traceparent: str
    ) -> str | None:
        row = await self._database.tenant(workspace.organization_id).one(
            _ADD,
            {
                "id": self._chance.new_id("evt"),
                "organization_id": workspace.organization_id,
                "workspace_id": workspace.id,
                "event_id": event.event_id,
                "dedupe_key": event.dedupe_key,
                "conversation_key": event.conversation_key,
                "session_key": f"slack:{workspace.id}:{event.conversation_key}",
                "changed_message_key": f"msg:{event.channel}:{event.deleted_ts or event.ts}",
                "kind": event.kind.value,
                "event": Jsonb(asdict(event)),
                "correlation_id": correlation_id,
                "traceparent": traceparent,
            },
        )
        return row["id"] if row else None

    async def claim(self, *, event_id: str | None, limit: int, lease: Lease) -> list[ClaimedInbound]:
        rows = await self._database.system(walks=True).all(
            _CLAIM, {"id": event_id, "limit": limit, "lease": lease.token, "lease_s": self._lease_s}
        )

        async def park(row: Mapping[str, Any]) -> None:
            claimed = _salvaged(row)
            dead_letter = letter_of_event(
                claimed.id,
                claimed.organization_id,
                reason=DeadLetterReason.TOO_MANY_DELIVERIES,
                error=f"unreadable: {UNREADABLE}",
                attempts=claimed.failures + 1,
            )
            await self.fail(claimed, lease, dead_letter, apology=_apology(row))

        return await each_readable(rows, _claimed, park=park, lone_deliveries=self._lone_deliveries)

    async def done(
        self, event: ClaimedInbound, lease: Lease, *, outcome: str, reply: NewNotification | None = None
    ) -> str | None:
        return await self._end(event, _DONE, {"lease": lease.token, "outcome": outcome}, reply)

    async def retry(self, event: ClaimedInbound, lease: Lease, *, wait_s: float) -> None:
        await self._change(event, _RETRY, {"lease": lease.token, "wait_s": wait_s})

    async def fail(
        self, event: ClaimedInbound, lease: Lease, dead_letter: NewDeadLetter, *, apology: NewNotification | None
    ) -> str | None:
        params = dead_letter_params(self._chance.new_id("dlq"), dead_letter) | {"lease": lease.token}
        return await self._end(event, _FAIL, params, apology)

    async def _end(
        self, event: ClaimedInbound, statement: str, params: Mapping[str, Any], told: NewNotification | None
    ) -> str | None:
        """End the event and write down what is to be told, at once; the id of the latter."""
        notifications = Jsonb([self._notification_row(event, told)] if told else [])
        row = await self._change(
            event, statement, {"organization_id": event.organization_id, **params, "notifications": notifications}
        )
        notification_id: str | None = row["notification_id"]
        return notification_id

    def _notification_row(self, event: ClaimedInbound, new: NewNotification) -> dict[str, Any]:
        """What has a name of its own is told once, whichever event asks for it."""
        named = derived_id("ntf", (event.organization_id, new.dedupe)) if new.dedupe else None
        return {
            "id": named or self._chance.new_id("ntf"),
            "kind": new.kind.value,
            "destination": dict(new.destination),
            "payload": dict(new.payload),
        }

    async def _change(self, event: ClaimedInbound, statement: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        row = await self._database.tenant(event.organization_id).one(statement, {"id": event.id, **params})
        if row is None:
            raise LeaseLostError("the inbound event is no longer held under this lease")
        return row


def _claimed(row: Mapping[str, Any]) -> ClaimedInbound:
    stored = dict(row["event"])
    stored["kind"] = SlackEventKind(stored["kind"])
    stored["files"] = tuple(from_stored(SlackFile, file) for file in stored["files"])
    return _claimed_with(row, from_stored(SlackEvent, stored))


def _salvaged(row: Mapping[str, Any]) -> ClaimedInbound:
    """A row whose event cannot be read: enough to end it."""
    return _claimed_with(row, SlackEvent(SlackEventKind.IGNORED, row["provider_event_id"], None, None))


def _apology(row: Mapping[str, Any]) -> NewNotification | None:
    """For whoever wrote what cannot be read, as far as it says where that was."""
    stored = row["event"]
    try:
        target = SlackTarget(row["workspace_id"], stored["channel"], stored["thread_ts"], stored["ts"])
    except (KeyError, TypeError):
        return None
    if row["kind"] not in _ADDRESSED or not (target.channel and target.message_ts):
        return None
    words = say("failed", language_of(str(stored.get("text", ""))), reference=row["id"])
    return NewNotification(NotificationKind.OUTCOME, target.as_dict(), {"markdown": words})


def _claimed_with(row: Mapping[str, Any], event: SlackEvent) -> ClaimedInbound:
    return ClaimedInbound(
        id=row["id"],
        organization_id=row["organization_id"],
        workspace_id=row["workspace_id"],
        event=event,
        failures=row["failures"],
        busy_policy=row["busy_policy"],
        workspace_ended=row["workspace_ended"],
        installed_at=row["installed_at"],
        installed_since=row["installed_since"],
        correlation_id=row["correlation_id"],
        traceparent=row["traceparent"],
        suspect=row["suspect"],
        others_wait=row["others_wait"],
        lone_deliveries=row["lone_deliveries"],
    )
