"""Kills the very process that holds a job, and measures how long the job waits for its next owner.

Who holds it shows in the connection over which it calls Slack or OpenCode; the next owner shows in the next call.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
from aiohttp import web

from nubabel_workers.embedded.stack import Stack
from nubabel_workers.simulators.opencode.api import Handler
from nubabel_workers.simulators.slack import Fault, FaultKind
from nubabel_workers.simulators.slack.model import Json
from tests.faults.chaos.book import Book
from tests.faults.chaos.suffering import Takeover

_POST = "chat.postMessage"
_CAUGHT_WITHIN_S = 10.0  # so long a trap waits for a call
_HELD_S = 2.0  # so long a caller that nobody kills waits for its answer
_NEXT_WITHIN_S = 60.0
_POLL_S = 0.02
_SUBMIT = ("POST", "session/*/prompt_async")


@dataclass(slots=True)
class _Trap:
    """Set for the next prompt at one server. caught: the session and the caller's port."""

    caught: "asyncio.Future[tuple[str, int | None]]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Takeovers:
    """Create it before the load begins: it listens to what the OpenCode servers are asked."""

    def __init__(self, stack: Stack, book: Book) -> None:
        self._stack = stack
        self._book = book
        self.measured: list[Takeover] = []
        self._traps: dict[int, _Trap] = {}
        self._asked_about: dict[str, float] = {}  # OpenCode session -> time of the latest request about it
        self._measuring: set[asyncio.Task[None]] = set()
        for number, server in enumerate(stack.opencode.simulators):
            self._watch(number, server.insides._routes)

    async def close(self) -> None:
        """Wait for the measurements that are under way."""
        await asyncio.gather(*self._measuring)

    async def kill_in_post(self, team: str) -> None:
        """The worker whose post of that team Slack has taken, but not answered yet."""
        fault = Fault(_POST, FaultKind.LATE, team=team, seconds=_HELD_S)
        seen = len(self._book.calls)
        self._stack.slack.faults.plan(fault)
        call = await self._next_call(seen, lambda call: call.get("fault") is FaultKind.LATE, _CAUGHT_WITHIN_S)
        if call is None:
            return
        killed = await self._kill_owner("worker-notifications", call["peer_port"])
        if killed is not None:
            seen = len(self._book.calls)
            where = (call["channel"], call["thread_ts"])
            self._measure(killed, lambda: self._next_thread_call(seen, where))

    async def kill_in_submit(self, number: int) -> None:
        """The worker whose prompt that OpenCode server has taken, but not answered yet."""
        trap = self._traps[number] = _Trap()
        try:
            async with asyncio.timeout(_CAUGHT_WITHIN_S):
                session_id, port = await trap.caught
        except TimeoutError:
            return
        finally:
            self._traps.pop(number, None)
        killed = await self._kill_owner("worker-orchestration", port)
        if killed is not None:
            now = time.monotonic()
            self._measure(killed, lambda: self._next_request(session_id, now))

    # --- who calls ------------------------------------------------------------------------------------------------

    async def _kill_owner(self, kind: str, port: int | None) -> str | None:
        """Kill the process of that kind whose connection has the port at its end; its name, if there is one."""
        names = [name for name in self._stack.processes.names() if name.partition(".")[0] == kind]
        for name in names:
            if port in _ports_of(self._stack.processes.pid(name)):
                await self._stack.processes.kill(name)
                return kind
        return None

    def _measure(self, worker: str, next_call_at: Callable[[], Awaitable[float | None]]) -> None:
        killed_at = time.monotonic()

        async def measure() -> None:
            at = await next_call_at()
            self.measured.append(Takeover(worker, None if at is None else at - killed_at))

        task = asyncio.create_task(measure())
        self._measuring.add(task)
        task.add_done_callback(self._measuring.discard)

    async def _next_thread_call(self, seen: int, where: tuple[str, str]) -> float | None:
        def is_next(call: Json) -> bool:
            return (call["channel"], call.get("thread_ts")) == where

        call = await self._next_call(seen, is_next, _NEXT_WITHIN_S)
        return None if call is None else float(call["at"])

    async def _next_call(self, seen: int, wanted: Callable[[Json], bool], timeout_s: float) -> Json | None:
        """The first call after those already seen."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            calls = self._book.calls
            while seen < len(calls):
                if wanted(calls[seen]):
                    return calls[seen]
                seen += 1
            await asyncio.sleep(_POLL_S)
        return None

    async def _next_request(self, session_id: str, after: float) -> float | None:
        deadline = time.monotonic() + _NEXT_WITHIN_S
        while time.monotonic() < deadline:
            if (at := self._asked_about.get(session_id, 0.0)) > after:
                return at
            await asyncio.sleep(_POLL_S)
        return None

    # --- what OpenCode is asked -----------------------------------------------------------------------------------

    def _watch(self, number: int, routes: dict[tuple[str, str], Handler]) -> None:
        for route, handler in list(routes.items()):
            if re.match(r"session/\*", route[1]):
                routes[route] = self._noting(handler, number if route == _SUBMIT else None)

    def _noting(self, handler: Handler, traps_of: int | None) -> Handler:
        async def note(request: web.BaseRequest, ids: list[str]) -> web.StreamResponse:
            self._asked_about[ids[0]] = time.monotonic()
            answer = await handler(request, ids)
            trap = self._traps.pop(traps_of, None) if traps_of is not None else None
            if trap is not None and not trap.caught.done():
                trap.caught.set_result((ids[0], _peer_port(request)))
                await asyncio.sleep(_HELD_S)
            return answer

        return note


def _peer_port(request: web.BaseRequest) -> int | None:
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    return peer[1] if peer else None


def _ports_of(pid: int) -> Mapping[int, int]:
    """Local port -> remote port of the process's connections."""
    with suppress(psutil.Error):
        connections = psutil.Process(pid).net_connections(kind="tcp")
        return {connection.laddr.port: connection.raddr.port for connection in connections if connection.raddr}
    return {}
