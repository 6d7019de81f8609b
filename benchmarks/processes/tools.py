"""Process: an MCP server with one tool that does next to nothing. `open` -> url."""

import asyncio
from contextlib import AsyncExitStack, nullcontext
from typing import Any

import uvicorn
import uvloop
from mcp.server.mcpserver import MCPServer

from benchmarks.processes.commands import Json, serve

_HOST = "127.0.0.1"
_LOOK_EVERY_S = 0.01
_END_S = 1


class _Server(uvicorn.Server):
    def capture_signals(self) -> Any:
        """The process ends with its standard input."""
        return nullcontext()


class _Tools:
    def __init__(self, parts: AsyncExitStack) -> None:
        self._parts = parts

    async def open(self, _given: Json) -> str:
        mcp = MCPServer("bench", log_level="CRITICAL")  # it would tell of every session that its end cuts

        @mcp.tool()
        def greet(name: str) -> str:
            return f"Hello, {name}"

        config = uvicorn.Config(
            mcp.streamable_http_app(),
            host=_HOST,
            port=0,
            log_config=None,
            ws="none",
            timeout_graceful_shutdown=_END_S,
        )
        server = _Server(config)
        self._parts.push_async_callback(_ended, server, asyncio.create_task(server.serve()))
        while not server.started:  # noqa: ASYNC110  # uvicorn tells it by this flag only
            await asyncio.sleep(_LOOK_EVERY_S)
        return f"http://{_HOST}:{server.servers[0].sockets[0].getsockname()[1]}/mcp"


async def _ended(server: _Server, serving: asyncio.Task[None]) -> None:
    server.should_exit = True
    await serving


async def main() -> None:
    async with AsyncExitStack() as parts:
        await serve({"open": _Tools(parts).open})


if __name__ == "__main__":
    uvloop.run(main())
