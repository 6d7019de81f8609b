"""Groups of executions in PostgreSQL: accepted in one statement, told by one."""

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg.types.json import Jsonb

from nubabel_workers.adapters.storage.claims import from_stored
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.execution_rows import json_list, new_execution_params, usage_from
from nubabel_workers.adapters.storage.row_sets import AWAITS_TURN_SQL, OPEN_SQL
from nubabel_workers.domain.errors import LeaseLostError
from nubabel_workers.domain.executions import ExecutionError, NewExecution, Status
from nubabel_workers.domain.groups import (
    ExecutionGroup,
    GroupItem,
    GroupState,
    GroupSummary,
    NewGroup,
    OnFailure,
)
from nubabel_workers.domain.ids import OrganizationId
from nubabel_workers.domain.ports import Accepted, AcceptedGroup, Chance, Clock
from nubabel_workers.domain.rollout import EVERYTHING_ON_OPENCODE, Rollout

# Requests that share a session get one row of it. In the order of their keys, so that two groups that take the same
# sessions wait for each other and never crosswise. Positions are given in the order of the insert.
_ACCEPT = f"""
WITH grp AS (
  INSERT INTO execution_groups (
    id, organization_id, on_failure, reply, idempotency_key, request_hash, correlation_id, traceparent)
  VALUES (%(id)s, %(organization_id)s, %(on_failure)s, %(reply)s, %(idempotency_key)s, %(request_hash)s,
    %(correlation_id)s, %(traceparent)s)
  ON CONFLICT (organization_id, idempotency_key) DO NOTHING
  RETURNING id, organization_id
),
asked AS (
  SELECT i.*, grp.id AS group_id, grp.organization_id
  FROM grp, jsonb_to_recordset(%(items)s) AS i(
    id text, place int, new_session_id text, session_key text, source text, prompt text, user_id text, reply jsonb,
    overrides jsonb, attachments jsonb, request_metadata jsonb, idempotency_key text, request_hash text,
    message_created_ms bigint, correlation_id text, traceparent text, deadline_s int, batch boolean,
    orchestrator text)
),
ses AS (
  INSERT INTO sessions (id, organization_id, session_key, source, user_id)
  SELECT DISTINCT ON (session_key) new_session_id, organization_id, session_key, source, user_id
  FROM asked ORDER BY session_key, place
  ON CONFLICT (organization_id, session_key) DO UPDATE SET last_active_at = now()
  RETURNING id, session_key
),
exe AS (
  INSERT INTO executions (
    id, organization_id, session_id, source, prompt, user_id, reply, overrides, attachments, request_metadata,
    idempotency_key, request_hash, message_created_ms, correlation_id, traceparent, deadline_s, batch, orchestrator,
    group_id, answer_by)
  SELECT a.id, a.organization_id, ses.id, a.source, a.prompt, a.user_id, a.reply, a.overrides, a.attachments,
    a.request_metadata, a.idempotency_key, a.request_hash, a.message_created_ms, a.correlation_id, a.traceparent,
    a.deadline_s, a.batch, a.orchestrator, a.group_id, now() + make_interval(secs => %(answer_by_s)s)
  FROM asked a JOIN ses USING (session_key)
  ORDER BY a.place
  RETURNING id, organization_id, session_id, source, position
),
timeline AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT organization_id, id, 'accepted', jsonb_build_object('source', source, 'batch', %(id)s::text) FROM exe
)
SELECT exe.id, exe.session_id,
  (SELECT array_agg(b.id ORDER BY b.position) FROM executions b
   WHERE b.session_id = exe.session_id AND b.{OPEN_SQL} AND NOT ({AWAITS_TURN_SQL})) AS busy
FROM exe ORDER BY exe.position
"""

_BY_KEY = """
SELECT id, request_hash FROM execution_groups
WHERE organization_id = %(organization_id)s AND idempotency_key = %(idempotency_key)s
"""

_FIND = """
SELECT id, organization_id, state, on_failure, created_at, finished_at, cancel_reason
FROM execution_groups WHERE id = %(id)s AND organization_id = %(organization_id)s
"""

_ITEMS = """
SELECT id AS execution_id, session_id, status, output, output_cut, notes, error, usage, request_metadata AS metadata,
  cancel_requested_at IS NOT NULL AS cancel_requested
FROM executions WHERE group_id = %(id)s AND organization_id = %(organization_id)s ORDER BY position
"""

# What its replies say is looked at once they are wanted: while a group runs this is asked at each end in it.
_STANDS = """
SELECT id AS execution_id, session_id, status, NULL AS output, false AS output_cut, '[]'::jsonb AS notes,
  NULL AS error, NULL AS usage, NULL AS metadata, cancel_requested_at IS NOT NULL AS cancel_requested
FROM executions WHERE group_id = %(id)s AND organization_id = %(organization_id)s ORDER BY position
"""

_REQUEST_CANCEL = """
UPDATE execution_groups SET cancel_requested_at = now(), cancel_reason = %(reason)s
WHERE id = %(id)s AND organization_id = %(organization_id)s AND state = 'running' AND cancel_requested_at IS NULL
RETURNING id
"""

_STOP_REST = f"""
WITH stopped AS (
  UPDATE executions
  SET cancel_requested_at = now(), cancel_reason = %(reason)s,
    check_at = CASE WHEN status = 'running' THEN now() ELSE check_at END
  WHERE group_id = %(id)s AND organization_id = %(organization_id)s AND {OPEN_SQL} AND cancel_requested_at IS NULL
  RETURNING id, organization_id, status, position
),
timeline AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT organization_id, id, 'cancel_requested', jsonb_build_object('reason', %(reason)s::text) FROM stopped
)
SELECT id, status FROM stopped ORDER BY position DESC
"""

# Of an organization that is being erased nobody is told.
_NOT_ERASED = """NOT EXISTS (
    SELECT 1 FROM organizations o WHERE o.id = g.organization_id AND o.erasing_at IS NOT NULL)"""

# Whoever comes second, at once or later, finds its state changed. The notification's id follows from the group.
_FINISH = f"""
WITH done AS (
  UPDATE execution_groups g SET state = %(state)s, finished_at = now()
  WHERE g.id = %(id)s AND g.organization_id = %(organization_id)s AND g.state = 'running' AND {_NOT_ERASED}
    AND NOT EXISTS (SELECT 1 FROM executions e WHERE e.group_id = %(id)s AND e.{OPEN_SQL})
  RETURNING g.id, g.organization_id, g.reply, g.correlation_id, g.traceparent
),
told AS (
  INSERT INTO notifications (id, organization_id, kind, destination, payload, correlation_id, traceparent)
  SELECT 'ntf_webhook_' || substr(done.id, 5), done.organization_id, 'webhook', done.reply, %(payload)s,
    done.correlation_id, done.traceparent
  FROM done WHERE done.reply->>'kind' = 'webhook'
  ON CONFLICT (id) DO NOTHING
  RETURNING id
)
SELECT done.id, (SELECT id FROM told) AS notification_id FROM done
"""

# Sums of one group's executions: what keeps the planner from looking through those that belong to no group.
_SUMS = f"""
  SELECT count(*) AS executions, count(*) FILTER (WHERE NOT e.{OPEN_SQL}) AS ended,
    count(*) FILTER (WHERE e.status IN ('failed', 'rejected')) AS failed,
    count(*) FILTER (WHERE e.{OPEN_SQL} AND e.cancel_requested_at IS NULL) AS unstopped
  FROM executions e WHERE e.group_id = g.id
"""

_DUE = f"""
SELECT g.organization_id, g.id FROM execution_groups g CROSS JOIN LATERAL ({_SUMS}) AS sums
WHERE g.state = 'running' AND {_NOT_ERASED} AND (
  sums.ended = sums.executions
  OR sums.unstopped > 0
    AND (g.cancel_requested_at IS NOT NULL OR g.on_failure = 'cancel_rest' AND sums.failed > 0))
ORDER BY g.id LIMIT %(limit)s
"""

_LIST = f"""
SELECT g.id, g.organization_id, g.state, g.created_at, g.finished_at, sums.executions, sums.ended, sums.failed
FROM (
  SELECT * FROM execution_groups
  WHERE %(organization_id)s::text IS NULL OR organization_id = %(organization_id)s
  ORDER BY created_at DESC, id DESC LIMIT %(limit)s) AS g
CROSS JOIN LATERAL ({_SUMS}) AS sums
ORDER BY g.created_at DESC, g.id DESC
"""


class PostgresGroups:
    """Implements ports.GroupStore and ports.administration.GroupReports."""

    def __init__(
        self, database: Database, clock: Clock, chance: Chance, *, rollout: Rollout = EVERYTHING_ON_OPENCODE
    ) -> None:
        self._rollout = rollout
        self._database = database
        self._clock = clock
        self._chance = chance

    async def accept(self, group: NewGroup, executions: Sequence[NewExecution], *, answer_by_s: float) -> AcceptedGroup:
        scope = self._database.tenant(group.organization_id)
        params = {
            "id": group.id,
            "organization_id": group.organization_id,
            "on_failure": group.on_failure.value,
            "reply": Jsonb(dict(group.reply)),
            "idempotency_key": group.idempotency_key,
            "request_hash": group.request_hash,
            "correlation_id": group.correlation_id,
            "traceparent": group.traceparent,
            "answer_by_s": answer_by_s,
            "items": json_list([self._item(place, new) for place, new in enumerate(executions)]),
        }
        rows = await scope.all(_ACCEPT, params)
        if not rows:
            return await self._known(group)
        items = [
            Accepted(row["id"], row["session_id"], True, Status.QUEUED, "", busy_execution_ids=tuple(row["busy"] or ()))
            for row in rows
        ]
        return AcceptedGroup(group.id, group.request_hash, created=True, items=items)

    def _item(self, place: int, new: NewExecution) -> dict[str, Any]:
        """message_created_ms: apart, so that prompts of one session keep their order on OpenCode."""
        params = {
            name: value.obj if isinstance(value, Jsonb) else value
            for name, value in new_execution_params(new, self._rollout).items()
        }
        return params | {
            "id": self._chance.new_id("exe"),
            "new_session_id": self._chance.new_id("ses"),
            "message_created_ms": int(self._clock.now().timestamp() * 1000) + place,
            "place": place,
        }

    async def _known(self, group: NewGroup) -> AcceptedGroup:
        params = {"organization_id": group.organization_id, "idempotency_key": group.idempotency_key}
        row = await self._database.tenant(group.organization_id).one(_BY_KEY, params)
        if row is None:  # forgotten between the two statements: harmless to try again
            raise LeaseLostError("the earlier batch with this key has just been forgotten")
        return AcceptedGroup(row["id"], row["request_hash"], created=False)

    async def find(self, organization_id: str, group_id: str) -> ExecutionGroup | None:
        return await self._read(organization_id, group_id, _ITEMS)

    async def standing(self, organization_id: str, group_id: str) -> ExecutionGroup | None:
        return await self._read(organization_id, group_id, _STANDS)

    async def _read(self, organization_id: str, group_id: str, items: str) -> ExecutionGroup | None:
        scope = self._database.tenant(organization_id)
        params = {"organization_id": organization_id, "id": group_id}
        row = await scope.one(_FIND, params)
        if row is None:
            return None
        return ExecutionGroup(
            id=row["id"],
            organization_id=OrganizationId(row["organization_id"]),
            state=GroupState(row["state"]),
            on_failure=OnFailure(row["on_failure"]),
            created_at=row["created_at"],
            finished_at=row["finished_at"],
            cancel_reason=row["cancel_reason"],
            items=[_item_from(item) for item in await scope.all(items, params)],
        )

    async def request_cancel(self, organization_id: str, group_id: str, *, reason: str) -> bool:
        params = {"organization_id": organization_id, "id": group_id, "reason": reason}
        row = await self._database.tenant(organization_id).one(_REQUEST_CANCEL, params)
        return row is not None

    async def stop_rest(self, organization_id: str, group_id: str, *, reason: str) -> list[tuple[str, Status]]:
        params = {"organization_id": organization_id, "id": group_id, "reason": reason}
        rows = await self._database.tenant(organization_id).all(_STOP_REST, params)
        return [(row["id"], Status(row["status"])) for row in rows]

    async def finish(
        self, group: ExecutionGroup, state: GroupState, *, reply: Mapping[str, Any]
    ) -> tuple[str, ...] | None:
        params = {
            "organization_id": group.organization_id,
            "id": group.id,
            "state": state.value,
            "payload": Jsonb(dict(reply)),
        }
        row = await self._database.tenant(group.organization_id).one(_FINISH, params)
        if row is None:
            return None
        return () if row["notification_id"] is None else (row["notification_id"],)

    async def due(self, *, limit: int) -> list[tuple[str, str]]:
        rows = await self._database.system().all(_DUE, {"limit": limit})
        return [(row["organization_id"], row["id"]) for row in rows]

    # --- for operators ---

    async def organization_of(self, group_id: str) -> str | None:
        row = await self._database.system().one(
            "SELECT organization_id FROM execution_groups WHERE id = %(id)s", {"id": group_id}
        )
        return row["organization_id"] if row else None

    async def list(self, *, organization_id: str | None, limit: int) -> list[GroupSummary]:
        scope = self._database.tenant(organization_id) if organization_id else self._database.system()
        rows = await scope.all(_LIST, {"organization_id": organization_id, "limit": limit})
        return [GroupSummary(**{**row, "state": GroupState(row["state"])}) for row in rows]


def _item_from(row: Mapping[str, Any]) -> GroupItem:
    return GroupItem(
        **{
            **row,
            "status": Status(row["status"]),
            "error": from_stored(ExecutionError, row["error"]) if row["error"] else None,
            "usage": usage_from(row["usage"]),
        }
    )
