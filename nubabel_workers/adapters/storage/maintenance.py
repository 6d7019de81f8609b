"""The scheduler's statements, over all organizations. Each is correct with any number of schedulers at once."""

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg.types.json import Jsonb

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.row_sets import (
    OCCUPYING_SQL,
    OPEN_SQL,
    SESSION_TAKEN_SQL,
    STRAINS_SQL,
    TOOL_CALL_ENDED_DETAIL_SQL,
)
from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.notifications import NotificationKind
from nubabel_workers.domain.ports import Chance, OpenExecutions
from nubabel_workers.domain.rollout import Orchestrator
from nubabel_workers.domain.tool_calls import UNKNOWN_OUTCOME

# The conditions are those of the claims: a row that could not be claimed needs no hint.


def _overdue(table: str, born: str) -> str:
    """A new row was hinted by whoever wrote it and gets some time; for one that was put off nobody else hints."""
    return f"""{table}.not_before <= now()
     AND ({table}.not_before > {table}.{born} OR {table}.not_before <= now() - make_interval(secs => %(older_s)s))"""


_OVERDUE = f"""
SELECT
  (SELECT i.id FROM inbound_events i
   WHERE i.status = 'ready' AND i.lease_owner IS NULL AND {_overdue("i", "received_at")}
   LIMIT 1) AS "{HintTask.PROCESS_SLACK_EVENTS.value}",
  (SELECT e.id FROM executions e
   WHERE e.status = 'queued' AND e.orchestrator = ANY(%(orchestrators)s) AND {_overdue("e", "created_at")}
     AND (NOT {SESSION_TAKEN_SQL}) IS TRUE
   LIMIT 1) AS "{HintTask.DISPATCH.value}",
  (SELECT e.id FROM executions e
   WHERE e.status = 'running' AND e.lease_owner IS NULL
     AND e.check_at <= now() - make_interval(secs => %(older_s)s)
   LIMIT 1) AS "{HintTask.COMPLETE.value}",
  (SELECT n.id FROM notifications n
   WHERE n.status = 'ready' AND {_overdue("n", "created_at")}
   LIMIT 1) AS "{HintTask.DELIVER.value}"
"""

# A process that held these is gone. What it did in its last moments is unknown: a prompt is looked up by its id; a post
# by its delivery id, and until long after the lease's end it may still arrive; a tool call cannot be looked up; a call
# of an orchestrator ended with its process, and is made again under the same key.
_RELEASE = f"""
WITH dispatching AS (
  UPDATE executions
  SET status = 'queued', suspect = true, lease_owner = NULL, lease_until = NULL, not_before = now(), check_at = NULL,
    running_since = NULL
  WHERE id IN (
    SELECT id FROM executions
    WHERE (status = 'dispatching' OR status = 'running' AND orchestrator <> 'opencode')
      AND lease_owner IS NOT NULL AND lease_until < now()
    ORDER BY lease_until LIMIT 500 FOR UPDATE SKIP LOCKED)
  RETURNING id, organization_id
),
checking AS (
  UPDATE executions SET suspect = true, lease_owner = NULL, lease_until = NULL, check_at = now()
  WHERE id IN (
    SELECT id FROM executions
    WHERE status = 'running' AND orchestrator = 'opencode' AND lease_owner IS NOT NULL AND lease_until < now()
    ORDER BY lease_until LIMIT 500 FOR UPDATE SKIP LOCKED)
  RETURNING id, organization_id
),
timeline AS (
  INSERT INTO execution_events (organization_id, execution_id, kind)
  SELECT organization_id, id, 'lease_taken_over' FROM dispatching
  UNION ALL SELECT organization_id, id, 'lease_taken_over' FROM checking
),
inbound AS (
  UPDATE inbound_events SET suspect = true, lease_owner = NULL, lease_until = NULL
  WHERE id IN (
    SELECT id FROM inbound_events WHERE lease_owner IS NOT NULL AND lease_until < now()
    ORDER BY lease_until LIMIT 500 FOR UPDATE SKIP LOCKED)
  RETURNING id
),
telling AS (
  UPDATE notifications
  SET status = 'ready', suspect = true, lease_owner = NULL, lease_until = NULL, not_before = now(), uncertain = true,
    uncertain_since = COALESCE(uncertain_since, lease_until)
  WHERE id IN (
    SELECT id FROM notifications
    WHERE status = 'sending' AND lease_owner IS NOT NULL AND lease_until < now()
    ORDER BY lease_until LIMIT 500 FOR UPDATE SKIP LOCKED)
  RETURNING id
),
calling AS (
  UPDATE tool_calls
  SET status = 'unknown', lease_owner = NULL, lease_until = NULL, ended_at = now(), error = %(unknown)s
  WHERE id IN (
    SELECT id FROM tool_calls
    WHERE status = 'started' AND lease_owner IS NOT NULL AND lease_until < now()
    ORDER BY lease_until LIMIT 500 FOR UPDATE SKIP LOCKED)
  RETURNING *
),
calls_told AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT t.organization_id, t.execution_id, 'tool_call_ended', {TOOL_CALL_ENDED_DETAIL_SQL} FROM calling t
)
SELECT (SELECT count(*) FROM dispatching) + (SELECT count(*) FROM checking) + (SELECT count(*) FROM inbound)
  + (SELECT count(*) FROM telling) + (SELECT count(*) FROM calling) AS released
"""

_PAST_DEADLINE = """
UPDATE executions SET check_at = now()
WHERE status = 'running' AND deadline_at <= now() AND check_at > now() AND lease_owner IS NULL
RETURNING id
"""

# Cancelled ones are found here when the canceller died, or met them on their way back to the queue.
_QUEUED_TO_END = """
(SELECT organization_id, id FROM executions
 WHERE status = 'queued' AND (answer_by <= now() OR cancel_requested_at IS NOT NULL)
 ORDER BY answer_by LIMIT 100)
UNION ALL
(SELECT e.organization_id, e.id FROM budget_holds h JOIN executions e ON e.id = h.execution_id
 WHERE h.look_at IS NOT NULL AND e.status = 'waiting_budget'
   AND (e.answer_by <= now() OR e.cancel_requested_at IS NOT NULL)
 ORDER BY e.answer_by LIMIT 100)
"""

_LATE = """
SELECT organization_id, id FROM executions
WHERE (status = 'queued' OR status = 'running' AND instance_id = ANY(%(away)s))
  AND NOT told_late AND reply->>'kind' = 'slack' AND created_at < now() - make_interval(secs => %(after_s)s)
ORDER BY created_at LIMIT 100
"""

# What has ended meanwhile is told by its outcome.
_TELL_LATE = f"""
WITH late AS (
  UPDATE executions SET told_late = true
  WHERE id = %(id)s AND NOT told_late AND {OPEN_SQL}
  RETURNING id, organization_id, session_id, reply, correlation_id, traceparent
)
INSERT INTO notifications (
  id, organization_id, execution_id, session_id, kind, dedupe, destination, payload, correlation_id, traceparent)
SELECT 'ntf_late_' || substr(late.id, 5), late.organization_id, late.id, late.session_id, 'notice', 'late', late.reply,
  %(payload)s, late.correlation_id, late.traceparent
FROM late
ON CONFLICT DO NOTHING
RETURNING id
"""

_TO_RECONCILE = """
UPDATE instances SET reconcile_at = now() + make_interval(secs => %(every_s)s)
WHERE id IN (
  SELECT id FROM instances WHERE status <> 'removed' AND reconcile_at <= now()
  FOR UPDATE SKIP LOCKED)
RETURNING id
"""

_RENEW = """
WITH given AS (SELECT unnest(%(tokens)s::text[]) AS token),
e AS (
  UPDATE executions SET lease_until = now() + make_interval(secs => %(lease_s)s)
  FROM given WHERE lease_owner = token AND lease_until > now() RETURNING lease_owner
),
i AS (
  UPDATE inbound_events SET lease_until = now() + make_interval(secs => %(lease_s)s)
  FROM given WHERE lease_owner = token AND lease_until > now() RETURNING lease_owner
),
n AS (
  UPDATE notifications SET lease_until = now() + make_interval(secs => %(lease_s)s)
  FROM given WHERE lease_owner = token AND lease_until > now() RETURNING lease_owner
),
t AS (
  UPDATE tool_calls SET lease_until = now() + make_interval(secs => %(lease_s)s)
  FROM given WHERE lease_owner = token AND lease_until > now() RETURNING lease_owner
)
SELECT lease_owner FROM e UNION SELECT lease_owner FROM i UNION SELECT lease_owner FROM n
UNION SELECT lease_owner FROM t
"""

_GAUGES = f"""
SELECT
  (SELECT count(*) FROM executions WHERE status = 'queued') AS executions_queued,
  (SELECT count(*) FROM executions WHERE {OCCUPYING_SQL}) AS executions_in_flight,
  (SELECT count(*) FROM executions WHERE status = 'queued' AND waiting_for = 'budget')
    + (SELECT count(*) FROM budget_holds WHERE look_at < 'infinity') AS executions_waiting_for_budget,
  (SELECT count(*) FROM budget_holds WHERE look_at IS NULL) AS budget_holds,
  (SELECT COALESCE(sum(cost), 0) FROM budget_holds WHERE look_at IS NULL) AS budget_held_usd,
  (SELECT count(*) FROM executions
   WHERE {OPEN_SQL} AND GREATEST(answer_by, deadline_at) + interval '1 minute' < now()) AS executions_past_answer_by,
  (SELECT COALESCE(extract(epoch FROM now() - min(not_before)), 0) FROM executions
   WHERE status = 'queued' AND not_before <= now()) AS oldest_queued_execution_s,
  (SELECT count(*) FROM inbound_events WHERE status = 'ready') AS inbound_events_ready,
  (SELECT COALESCE(extract(epoch FROM now() - min(not_before)), 0) FROM inbound_events
   WHERE status = 'ready' AND not_before <= now()) AS oldest_inbound_event_s,
  (SELECT count(*) FROM notifications WHERE status IN ('ready', 'sending')) AS notifications_unsent,
  (SELECT COALESCE(extract(epoch FROM now() - min(not_before)), 0) FROM notifications
   WHERE status = 'ready' AND not_before <= now()) AS oldest_notification_s,
  (SELECT COALESCE(extract(epoch FROM now() - min(created_at)), 0) FROM notifications
   WHERE kind = 'outcome' AND status IN ('ready', 'sending')) AS oldest_untold_outcome_s,
  (SELECT count(*) FROM notifications WHERE kind = 'webhook' AND status = 'ready' AND failures > 0) AS webhooks_failing,
  (SELECT count(*) FROM dead_letters WHERE status = 'open') AS dead_letters_open,
  (SELECT count(*) FROM instances i WHERE status = 'active' AND healthy AND {STRAINS_SQL} = '{{}}')
   AS instances_healthy,
  (SELECT count(*) FROM instances WHERE status <> 'removed') AS instances_registered
"""

# What was used is summed for the few organizations that are shown, by the index of their days.
_BUSIEST = f"""
WITH open AS (
  SELECT organization_id, count(*) AS executions, count(*) FILTER (WHERE status = 'queued') AS queued,
    count(*) FILTER (WHERE {OCCUPYING_SQL}) AS in_flight,
    COALESCE(extract(epoch FROM now() - min(not_before) FILTER (WHERE status = 'queued' AND not_before <= now())), 0)
      AS oldest_queued_s
  FROM executions WHERE {OPEN_SQL} GROUP BY organization_id
),
shown AS (
  (SELECT * FROM open ORDER BY executions DESC, organization_id LIMIT %(limit)s)
  UNION
  SELECT o.id, COALESCE(executions, 0), COALESCE(queued, 0), COALESCE(in_flight, 0), COALESCE(oldest_queued_s, 0)
  FROM organizations o LEFT JOIN open ON organization_id = o.id WHERE o.id = ANY(%(always)s)
)
SELECT shown.organization_id, queued, in_flight, oldest_queued_s::float8 AS oldest_queued_s,
  used.cost::float8 AS cost_today, used.tokens::bigint AS tokens_today
FROM shown, LATERAL (
  SELECT COALESCE(sum(u.cost), 0) AS cost, COALESCE(sum(u.input_tokens + u.output_tokens + u.reasoning_tokens
    + u.cache_read_tokens + u.cache_write_tokens), 0) AS tokens
  FROM usage u WHERE u.organization_id = shown.organization_id AND u.day = (now() AT TIME ZONE 'UTC')::date
) used
ORDER BY executions DESC, organization_id
"""

# table -> which rows t may go; each delete takes a bounded number of rows and holds no lock for long. What an open
# dead letter is about is kept: it may be replayed.
_KEPT_FOR_REPLAY = "EXISTS (SELECT 1 FROM dead_letters d WHERE d.status = 'open' AND d.subject_id = t.id)"
_UNTOLD = """EXISTS (
  SELECT 1 FROM notifications n JOIN dead_letters d ON d.subject_id = n.id AND d.status = 'open'
  WHERE n.execution_id = t.id)"""
_EXPIRED: Mapping[str, str] = {
    "inbound_events": f"t.status <> 'ready' AND t.received_at < {{before}} AND NOT {_KEPT_FOR_REPLAY}",
    "executions": f"t.finished_at < {{before}} AND NOT {_KEPT_FOR_REPLAY} AND NOT {_UNTOLD}",
    "notifications": f"t.execution_id IS NULL AND t.created_at < {{before}}"
    f" AND t.status NOT IN ('ready', 'sending') AND NOT {_KEPT_FOR_REPLAY}",
    "execution_groups": "t.finished_at < {before} AND NOT EXISTS (SELECT 1 FROM executions e WHERE e.group_id = t.id)",
    "sessions": "t.last_active_at < {before} AND NOT EXISTS (SELECT 1 FROM executions e WHERE e.session_id = t.id)",
    "tool_calls": "t.status <> 'started' AND t.started_at < {before}",
    "dead_letters": "t.status <> 'open' AND t.resolved_at < {before}",
    "audit_log": "t.at < {before}",
}
_EXPIRE = "DELETE FROM {table} WHERE id IN (SELECT t.id FROM {table} t WHERE {condition} LIMIT %(batch)s {lock})"
# The row is locked and its times compared again: a session that a request continues at this moment is not deleted.
_RECHECKED = "FOR UPDATE SKIP LOCKED"
_APPEND_ONLY = frozenset({"audit_log"})  # never changed, hence never locked
# A caller's key names a request for a day; then the same key is a new request. Slack's messages keep theirs for good:
# a replay of one from our own tables must never be answered twice.
_FORGET_KEYS = """
WITH forgotten AS (
  UPDATE executions SET idempotency_key = 'old:' || id
  WHERE id IN (
    SELECT id FROM executions
    WHERE idempotency_key LIKE 'key:%%' AND created_at < now() - make_interval(secs => %(seconds)s)
    LIMIT %(batch)s FOR UPDATE SKIP LOCKED)
  RETURNING session_id
),
one_off AS (
  UPDATE sessions SET session_key = 'old:' || id
  WHERE id IN (SELECT session_id FROM forgotten) AND session_key LIKE 'once:%%'
)
SELECT count(*) AS forgotten FROM forgotten
"""
_FORGET_GROUPS_KEYS = """
UPDATE execution_groups SET idempotency_key = 'old:' || id
WHERE id IN (
  SELECT id FROM execution_groups
  WHERE idempotency_key LIKE 'key:%%' AND created_at < now() - make_interval(secs => %(seconds)s)
  LIMIT %(batch)s FOR UPDATE SKIP LOCKED)
"""
_EXPIRE_NONCES = "DELETE FROM submit_nonces WHERE seen_at < now() - interval '15 minutes'"
_EXPIRE_AUTHORIZATIONS = "DELETE FROM mcp_authorizations WHERE expires_at < now()"


class PostgresMaintenance:
    """Implements ports.MaintenanceStore."""

    def __init__(self, database: Database, chance: Chance) -> None:
        self._database = database
        self._chance = chance

    async def overdue_hints(self, *, older_than_s: float) -> list[Hint]:
        params = {"older_s": older_than_s, "orchestrators": [one.value for one in Orchestrator]}
        row = await self._database.system().one(_OVERDUE, params)
        return [Hint(HintTask(task), row_id) for task, row_id in (row or {}).items() if row_id is not None]

    async def release_expired_leases(self) -> int:
        unknown = Jsonb({"code": UNKNOWN_OUTCOME.code, "message": UNKNOWN_OUTCOME.message})
        row = await self._database.system().one(_RELEASE, {"unknown": unknown})
        return int(row["released"]) if row else 0

    async def running_past_deadline(self) -> list[str]:
        return [row["id"] for row in await self._database.system().all(_PAST_DEADLINE)]

    async def queued_to_end(self) -> list[tuple[str, str]]:
        return [(row["organization_id"], row["id"]) for row in await self._database.system().all(_QUEUED_TO_END)]

    async def late(self, *, after_s: float, away: Sequence[str] = ()) -> list[tuple[str, str]]:
        rows = await self._database.system().all(_LATE, {"after_s": after_s, "away": list(away)})
        return [(row["organization_id"], row["id"]) for row in rows]

    async def tell_late(self, organization_id: str, execution_id: str, *, text: str) -> str | None:
        payload = Jsonb({"text": text, "kind": NotificationKind.NOTICE.value})
        scope = self._database.tenant(organization_id)
        row = await scope.one(_TELL_LATE, {"id": execution_id, "payload": payload})
        return row["id"] if row else None

    async def instances_to_reconcile(self, *, every_s: float) -> list[str]:
        return [row["id"] for row in await self._database.system().all(_TO_RECONCILE, {"every_s": every_s})]

    async def expire(self, *, retention_s: Mapping[str, float], batch: int) -> Mapping[str, int]:
        deleted: dict[str, int] = {}
        for table, seconds in retention_s.items():
            condition = _EXPIRED[table].format(before="now() - make_interval(secs => %(seconds)s)")
            lock = "" if table in _APPEND_ONLY else _RECHECKED
            deleted[table] = await self._database.system().execute(
                _EXPIRE.format(table=table, condition=condition, lock=lock), {"seconds": seconds, "batch": batch}
            )
        for expire in (_EXPIRE_NONCES, _EXPIRE_AUTHORIZATIONS):
            await self._database.system().execute(expire)
        return deleted

    async def forget_idempotency_keys(self, *, after_s: float, batch: int) -> int:
        params = {"seconds": after_s, "batch": batch}
        row = await self._database.system().one(_FORGET_KEYS, params)
        groups = await self._database.system().execute(_FORGET_GROUPS_KEYS, params)
        return groups + (int(row["forgotten"]) if row else 0)

    async def renew(self, tokens: Sequence[str], *, lease_s: float) -> set[str]:
        rows = await self._database.system().all(_RENEW, {"tokens": list(tokens), "lease_s": lease_s})
        return {row["lease_owner"] for row in rows}

    async def gauges(self) -> Mapping[str, float]:
        row: Mapping[str, Any] = await self._database.system().one(_GAUGES) or {}
        return {name: float(value) for name, value in row.items()}

    async def busiest(self, *, limit: int, always: Sequence[str] = ()) -> list[OpenExecutions]:
        rows = await self._database.system().all(_BUSIEST, {"limit": limit, "always": list(always)})
        return [OpenExecutions(**row) for row in rows]
