"""Where a caller of the old sidecar wants to be called back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class CallbackReceiver:
    """status: what it answers next. headers: of each call, names in lower case."""

    url: str = ""
    status: int = 204
    received: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # path and body
    headers: list[dict[str, str]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        self.received.append((request.path, await request.json()))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        return web.Response(status=self.status)


@asynccontextmanager
async def callback_receiver() -> AsyncIterator[CallbackReceiver]:
    receiver = CallbackReceiver()
    app = web.Application()
    app.router.add_post("/{path:.*}", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield receiver
    finally:
        await runner.cleanup()
