"""Keep up the calls of orchestrators that answer while one waits: begin them, end them when somebody wishes.

A call is a task of this process's event loop, held under a lease: it takes no worker slot. When the process dies its
lease ends and another one calls again, under the same key.
"""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

import structlog

from nubabel_workers.domain.errors import LeaseLostError, NubabelError
from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.ports import ClaimedDispatch, ExecutionStore, HintPublisher
from nubabel_workers.domain.ports.orchestrators import CallStore
from nubabel_workers.domain.rollout import Orchestrator, Rollout
from nubabel_workers.services.call_orchestrator import CallOrchestrator
from nubabel_workers.services.heed_orchestrators import HeedOrchestrators
from nubabel_workers.services.hold_leases import LeaseHolder
from nubabel_workers.services.log_context import about

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class CallLimits:
    """places: calls of this process at once. batch: calls that one task begins at most. look_s: seconds between two
    looks for calls that somebody wants to stop.
    """

    places: int = 100
    batch: int = 32
    look_s: float = 1.0


class AnswerByCall:
    """Each execution that it takes ends final, or queued again with a reason."""

    def __init__(
        self,
        executions: ExecutionStore,
        calls: CallStore,
        call: CallOrchestrator,
        heed: HeedOrchestrators,
        rollout: Rollout,
        leases: LeaseHolder,
        hints: HintPublisher,
        *,
        limits: CallLimits,
    ) -> None:
        self._executions = executions
        self._calls = calls
        self._call = call
        self._heed = heed
        self._rollout = rollout
        self._leases = leases
        self._hints = hints
        self._limits = limits
        self._running: dict[str, asyncio.Task[None]] = {}
        self._to_stop: set[str] = set()
        self._claiming = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None

    async def take(self) -> str:
        """Begin the calls whose turn it is. Returns one line for Flower, "" for none."""
        orchestrator = self._rollout.others
        begun: list[str] = []
        if orchestrator is None:
            return ""
        if (put_off := await self._heed.put_off_if_away(orchestrator)) is not None:
            return f"{put_off} wait for {orchestrator}, which is away" if put_off else ""
        async with self._claiming:
            while len(self._running) < self._limits.places and len(begun) < self._limits.batch:
                taken = await self._take_one(orchestrator)
                if taken is None:
                    break
                begun.append(taken)
        return f"{len(begun)} called {' '.join(begun)}" if begun else ""

    async def close(self) -> None:
        """Give up the calls of this process; others make them again at once."""
        if self._looking is not None:
            self._looking.cancel()
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _take_one(self, orchestrator: Orchestrator) -> str | None:
        """Each has a lease of its own, so that one that is left to its lease waits for no other's end."""
        async with AsyncExitStack() as stack:
            lease = await stack.enter_async_context(self._leases.hold())
            claimed = await self._executions.claim_queued(
                pool=None,  # places are each process's own
                limit=1,
                lease=lease,
                orchestrator=orchestrator,
            )
            if not claimed:
                return None
            (item,) = claimed
            task = asyncio.create_task(self._one(item, orchestrator, lease, stack.pop_all()))
        self._running[item.execution.id] = task
        task.add_done_callback(lambda ended: self._ended(item.execution.id, ended))
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_for_stops())
        return item.execution.id

    def _ended(self, execution_id: str, task: "asyncio.Task[None]") -> None:
        was_full = len(self._running) >= self._limits.places
        if self._running.get(execution_id) is task:  # else its lease was lost, and it was taken again meanwhile
            del self._running[execution_id]
            self._to_stop.discard(execution_id)
        if was_full:
            self._hints.publish(Hint(HintTask.DISPATCH, execution_id))

    async def _look_for_stops(self) -> None:
        """The wish stands in the row. Nothing else reaches the one process that can end the call, whatever is wiped."""
        while self._running:
            await asyncio.sleep(self._limits.look_s)
            try:
                wanted = await self._calls.asked_to_stop(list(self._running))
            except NubabelError as error:
                log.warning("calls.not_looked_at", error=str(error))
                continue
            for execution_id in wanted & self._running.keys() - self._to_stop:
                self._to_stop.add(execution_id)
                self._running[execution_id].cancel()

    async def _one(
        self, claimed: ClaimedDispatch, orchestrator: Orchestrator, lease: Lease, hold: AsyncExitStack
    ) -> None:
        async with hold:
            with about(claimed.execution):
                outcome = await self._settled(claimed, orchestrator, lease)
                log.info("execution.call_ended", orchestrator=orchestrator, outcome=outcome)

    async def _settled(self, claimed: ClaimedDispatch, orchestrator: Orchestrator, lease: Lease) -> str:
        """A bug leaves the row to its lease: it comes back as a suspect."""
        try:
            return await self._unless_ended(claimed, orchestrator, lease)
        except LeaseLostError:
            log.warning("row.lease_lost")
            return "lost"
        except NubabelError as error:
            log.warning("row.left_to_its_lease", error=str(error))
            return "left"
        except Exception:
            log.exception("row.crashed")
            return "crashed"

    async def _unless_ended(self, claimed: ClaimedDispatch, orchestrator: Orchestrator, lease: Lease) -> str:
        """By a wish to stop, or with this process."""
        try:
            return await self._call.run(claimed, orchestrator, lease)
        except asyncio.CancelledError:
            if claimed.execution.id not in self._to_stop:
                await self._call.give_back(claimed.execution, lease)
                raise
            return await self._call.stopped(claimed, lease)
