"""The store of groups over the faked executions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nubabel_workers.domain.executions import FINAL, NewExecution, Status
from nubabel_workers.domain.groups import ExecutionGroup, GroupItem, GroupState, GroupSummary, NewGroup
from nubabel_workers.domain.ports import AcceptedGroup
from tests.fakes.accepted_executions import AcceptedExecutions


@dataclass
class FakeGroups:
    """GroupStore and GroupReports. told: the replies of the groups that were finished."""

    executions: AcceptedExecutions
    rows: dict[str, ExecutionGroup] = field(default_factory=dict)
    members: dict[str, list[str]] = field(default_factory=dict)
    told: list[Mapping[str, Any]] = field(default_factory=list)
    _keys: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)  # -> (group, request hash)
    _with_reply: set[str] = field(default_factory=set)

    async def accept(self, group: NewGroup, executions: Sequence[NewExecution], *, answer_by_s: float) -> AcceptedGroup:
        key = group.organization_id, group.idempotency_key
        if key in self._keys:
            return AcceptedGroup(*self._keys[key], created=False)
        self._keys[key] = group.id, group.request_hash
        self.executions.group_keys.add(key)
        items = [await self.executions.accept(one, working=None, answer_by_s=answer_by_s) for one in executions]
        for item in items:
            self.executions.move(item.execution_id, Status.QUEUED, group_id=group.id)
        self.members[group.id] = [item.execution_id for item in items]
        now = self.executions.clock.now()
        self.rows[group.id] = ExecutionGroup(
            group.id, group.organization_id, GroupState.RUNNING, group.on_failure, now, None, None, ()
        )
        if group.reply["kind"] == "webhook":
            self._with_reply.add(group.id)
        own = {item.execution_id for item in items}
        earlier = [replace(one, busy_execution_ids=[*{*one.busy_execution_ids} - own]) for one in items]
        return AcceptedGroup(group.id, group.request_hash, created=True, items=earlier)

    async def find(self, organization_id: str, group_id: str) -> ExecutionGroup | None:
        row = self.rows.get(group_id)
        if row is None or row.organization_id != organization_id:
            return None
        members = [self.executions.rows[one] for one in self.members[group_id]]
        items = [
            GroupItem(
                one.id,
                one.session_id,
                one.status,
                one.output,
                one.output_cut,
                one.notes,
                one.error,
                one.usage,
                one.metadata,
                one.cancel_reason is not None,
            )
            for one in members
        ]
        return replace(row, items=items)

    standing = find

    async def request_cancel(self, organization_id: str, group_id: str, *, reason: str) -> bool:
        self.rows[group_id] = replace(self.rows[group_id], cancel_reason=reason)
        return True

    async def stop_rest(self, organization_id: str, group_id: str, *, reason: str) -> list[tuple[str, Status]]:
        found = [self.executions.rows[one] for one in reversed(self.members[group_id])]
        to_stop = [one for one in found if one.status not in FINAL and one.cancel_reason is None]
        for one in to_stop:
            self.executions.move(one.id, one.status, cancel_reason=reason)
        return [(one.id, one.status) for one in to_stop]

    async def finish(
        self, group: ExecutionGroup, state: GroupState, *, reply: Mapping[str, Any]
    ) -> tuple[str, ...] | None:
        if self.rows[group.id].state is not GroupState.RUNNING:
            return None
        self.rows[group.id] = replace(self.rows[group.id], state=state, finished_at=self.executions.clock.now())
        if group.id not in self._with_reply:
            return ()
        self.told.append(reply)
        return (f"ntf_webhook_{group.id[4:]}",)

    async def due(self, *, limit: int) -> list[tuple[str, str]]:
        running = [row for row in self.rows.values() if row.state is GroupState.RUNNING]
        return [(str(row.organization_id), row.id) for row in running[:limit]]

    async def organization_of(self, group_id: str) -> str | None:
        row = self.rows.get(group_id)
        return row.organization_id if row else None

    async def list(self, *, organization_id: str | None, limit: int) -> list[GroupSummary]:
        return [
            GroupSummary(
                row.id,
                row.organization_id,
                row.state,
                len(self.members[row.id]),
                sum(self.executions.rows[one].status in FINAL for one in self.members[row.id]),
                0,
                row.created_at,
                row.finished_at,
            )
            for row in list(self.rows.values())[:limit]
            if organization_id in {None, row.organization_id}
        ]
