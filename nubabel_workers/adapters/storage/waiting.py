"""Executions that wait for their OpenCode server: all that are ready put off in one statement, and woken in one."""

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.execution_rows import OPEN
from nubabel_workers.adapters.storage.row_sets import OCCUPYING_SQL

# The condition is that of the claim: what waits for its session waits for nothing else.
_PUT_OFF = f"""
WITH ready AS (
  SELECT e.id, e.waiting_for FROM executions e
  WHERE e.status = 'queued' AND e.not_before <= now()
    AND NOT EXISTS (
      SELECT 1 FROM executions b
      WHERE b.session_id = e.session_id AND b.id <> e.id AND b.{OPEN}
        AND (b.position < e.position OR b.{OCCUPYING_SQL}))
  ORDER BY e.position LIMIT %(limit)s
  FOR UPDATE SKIP LOCKED
),
off AS (
  UPDATE executions e
  SET not_before = now() + make_interval(secs => %(wait_s)s), waiting_for = %(reason)s
  FROM ready WHERE e.id = ready.id
  RETURNING e.id, e.organization_id, ready.waiting_for IS NOT DISTINCT FROM %(reason)s::text AS known
),
timeline AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT organization_id, id, 'waiting', jsonb_build_object('reason', %(reason)s::text) FROM off WHERE NOT known
)
SELECT count(*) AS n FROM off
"""
_BATCH = 500

_WAKE = """
UPDATE executions SET not_before = now()
WHERE id IN (
  SELECT e.id FROM executions e JOIN sessions s ON s.id = e.session_id
  WHERE e.status = 'queued' AND e.not_before > now() AND e.waiting_for = %(reason)s
    AND (s.instance_id IS NULL OR s.instance_id = %(instance_id)s)
  FOR UPDATE OF e SKIP LOCKED)
RETURNING id
"""


class PostgresWaiting:
    """Implements ports.WaitingStore. reason: what the timeline calls it."""

    def __init__(self, database: Database, *, reason: str) -> None:
        self._database = database
        self._reason = reason

    async def put_off(self, *, wait_s: float) -> int:
        """At most 500 at a time, so that no lock is held for long."""
        row = await self._database.system().one(_PUT_OFF, {"wait_s": wait_s, "reason": self._reason, "limit": _BATCH})
        return int(row["n"]) if row else 0

    async def wake(self, instance_id: str) -> list[str]:
        rows = await self._database.system().all(_WAKE, {"instance_id": instance_id, "reason": self._reason})
        return [row["id"] for row in rows]
