"""Executions that wait for their OpenCode server: put off and woken by the hundreds, in one statement each."""

from collections.abc import Mapping
from typing import Any

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.row_sets import SESSION_TAKEN_SQL

# Apart, so that the line of an organization's own is found by its index, however many others wait. IS TRUE keeps the
# planner from joining all that waits where the walk along what is due ends after a batch.
_SHARED = """(NOT EXISTS (
      SELECT 1 FROM organizations o WHERE o.id = e.organization_id AND o.servers = 'dedicated')) IS TRUE"""
_OWN = "e.organization_id = %(pool)s"
# Each the order of an index, so that a batch is found without reading all that waits.
AS_DUE, _AS_THEY_CAME = "e.not_before", "e.batch, e.position"
BATCH = 500  # are put off or woken at a time, so that no lock is held for long; the others have their turn soon, too


def put_off(rows: str, wait_s: str) -> str:
    """The end of a statement that puts off these rows, of `ready` or made from it, and says so in their timelines."""
    return f"""
off AS (
  UPDATE executions e SET not_before = now() + make_interval(secs => {wait_s}), waiting_for = %(reason)s
  FROM {rows} WHERE e.id = {rows}.id
  RETURNING e.id, e.organization_id, {rows}.waiting_for IS NOT DISTINCT FROM %(reason)s::text AS known
),
timeline AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT organization_id, id, 'waiting', jsonb_build_object('reason', %(reason)s::text) FROM off WHERE NOT known
)
SELECT count(*) AS n FROM off
"""


def wake(which: str) -> str:
    """A statement that wakes the first of those that wait for the reason."""
    return f"""
UPDATE executions SET not_before = now()
WHERE id = ANY(ARRAY(
  SELECT e.id FROM executions e
  WHERE e.status = 'queued' AND e.not_before > now() AND e.waiting_for = %(reason)s AND {which}
  ORDER BY e.position LIMIT %(limit)s
  FOR UPDATE SKIP LOCKED))
RETURNING id
"""


def ready_for(orchestrator: str, which: str, order: str) -> str:
    """The condition is that of the claim: what waits for its session waits for nothing else."""
    return f"""
WITH ready AS (
  SELECT e.id, e.organization_id, e.waiting_for, e.position FROM executions e
  WHERE e.status = 'queued' AND e.orchestrator = {orchestrator} AND e.not_before <= now()
    AND {which} AND (NOT {SESSION_TAKEN_SQL}) IS TRUE
  ORDER BY {order} LIMIT %(limit)s
  FOR UPDATE OF e SKIP LOCKED
)"""


def _put_off(in_pool: str, order: str) -> str:
    return f"""{ready_for("'opencode'", in_pool, order)},{put_off("ready", "%(wait_s)s")}"""


def _space_out(in_pool: str, order: str) -> str:
    """An organization's first comes after the first ones of the others, its second after their second ones: one that
    has many there puts nobody behind them.
    """
    return f"""{ready_for("'opencode'", in_pool, order)},
paced AS (
  SELECT e.organization_id, count(*) AS n FROM executions e
  WHERE e.status = 'queued' AND e.waiting_for = %(reason)s AND e.not_before > now() AND {in_pool}
  GROUP BY e.organization_id
),
numbered AS (
  SELECT r.*, COALESCE(p.n, 0) + row_number() OVER (PARTITION BY r.organization_id ORDER BY r.position) AS nth
  FROM ready r LEFT JOIN paced p ON p.organization_id = r.organization_id
),
of_each AS MATERIALIZED (
  SELECT organization_id, max(n) AS n
  FROM (SELECT organization_id, n FROM paced UNION ALL SELECT organization_id, nth FROM numbered) AS either
  GROUP BY organization_id
),
round AS MATERIALIZED (
  SELECT nth, (SELECT sum(least(o.n, nth - 1)) FROM of_each o) AS before
  FROM (SELECT DISTINCT nth FROM numbered) AS each
),
placed AS (
  SELECT r.*, round.before + 1 AS place FROM numbered r JOIN round ON round.nth = r.nth
),{put_off("placed", "placed.place / %(per_s)s::float8")}"""


_PUT_OFF_SHARED, _PUT_OFF_OWN = _put_off(_SHARED, AS_DUE), _put_off(_OWN, _AS_THEY_CAME)
_SPACE_OUT_SHARED, _SPACE_OUT_OWN = _space_out(_SHARED, AS_DUE), _space_out(_OWN, _AS_THEY_CAME)

# A look-up for each row: as EXISTS, all sessions would be read at once.
_WAKE = wake("""(
    SELECT s.instance_id IS NULL OR s.instance_id = %(instance_id)s FROM sessions s WHERE s.id = e.session_id)""")

# A follow-up that waits for its session counts as well: to tell it apart would take longer than the claim it costs.
_IN_LINE = """
SELECT id FROM executions
WHERE status = 'queued' AND orchestrator = 'opencode' AND not_before <= now() ORDER BY not_before LIMIT 1
"""


class PostgresWaiting:
    """Implements ports.WaitingStore. away, pace: what the timeline calls the two reasons to wait."""

    def __init__(self, database: Database, *, away: str, pace: str) -> None:
        self._database = database
        self._away = away
        self._pace = pace

    async def put_off(self, pool: str | None, *, wait_s: float) -> int:
        """At most 500 at a time, so that no lock is held for long."""
        return await self._each(
            _PUT_OFF_SHARED if pool is None else _PUT_OFF_OWN, pool, {"wait_s": wait_s, "reason": self._away}
        )

    async def space_out(self, pool: str | None, *, per_s: float) -> int:
        """At most 500 at a time as well."""
        return await self._each(
            _SPACE_OUT_SHARED if pool is None else _SPACE_OUT_OWN, pool, {"per_s": per_s, "reason": self._pace}
        )

    async def wake(self, instance_id: str) -> list[str]:
        params = {"instance_id": instance_id, "reason": self._away, "limit": BATCH}
        rows = await self._database.system(walks=True).all(_WAKE, params)
        return [row["id"] for row in rows]

    async def next_in_line(self) -> str | None:
        row = await self._database.system(walks=True).one(_IN_LINE)
        return row["id"] if row else None

    async def _each(self, statement: str, pool: str | None, params: Mapping[str, Any]) -> int:
        row = await self._database.system(walks=True).one(statement, {**params, "pool": pool, "limit": BATCH})
        return int(row["n"]) if row else 0
