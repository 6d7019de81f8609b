"""Tools for the agent that works in a session: whose they are follows from the execution that runs there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from nubabel_workers.domain.administration import server_actor
from nubabel_workers.domain.foreign_ids import Naming, Sought
from nubabel_workers.domain.ports import ExecutionStore
from nubabel_workers.domain.tool_calls import ProviderTools, ToolCallError, ToolOutcome, ToolRequest
from nubabel_workers.domain.tool_routing import NOT_CONNECTED
from nubabel_workers.services.find_callback_session import CallbackSession
from nubabel_workers.services.log_context import about
from nubabel_workers.services.report_foreign_ids import ReportForeignIds

_DOOR = "tool call"
_NO_TOOLS = ToolOutcome(error=ToolCallError("no_tools", "this installation calls no tools"))
_NOT_RUNNING = ToolOutcome(error=ToolCallError("not_running", "nothing runs in this session, so no tool is called"))


class ToolInvoker(Protocol):
    async def run(self, request: ToolRequest) -> ToolOutcome: ...


class ToolLister(Protocol):
    async def run(self, organization_id: str) -> Sequence[ProviderTools]: ...


@dataclass(frozen=True)
class AskedCall:
    """What the agent asked for, in the words of the plugin. opencode_session_id: maybe a sub-agent's."""

    opencode_session_id: str
    call_id: str
    tool_name: str
    arguments: Mapping[str, Any] = field(repr=False)
    provider: str | None = None
    message_id: str | None = None


class CallToolsForSession:
    """invoke, list_tools: None where nobody calls tools."""

    def __init__(
        self,
        executions: ExecutionStore,
        foreign_ids: ReportForeignIds,
        invoke: ToolInvoker | None = None,
        list_tools: ToolLister | None = None,
    ) -> None:
        self._executions = executions
        self._foreign_ids = foreign_ids
        self._invoke = invoke
        self._list_tools = list_tools

    async def invoke(self, session: CallbackSession, asked: AskedCall) -> ToolOutcome:
        """Only while a run of ours goes on: who has a server's key can do nothing for sessions that rest."""
        if self._invoke is None:
            return _NO_TOOLS
        running = await self._executions.running_by_opencode_session(session.instance_id, session.opencode_session_id)
        if running is None:
            return _NOT_RUNNING
        with about(running):
            outcome = await self._invoke.run(
                ToolRequest(
                    organization_id=running.organization_id,
                    execution_id=running.id,
                    opencode_session_id=asked.opencode_session_id,
                    call_id=asked.call_id,
                    tool_name=asked.tool_name,
                    arguments=asked.arguments,
                    provider=asked.provider,
                    message_id=asked.message_id,
                )
            )
        if asked.provider is not None and outcome.error is not None and outcome.error.code in NOT_CONNECTED:
            sought = Sought(running.organization_id, asked.provider)
            self._foreign_ids.soon(Naming(server_actor(session.instance_id), _DOOR, sought))
        return outcome

    async def list_tools(self, session: CallbackSession) -> Sequence[ProviderTools]:
        """Of the organization whose run goes on there, as PostgreSQL knows it; the session's may be from the cache."""
        if self._list_tools is None:
            return ()
        running = await self._executions.running_by_opencode_session(session.instance_id, session.opencode_session_id)
        return () if running is None else await self._list_tools.run(running.organization_id)
