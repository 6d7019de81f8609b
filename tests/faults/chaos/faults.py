"""Carries out the plan on a running stack: each fault begins, lasts and is over; what it did is written down."""

import asyncio
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress

import psutil
import redis.asyncio as redis
import structlog

from nubabel_workers.embedded.processes import ProcessFailedError
from nubabel_workers.embedded.stack import Stack
from nubabel_workers.embedded.stack_opencode import SimulatedServer
from nubabel_workers.simulators.opencode.server import OpenCodeSimulator
from nubabel_workers.simulators.slack import Fault as SlackFault
from nubabel_workers.simulators.slack import FaultKind as SlackFaultKind
from tests.faults.chaos.book import Book
from tests.faults.chaos.fleet import Fleet
from tests.faults.chaos.limit_changes import LimitChanges
from tests.faults.chaos.owners import Takeovers
from tests.faults.chaos.plan import LIMIT_FAULTS, FaultKind, PlannedFault
from tests.faults.chaos.suffering import Suffered

_POST = "chat.postMessage"
_SEVERAL = 3
_RETRY_AFTER_S = 5.0
_LONGER_THAN_ANYBODY_WAITS_S = 14.0
_FAULTS_OF_SLACK = {
    FaultKind.SLACK_LOST_ANSWER: SlackFault(_POST, SlackFaultKind.LOST_ANSWER, times=2),
    FaultKind.SLACK_INTERNAL_ERROR: SlackFault(_POST, SlackFaultKind.ERROR_AFTER, times=2),
    FaultKind.SLACK_TAKEN_LATE: SlackFault(_POST, SlackFaultKind.TAKEN_LATE, seconds=_LONGER_THAN_ANYBODY_WAITS_S),
    FaultKind.SLACK_RATE_LIMIT: SlackFault(_POST, SlackFaultKind.RATE_LIMITED, times=_SEVERAL, seconds=_RETRY_AFTER_S),
    FaultKind.SLACK_5XX: SlackFault(_POST, SlackFaultKind.HTTP_STATUS, times=_SEVERAL, status=503),
}

log = structlog.get_logger(__name__)


class Injector:
    def __init__(self, stack: Stack, book: Book, takeovers: Takeovers, fleet: Fleet, limits: LimitChanges) -> None:
        self._stack = stack
        self._book = book
        self._takeovers = takeovers
        self._fleet = fleet
        self._limits = limits
        self.suffered: list[Suffered] = []
        # On a busy machine a store takes longer to start than was planned: what is to befall it then waits.
        self._stores: Mapping[str, AbstractAsyncContextManager[None]] = {
            "valkey": asyncio.Lock(),
            "postgres": asyncio.Lock(),
        }
        self._acts: dict[FaultKind, Callable[[PlannedFault], Awaitable[None]]] = {
            FaultKind.KILL: self._kill,
            FaultKind.STOP: self._stop,
            FaultKind.RESTART: self._restart,
            FaultKind.KILL_IN_POST: self._kill_in_post,
            FaultKind.KILL_IN_SUBMIT: self._kill_in_submit,
            FaultKind.VALKEY_KILL: self._kill_valkey,
            FaultKind.VALKEY_WIPE: self._wipe_valkey,
            FaultKind.VALKEY_FLUSH: self._flush_valkey,
            FaultKind.VALKEY_HANG: self._hang_valkey,
            FaultKind.POSTGRES_KILL: self._kill_postgres,
            FaultKind.POSTGRES_RESTART: self._restart_postgres,
            FaultKind.POSTGRES_HANG: self._hang_postgres,
            FaultKind.OPENCODE_CRASH: self._crash_opencode,
            FaultKind.OPENCODE_WIPE: self._wipe_opencode,
            FaultKind.OPENCODE_HANG: self._hang_opencode,
            FaultKind.FLEET_ADD: self._add_server,
            FaultKind.FLEET_DRAIN: self._drain_server,
            FaultKind.FLEET_REMOVE: self._remove_server,
            FaultKind.FLEET_GIVE_UP: self._give_up_server,
            FaultKind.FLEET_LEAK: self._leak,
            FaultKind.FLEET_LAG: self._delay_events,
            FaultKind.FLEET_FEWER: self._house_fewer,
            **dict.fromkeys(_FAULTS_OF_SLACK, self._spoil_slack),
            **dict.fromkeys(LIMIT_FAULTS, self._lower_limit),
        }

    async def run(self, plan: Sequence[PlannedFault]) -> None:
        """Returns when the last fault is over and everything runs, or is being started, again."""
        start = time.monotonic()
        async with asyncio.TaskGroup() as faults:
            for planned in plan:
                await asyncio.sleep(max(0.0, start + planned.at_s - time.monotonic()))
                faults.create_task(self._suffer(planned))
        self._stack.slack.faults.clear()

    async def _suffer(self, planned: PlannedFault) -> None:
        began = time.monotonic()
        log.info("chaos.fault", kind=str(planned.kind), target=planned.target, hold_s=round(planned.hold_s, 1))
        async with self._stores.get(planned.subject, nullcontext()):
            await self._acts[planned.kind](planned)
        self.suffered.append(Suffered(planned.kind, planned.target, began, time.monotonic()))

    # --- processes ------------------------------------------------------------------------------------------------

    async def _kill(self, fault: PlannedFault) -> None:
        await self._stack.processes.kill(fault.target)

    async def _stop(self, fault: PlannedFault) -> None:
        pid = self._stack.processes.pid(fault.target)
        self._stack.processes.send_signal(fault.target, signal.SIGSTOP)
        await asyncio.sleep(fault.hold_s)
        if self._stack.processes.pid(fault.target) == pid:
            self._stack.processes.send_signal(fault.target, signal.SIGCONT)

    async def _restart(self, fault: PlannedFault) -> None:
        await self._stack.processes.stop(fault.target)
        with suppress(ProcessFailedError):  # a store may be away just now; it is started again until it lives
            await self._stack.processes.start(fault.target)

    async def _kill_in_post(self, fault: PlannedFault) -> None:
        await self._takeovers.kill_in_post(fault.target)

    async def _kill_in_submit(self, fault: PlannedFault) -> None:
        await self._takeovers.kill_in_submit(_number(fault))

    # --- stores ---------------------------------------------------------------------------------------------------

    async def _kill_valkey(self, fault: PlannedFault) -> None:
        await asyncio.to_thread(self._stack.valkey.kill)
        await asyncio.sleep(fault.hold_s)
        await asyncio.to_thread(self._stack.valkey.start)

    async def _wipe_valkey(self, fault: PlannedFault) -> None:
        await asyncio.to_thread(self._stack.valkey.kill)
        await asyncio.sleep(fault.hold_s)
        await asyncio.to_thread(shutil.rmtree, self._stack.directory / "valkey" / "appendonlydir")
        await asyncio.to_thread(self._stack.valkey.start)

    async def _flush_valkey(self, _fault: PlannedFault) -> None:
        async with redis.Redis.from_url(self._stack.valkey.broker_url) as client:
            await client.flushall()

    async def _hang_valkey(self, fault: PlannedFault) -> None:
        async with _stopped([psutil.Process(self._stack.valkey.process.pid)]):
            await asyncio.sleep(fault.hold_s)

    async def _kill_postgres(self, fault: PlannedFault) -> None:
        await asyncio.to_thread(self._stack.postgres.kill)
        await asyncio.sleep(fault.hold_s)
        await asyncio.to_thread(self._stack.postgres.start)

    async def _restart_postgres(self, fault: PlannedFault) -> None:
        await asyncio.to_thread(self._stack.postgres.stop)
        await asyncio.sleep(fault.hold_s)
        await asyncio.to_thread(self._stack.postgres.start)

    async def _hang_postgres(self, fault: PlannedFault) -> None:
        postmaster = psutil.Process(self._stack.postgres.process.pid)
        async with _stopped([postmaster, *postmaster.children(recursive=True)]):
            await asyncio.sleep(fault.hold_s)

    # --- the outside ----------------------------------------------------------------------------------------------

    async def _crash_opencode(self, fault: PlannedFault) -> None:
        self._opencode(fault).crash(down_s=fault.hold_s)
        await asyncio.sleep(fault.hold_s)

    async def _wipe_opencode(self, fault: PlannedFault) -> None:
        self._opencode(fault).wipe(down_s=fault.hold_s)
        self._book.wipes.append(time.monotonic())
        await asyncio.sleep(fault.hold_s)

    async def _hang_opencode(self, fault: PlannedFault) -> None:
        server = self._opencode(fault)
        server.set_faults(slow_s=2 * fault.hold_s)
        await asyncio.sleep(fault.hold_s)
        server.set_faults(slow_s=0.0)

    async def _spoil_slack(self, fault: PlannedFault) -> None:
        planned = _FAULTS_OF_SLACK[fault.kind]
        self._stack.slack.faults.plan(planned.befalling(fault.target))

    def _opencode(self, fault: PlannedFault) -> OpenCodeSimulator:
        return self._server(fault).insides

    # --- the fleet and the limits ---------------------------------------------------------------------------------

    async def _add_server(self, fault: PlannedFault) -> None:
        await self._fleet.add(fault.hold_s)

    async def _drain_server(self, fault: PlannedFault) -> None:
        await self._fleet.drain(self._server(fault), fault.hold_s)

    async def _remove_server(self, fault: PlannedFault) -> None:
        await self._fleet.remove(self._server(fault), fault.hold_s)

    async def _give_up_server(self, fault: PlannedFault) -> None:
        await self._fleet.give_up(self._server(fault), fault.hold_s)

    async def _leak(self, fault: PlannedFault) -> None:
        await self._fleet.leak(self._server(fault))

    async def _delay_events(self, fault: PlannedFault) -> None:
        await self._fleet.delay_events(self._server(fault), fault.hold_s)

    async def _house_fewer(self, fault: PlannedFault) -> None:
        await self._fleet.house_fewer(self._server(fault), fault.hold_s)

    async def _lower_limit(self, fault: PlannedFault) -> None:
        (tenant,) = (one for one in self._stack.tenants if one.team == fault.target)
        await self._limits.lower(tenant, fault.kind.value.partition(" ")[2], fault.hold_s)

    def _server(self, fault: PlannedFault) -> SimulatedServer:
        return self._stack.opencode.simulators[_number(fault)]


def _number(fault: PlannedFault) -> int:
    """Of an OpenCode server, from 0."""
    return int(fault.target.rpartition(" ")[2]) - 1


@asynccontextmanager
async def _stopped(processes: Sequence[psutil.Process]) -> AsyncIterator[None]:
    """SIGSTOP for the time of the block, then SIGCONT to those that still live."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()
