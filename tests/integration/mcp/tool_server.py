"""An MCP server with the tools that a test needs, made with the SDK: over HTTP in this process, or over pipes."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import ToolAnnotations

TOKEN = "t0ken-of-the-tenant"
SECRET = "s3cret-of-the-tenant"


def tool_server(calls: Counter[str], crash: Callable[[], None]) -> MCPServer:
    server = MCPServer("tools")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def look(name: str) -> str:
        calls["look"] += 1
        return f"{name} is there"

    @server.tool()
    def trace(ctx: Context) -> str:
        return str((ctx.request_context.meta or {}).get("traceparent"))

    @server.tool()
    def change(name: str) -> str:
        calls["change"] += 1
        return f"{name} is changed"

    @server.tool()
    async def hang() -> str:
        calls["hang"] += 1
        await asyncio.Event().wait()
        return ""

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    async def hang_once() -> str:
        calls["hang_once"] += 1
        if calls["hang_once"] == 1:
            await asyncio.Event().wait()
        return "answered"

    @server.tool(structured_output=False)
    def huge() -> str:
        calls["huge"] += 1
        return "x" * 2_000_000

    add_crashing_tools(server, calls, crash)

    @server.tool()
    def tell() -> str:
        raise RuntimeError(f"it went wrong with {os.environ.get('TOOL_SECRET') or TOKEN}")

    return server


def add_crashing_tools(server: MCPServer, calls: Counter[str], crash: Callable[[], None]) -> None:
    @server.tool()
    async def crash_in_the_call() -> str:
        calls["crash"] += 1
        crash()
        await asyncio.sleep(3600)
        return ""

    @server.tool(annotations=ToolAnnotations(idempotent_hint=True))
    async def crash_once() -> str:
        calls["crash_once"] += 1
        if calls["crash_once"] == 1:
            crash()
            await asyncio.sleep(3600)
        return "done at last"


@dataclass
class HttpToolServer:
    """tokens: that it accepts now. refusals: statuses of the next requests.

    has_sessions: it speaks the protocol of before 2026 only. forgets: every session at once; it then answers as to one
    that it never knew.
    """

    url: str = ""
    calls: Counter[str] = field(default_factory=Counter)
    tokens: set[str] = field(default_factory=lambda: {TOKEN})
    refusals: list[int] = field(default_factory=list)
    has_sessions: bool = False
    forgets: bool = False
    sessions: set[str] = field(default_factory=set)  # that were named
    forgotten: set[str] = field(default_factory=set)
    _server: uvicorn.Server | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        app = tool_server(self.calls, self._cut_all).streamable_http_app()
        config = uvicorn.Config(
            self._guarded(app), host="127.0.0.1", port=0, log_config=None, ws="none", timeout_graceful_shutdown=1
        )
        self._server = _Server(config)
        serving = asyncio.create_task(self._server.serve())
        async with asyncio.timeout(30):
            while not self._server.started:  # noqa: ASYNC110 - uvicorn tells it by this flag only
                await asyncio.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/mcp"
        try:
            yield
        finally:
            self._cut_all()
            self._server.should_exit = True
            await serving

    def _guarded(self, app: Any) -> Callable[..., Awaitable[None]]:
        async def guarded(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            headers = self._headers(scope)
            shown = headers.get(b"authorization", b"").decode().removeprefix("Bearer ")
            status = 401 if shown not in self.tokens else 0
            if self.has_sessions and headers.get(b"mcp-method") == b"server/discover":
                status = 404
            if status == 0 and self.refusals and scope["method"] == "POST":
                status = self.refusals.pop(0)
            if status == 0:
                await app(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": status, "headers": [(b"retry-after", b"7")]})
            await send({"type": "http.response.body", "body": b"no"})

        return guarded

    def _headers(self, scope: Any) -> dict[bytes, bytes]:
        headers = dict(scope["headers"])
        session = headers.get(b"mcp-session-id", b"").decode()
        if session:
            self.sessions.add(session)
            if self.forgets:
                self.forgotten.add(session)
        if session in self.forgotten:
            headers[b"mcp-session-id"] = b"unknown"
            scope["headers"] = list(headers.items())
        return headers

    def forget_sessions(self) -> None:
        self.forgotten |= self.sessions

    def _cut_all(self) -> None:
        assert self._server is not None
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()


class _Server(uvicorn.Server):
    def capture_signals(self) -> Any:
        """Signals of the tests' process are not its business."""
        return nullcontext()


if __name__ == "__main__":
    tool_server(Counter(), lambda: os._exit(3)).run("stdio")
