"""What an organization's limits for new requests are compared with, counted from the rows."""

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.row_sets import OCCUPYING_SQL, OPEN_SQL, SESSION_TAKEN_SQL
from nubabel_workers.domain.admission import Occupied
from nubabel_workers.domain.ports import KnownRequest
from nubabel_workers.domain.tenants import ServersPolicy
from nubabel_workers.domain.waiting import MOST_AHEAD, Line

_RUNS_LOOKED_AT = 20
# Two indexes hold what is not over: what waits by its turn, what occupies its session by organization.
_OCCUPIED = f"""
WITH waiting AS (
  SELECT session_id FROM executions WHERE organization_id = %(organization_id)s AND status = 'queued'
)
SELECT (SELECT count(*) FROM waiting) AS queued, (
  SELECT count(*) FROM (
    SELECT session_id FROM waiting
    UNION SELECT session_id FROM executions WHERE organization_id = %(organization_id)s AND {OCCUPYING_SQL}) AS open
) AS sessions
"""
_KNOWN = f"""
SELECT EXISTS (
  SELECT 1 FROM executions WHERE organization_id = %(organization_id)s AND idempotency_key = %(idempotency_key)s
) AS request, EXISTS (
  SELECT 1 FROM sessions s JOIN executions e ON e.session_id = s.id
  WHERE s.organization_id = %(organization_id)s AND s.session_key = %(session_key)s AND e.{OPEN_SQL}
) AS session_is_open
"""
_KNOWN_GROUP = """
SELECT 1 FROM execution_groups WHERE organization_id = %(organization_id)s AND idempotency_key = %(idempotency_key)s
"""
# Runs lately are looked for from the queue's front back: from the newest back all that waits would be read. No COALESCE
# there: row-level security fears that it might tell what it sees, and keeps it from the index.
_LINE = f"""
SELECT e.status = 'queued' AND {SESSION_TAKEN_SQL} AS session_is_taken, e.waiting_for AS stored_reason,
  e.status = 'waiting_budget' AS paused,
  (SELECT t.detail->>'cap' FROM execution_events t
   WHERE t.execution_id = e.id AND t.kind IN ('waiting', 'budget_reached') AND t.detail ? 'cap'
   ORDER BY t.id DESC LIMIT 1) AS cap,
  extract(epoch FROM e.not_before - now())::float8 AS wait_s,
  (SELECT count(*) FROM executions o WHERE o.organization_id = e.organization_id AND o.{OCCUPYING_SQL}) AS in_flight,
  (SELECT count(*) FROM (
     SELECT 1 FROM executions o
     WHERE o.organization_id = e.organization_id AND o.status = 'queued'
       AND (o.batch, o.position) < (e.batch, e.position)
     LIMIT {MOST_AHEAD}) AS before) AS ahead,
  (SELECT max(extract(epoch FROM now() - o.running_since))::float8 FROM executions o
   WHERE o.organization_id = e.organization_id AND o.{OCCUPYING_SQL}
     AND (o.session_id = e.session_id OR NOT {SESSION_TAKEN_SQL})) AS running_for_s,
  (SELECT avg(run_s) FROM (
     SELECT extract(epoch FROM o.finished_at - o.running_since)::float8 AS run_s FROM executions o
     WHERE o.organization_id = e.organization_id AND o.finished_at IS NOT NULL AND o.running_since IS NOT NULL
       AND o.created_at <= front.created_at
     ORDER BY o.created_at DESC LIMIT {_RUNS_LOOKED_AT}) AS lately) AS usual_run_s, o.servers
FROM executions e JOIN organizations o ON o.id = e.organization_id
CROSS JOIN LATERAL (
  (SELECT f.created_at FROM executions f WHERE f.organization_id = e.organization_id AND f.status = 'queued'
   ORDER BY f.batch, f.position LIMIT 1)
  UNION ALL SELECT now() LIMIT 1) AS front
WHERE e.organization_id = %(organization_id)s AND e.id = %(id)s AND e.status IN ('queued', 'waiting_budget')
"""


class PostgresAdmission:
    """Implements ports.AdmissionStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def occupied(self, organization_id: str) -> Occupied:
        params = {"organization_id": organization_id}
        row = await self._database.tenant(organization_id).one(_OCCUPIED, params)
        return Occupied(row["queued"], row["sessions"]) if row else Occupied(0, 0)

    async def known(self, organization_id: str, *, idempotency_key: str, session_key: str) -> KnownRequest:
        row = await self._database.tenant(organization_id).one(
            _KNOWN,
            {
                "organization_id": organization_id,
                "idempotency_key": idempotency_key,
                "session_key": session_key,
            },
        )
        return KnownRequest(row["request"], row["session_is_open"]) if row else KnownRequest(False, False)

    async def knows_group(self, organization_id: str, *, idempotency_key: str) -> bool:
        params = {"organization_id": organization_id, "idempotency_key": idempotency_key}
        return await self._database.tenant(organization_id).one(_KNOWN_GROUP, params) is not None

    async def line(self, organization_id: str, execution_id: str) -> Line | None:
        params = {"organization_id": organization_id, "id": execution_id}
        row = await self._database.tenant(organization_id).one(_LINE, params)
        return None if row is None else Line(**row | {"servers": ServersPolicy(row["servers"])})
