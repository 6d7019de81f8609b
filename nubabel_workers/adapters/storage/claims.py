"""What the claims of all tables share: the rule by which they pick rows, and how claimed rows are read."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

import structlog

T = TypeVar("T")

UNREADABLE = "this release cannot read the row; was it written by a newer one?"

log = structlog.get_logger(__name__)


def candidates(table: str, *, ready: str, rank: str) -> str:
    """The beginning of a claim, `candidate(id, suspect, rank, named)`: of the rows r that are ready the one with
    %(id)s, and the first ones by rank, %(limit)s together. No others are locked: whoever names one of those at this
    moment would not get it. A named suspect, which is taken alone, is alone.

    Each is found by an index, on the id and on rank among those that wait: one order for both would be no index's, so
    that every claim had to read all that wait (278 ms of a hundred thousand, measured; 1 ms now). ready: without a
    condition that can be read as a join, such as a bare NOT EXISTS, for the same reason.
    """
    return f"""
by_name AS MATERIALIZED (
  SELECT r.id, r.suspect, {rank} AS rank FROM {table} r WHERE r.id = %(id)s AND {ready} FOR UPDATE SKIP LOCKED
),
by_rank AS MATERIALIZED (
  SELECT r.id, r.suspect, {rank} AS rank FROM {table} r WHERE r.id IS DISTINCT FROM %(id)s AND {ready}
  ORDER BY {rank}
  LIMIT (SELECT CASE WHEN bool_or(suspect) THEN 0 ELSE %(limit)s - count(*) END FROM by_name)
  FOR UPDATE SKIP LOCKED
),
candidate AS (
  SELECT id, suspect, rank, true AS named FROM by_name
  UNION ALL SELECT id, suspect, rank, false FROM by_rank
)"""


# From `candidate(id, suspect, rank, named)`: the named row first, then by rank. A suspect row (its last delivery
# ended without a result) is taken alone, so that a poison row takes no innocent ones with it; others_wait says that
# for its sake ready rows were left. By rank: suspects that came last would wait for ever where there is always work.
CHOSEN = """
numbered AS (SELECT id, suspect, row_number() OVER (ORDER BY named DESC, rank) AS place FROM candidate),
chosen AS (
  SELECT id FROM numbered
  WHERE CASE WHEN (SELECT suspect FROM numbered WHERE place = 1) THEN place = 1 ELSE NOT suspect END
)
"""
# For the statement that takes them. An array, and not a join: until a table that grew quickly is analyzed, the planner
# would read all of it for a join.
IS_CHOSEN = "id = ANY(ARRAY(SELECT id FROM chosen))"
OTHERS_WAIT = "(SELECT bool_or(suspect) FROM numbered) AS others_wait"


async def each_readable(
    rows: Iterable[Mapping[str, Any]],
    read: Callable[[Mapping[str, Any]], T],
    *,
    park: Callable[[Mapping[str, Any]], Awaitable[object]],
    lone_deliveries: int,
) -> list[T]:
    """Claimed rows as values. One that cannot be read keeps no other from being worked on.

    It is left to its lease, so that a newer release beside us, which may have written it, finds it; after so many lone
    deliveries it is parked.
    """
    values: list[T] = []
    for row in rows:
        try:
            values.append(read(row))
        except Exception:
            log.exception("row.unreadable", row_id=row["id"], organization_id=row.get("organization_id"))
            if row["lone_deliveries"] > lone_deliveries:
                await _parked(row, park)
    return values


async def _parked(row: Mapping[str, Any], park: Callable[[Mapping[str, Any]], Awaitable[object]]) -> None:
    try:
        await park(row)
    except Exception:
        # It comes back by its lease.
        log.exception("row.not_parked", row_id=row["id"], organization_id=row.get("organization_id"))


def from_stored(kind: type[T], stored: Mapping[str, Any]) -> T:
    """A dataclass from its stored JSON. Keys that only a newer release knows are passed over."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # T is a dataclass
    return kind(**{name: value for name, value in stored.items() if name in known})
