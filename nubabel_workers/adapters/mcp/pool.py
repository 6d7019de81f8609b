"""Sessions that are kept for the next call: one per organization and connection, a bounded number each and in all."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

from nubabel_workers.domain.errors import NubabelError, UnavailableError
from nubabel_workers.domain.tools import ConnectionKind, ToolConnection, ToolCredentials

CLOSE_S: Final = 7.0  # for all sessions to end when the process does


@dataclass(frozen=True)
class SessionLimits:
    """sessions: in this process, of all organizations. processes: of those, servers that were started by a command.

    Both once more for one organization, so that it cannot take what others need. wait_s: for one of them, where all are
    in use. idle_s: after so many seconds without a call a session ends.
    """

    sessions: int = 200
    sessions_of_one: int = 20
    processes: int = 20
    processes_of_one: int = 5
    wait_s: float = 10.0
    idle_s: float = 300.0


class NoRoomError(UnavailableError):
    """As many sessions as there may be, all of them in use."""


class Session(Protocol):
    @property
    def is_open(self) -> bool: ...

    async def open(self, *, timeout_s: float) -> None: ...

    async def close(self) -> None: ...


S = TypeVar("S", bound=Session)
Key = tuple[str, str]  # organization, connection


@dataclass(eq=False)
class _Pooled(Generic[S]):
    key: Key
    session: S
    target: tuple[str, str | None, str | None]
    revision: int
    is_process: bool
    ready: "asyncio.Task[None]"
    users: int = 0
    used_at: float = field(default_factory=time.monotonic)
    end: asyncio.TimerHandle | None = None

    @property
    def organization_id(self) -> str:
        return self.key[0]


class SessionPool(Generic[S]):
    def __init__(
        self,
        new_session: Callable[[ToolConnection, ToolCredentials], S],
        limits: SessionLimits,
        *,
        connect_s: float,
    ) -> None:
        """new_session: not opened yet. connect_s: to begin one."""
        self._new_session = new_session
        self._limits = limits
        self._connect_s = connect_s
        self._pooled: dict[Key, _Pooled[S]] = {}  # where the next call goes
        self._alive: set[_Pooled[S]] = set()  # those, and older ones that still have users
        self._closing: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Event()  # some session has no users any more: who waits for room looks again

    def __len__(self) -> int:
        return len(self._alive)

    @asynccontextmanager
    async def session(self, connection: ToolConnection, credentials: ToolCredentials) -> AsyncIterator[S]:
        """An open session, begun by these credentials or newer ones.

        Raises what `McpSession.open` raises, and UnavailableError when there is no room for another.
        """
        pooled = await self._found(connection, credentials)
        pooled.users += 1
        if pooled.end is not None:
            pooled.end.cancel()
        try:
            await self._ready(pooled)
            yield pooled.session
        finally:
            pooled.users -= 1
            pooled.used_at = time.monotonic()
            self._rest(pooled)

    def discard(self, session: S) -> None:
        """No new call goes to it; it is closed when nobody uses it any more."""
        for pooled in list(self._pooled.values()):
            if pooled.session is session:
                self._retire(pooled)

    async def close(self) -> None:
        """Waits CLOSE_S at most: what has not ended by then ends with the process."""
        self._pooled.clear()
        for pooled in list(self._alive):
            self._close(pooled)
        if self._closing:
            await asyncio.wait(self._closing, timeout=CLOSE_S)

    async def _found(self, connection: ToolConnection, credentials: ToolCredentials) -> _Pooled[S]:
        key = (str(connection.organization_id), str(connection.id))
        give_up_at = time.monotonic() + self._limits.wait_s
        while True:
            try:
                return self._usable(key, connection, credentials) or self._begin(key, connection, credentials)
            except NoRoomError:
                left_s = give_up_at - time.monotonic()
                if left_s <= 0:
                    raise
            self._freed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._freed.wait()

    async def _ready(self, pooled: _Pooled[S]) -> None:
        try:
            await asyncio.shield(pooled.ready)
        except NubabelError:
            self._forget(pooled)
            raise

    def _usable(self, key: Key, connection: ToolConnection, credentials: ToolCredentials) -> _Pooled[S] | None:
        pooled = self._pooled.get(key)
        if pooled is None:
            return None
        opening = not pooled.ready.done()
        fits = pooled.target == _target(connection) and pooled.revision >= credentials.revision
        if fits and (opening or pooled.session.is_open):
            return pooled
        self._retire(pooled)
        return None

    def _begin(self, key: Key, connection: ToolConnection, credentials: ToolCredentials) -> _Pooled[S]:
        is_process = connection.kind is ConnectionKind.COMMAND
        self._make_room(connection, is_process=is_process)
        session = self._new_session(connection, credentials)
        ready = asyncio.create_task(session.open(timeout_s=self._connect_s))
        pooled = _Pooled(key, session, _target(connection), credentials.revision, is_process, ready)
        self._pooled[key] = pooled
        self._alive.add(pooled)
        return pooled

    def _make_room(self, connection: ToolConnection, *, is_process: bool) -> None:
        """An organization that has its share makes room among its own; only then others' idle sessions end for it.

        Raises NoRoomError when all that would have to end are in use.
        """
        limits = self._limits
        mine = [one for one in self._alive if one.organization_id == connection.organization_id]
        many = "too many tools of this organization are in use at this moment; try again in a moment"
        full = "too many tools are in use at this moment; try again in a moment"
        if is_process:
            self._make_one(limits.processes_of_one, [one for one in mine if one.is_process], many)
            self._make_one(limits.processes, [one for one in self._alive if one.is_process], full)
        self._make_one(limits.sessions_of_one, [one for one in mine if one in self._alive], many)
        self._make_one(limits.sessions, list(self._alive), full)

    def _make_one(self, limit: int, among: list[_Pooled[S]], refusal: str) -> None:
        if len(among) < limit:
            return
        idle = [one for one in among if not one.users]
        if not idle:
            raise NoRoomError(refusal)
        self._retire(min(idle, key=lambda one: one.used_at))

    def _rest(self, pooled: _Pooled[S]) -> None:
        if pooled.users:
            return
        self._freed.set()
        if self._pooled.get(pooled.key) is not pooled:
            self._close(pooled)
        else:
            loop = asyncio.get_running_loop()
            pooled.end = loop.call_later(self._limits.idle_s, self._retire, pooled)

    def _retire(self, pooled: _Pooled[S]) -> None:
        self._forget(pooled)
        if not pooled.users:
            self._close(pooled)

    def _forget(self, pooled: _Pooled[S]) -> None:
        if self._pooled.get(pooled.key) is pooled:
            del self._pooled[pooled.key]

    def _close(self, pooled: _Pooled[S]) -> None:
        if pooled not in self._alive:
            return
        self._alive.discard(pooled)
        if pooled.end is not None:
            pooled.end.cancel()
        closing = asyncio.create_task(pooled.session.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


def _target(connection: ToolConnection) -> tuple[str, str | None, str | None]:
    return (connection.kind.value, connection.url, connection.command_name)
