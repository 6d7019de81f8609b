"""Sessions as a caller knows them: by our id, by its own name, or by an OpenCode session that it has seen."""

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.row_sets import OPEN_SQL
from nubabel_workers.domain.ports import Conversation, LastRun

# An OpenCode session may have been replaced since: attempts remember all of them.
_FIND = f"""
WITH found AS (
  SELECT s.id, s.session_key, 1 AS rank FROM sessions s
  WHERE s.organization_id = %(organization_id)s AND s.id = %(name)s
  UNION ALL
  SELECT s.id, s.session_key, 2 FROM sessions s
  WHERE s.organization_id = %(organization_id)s AND s.session_key = 'api:' || %(name)s
  UNION ALL
  (SELECT s.id, s.session_key, 3 FROM attempts a
   JOIN executions e ON e.id = a.execution_id JOIN sessions s ON s.id = e.session_id
   WHERE a.opencode_session_id = %(name)s AND a.organization_id = %(organization_id)s
   ORDER BY a.started_at DESC LIMIT 1)
)
SELECT f.id AS session_id, f.session_key,
  (SELECT e.id FROM executions e WHERE e.session_id = f.id ORDER BY e.position DESC LIMIT 1) AS last_execution_id,
  (SELECT e.id FROM executions e WHERE e.session_id = f.id AND NOT e.{OPEN_SQL} ORDER BY e.position DESC LIMIT 1)
    AS last_ended_id
FROM found f ORDER BY f.rank LIMIT 1
"""

_LAST_RUN = """
SELECT
  (SELECT u.model FROM usage u WHERE u.execution_id = %(id)s AND u.organization_id = %(organization_id)s
     AND u.model <> 'unknown'
   ORDER BY u.output_tokens DESC, u.model LIMIT 1) AS model,
  (SELECT a.opencode_session_id FROM attempts a
   WHERE a.execution_id = %(id)s AND a.organization_id = %(organization_id)s
   ORDER BY a.number DESC LIMIT 1) AS opencode_session_id
"""


class PostgresConversations:
    """Implements ports.ConversationStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, organization_id: str, name: str) -> Conversation | None:
        row = await self._database.tenant(organization_id).one(
            _FIND, {"organization_id": organization_id, "name": name}
        )
        if row is None or row["last_execution_id"] is None:  # its executions have expired: nothing is left of it
            return None
        return Conversation(**row)

    async def last_run(self, organization_id: str, execution_id: str) -> LastRun:
        row = await self._database.tenant(organization_id).one(
            _LAST_RUN, {"organization_id": organization_id, "id": execution_id}
        )
        return LastRun(**row) if row else LastRun()
