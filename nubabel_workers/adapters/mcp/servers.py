"""The MCP servers of all organizations, as the services know them: pooled, bounded, each behind a circuit breaker."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from nubabel_workers.adapters.egress.guard import EgressGuard
from nubabel_workers.adapters.mcp.failures import Failures, SessionGoneError, SilentCutError
from nubabel_workers.adapters.mcp.http import HttpLimits, http_streams
from nubabel_workers.adapters.mcp.places import Places
from nubabel_workers.adapters.mcp.pool import NoRoomError, SessionLimits, SessionPool
from nubabel_workers.adapters.mcp.session import McpSession, Streams
from nubabel_workers.adapters.mcp.stdio import Command, command_streams
from nubabel_workers.domain.circuit_breaker import CallKind, CallOutcome
from nubabel_workers.domain.errors import (
    LeaseLostError,
    PermanentError,
    RateLimitedError,
    TransientError,
    UnavailableError,
    UncertainError,
)
from nubabel_workers.domain.ports import CircuitBreakers
from nubabel_workers.domain.tool_calls import Tool, ToolResult
from nubabel_workers.domain.tools import CommandServer, ConnectionKind, ToolConnection, ToolCredentials
from nubabel_workers.domain.watched_calls import wait_to_pass_s, watched

T = TypeVar("T")


@dataclass(frozen=True)
class ServerLimits:
    """Seconds, bytes and numbers. at_once: calls to one connection. remember_s: a list of tools."""

    connect_s: float = 15.0
    call_s: float = 60.0
    at_once: int = 8
    wait_s: float = 10.0  # for one of those places
    max_bytes: int = 1_048_576
    remember_s: float = 60.0
    sessions: SessionLimits = field(default_factory=SessionLimits)


@dataclass(frozen=True)
class _Remembered:
    tools: Sequence[Tool]
    until: float  # monotonic


class McpToolServers:
    """Implements ports.ToolServers."""

    def __init__(
        self,
        guard: EgressGuard,
        catalogue: Mapping[str, CommandServer],
        breakers: CircuitBreakers,
        limits: ServerLimits,
    ) -> None:
        """catalogue: by name; the only servers that are ever started."""
        self._guard = guard
        self._catalogue = catalogue
        self._breakers = breakers
        self._limits = limits
        self._pool = SessionPool(self._new_session, limits.sessions, connect_s=limits.connect_s)
        self._remembered: dict[str, _Remembered] = {}
        self._listing: dict[str, asyncio.Task[Sequence[Tool]]] = {}
        self._places = Places(at_once=limits.at_once, wait_s=limits.wait_s)

    async def close(self) -> None:
        """Ends all sessions, and with them the servers that were started."""
        for listing in list(self._listing.values()):
            listing.cancel()
        await self._pool.close()

    async def tools(self, connection: ToolConnection, credentials: ToolCredentials) -> Sequence[Tool]:
        remembered = self._remembered.get(connection.id)
        if remembered is not None and time.monotonic() < remembered.until:
            return remembered.tools
        listing = self._listing.get(connection.id)
        if listing is None:
            listing = asyncio.create_task(self._list(connection, credentials))
            self._listing[connection.id] = listing
            listing.add_done_callback(lambda _: self._listing.pop(connection.id, None))
        return await asyncio.shield(listing)

    async def call(
        self,
        connection: ToolConnection,
        credentials: ToolCredentials,
        tool: Tool,
        arguments: Mapping[str, Any],
        *,
        may_go: Callable[[], None],
    ) -> ToolResult:
        async def call(session: McpSession) -> ToolResult:
            may_go()
            return await session.call(tool.name, arguments, timeout_s=self._limits.call_s)

        async with self._places.place(connection):
            return await self._asked(connection, credentials, call, repeatable=tool.repeatable)

    async def _list(self, connection: ToolConnection, credentials: ToolCredentials) -> Sequence[Tool]:
        async def listed(session: McpSession) -> Sequence[Tool]:
            return await session.tools(timeout_s=self._limits.connect_s)

        try:
            tools = await self._asked(connection, credentials, listed, repeatable=True)
        except UncertainError as error:
            raise UnavailableError(str(error)) from None  # nothing took effect by listing
        self._forget_old()
        self._remembered[connection.id] = _Remembered(tools, time.monotonic() + self._limits.remember_s)
        return tools

    def _forget_old(self) -> None:
        now = time.monotonic()
        for connection_id in [one for one, remembered in self._remembered.items() if remembered.until < now]:
            del self._remembered[connection_id]

    # --- one exchange, behind the breaker ---

    async def _asked(
        self,
        connection: ToolConnection,
        credentials: ToolCredentials,
        ask: Callable[[McpSession], Awaitable[T]],
        *,
        repeatable: bool,
    ) -> T:
        if (wait_s := await wait_to_pass_s(self._breakers, connection.id)) is not None:
            raise UnavailableError(
                f"{connection.provider} has failed several times in a row and is left alone for a while",
                retry_after_s=wait_s,
            )
        try:
            with watched(self._breakers, connection.id, CallKind.LOOK, told_by=_told_by, now=time.monotonic):
                return await self._twice_at_most(connection, credentials, ask, repeatable=repeatable)
        finally:
            await self._breakers.report()

    async def _twice_at_most(
        self,
        connection: ToolConnection,
        credentials: ToolCredentials,
        ask: Callable[[McpSession], Awaitable[T]],
        *,
        repeatable: bool,
    ) -> T:
        try:
            return await self._once(connection, credentials, ask)
        except SessionGoneError:
            return await self._once(connection, credentials, ask)
        except SilentCutError as cut:
            if not repeatable:
                raise
            try:
                return await self._once(connection, credentials, ask)
            except LeaseLostError:  # of the second: the first may have taken effect
                raise cut from None

    async def _once(
        self, connection: ToolConnection, credentials: ToolCredentials, ask: Callable[[McpSession], Awaitable[T]]
    ) -> T:
        async with self._pool.session(connection, credentials) as session:
            try:
                return await ask(session)
            except (SessionGoneError, SilentCutError):
                self._pool.discard(session)
                raise

    # --- sessions ---

    def _new_session(self, connection: ToolConnection, credentials: ToolCredentials) -> McpSession:
        return McpSession(
            self._way_to(connection, credentials),
            on_tools_changed=partial(self._forget, connection.id),
            max_bytes=self._limits.max_bytes,
        )

    def _forget(self, connection_id: str) -> None:
        self._remembered.pop(connection_id, None)

    def _way_to(
        self, connection: ToolConnection, credentials: ToolCredentials
    ) -> Callable[[Failures, Callable[[], None]], Streams]:
        if connection.kind is ConnectionKind.HTTP:
            limits = HttpLimits(self._limits.connect_s, self._limits.call_s, self._limits.max_bytes)
            url = str(connection.url)
            self._guard.check_url(url)
            return lambda failures, _: http_streams(self._guard, url, credentials.headers, failures, limits)
        command = self._command(connection, credentials)
        return lambda failures, on_end: command_streams(
            command, failures, max_bytes=self._limits.max_bytes, on_end=on_end
        )

    def _command(self, connection: ToolConnection, credentials: ToolCredentials) -> Command:
        server = self._catalogue.get(connection.command_name or "")
        if server is None:
            raise PermanentError(
                f"the server of {connection.provider} is not in the operator's catalogue any more", code="not_offered"
            )
        return Command(server.name, (server.command, *server.arguments), server.environment_with(credentials))


def _told_by(error: BaseException, _after_s: float) -> CallOutcome | None:
    """A refusal is an answer; a limit of ours, or that whoever waited gave it up, says nothing of the server."""
    if isinstance(error, NoRoomError):
        return None
    if isinstance(error, RateLimitedError | PermanentError | SessionGoneError):
        return CallOutcome.SERVED
    if isinstance(error, UnavailableError):
        return CallOutcome.AWAY
    return CallOutcome.FAILED if isinstance(error, TransientError | UncertainError) else None
