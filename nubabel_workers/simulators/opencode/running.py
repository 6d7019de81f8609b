"""Starting a simulator: inside of a test's event loop, or as a process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from aiohttp import web

from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.server import OpenCodeSimulator
from nubabel_workers.simulators.opencode.vitals import BridgeAccess, ServersMemory, tell_memory

_HOST = "127.0.0.1"
_BACKLOG = 4096


@dataclass(frozen=True, slots=True)
class RunningSimulator:
    """url: without a trailing slash. simulator: its insides, for faults and counters without HTTP."""

    url: str
    simulator: OpenCodeSimulator

    @asynccontextmanager
    async def bridged(self, access: BridgeAccess) -> AsyncIterator[None]:
        """Tell Nubabel how it is doing until the block ends, as a server with the plugin does."""
        simulated = self.simulator
        telling = asyncio.create_task(tell_memory(simulated.memory, access, is_up=lambda: simulated.is_up))
        try:
            yield
        finally:
            telling.cancel()
            with suppress(asyncio.CancelledError):
                await telling


@asynccontextmanager
async def simulator(
    config: SimulatorConfig | None = None,
    *,
    host: str = _HOST,
    port: int = 0,
    memory: ServersMemory | None = None,
) -> AsyncIterator[RunningSimulator]:
    """Serve until the block ends. port 0: a free one. memory: what it tells of; None: a simulated one."""
    simulated = OpenCodeSimulator(config, memory)
    runner = web.ServerRunner(simulated.serve(), shutdown_timeout=0.1)
    await runner.setup()
    heartbeats = asyncio.create_task(simulated.send_heartbeats())
    try:
        await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
        yield RunningSimulator(f"http://{host}:{runner.addresses[0][1]}", simulated)
    finally:
        heartbeats.cancel()
        with suppress(asyncio.CancelledError):
            await heartbeats
        await simulated.close()
        await runner.cleanup()
