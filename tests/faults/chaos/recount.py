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
            OR COALESCE((e.usage->>'output_tokens')::bigint, 0) <> COALESCE(sum(u.output_tokens), 0)
            OR COALESCE((e.usage->>'reasoning_tokens')::bigint, 0) <> COALESCE(sum(u.reasoning_tokens), 0)
            OR COALESCE((e.usage->>'cache_read_tokens')::bigint, 0) <> COALESCE(sum(u.cache_read_tokens), 0)
            OR COALESCE((e.usage->>'cache_write_tokens')::bigint, 0) <> COALESCE(sum(u.cache_write_tokens), 0)
            OR abs(COALESCE((e.usage->>'cost')::numeric, 0) - COALESCE(sum(u.cost), 0)) > {tolerated}) AS differing""",
    "organizations whose bill is not the sum of their attempts": """
        SELECT count(*) AS n FROM (
          SELECT o.id FROM organizations o
          LEFT JOIN (SELECT organization_id, sum(cost) AS cost, sum(input_tokens + output_tokens) AS tokens
                     FROM usage GROUP BY organization_id) u ON u.organization_id = o.id
          LEFT JOIN (SELECT organization_id, sum((usage->>'cost')::numeric) AS cost,
                       sum((usage->>'input_tokens')::bigint + (usage->>'output_tokens')::bigint) AS tokens
                     FROM attempts GROUP BY organization_id) a ON a.organization_id = o.id
          WHERE COALESCE(u.tokens, 0) <> COALESCE(a.tokens, 0)
            OR abs(COALESCE(u.cost, 0) - COALESCE(a.cost, 0)) > {tolerated}) AS differing""",
    "attempts that are open": """
        SELECT count(*) AS n FROM attempts a JOIN executions e ON e.id = a.execution_id
        WHERE a.ended_at IS NULL AND e.status IN ('completed', 'failed', 'cancelled', 'rejected')""",
    "executions whose attempt is not their newest": """
        SELECT count(*) AS n FROM executions e
        WHERE e.attempt <> COALESCE((SELECT max(number) FROM attempts a WHERE a.execution_id = e.id), 0)
          OR e.attempt <> (SELECT count(*) FROM attempts a WHERE a.execution_id = e.id)""",
    "executions whose pauses are not those of their timeline": """
        SELECT count(*) AS n FROM executions e
        WHERE e.pauses <> (SELECT count(*) FROM execution_events t
                           WHERE t.execution_id = e.id AND t.kind = 'budget_reached')""",
    "executions that did not end once by their timeline": """
        SELECT count(*) AS n FROM executions e
        WHERE (SELECT count(*) FROM execution_events t WHERE t.execution_id = e.id AND t.kind = 'finished')
          <> e.replays + (e.finished_at IS NOT NULL)::int""",
    "batches whose state is not what became of their executions": """
        SELECT count(*) AS n FROM (
          SELECT g.state, CASE
            WHEN bool_or(e.finished_at IS NULL) THEN 'running'
            WHEN bool_and(e.status = 'completed') THEN 'completed'
            WHEN g.cancel_reason IS NOT NULL AND bool_or(e.status = 'cancelled') THEN 'cancelled'
            ELSE 'completed_with_failures' END AS counted
          FROM execution_groups g JOIN executions e ON e.group_id = g.id GROUP BY g.id) AS groups
        WHERE state <> counted""",
    "batches that are not told once": """
        SELECT count(*) AS n FROM execution_groups g
        WHERE g.reply->>'kind' = 'webhook' AND g.finished_at IS NOT NULL
          AND (SELECT count(*) FROM notifications n WHERE n.payload->'data'->>'batch_id' = g.id) <> 1""",
    "servers with more directories than they may have": """
        SELECT count(*) AS n FROM instances i
        WHERE (SELECT count(*) FROM instance_directories d WHERE d.instance_id = i.id
               AND d.state IN ('wanted', 'ready', 'disposing')) > i.max_directories""",
    "directories that were left while they were unloaded": """
        SELECT count(*) AS n FROM instance_directories
        WHERE state = 'disposing' AND changed_at < now() - interval '3 minutes'""",
    "directories of sessions that have no row": """
        SELECT count(*) AS n FROM (
          SELECT DISTINCT s.instance_id, s.organization_id, s.opencode_directory
          FROM sessions s JOIN instances i ON i.id = s.instance_id
          WHERE s.opencode_session_id IS NOT NULL
            AND s.opencode_directory = i.directories_path || '/' || s.organization_id
            AND NOT EXISTS (
              SELECT 1 FROM instance_directories d
              WHERE d.instance_id = s.instance_id AND d.organization_id = s.organization_id
                AND d.path = s.opencode_directory)) AS without""",
}
_TOLERATED = 0.000001  # dollars; floating point is kept with each attempt, exact numbers are billed


async def off_by_something(database: Database) -> list[str]:
    """What is not as it has to be, in words."""
    async with asyncio.timeout(_WITHIN_S):
        return await _off(database)


async def pauses(database: Database) -> int:
    """How often a run was paused at a cap."""
    async with asyncio.timeout(_WITHIN_S):
        return await _count(database, "SELECT count(*) AS n FROM execution_events WHERE kind = 'budget_reached'")


async def _off(database: Database) -> list[str]:
    found = []
    for what, statement in _LEFT.items():
        if count := await _count(database, statement.replace("{tolerated}", str(_TOLERATED))):
            found.append(f"{count} {what}")
    return found


async def _count(database: Database, statement: str) -> int:
    """PostgreSQL was killed meanwhile: connections that were kept from before are met, and dropped, one by one."""
    while True:
        with suppress(TransientError):
            row = await database.system().one(statement)
            return int(row["n"]) if row else 0
