"""Sums over what was used."""

from collections.abc import Mapping
from typing import Any

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.domain.usage_report import Dimension, UsageLine, UsageQuery

_COLUMNS: Mapping[Dimension, str] = {
    Dimension.ORGANIZATION: "u.organization_id",
    Dimension.USER: "e.user_id",
    Dimension.SESSION: "e.session_id",
    Dimension.MODEL: "u.model",
    Dimension.DAY: "u.day",
}
_OF_EXECUTIONS = frozenset({Dimension.USER, Dimension.SESSION})
_TOTAL = "u.input_tokens + u.output_tokens + u.reasoning_tokens + u.cache_read_tokens + u.cache_write_tokens"
_SUMS = f"""
  count(DISTINCT u.execution_id) AS executions, COALESCE(sum(u.input_tokens), 0)::bigint AS input_tokens,
  COALESCE(sum(u.output_tokens), 0)::bigint AS output_tokens,
  COALESCE(sum(u.reasoning_tokens), 0)::bigint AS reasoning_tokens,
  COALESCE(sum(u.cache_read_tokens), 0)::bigint AS cache_read_tokens,
  COALESCE(sum(u.cache_write_tokens), 0)::bigint AS cache_write_tokens, COALESCE(sum(u.cost), 0) AS cost,
  COALESCE(bool_or(u.lower_bound), false) AS lower_bound, COALESCE(bool_or(u.cost_computed), false) AS cost_computed,
  COALESCE(sum({_TOTAL}) FILTER (WHERE u.cost = 0 AND NOT u.cost_computed), 0)::bigint AS unpriced_tokens
"""


class PostgresUsageReports:
    """Implements ports.administration.UsageReports."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def lines(self, query: UsageQuery, *, limit: int) -> list[UsageLine]:
        owner = query.organization_id
        scope = self._database.tenant(owner) if owner is not None else self._database.system()
        rows = await scope.all(
            _statement(query), {"organization_id": owner, "first": query.first, "last": query.last, "limit": limit}
        )
        return [_line(row) for row in rows]


def _statement(query: UsageQuery) -> str:
    """Put together from constants of ours; executions are looked at only for what they alone know."""
    columns = "".join(f"{_COLUMNS[one]} AS {one.value}_of, " for one in query.by)
    joined = "JOIN executions e ON e.id = u.execution_id" if _OF_EXECUTIONS & set(query.by) else ""
    if Dimension.ORGANIZATION in query.by:
        columns += "max(o.name) AS organization_name, "
        joined += " JOIN organizations o ON o.id = u.organization_id"
    places = ", ".join(str(place) for place in range(1, len(query.by) + 1))
    divided = f"GROUP BY {places} ORDER BY {places}" if places else ""
    return f"""
SELECT {columns}{_SUMS}
FROM usage u {joined}
WHERE (%(organization_id)s::text IS NULL OR u.organization_id = %(organization_id)s)
  AND u.day BETWEEN %(first)s AND %(last)s
{divided} LIMIT %(limit)s
"""


def _line(row: Mapping[str, Any]) -> UsageLine:
    return UsageLine(
        organization_id=row.get("organization_of"),
        organization_name=row.get("organization_name"),
        user_id=row.get("user_of"),
        session_id=row.get("session_of"),
        model=row.get("model_of"),
        day=row.get("day_of"),
        executions=row["executions"],
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        reasoning_tokens=row["reasoning_tokens"],
        cache_read_tokens=row["cache_read_tokens"],
        cache_write_tokens=row["cache_write_tokens"],
        cost=row["cost"],
        lower_bound=row["lower_bound"],
        cost_computed=row["cost_computed"],
        unpriced_tokens=row["unpriced_tokens"],
    )
