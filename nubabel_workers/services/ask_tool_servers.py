"""Ask the server of one connection with the organization's credentials, renewed once when it refuses them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from nubabel_workers.domain.errors import CredentialsError, NubabelError, UnansweredError
from nubabel_workers.domain.ports.tool_calls import ToolServers
from nubabel_workers.domain.ports.tools import ToolConnections
from nubabel_workers.domain.tool_calls import ProviderTools, Tool, ToolResult, shown
from nubabel_workers.domain.tool_routing import candidates
from nubabel_workers.domain.tools import ToolConnection, ToolCredentials

T = TypeVar("T")

_NOT_ACCEPTED = "its server does not accept its credentials, not even renewed ones"


@dataclass(frozen=True)
class AskLimits:
    """Seconds, from the first step to the last, credentials included. max_chars: of a result's text."""

    list_s: float = 30.0
    call_s: float = 120.0
    max_chars: int = 200_000


class AskToolServers:
    def __init__(self, connections: ToolConnections, servers: ToolServers, limits: AskLimits) -> None:
        self._connections = connections
        self._servers = servers
        self._limits = limits

    async def offer(self, connection: ToolConnection, *, execution_id: str | None = None) -> ProviderTools:
        """The tools that the organization allows; an error in their place where they cannot be had."""
        inactive = candidates([connection], connection.provider)
        if not isinstance(inactive, list):
            return ProviderTools(connection.provider, is_default=connection.is_default, error=inactive.message)
        try:
            async with asyncio.timeout(self._limits.list_s):
                tools = await self._with_credentials(
                    connection, execution_id, lambda credentials: self._servers.tools(connection, credentials)
                )
        except TimeoutError:
            return _silent(connection, f"no answer within {self._limits.list_s:g} s")
        except NubabelError as error:
            return _silent(connection, str(error))
        allowed = tuple(_as_we_see_it(connection, tool) for tool in tools if connection.allows(tool.name))
        return ProviderTools(connection.provider, allowed, connection.is_default)

    async def call(
        self,
        connection: ToolConnection,
        tool: Tool,
        arguments: Mapping[str, Any],
        *,
        execution_id: str,
        may_go: Callable[[], None],
    ) -> ToolResult:
        """The answer as anybody may see it. Raises what `ToolServers.call` raises."""

        async def call(credentials: ToolCredentials) -> ToolResult:
            result = await self._servers.call(connection, credentials, tool, arguments, may_go=may_go)
            return shown(result, _secrets(credentials), max_chars=self._limits.max_chars)

        try:
            async with asyncio.timeout(self._limits.call_s):
                return await self._with_credentials(connection, execution_id, call)
        except TimeoutError:
            raise UnansweredError(f"the tool gave no answer within {self._limits.call_s:g} s") from None

    async def _with_credentials(
        self, connection: ToolConnection, execution_id: str | None, ask: Callable[[ToolCredentials], Awaitable[T]]
    ) -> T:
        organization_id = connection.organization_id
        credentials = await self._connections.access(organization_id, connection.id, execution_id=execution_id)
        try:
            return await ask(credentials)
        except CredentialsError:
            renewed = await self._connections.access(
                organization_id, connection.id, refused_revision=credentials.revision, execution_id=execution_id
            )
        try:
            return await ask(renewed)
        except CredentialsError:
            await self._connections.mark_refused(
                organization_id,
                connection.id,
                revision=renewed.revision,
                reason=_NOT_ACCEPTED,
                execution_id=execution_id,
            )
            raise


def _as_we_see_it(connection: ToolConnection, tool: Tool) -> Tool:
    """The server says whether a call may be repeated, and whoever keeps the connection has the last word on it."""
    return replace(tool, repeatable=connection.repeats(tool.name, server_says=tool.repeatable))


def _silent(connection: ToolConnection, reason: str) -> ProviderTools:
    return ProviderTools(connection.provider, is_default=connection.is_default, error=reason)


def _secrets(credentials: ToolCredentials) -> frozenset[str]:
    """Each value, and the last word of a header such as `Bearer <token>`."""
    values = [*credentials.headers.values(), *credentials.environment.values()]
    return frozenset(value for one in values for value in (one, one.rpartition(" ")[2]))
