"""Tool servers and a ledger in memory, for tests of what is between them."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nubabel_workers.domain.errors import CredentialsError, NotFoundError, UnavailableError
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.tool_calls import (
    UNKNOWN_OUTCOME,
    CallStatus,
    NewToolCall,
    Tool,
    ToolCallEnd,
    ToolCallRecord,
    ToolResult,
)
from nubabel_workers.domain.tools import ConnectionStatus, ToolConnection, ToolCredentials
from tests.fakes.clock import START


@dataclass
class FakeToolConnections:
    """refused: revisions that no renewal follows."""

    connections: list[ToolConnection] = field(default_factory=list)
    token: str = "t0ken-of-the-tenant"
    revision: int = 1
    renews: bool = True
    marked: list[tuple[str, int]] = field(default_factory=list)
    executions: set[str | None] = field(default_factory=set)

    async def serving(self, organization_id: str) -> Sequence[ToolConnection]:
        return [one for one in self.connections if one.organization_id == organization_id]

    async def access(
        self,
        organization_id: str,
        connection_id: str,
        *,
        refused_revision: int | None = None,
        execution_id: str | None = None,
    ) -> ToolCredentials:
        self.executions.add(execution_id)
        found = next(one for one in await self.serving(organization_id) if one.id == connection_id)
        if found.status is not ConnectionStatus.ACTIVE:
            raise CredentialsError("not active", code=f"connection_{found.status}")
        if refused_revision == self.revision:
            if not self.renews:
                raise CredentialsError("the connection was refused", code="connection_refused")
            self.revision += 1
        return ToolCredentials(self.revision, headers={"Authorization": f"Bearer {self.token}-{self.revision}"})

    async def mark_refused(
        self, organization_id: str, connection_id: str, *, revision: int, reason: str, execution_id: str | None = None
    ) -> bool:
        self.marked.append((connection_id, revision))
        return True


Answer = ToolResult | Exception | Callable[[], Any]


@dataclass
class FakeToolServers:
    """answers: what the next calls come to. accepts: the least revision of credentials. away: connections."""

    offers: dict[str, list[Tool]] = field(default_factory=dict)  # by connection
    answers: list[Answer] = field(default_factory=list)
    accepts: int = 1
    away: set[str] = field(default_factory=set)
    calls: list[tuple[str, str, Mapping[str, Any]]] = field(default_factory=list)
    hold: asyncio.Event | None = None
    before_call: Callable[[], None] | None = None

    async def tools(self, connection: ToolConnection, credentials: ToolCredentials) -> Sequence[Tool]:
        self._check(connection, credentials)
        return self.offers[connection.id]

    async def call(
        self,
        connection: ToolConnection,
        credentials: ToolCredentials,
        tool: Tool,
        arguments: Mapping[str, Any],
        *,
        may_go: Callable[[], None],
    ) -> ToolResult:
        self._check(connection, credentials)
        if self.before_call is not None:
            self.before_call()
        may_go()
        self.calls.append((connection.provider, tool.name, arguments))
        if self.hold is not None:
            await self.hold.wait()
        answer = self.answers.pop(0) if self.answers else ToolResult("done")
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, ToolResult):
            return answer
        result: ToolResult = answer()
        return result

    def _check(self, connection: ToolConnection, credentials: ToolCredentials) -> None:
        if connection.id in self.away:
            raise UnavailableError("it is away")
        if credentials.revision < self.accepts:
            raise CredentialsError("it refuses the credentials", code="unauthorized")


@dataclass
class FakeToolCallLedger:
    """dead: ids whose process died. fails: how many of the next outcomes cannot be written. away: nothing works."""

    rows: dict[str, ToolCallRecord] = field(default_factory=dict)
    new: list[NewToolCall] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)
    over: bool = False
    fails: int = 0
    away: bool = False

    async def begin(self, new: NewToolCall, lease: Lease) -> tuple[ToolCallRecord, bool]:
        known = self.rows.get(new.id)
        if known is None:
            if self.over:
                raise NotFoundError("the execution is over", code="execution_over")
            self.new.append(new)
            return self._set(_record(new)), True
        lost = known.status is CallStatus.STARTED and new.id in self.dead
        if known.fingerprint != new.fingerprint or not (lost or known.status is CallStatus.UNKNOWN):
            return known, False
        self.dead.discard(new.id)
        if known.repeatable:
            again = replace(known, status=CallStatus.STARTED, try_number=known.try_number + 1, error=None)
            return self._set(again), True
        return self._set(replace(known, status=CallStatus.UNKNOWN, error=UNKNOWN_OUTCOME)), False

    async def finish(self, begun: ToolCallRecord, end: ToolCallEnd) -> bool:
        if self.fails:
            self.fails -= 1
            raise UnavailableError("the database is away")
        self._set(
            replace(self.rows[begun.id], status=end.status, result=end.result, error=end.error, altered=end.altered)
        )
        return True

    async def find(self, organization_id: str, tool_call_id: str) -> ToolCallRecord | None:
        if self.away:
            raise UnavailableError("the database is away")
        found = self.rows.get(tool_call_id)
        return found if found is not None and found.organization_id == organization_id else None

    def _set(self, record: ToolCallRecord) -> ToolCallRecord:
        self.rows[record.id] = record
        return record


def _record(new: NewToolCall) -> ToolCallRecord:
    asked = new.request
    return ToolCallRecord(
        id=new.id,
        organization_id=asked.organization_id,
        execution_id=asked.execution_id,
        opencode_session_id=asked.opencode_session_id,
        call_id=asked.call_id,
        connection_id=new.connection_id,
        provider=new.provider,
        tool_name=asked.tool_name,
        fingerprint=new.fingerprint,
        repeatable=new.repeatable,
        status=CallStatus.STARTED,
        try_number=1,
        started_at=START,
        arguments=new.arguments,
    )
