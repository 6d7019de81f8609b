"""Whose an id is, across organizations. For the audit log of operators: no answer to a caller may depend on it."""

from collections.abc import Mapping

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.domain.foreign_ids import IdKind

# Each by a primary key, or the index of OpenCode's sessions.
_OWNERS: Mapping[IdKind, str] = {
    IdKind.EXECUTION: "SELECT organization_id FROM executions WHERE id = %(name)s",
    IdKind.BATCH: "SELECT organization_id FROM execution_groups WHERE id = %(name)s",
    IdKind.SESSION: """SELECT organization_id FROM sessions WHERE id = %(name)s
                       UNION SELECT organization_id FROM attempts WHERE opencode_session_id = %(name)s""",
    IdKind.CONNECTION: "SELECT organization_id FROM mcp_connections WHERE id = %(name)s",
}


class PostgresIdOwners:
    """Implements ports.administration.IdOwners."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def owners(self, kind: IdKind, name: str) -> frozenset[str]:
        rows = await self._database.system().all(_OWNERS[kind], {"name": name})
        return frozenset(row["organization_id"] for row in rows)
