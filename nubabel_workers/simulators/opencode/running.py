"""Starting a simulator: inside of a test's event loop, or as a process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from aiohttp import web

from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.server import OpenCodeSimulator

_HOST = "127.0.0.1"
_BACKLOG = 4096


@dataclass(frozen=True, slots=True)
class RunningSimulator:
    """url: without a trailing slash. simulator: its insides, for faults and counters without HTTP."""

    url: str
    simulator: OpenCodeSimulator


@asynccontextmanager
async def simulator(
    config: SimulatorConfig | None = None, *, host: str = _HOST, port: int = 0
) -> AsyncIterator[RunningSimulator]:
    """Serve until the block ends. port 0: a free one."""
    simulated = OpenCodeSimulator(config)
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
