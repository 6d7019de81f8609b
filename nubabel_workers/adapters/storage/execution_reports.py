"""Reads about executions for operators: lists, what they waited for, how far the telling is."""

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.domain.administration import Delivery, ExecutionSummary, SessionWait
from nubabel_workers.domain.executions import ExecutionError, Status

_PROMPT_START = 200  # characters


class PostgresExecutionReports:
    """ExecutionReports."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def organization_of(self, execution_id: str) -> str | None:
        """For operators, who name an execution by its id alone."""
        row = await self._database.system().one(
            "SELECT organization_id FROM executions WHERE id = %(id)s", {"id": execution_id}
        )
        return row["organization_id"] if row else None

    async def deliveries(self, organization_id: str, execution_id: str) -> list[Delivery]:
        rows = await self._database.tenant(organization_id).all(
            """
            SELECT kind, status, failures, created_at, sent_at, error, repeated AS possibly_repeated
            FROM notifications
            WHERE organization_id = %(organization_id)s AND execution_id = %(id)s ORDER BY created_at, id
            """,
            {"organization_id": organization_id, "id": execution_id},
        )
        return [Delivery(**row) for row in rows]

    async def session_wait(self, organization_id: str, execution_id: str) -> SessionWait | None:
        """The last earlier execution of the session that was not over when this one came; None if there was none."""
        row = await self._database.tenant(organization_id).one(
            """
            SELECT b.id AS execution_id, b.finished_at AS until
            FROM executions e JOIN executions b ON b.session_id = e.session_id AND b.position < e.position
            WHERE e.organization_id = %(organization_id)s AND e.id = %(id)s
              AND (b.finished_at IS NULL OR b.finished_at > e.created_at)
            ORDER BY b.position DESC LIMIT 1
            """,
            {"organization_id": organization_id, "id": execution_id},
        )
        return SessionWait(**row) if row else None

    async def list(
        self, *, organization_id: str | None, statuses: frozenset[Status] | None, limit: int
    ) -> list[ExecutionSummary]:
        """Newest first; of one organization, or of all of them."""
        scope = self._database.tenant(organization_id) if organization_id else self._database.system()
        rows = await scope.all(
            f"""
            SELECT id, organization_id, session_id, source, status, created_at, waiting_for, instance_id, attempt,
                   started_at, finished_at, error, left(prompt, {_PROMPT_START}) AS prompt_start
            FROM executions
            WHERE (%(organization_id)s::text IS NULL OR organization_id = %(organization_id)s)
              AND (%(statuses)s::text[] IS NULL OR status = ANY(%(statuses)s))
            ORDER BY created_at DESC, id DESC LIMIT %(limit)s
            """,
            {
                "organization_id": organization_id,
                "statuses": sorted(statuses) if statuses is not None else None,
                "limit": limit,
            },
        )
        return [
            ExecutionSummary(
                **{
                    **row,
                    "status": Status(row["status"]),
                    "error": ExecutionError(**row["error"]) if row["error"] else None,
                }
            )
            for row in rows
        ]
