"""Connect to an MCP server once, ask which tools it has, and leave."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any, Final

import httpx2
from mcp import MCPError
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from pydantic import ValidationError

from nubabel_workers.adapters.egress.guard import EGRESS_REFUSED, EgressGuard
from nubabel_workers.adapters.egress.http_client import EgressRefusedError, guarded_client
from nubabel_workers.domain.errors import CredentialsError, NubabelError, PermanentError, UnavailableError
from nubabel_workers.domain.tools import CommandServer, ConnectionKind, ToolConnection, ToolCredentials

_MAX_PAGES: Final = 20


class McpProbe:
    """Implements `domain.ports.tools.ToolServers`. The caller bounds the time of a whole probe."""

    def __init__(self, guard: EgressGuard, catalogue: Mapping[str, CommandServer], *, timeout_s: float) -> None:
        self._guard = guard
        self._catalogue = catalogue
        self._timeout_s = timeout_s

    async def tools(self, connection: ToolConnection, credentials: ToolCredentials) -> list[str]:
        try:
            if connection.kind is ConnectionKind.COMMAND:
                return await self._of_command(connection, credentials)
            return await self._of_url(connection, credentials)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the SDK's task groups wrap whatever happened in groups
            raise _translated(error) from None

    async def _of_url(self, connection: ToolConnection, credentials: ToolCredentials) -> list[str]:
        refused = _StatusSeen()
        async with guarded_client(
            self._guard, timeout_s=self._timeout_s, read_timeout_s=self._timeout_s, headers=credentials.headers
        ) as http:
            http.event_hooks = {"response": [refused]}
            transport = streamable_http_client(str(connection.url), http_client=http)
            try:
                return await self._listed(transport)
            except Exception:
                if refused.status in {401, 403}:
                    raise CredentialsError(f"the server refuses the credentials (HTTP {refused.status})") from None
                raise

    async def _of_command(self, connection: ToolConnection, credentials: ToolCredentials) -> list[str]:
        server = self._catalogue.get(str(connection.command_name))
        if server is None:
            raise PermanentError(
                f"{connection.command_name!r} is not in the operators' catalogue any more", code="not_in_catalogue"
            )
        parameters = StdioServerParameters(
            command=server.command,
            args=list(server.arguments),
            env=dict(server.environment_with(credentials)),
            cwd="/",
        )
        with open(os.devnull, "w") as nowhere:  # noqa: ASYNC230, PTH123 - what it complains about may hold secrets
            return await self._listed(stdio_client(parameters, errlog=nowhere))

    async def _listed(self, transport: Any) -> list[str]:
        names: list[str] = []
        async with Client(transport, read_timeout_seconds=self._timeout_s) as client:
            cursor = None
            for _ in range(_MAX_PAGES):
                page = await client.list_tools(cursor=cursor)
                names += [tool.name for tool in page.tools]
                cursor = page.next_cursor
                if cursor is None:
                    break
        return names


class _StatusSeen:
    """The last status of an answer: the SDK tells a refusal in words only."""

    def __init__(self) -> None:
        self.status = 0

    async def __call__(self, response: httpx2.Response) -> None:
        self.status = response.status_code


def _translated(error: BaseException) -> NubabelError:
    """Texts of servers are outside text and may echo what was sent: only kinds are told."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case NubabelError():
            found: NubabelError = error
        case EgressRefusedError():
            found = PermanentError("the server's address is out of bounds", code=EGRESS_REFUSED)
        case FileNotFoundError() | PermissionError():
            found = PermanentError(f"its command cannot be started ({type(error).__name__})", code="not_startable")
        case ValidationError():
            found = PermanentError("its answer is not of the Model Context Protocol", code="not_mcp")
        case MCPError():
            found = UnavailableError(f"the server answers with an error (code {error.error.code})")
        case _:
            found = UnavailableError(f"the server could not be spoken to ({type(error).__name__})")
    return found
