"""Sessions that are kept for the next call: one per organization and connection, a bounded number in all."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from nubabel_workers.adapters.mcp.session import McpSession
from nubabel_workers.domain.errors import NubabelError, UnavailableError
from nubabel_workers.domain.tools import ConnectionKind, ToolConnection, ToolCredentials


@dataclass(frozen=True)
class PoolLimits:
    """sessions: in this process, of all organizations. processes: of those, servers that were started by a command.

    idle_s: after so many seconds without a call a session ends. connect_s: to begin one.
    """

    sessions: int = 200
    processes: int = 20
    idle_s: float = 300.0
    connect_s: float = 15.0


Key = tuple[str, str]


@dataclass(eq=False)
class _Pooled:
    session: McpSession
    target: tuple[str, str | None, str | None]
    revision: int
    is_process: bool
    ready: "asyncio.Task[None]"
    users: int = 0
    used_at: float = field(default_factory=time.monotonic)
    end: asyncio.TimerHandle | None = None


class SessionPool:
    def __init__(
        self, new_session: Callable[[ToolConnection, ToolCredentials], McpSession], limits: PoolLimits
    ) -> None:
        """new_session: not opened yet."""
        self._new_session = new_session
        self._limits = limits
        self._pooled: dict[Key, _Pooled] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._pooled)

    @asynccontextmanager
    async def session(self, connection: ToolConnection, credentials: ToolCredentials) -> AsyncIterator[McpSession]:
        """An open session, begun by these credentials or newer ones. Raises what `McpSession.open` raises."""
        key = (str(connection.organization_id), str(connection.id))
        pooled = self._usable(key, connection, credentials) or self._begin(key, connection, credentials)
        pooled.users += 1
        if pooled.end is not None:
            pooled.end.cancel()
        try:
            await self._ready(key, pooled)
            yield pooled.session
        finally:
            pooled.users -= 1
            pooled.used_at = time.monotonic()
            self._rest(key, pooled)

    def discard(self, session: McpSession) -> None:
        """No new call goes to it; it is closed when nobody uses it any more."""
        for key, pooled in list(self._pooled.items()):
            if pooled.session is session:
                self._retire(key, pooled)

    async def close(self) -> None:
        for key, pooled in list(self._pooled.items()):
            del self._pooled[key]
            self._close(pooled)
        if self._closing:
            await asyncio.wait(self._closing)

    async def _ready(self, key: Key, pooled: _Pooled) -> None:
        try:
            await asyncio.shield(pooled.ready)
        except NubabelError:
            if self._pooled.get(key) is pooled:
                del self._pooled[key]
            raise

    def _usable(self, key: Key, connection: ToolConnection, credentials: ToolCredentials) -> _Pooled | None:
        pooled = self._pooled.get(key)
        if pooled is None:
            return None
        opening = not pooled.ready.done()
        fits = pooled.target == _target(connection) and pooled.revision >= credentials.revision
        if fits and (opening or pooled.session.is_open):
            return pooled
        self._retire(key, pooled)
        return None

    def _begin(self, key: Key, connection: ToolConnection, credentials: ToolCredentials) -> _Pooled:
        is_process = connection.kind is ConnectionKind.COMMAND
        self._make_room(self._limits.sessions, list(self._pooled.items()))
        if is_process:
            processes = [(other, one) for other, one in self._pooled.items() if one.is_process]
            self._make_room(self._limits.processes, processes)
        session = self._new_session(connection, credentials)
        ready = asyncio.create_task(session.open(timeout_s=self._limits.connect_s))
        pooled = _Pooled(session, _target(connection), credentials.revision, is_process, ready)
        self._pooled[key] = pooled
        return pooled

    def _make_room(self, limit: int, pooled: list[tuple[Key, _Pooled]]) -> None:
        if len(pooled) < limit:
            return
        idle = [(key, one) for key, one in pooled if one.users == 0]
        if not idle:
            raise UnavailableError("too many tools are in use at this moment; try again in a moment")
        self._retire(*min(idle, key=lambda item: item[1].used_at))

    def _rest(self, key: Key, pooled: _Pooled) -> None:
        if pooled.users:
            return
        if self._pooled.get(key) is not pooled:
            self._close(pooled)
        else:
            loop = asyncio.get_running_loop()
            pooled.end = loop.call_later(self._limits.idle_s, self._retire, key, pooled)

    def _retire(self, key: Key, pooled: _Pooled) -> None:
        if self._pooled.get(key) is pooled:
            del self._pooled[key]
        if not pooled.users:
            self._close(pooled)

    def _close(self, pooled: _Pooled) -> None:
        if pooled.end is not None:
            pooled.end.cancel()
        closing = asyncio.create_task(pooled.session.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


def _target(connection: ToolConnection) -> tuple[str, str | None, str | None]:
    return (connection.kind.value, connection.url, connection.command_name)
