"""After quiet the books are counted anew from the rows: nothing may still be taken, held or open, or not add up."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.row_sets import OCCUPYING_SQL
from nubabel_workers.domain.errors import TransientError

_WITHIN_S = 30.0
# What it counts -> how many there are; each has to be none.
_LEFT: Mapping[str, str] = {
    "executions that occupy a place": f"SELECT count(*) AS n FROM executions WHERE {OCCUPYING_SQL}",
    "leases of executions": "SELECT count(*) AS n FROM executions WHERE lease_owner IS NOT NULL",
    "leases of Slack's events": "SELECT count(*) AS n FROM inbound_events WHERE lease_owner IS NOT NULL",
    "leases of notifications": "SELECT count(*) AS n FROM notifications WHERE lease_owner IS NOT NULL",
    "holds of money": "SELECT count(*) AS n FROM budget_holds",
    "executions whose usage is not the sum of what was billed": """
        SELECT count(*) AS n FROM (
          SELECT e.id FROM executions e LEFT JOIN usage u ON u.execution_id = e.id GROUP BY e.id
          HAVING COALESCE((e.usage->>'input_tokens')::bigint, 0) <> COALESCE(sum(u.input_tokens), 0)
            OR COALESCE((e.usage->>'output_tokens')::bigint, 0) <> COALESCE(sum(u.output_tokens), 0)) AS differing""",
}


async def off_by_something(database: Database) -> list[str]:
    """What is not as it has to be, in words."""
    async with asyncio.timeout(_WITHIN_S):
        return await _off(database)


async def _off(database: Database) -> list[str]:
    found = []
    for what, statement in _LEFT.items():
        if count := await _count(database, statement):
            found.append(f"{count} {what}")
    return found


async def _count(database: Database, statement: str) -> int:
    """PostgreSQL was killed meanwhile: connections that were kept from before are met, and dropped, one by one."""
    while True:
        with suppress(TransientError):
            row = await database.system().one(statement)
            return int(row["n"]) if row else 0
