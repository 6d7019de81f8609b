"""An upstream service that checks the signature of what it receives."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook


@dataclass
class Receiver:
    url: str = ""
    received: list[dict[str, Any]] = field(default_factory=list)
    message_ids: list[str] = field(default_factory=list)  # of those: a repeat has the same one


@asynccontextmanager
async def webhook_receiver(secret: str) -> AsyncIterator[Receiver]:
    """Keeps what was signed rightly; answers 401 to everything else."""
    receiver = Receiver()

    async def take(request: web.Request) -> web.Response:
        body = await request.text()
        try:
            receiver.received.append(Webhook(secret).verify(body, dict(request.headers)))
            receiver.message_ids.append(request.headers["webhook-id"])
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it is not signed
            return web.Response(status=401)
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield receiver
    finally:
        await runner.cleanup()
