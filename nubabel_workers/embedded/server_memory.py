"""How much memory the OpenCode servers have that a stack started, told in place of the image's plugin: they lack it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import psutil
import structlog

from nubabel_workers.domain.errors import NubabelError
from nubabel_workers.services.watch_servers import WatchServers

_TELL_EVERY_S = 15.0  # as the plugin, opencode-server/config/bridge/memory.ts

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServerMemory:
    """process: its name, another one after each start. resident_bytes: without what it started."""

    process: str
    resident_bytes: int


class HasMemory(Protocol):
    def memory(self) -> ServerMemory | None:
        """None: it does not run."""
        ...


def memory_of_process(pid: int) -> ServerMemory | None:
    """None: there is no such process (any more)."""
    try:
        process = psutil.Process(pid)
        return ServerMemory(f"{pid}-{process.create_time():.3f}", int(process.memory_info().rss))
    except psutil.Error:
        return None


async def tell_memory(servers: Mapping[str, HasMemory], watch: WatchServers, *, every_s: float = _TELL_EVERY_S) -> None:
    """Until cancelled. servers: by their instance id. What cannot be written down is followed by the next report."""
    while True:
        for instance_id, server in servers.items():
            memory = server.memory()
            if memory is None:
                continue
            try:
                await watch.memory(instance_id, process=memory.process, resident_bytes=memory.resident_bytes)
            except NubabelError as error:
                log.warning("stack.memory_not_told", instance_id=instance_id, error=str(error))
        await asyncio.sleep(every_s)
