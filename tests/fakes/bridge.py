"""What the bridge looks up: conversations over the faked executions, and OpenCode servers that answer or don't."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import cast

from nubabel_workers.adapters.opencode import UnexpectedAnswerError
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.executions import FINAL
from nubabel_workers.domain.ports import (
    Conversation,
    ConversationStore,
    InstanceStore,
    LastRun,
    OpenCodeServer,
)
from nubabel_workers.domain.tenants import Instance
from tests.fakes.accepted_executions import AcceptedExecutions


@dataclass
class FakeConversations(ConversationStore):
    executions: AcceptedExecutions
    model: str | None = "anthropic/claude-sonnet-4-5"

    async def find(self, organization_id: str, name: str) -> Conversation | None:
        rows = [row for row in self.executions.rows.values() if row.organization_id == organization_id]
        for (owner, key), session_id in self.executions.sessions.items():
            own = [row for row in rows if row.session_id == session_id]
            known_as = {session_id, key.removeprefix("api:"), *(row.opencode_session_id for row in own)}
            if owner == organization_id and name in known_as and own:
                ended = [row.id for row in own if row.status in FINAL]
                return Conversation(session_id, key, own[-1].id, ended[-1] if ended else None)
        return None

    async def last_run(self, organization_id: str, execution_id: str) -> LastRun:
        row = self.executions.rows[execution_id]
        return LastRun(self.model if row.output else None, row.opencode_session_id)


@dataclass
class FakeServer:
    version_: str
    agents_: Sequence[str]
    categories_: str | None = None
    refuses: bool = False
    hangs: bool = False
    asked: int = 0

    async def version(self) -> str:
        self.asked += 1
        if self.refuses:
            raise UnavailableError("not reachable")
        if self.hangs:
            await asyncio.Event().wait()
        return self.version_

    async def agents(self, directory: str | None) -> list[str]:
        return list(self.agents_)

    async def categories(self, directory: str | None) -> list[str] | None:
        if self.categories_ == "hangs":
            await asyncio.Event().wait()
        if self.categories_ == "broken":
            raise UnexpectedAnswerError("no such route")
        return None if self.categories_ is None else self.categories_.split()


@dataclass
class FakeServers:
    instances: list[Instance] = field(default_factory=list)
    servers: dict[str, FakeServer] = field(default_factory=dict)

    def add(self, instance: Instance, server: FakeServer) -> FakeServer:
        self.instances.append(instance)
        self.servers[instance.id] = server
        return server

    def store(self) -> InstanceStore:
        """As the port; only what capabilities need is faked."""
        return cast("InstanceStore", self)

    async def loads(self, *, besides: Collection[str] = ()) -> list[Instance]:
        return self.instances

    def server(self, instance: Instance) -> OpenCodeServer:
        return cast("OpenCodeServer", self.servers[instance.id])
