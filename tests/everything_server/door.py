"""What stands before an MCP server: lets known credentials pass, and remembers which tool was called with which."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import aiohttp
from aiohttp import web

from nubabel_workers.embedded.stack_environment import HOST

_BEARER = "Bearer "
_OF_ONE_CONNECTION = {
    "connection",
    "content-length",
    "date",
    "host",
    "keep-alive",
    "transfer-encoding",
}


@dataclass(frozen=True)
class ToolCall:
    """As the server was sent it. token: whose credentials came with it."""

    token: str
    tool: str
    arguments: Mapping[str, Any]


@dataclass
class Door:
    """tokens: that it lets pass. shown: all that it has ever been shown, whatever they were for."""

    url: str = ""
    tokens: set[str] = field(default_factory=set)
    shown: set[str] = field(default_factory=set)
    calls: list[ToolCall] = field(default_factory=list)

    def note(self, token: str, body: bytes) -> None:
        message = json.loads(body) if body else {}
        if message.get("method") == "tools/call":
            asked = message["params"]
            self.calls.append(ToolCall(token, asked["name"], asked.get("arguments") or {}))


@asynccontextmanager
async def door_before(server_url: str) -> AsyncIterator[Door]:
    """Serve until the block ends, at `url` of what it gives."""
    door = Door()

    async def pass_on(request: web.Request) -> web.StreamResponse:
        token = request.headers.get("authorization", "").removeprefix(_BEARER)
        door.shown.add(token)
        if token not in door.tokens:
            return web.Response(status=HTTPStatus.UNAUTHORIZED)
        body = await request.read()
        door.note(token, body)
        async with http.request(request.method, server_url, data=body, headers=_passed(request.headers)) as answer:
            response = web.StreamResponse(status=answer.status, headers=_passed(answer.headers))
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            return response

    application = web.Application()
    application.router.add_route("*", "/mcp", pass_on)
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False) as http:
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, 0).start()
            door.url = f"http://{HOST}:{runner.addresses[0][1]}/mcp"
            yield door
        finally:
            await runner.cleanup()


def _passed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _OF_ONE_CONNECTION}
