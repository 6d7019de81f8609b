"""After quiet the books are counted anew from the rows: nothing may still be taken, held or open, or not add up."""

from collections.abc import Mapping

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.row_sets import OCCUPYING_SQL

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
    found = []
    for what, statement in _LEFT.items():
        row = await database.system().one(statement)
        if row is not None and row["n"]:
            found.append(f"{row['n']} {what}")
    return found
