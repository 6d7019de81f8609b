"""Dead letters as an operator looks at them first: how many, since when, why."""

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.domain.administration import DeadLetterGroup
from nubabel_workers.domain.dead_letters import DeadLetterReason, DeadLetterStatus


class PostgresDeadLetterReports:
    """DeadLetterReports, across organizations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def groups(self, *, organization_id: str | None, status: DeadLetterStatus) -> list[DeadLetterGroup]:
        rows = await self._database.system().all(
            """
            SELECT reason, queue, task, count(*) AS count, min(created_at) AS oldest, max(created_at) AS newest,
                   (array_agg(id ORDER BY created_at DESC))[1] AS sample_id,
                   (array_agg(error ORDER BY created_at DESC))[1] AS sample_error
            FROM dead_letters
            WHERE status = %(status)s AND (%(organization_id)s::text IS NULL OR organization_id = %(organization_id)s)
            GROUP BY reason, queue, task ORDER BY count(*) DESC, max(created_at) DESC
            """,
            {"organization_id": organization_id, "status": status.value},
        )
        return [DeadLetterGroup(**{**row, "reason": DeadLetterReason(row["reason"])}) for row in rows]
