"""The store of executions as the front door uses it: accept, read, cancel. Runs are moved by the test."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, cast

from nubabel_workers.domain.administration import AuditAction, AuditEntry
from nubabel_workers.domain.admission import Occupied
from nubabel_workers.domain.executions import FINAL, EventKind, Execution, NewExecution, Status, TimelineEvent
from nubabel_workers.domain.hints import LONG_LINE
from nubabel_workers.domain.ids import ExecutionId, SessionId
from nubabel_workers.domain.ports import (
    Accepted,
    CancelWish,
    Chance,
    Clock,
    ExecutionStore,
    Finish,
    Finished,
    KnownRequest,
)
from nubabel_workers.domain.waiting import Line


@dataclass
class AcceptedExecutions:
    clock: Clock
    chance: Chance
    rows: dict[str, Execution] = field(default_factory=dict)
    sessions: dict[tuple[str, str], str] = field(default_factory=dict)  # (organization, session key) -> session
    accepted: list[NewExecution] = field(default_factory=list)
    events: dict[str, list[TimelineEvent]] = field(default_factory=dict)
    error: Exception | None = None  # raised by the next calls, as when the database is away
    errors: dict[str, Exception] = field(default_factory=dict)  # by execution: raised where it is looked for
    audited: list[AuditEntry] = field(default_factory=list)
    group_keys: set[tuple[str, str]] = field(default_factory=set)
    occupied_now: dict[str, Occupied] = field(default_factory=dict)
    _keys: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)  # -> (execution, request hash)

    def store(self) -> ExecutionStore:
        """As the port; what dispatch and completion use is not faked."""
        return cast("ExecutionStore", self)

    async def accept(
        self, new: NewExecution, *, working: Any, answer_by_s: float, inbound_event: Any = None
    ) -> Accepted:
        self._fail()
        key = new.organization_id, new.idempotency_key
        if key in self._keys:
            execution_id, request_hash = self._keys[key]
            row = self.rows[execution_id]
            return Accepted(row.id, row.session_id, False, row.status, request_hash)
        session_id = self.sessions.setdefault((new.organization_id, new.session_key), self.chance.new_id("ses"))
        busy = [row.id for row in self.rows.values() if row.session_id == session_id and row.status not in FINAL]
        line = sum(
            row.organization_id == new.organization_id for row in self.rows.values() if row.status is Status.QUEUED
        )
        row = _row(new, self.chance.new_id("exe"), session_id, self.clock)
        self.rows[row.id] = row
        self._keys[key] = row.id, new.request_hash
        self.accepted.append(new)
        self.events[row.id] = [TimelineEvent(self.clock.now(), EventKind.ACCEPTED, {"source": new.source})]
        long = line >= LONG_LINE
        return Accepted(row.id, session_id, True, Status.QUEUED, new.request_hash, None, busy, line_is_long=long)

    async def occupied(self, organization_id: str) -> Occupied:
        """The part of AdmissionStore that counts. occupied_now: what a test says instead."""
        if organization_id in self.occupied_now:
            return self.occupied_now[organization_id]
        open_ones = [
            row for row in self.rows.values() if row.organization_id == organization_id and row.status not in FINAL
        ]
        queued = sum(row.status is Status.QUEUED for row in open_ones)
        return Occupied(queued, len({row.session_id for row in open_ones}))

    async def known(self, organization_id: str, *, idempotency_key: str, session_key: str) -> KnownRequest:
        session_id = self.sessions.get((organization_id, session_key))
        is_open = any(row.session_id == session_id and row.status not in FINAL for row in self.rows.values())
        return KnownRequest((organization_id, idempotency_key) in self._keys, is_open)

    async def knows_group(self, organization_id: str, *, idempotency_key: str) -> bool:
        return (organization_id, idempotency_key) in self.group_keys

    async def line(self, organization_id: str, execution_id: str) -> Line | None:
        earlier = takewhile(lambda row: row.id != execution_id, self.rows.values())
        ahead = sum(row.status is Status.QUEUED and row.organization_id == organization_id for row in earlier)
        return Line(session_is_taken=False, ahead=ahead, in_flight=0, stored_reason=None, wait_s=0.0, usual_run_s=None)

    async def find(self, organization_id: str, execution_id: str) -> Execution | None:
        self._fail()
        if execution_id in self.errors:
            raise self.errors[execution_id]
        row = self.rows.get(execution_id)
        return row if row is not None and row.organization_id == organization_id else None

    async def by_key(self, organization_id: str, idempotency_key: str) -> str | None:
        self._fail()
        found = self._keys.get((organization_id, idempotency_key))
        return found[0] if found else None

    async def session_key(self, organization_id: str, session_id: str) -> str | None:
        named = (
            key for (owner, key), found in self.sessions.items() if (owner, found) == (organization_id, session_id)
        )
        return next(named, None)

    async def timeline(self, organization_id: str, execution_id: str) -> list[TimelineEvent]:
        return self.events[execution_id]

    async def request_cancel(
        self, organization_id: str, execution_id: str, *, reason: str, operator: str | None = None
    ) -> CancelWish | None:
        row = await self.find(organization_id, execution_id)
        if row is None:
            return None
        is_new = row.status not in FINAL and row.cancel_reason is None
        if is_new:
            row = self.move(execution_id, row.status, cancel_reason=reason)
            if operator is not None:
                action = AuditAction.EXECUTION_CANCELLED
                self.audited.append(AuditEntry(operator, action, organization_id, execution_id, {"reason": reason}))
        return CancelWish(row, is_new=is_new)

    async def cancel_queued(self, execution: Execution, finish: Finish) -> Finished | None:
        if self.rows[execution.id].status is not Status.QUEUED:
            return None
        self.move(execution.id, finish.status, error=finish.error)
        return Finished()

    def move(self, execution_id: str, status: Status, **fields: Any) -> Execution:
        """What workers would have done."""
        self.rows[execution_id] = replace(self.rows[execution_id], status=status, **fields)
        return self.rows[execution_id]

    def only(self) -> Execution:
        (row,) = self.rows.values()
        return row

    def statuses(self) -> Sequence[Status]:
        return [row.status for row in self.rows.values()]

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


def _row(new: NewExecution, execution_id: str, session_id: str, clock: Clock) -> Execution:
    return Execution(
        id=ExecutionId(execution_id),
        organization_id=new.organization_id,
        session_id=SessionId(session_id),
        source=new.source,
        status=Status.QUEUED,
        prompt=new.prompt,
        created_at=clock.now(),
        user_id=new.user_id,
        reply=new.reply,
        session_key=new.session_key,
        overrides=new.overrides,
        metadata=new.metadata,
        correlation_id=new.correlation_id,
        traceparent=new.traceparent,
        deadline_s=new.deadline_s,
    )
