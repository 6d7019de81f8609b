"""What operators do with OpenCode servers under load, and servers that are not well: each ends as it began."""

import asyncio
import shlex
import sys
import time
from collections.abc import Collection, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Self

import structlog
from aiohttp import web

from nubabel_workers.bootstrap import manage_instances
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.tenants import InstanceChange
from nubabel_workers.embedded.server_memory import HasMemory, tell_memory
from nubabel_workers.embedded.stack import Stack
from nubabel_workers.embedded.stack_environment import HOST
from nubabel_workers.embedded.stack_opencode import SimulatedServer
from nubabel_workers.services.manage_instances import NewInstance
from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.running import simulator
from tests.faults.chaos.book import Book, RunObserver
from tests.faults.chaos.patience import until_done

_START_ANEW = Path(__file__).with_name("start_anew.py")
_ACTOR = "chaos:fleet"
_AGAIN_S = 0.5
_IDLE_WITHIN_S = 45.0  # so long a drained server is waited for; then its runs have to go on elsewhere
_RESTARTED_WITHIN_S = 90.0  # a leak that nobody mends within this is something to look at
_LEAK_PER_S = 20_000_000.0
_LATE_S = 5.0
_FEW_DIRECTORIES = 2
_DOWN_S = 0.5  # of a server that is started anew

# How fast the system notices: the rest of it keeps the times of production, a leak of ten minutes has no room here.
PACE: Mapping[str, str] = {
    "opencode_give_up_after_s": "12",
    "opencode_restart_after_s": "5",
    "opencode_drain_s": "15",
    "opencode_memory_window_s": "8",
    "opencode_event_lag_s": "2",
    "opencode_event_lag_checks": "2",
    "opencode_event_lag_check_s": "2",
}

log = structlog.get_logger(__name__)


class ProcessManager:
    """Starts OpenCode servers anew for the scheduler's command: what systemd or a platform is in production."""

    def __init__(self, *, port: int) -> None:
        self._port = port
        self._servers: dict[str, SimulatedServer] = {}
        self.given_up: set[str] = set()  # URLs of servers that cannot be started
        self.restarted: dict[str, int] = {}

    @property
    def command(self) -> str:
        return shlex.join([sys.executable, str(_START_ANEW), f"http://{HOST}:{self._port}/restart", "{url}"])

    def knows(self, server: SimulatedServer) -> None:
        self._servers[server.url] = server

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/restart", self._restart)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self._port).start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._runner.cleanup()

    async def _restart(self, request: web.Request) -> web.Response:
        url = await request.text()
        server = self._servers.get(url)
        if server is None or url in self.given_up:
            return web.Response(status=503, text="it does not start")
        self.restarted[url] = self.restarted.get(url, 0) + 1
        server.insides.set_faults(event_delay_s=0.0)
        server.insides.crash(down_s=_DOWN_S)
        return web.Response(text="started anew")


class Fleet:
    """Use as an async context manager. unmended: servers that stayed as they were, in words."""

    def __init__(self, stack: Stack, book: Book, processes: ProcessManager) -> None:
        services = stack.services
        self._stack = stack
        self._book = book
        self._processes = processes
        self._instances = services.instances
        self._manage = manage_instances(services)
        self._ids: dict[str, str] = {}  # by URL
        self._parts = AsyncExitStack()
        self.unmended: list[str] = []

    async def __aenter__(self) -> Self:
        for server in self._stack.opencode.simulators:
            self._processes.knows(server)
        self._ids = {instance.url: instance.id for instance in await self._instances.loads()}
        watched: dict[str, HasMemory] = {self._ids[one.url]: one for one in self._stack.opencode.simulators}
        telling = asyncio.create_task(tell_memory(watched, self._stack.services.watch_servers, every_s=1.0))
        self._parts.push_async_callback(_ended, telling)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._parts.aclose()

    async def add(self, hold_s: float) -> None:
        """One more, which is drained later, and removed when nothing runs there any more."""
        running = await self._parts.enter_async_context(simulator(SimulatorConfig()))
        server = SimulatedServer(running.url, running.simulator)
        RunObserver(self._book, server.insides.engine)
        self._processes.knows(server)
        await self._add(server)
        await asyncio.sleep(hold_s)
        instance_id = self._ids[server.url]
        await until_done(lambda: self._manage.drain(instance_id, actor=_ACTOR))
        await self._remove_when_idle(instance_id)
        self._book.wipes.append(time.monotonic())

    async def drain(self, server: SimulatedServer, hold_s: float) -> None:
        instance_id = self._ids[server.url]
        await until_done(lambda: self._manage.drain(instance_id, actor=_ACTOR))
        await asyncio.sleep(hold_s)
        await until_done(lambda: self._manage.activate(instance_id, actor=_ACTOR))

    async def house_fewer(self, server: SimulatedServer, hold_s: float) -> None:
        """So few organizations' directories that others wait for a place, or take that of one which is idle."""
        instance_id = self._ids[server.url]
        (before,) = (one for one in await until_done(self._instances.loads) if one.id == instance_id)
        await self._change(instance_id, InstanceChange(max_directories=_FEW_DIRECTORIES))
        await asyncio.sleep(hold_s)
        await self._change(instance_id, InstanceChange(max_directories=before.max_directories))

    async def remove(self, server: SimulatedServer, hold_s: float) -> None:
        """By force. What ran there is started elsewhere; an operator starts it anew before it comes back."""
        instance_id = self._ids[server.url]
        await until_done(lambda: self._manage.remove(instance_id, force=True, actor=_ACTOR))
        self._book.wipes.append(time.monotonic())
        await asyncio.sleep(hold_s)
        server.insides.crash()
        await self._add(server)

    async def give_up(self, server: SimulatedServer, hold_s: float) -> None:
        """Away for so long that its sessions go on elsewhere; nobody can start it meanwhile."""
        self._processes.given_up.add(server.url)
        server.insides.crash(down_s=hold_s)
        self._book.wipes.append(time.monotonic())
        await asyncio.sleep(hold_s)
        self._processes.given_up.discard(server.url)

    async def leak(self, server: SimulatedServer) -> None:
        """Until it was restarted: its growth is seen, it is drained, the scheduler's command starts it anew."""
        process = server.insides.memory.process
        server.insides.set_faults(leak_bytes_per_s=_LEAK_PER_S)
        deadline = time.monotonic() + _RESTARTED_WITHIN_S
        while server.insides.memory.process == process:
            if time.monotonic() > deadline:
                self.unmended.append(f"a server that leaks, {_RESTARTED_WITHIN_S:g} s after it began to")
                server.insides.set_faults(leak_bytes_per_s=0.0)
                return
            await asyncio.sleep(_AGAIN_S)

    async def delay_events(self, server: SimulatedServer, hold_s: float) -> None:
        server.insides.set_faults(event_delay_s=_LATE_S)
        await asyncio.sleep(hold_s)
        server.insides.set_faults(event_delay_s=0.0)

    def loaded(self) -> Mapping[str, Collection[str]]:
        """By server's id, the directories of organizations that are loaded there."""
        return {
            self._ids[server.url]: [
                path
                for path in server.insides.disk.loaded
                if path.startswith(f"{server.insides.config.directory}/directories/")
            ]
            for server in self._stack.opencode.simulators
        }

    async def _add(self, server: SimulatedServer) -> None:
        options = self._stack.options
        new = NewInstance(
            server.url, server.username, server.password, options.capacity_runs, options.submits_per_second
        )
        with suppress(InvalidInputError):  # the try before was done, though nobody heard of it
            await until_done(lambda: self._manage.add(new, actor=_ACTOR))
        for instance in await until_done(self._instances.loads):
            self._ids[instance.url] = instance.id

    async def _change(self, instance_id: str, change: InstanceChange) -> None:
        await until_done(lambda: self._manage.change(instance_id, change, actor=_ACTOR))

    async def _remove_when_idle(self, instance_id: str) -> None:
        deadline = time.monotonic() + _IDLE_WITHIN_S
        while True:
            force = time.monotonic() > deadline
            try:
                await until_done(lambda: self._manage.remove(instance_id, force=force, actor=_ACTOR))  # noqa: B023
            except InvalidInputError:
                await asyncio.sleep(_AGAIN_S)
            else:
                log.info("chaos.server_removed", instance_id=instance_id, force=force)
                return


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
