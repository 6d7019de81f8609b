"""The audit log: entries are only ever added, and added by the very statement that makes the change."""

from typing import Any

from psycopg.types.json import Jsonb

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.domain.administration import AuditEntry

_INSERT = "INSERT INTO audit_log (organization_id, actor, action, subject, detail)"


def audited(change: str, *, before: str = "", after: str = "", detail: str = "%(audit_detail)s") -> str:
    """Wrap a data-changing statement that ends in RETURNING: one audit entry per changed row, in its transaction.

    The changed rows are the result. before, after: another part of the WITH list, which the change reads, or which
    reads `changed` (PostgreSQL changes data in its outermost WITH only). detail: an expression over `changed`, where
    only the statement knows it. Needs the parameters of `audit_params`.
    """
    return f"""
        WITH {before + "," if before else ""} changed AS ({change}), {after + "," if after else ""}
        entered AS ({_INSERT}
            SELECT %(audit_organization_id)s::text, %(audit_actor)s, %(audit_action)s, %(audit_subject)s,
                   {detail}
            FROM changed)
        SELECT * FROM changed
    """


def audit_params(entry: AuditEntry) -> dict[str, Any]:
    return {
        "audit_organization_id": entry.organization_id,
        "audit_actor": entry.actor,
        "audit_action": str(entry.action),
        "audit_subject": entry.subject,
        "audit_detail": Jsonb(dict(entry.detail)),
    }


class PostgresAuditTrail:
    """Reads the log; `add` is for changes that are made elsewhere (in a broker, by several statements)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, entry: AuditEntry) -> None:
        """What is of an organization that is erased, or just being, is not kept: nobody would delete it any more."""
        await self._database.system().execute(
            f"""{_INSERT}
            SELECT %(audit_organization_id)s::text, %(audit_actor)s, %(audit_action)s, %(audit_subject)s,
                   %(audit_detail)s
            WHERE %(audit_organization_id)s::text IS NULL OR EXISTS (
              SELECT FROM organizations WHERE id = %(audit_organization_id)s AND erasing_at IS NULL)""",
            audit_params(entry),
        )

    async def list(self, *, organization_id: str | None, limit: int) -> list[AuditEntry]:
        """Newest first; of one organization, or of all of them."""
        scope = self._database.tenant(organization_id) if organization_id else self._database.system()
        rows = await scope.all(
            """
            SELECT organization_id, actor, action, subject, detail, at FROM audit_log
            WHERE %(organization_id)s::text IS NULL OR organization_id = %(organization_id)s
            ORDER BY id DESC LIMIT %(limit)s
            """,
            {"organization_id": organization_id, "limit": limit},
        )
        return [AuditEntry(**row) for row in rows]
