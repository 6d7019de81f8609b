"""After a restore: the rows are older than the world. What they were about to tell may have been told."""

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.row_sets import OPEN_SQL
from nubabel_workers.domain.administration import AuditAction, RestoreReport

# Outcomes and progress messages have ids that follow from their execution, hence the same delivery id as before the
# restore: they are found in their thread. A reaction is harmless to repeat.
_MARK = f"""
WITH execution AS (
  UPDATE executions SET outcome_in_doubt = true WHERE {OPEN_SQL} RETURNING id
),
notification AS (
  UPDATE notifications SET uncertain = true, uncertain_since = now()
  WHERE status IN ('ready', 'sending') AND kind <> 'working' RETURNING id
),
entered AS (
  INSERT INTO audit_log (actor, action) VALUES (%(actor)s, %(action)s)
)
SELECT (SELECT count(*) FROM execution) AS executions, (SELECT count(*) FROM notification) AS notifications
"""


class PostgresRestore:
    """Implements ports.administration.RestoreMarks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def mark(self, *, actor: str) -> RestoreReport:
        params = {"actor": actor, "action": AuditAction.RESTORED.value}
        row = await self._database.system().one(_MARK, params) or {}
        return RestoreReport(**row)
