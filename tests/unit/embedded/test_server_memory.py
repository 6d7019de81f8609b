"""Memory of the OpenCode servers that a stack started."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence

from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.server_vitals import EventLagLimits, MemoryLimits
from nubabel_workers.embedded.server_memory import ServerMemory, memory_of_process, tell_memory
from nubabel_workers.services.watch_servers import WatchServers
from tests.fakes.vitals import FakeVitals
from tests.waiting import eventually


class Server:
    def __init__(self, memory: ServerMemory | None) -> None:
        self._memory = memory

    def memory(self) -> ServerMemory | None:
        return self._memory


async def told(vitals: FakeVitals, *servers: Server, reports: int) -> Sequence[tuple[str, str]]:
    """(server, process) of those that were told of, once there were so many reports."""
    watch = WatchServers(vitals, memory=MemoryLimits(), events=EventLagLimits())
    telling = asyncio.create_task(tell_memory({f"ins_{n}": one for n, one in enumerate(servers)}, watch))
    try:
        await eventually(lambda: len(vitals.samples) >= reports)
    finally:
        telling.cancel()
    return list(vitals.samples)


def test_a_process_that_runs_has_memory_and_a_name_of_its_own() -> None:
    one, again = memory_of_process(os.getpid()), memory_of_process(os.getpid())

    assert one is not None
    assert again is not None
    assert one.resident_bytes > 1_000_000
    assert one.process == again.process


def test_a_process_that_has_ended_has_none() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()

    assert memory_of_process(ended.pid) is None


async def test_of_each_server_that_runs_it_is_told() -> None:
    runs, down = Server(ServerMemory("first", 1000)), Server(None)

    assert await told(FakeVitals(), down, runs, runs, reports=2) == [("ins_1", "first"), ("ins_2", "first")]


async def test_a_report_that_cannot_be_written_down_is_followed_by_the_next() -> None:
    vitals = FakeVitals(error=UnavailableError("away"))
    watch = WatchServers(vitals, memory=MemoryLimits(), events=EventLagLimits())
    servers = {"ins_1": Server(ServerMemory("first", 1000))}

    telling = asyncio.create_task(tell_memory(servers, watch, every_s=0.01))
    await asyncio.sleep(0)  # until its first report
    vitals.error = None

    await eventually(lambda: ("ins_1", "first") in vitals.samples)
    telling.cancel()
