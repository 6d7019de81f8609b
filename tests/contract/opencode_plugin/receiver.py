"""What stands in for our web: checks each signature, remembers what came, and answers, or does not."""

import asyncio
import hashlib
import hmac
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from aiohttp import web

Mood = Literal["well", "away", "silent", "refusing", "out_of_order"]
INSTANCE = "ins_test"
_WINDOW_S = 300
_ANSWERS: dict[str, dict[str, Any]] = {
    "/api/sidecar/mcp/invoke": {"ok": True, "content": "three pages found", "call_id": "tc_1"},
    "/api/sidecar/mcp/tools": {
        "providers": [{"name": "notion", "tools": [{"name": "search", "description": "Find", "input_schema": {}}]}]
    },
}


@dataclass(frozen=True)
class Call:
    path: str
    body: dict[str, Any]


class Receiver:
    """unsigned: calls whose signature was wrong; there must be none."""

    def __init__(self, key: str) -> None:
        self.calls: list[Call] = []
        self.unsigned: list[str] = []
        self.mood: Mood = "well"
        self.given_up = 0  # calls that the caller did not wait for
        self.lost: Counter[str] = Counter()  # calls that came while it was away, by path
        self._key = key
        self._nonces: set[str] = set()
        self._released = asyncio.Event()

    @contextmanager
    def being(self, mood: Mood) -> Iterator[None]:
        self.mood = mood
        self._released.clear()
        try:
            yield
        finally:
            self.mood = "well"
            self._released.set()

    def updates(self, session_id: str) -> list[str]:
        """Types of what was told of the run in that session."""
        path = f"/api/sidecar/sessions/{session_id}/update"
        return [call.body["type"] for call in self.calls if call.path == path]

    def progress(self, root: str) -> list[dict[str, Any]]:
        return [item for item in self._items(root) if "refused" not in item]

    def refused(self, root: str) -> list[tuple[str, str]]:
        """Tools and reasons of what the plugin let reach nothing."""
        return [(item["tool"], item["refused"]) for item in self._items(root) if "refused" in item]

    def _items(self, root: str) -> list[dict[str, Any]]:
        path = f"/api/sidecar/sessions/{root}/progress"
        return [item for call in self.calls if call.path == path for item in call.body["items"]]

    def tool_states(self, root: str, tool: str) -> list[str]:
        return [item["status"] for item in self.progress(root) if item.get("tool") == tool]

    def asked(self, path: str, session_id: str) -> list[dict[str, Any]]:
        return [call.body for call in self.calls if call.path == path and call.body["session_id"] == session_id]

    async def receive(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if self.mood == "away":
            self.lost[request.path] += 1
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if not self._signed(request, body):
            self.unsigned.append(request.path_qs)
            return web.json_response({"title": "Unauthorized"}, status=401)
        self.calls.append(Call(request.path_qs, json.loads(body)))
        if self.mood == "silent":
            try:
                await self._released.wait()
            except asyncio.CancelledError:
                self.given_up += 1
                raise
        if self.mood == "out_of_order":
            return web.Response(status=503)
        if self.mood == "refusing":
            return web.json_response({"title": "Forbidden", "detail": "not a session of this server"}, status=403)
        return web.json_response(_ANSWERS.get(request.path, {}))

    def _signed(self, request: web.Request, body: bytes) -> bool:
        timestamp, nonce = request.headers["X-Nubabel-Timestamp"], request.headers["X-Nubabel-Nonce"]
        head = f"v1:{timestamp}:{nonce}:{request.method}:{request.path_qs}:".encode()
        expected = "v1=" + hmac.new(self._key.encode(), head + body, hashlib.sha256).hexdigest()
        fresh = nonce not in self._nonces and abs(int(timestamp) - time.time()) < _WINDOW_S
        self._nonces.add(nonce)
        right = hmac.compare_digest(expected, request.headers["X-Nubabel-Signature"])
        return right and fresh and request.headers["X-Nubabel-Instance"] == INSTANCE


@asynccontextmanager
async def receiving(key: str) -> AsyncIterator[tuple[Receiver, str]]:
    """Serve until the block ends; gives the receiver and its base URL."""
    receiver = Receiver(key)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", receiver.receive)
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield receiver, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
