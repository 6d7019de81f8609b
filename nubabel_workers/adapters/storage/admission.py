"""What an organization's limits for new requests are compared with, counted from the rows."""

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.row_sets import OCCUPYING_SQL, OPEN_SQL
from nubabel_workers.domain.admission import Occupied
from nubabel_workers.domain.ports import KnownRequest

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
