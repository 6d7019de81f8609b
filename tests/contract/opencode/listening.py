"""The event stream of a server under test, collected while a block runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from nubabel_workers.adapters.opencode import (
    EventDecoder,
    OpenCodeClient,
    ServerConnected,
    ServerEvent,
    SessionIdle,
    ToolUpdate,
    events,
    new_http_client,
    new_stream_session,
)
from nubabel_workers.domain.errors import NubabelError
from tests.contract.opencode.backends import Backend

_Event = TypeVar("_Event")
_TIMEOUT_S = 15.0


@dataclass
class Listening:
    """Every event so far, in order."""

    seen: list[ServerEvent] = field(default_factory=list)
    failure: Exception | None = None
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, burst: list[ServerEvent]) -> None:
        self.seen += burst
        self._more.set()

    def of(self, kind: type[_Event], session_id: str) -> list[_Event]:
        return [e for e in self.seen if isinstance(e, kind) and getattr(e, "session_id", None) == session_id]

    async def first(self, kind: type[_Event], session_id: str) -> _Event:
        await self.until(lambda: bool(self.of(kind, session_id)))
        return self.of(kind, session_id)[0]

    async def idle(self, session_id: str) -> None:
        await self.first(SessionIdle, session_id)

    async def connected(self) -> None:
        await self.until(lambda: any(isinstance(e, ServerConnected) for e in self.seen))

    async def tool(self, session_id: str, status: str) -> None:
        await self.until(lambda: any(update.status == status for update in self.of(ToolUpdate, session_id)))

    async def broken(self) -> Exception:
        """How the connection ended."""
        await self.until(lambda: self.failure is not None)
        assert self.failure is not None
        return self.failure

    async def more(self, *, within_s: float) -> None:
        """Wait for another event, but not for long."""
        self._more.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._more.wait()

    def fail(self, error: Exception) -> None:
        self.failure = error
        self._more.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(_TIMEOUT_S):
            while not condition():
                self._more.clear()
                await self._more.wait()


@asynccontextmanager
async def listening(backend: Backend, *, watched: frozenset[str] = frozenset()) -> AsyncIterator[Listening]:
    """Connected and heard when the block begins.

    The real server says `server.connected` a moment before it really sends events (up to 50 ms were seen), so a
    session of our own is made to say something until it is heard.
    """
    heard = Listening()

    async def listen() -> None:
        decoder = EventDecoder(watched=watched)
        stream = events(session, backend.url, username=backend.username, password=backend.password, decoder=decoder)
        async with contextlib.aclosing(stream) as bursts:
            try:
                async for burst in bursts:
                    heard.add(burst)
            except NubabelError as error:
                heard.fail(error)

    async with contextlib.aclosing(new_http_client()) as http, new_stream_session() as session:
        client = OpenCodeClient(http, backend.url, username=backend.username, password=backend.password)
        probe = await client.create_session(title="probe", directory=str(backend.directory))
        task = asyncio.create_task(listen())
        try:
            await heard.connected()
            async with asyncio.timeout(_TIMEOUT_S):
                while not heard.of(SessionIdle, probe.id):
                    await client.abort(probe.id)
                    await heard.more(within_s=0.05)
            yield heard
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
