"""Take queued executions whose turn it is and get each running on an OpenCode server. No slot waits for the run."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack

import structlog

from nubabel_workers.domain import outcomes
from nubabel_workers.domain.budgets import BudgetReachedError
from nubabel_workers.domain.dead_letters import DeadLetterReason
from nubabel_workers.domain.directories import ROOM, DirectoryWaitError
from nubabel_workers.domain.errors import (
    NotLookedThroughError,
    NubabelError,
    PromptRefusedError,
    UnavailableError,
    UncertainError,
)
from nubabel_workers.domain.executions import EventKind, Execution, SessionLeft, Status
from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.masking import WAITS_FOR_MASKING
from nubabel_workers.domain.placement import AWAY, OWN, PACE, Placement, PlaceWait, why_left
from nubabel_workers.domain.ports import (
    Chance,
    CircuitBreakers,
    ClaimedDispatch,
    Clock,
    ExecutionStore,
    HintPublisher,
    InstanceStore,
    ProgressStream,
    Throttle,
    WaitingStore,
)
from nubabel_workers.domain.progress import state_event
from nubabel_workers.domain.retry import GiveUp, RetryPolicy, next_attempt, pace_of_waiting
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.services.answer_by_call import AnswerByCall
from nubabel_workers.services.batches import BatchLimits, Tally, took_all
from nubabel_workers.services.end_execution import EndExecution
from nubabel_workers.services.file_room import FileRoom
from nubabel_workers.services.hold_leases import LeaseHolder
from nubabel_workers.services.keep_budgets import KeepBudgets
from nubabel_workers.services.log_context import about
from nubabel_workers.services.report_servers import ReportServers
from nubabel_workers.services.reuse_answers import ReuseAnswers
from nubabel_workers.services.submit_prompt import SubmitPrompt
from nubabel_workers.services.turnstile import Turnstile

log = structlog.get_logger(__name__)

_NO_PLACE_WAIT_S = 1.0
_NO_ROOM_WAIT_S = 3.0  # many organizations may wait for one, and a place is free every ten seconds at best
_PACE_WINDOW_S = 1.0
_FILES = "files"
_MORE = "the next task goes on"


class DispatchExecutions:
    """Each claimed execution ends running, queued again with a reason, or final."""

    def __init__(
        self,
        executions: ExecutionStore,
        end: EndExecution,
        instances: InstanceStore,
        submit_prompt: SubmitPrompt,
        progress: ProgressStream,
        throttle: Throttle,
        breakers: CircuitBreakers,
        report: ReportServers,
        waiting: WaitingStore,
        budgets: KeepBudgets,
        calls: AnswerByCall,
        reuse: ReuseAnswers,
        leases: LeaseHolder,
        hints: HintPublisher,
        chance: Chance,
        clock: Clock,
        *,
        retry: RetryPolicy,
        limits: BatchLimits,
    ) -> None:
        self._executions = executions
        self._end = end
        self._instances = instances
        self._submit_prompt = submit_prompt
        self._progress = progress
        self._throttle = throttle
        self._breakers = breakers
        self._report = report
        self._waiting = waiting
        self._budgets = budgets
        self._calls = calls
        self._reuse = reuse
        self._leases = leases
        self._hints = hints
        self._chance = chance
        self._clock = clock
        self._retry = retry
        self._limits = limits
        self._file_room = FileRoom()
        self._claims = Turnstile()
        # Execution -> its server, from its choice until it runs there or does not: the next claim chooses before then.
        self._placed: dict[str, str] = {}
        self._runs = 0

    async def run(self) -> str:
        """Get everything going whose turn it is, each at its orchestrator. Returns one line for Flower."""
        called = await self._calls.take()
        dispatched = await self._dispatch_turns()
        return f"{called}; {dispatched}" if called else dispatched

    async def _dispatch_turns(self) -> str:
        """What OpenCode answers, pool by pool: each has a line of its own, and none waits for another's places."""
        tally = Tally(self._limits)
        lines = await self._lines_with_room()
        if not lines:
            return f"{tally}; no free OpenCode server"
        self._runs += 1
        first = self._runs % len(lines)  # each is the first now and then: the task may end before the last
        remarks = [await self._dispatch_line(line, tally) for line in (*lines[first:], *lines[:first])]
        if _MORE in remarks and tally.last is not None:
            self._hints.publish(Hint(HintTask.DISPATCH, tally.last))
        return "; ".join([str(tally), *filter(None, dict.fromkeys(remarks))])

    async def _lines_with_room(self) -> Sequence[str | None]:
        """Of many lines those whose servers are full are passed over by one look at all servers."""
        lines = await self._executions.lines()
        if len(lines) == 1:
            return lines
        placement = await self._placement()
        return [line for line in lines if placement.pool(line).free != 0]

    async def _dispatch_line(self, line: str | None, tally: Tally) -> str:
        """Of those that wait for this pool's places, as many as there are. Returns why others wait, "" for none."""
        while not tally.full:
            if self._claims.somebody_waits:
                return "the next claim is about to begin"
            async with AsyncExitStack() as held:
                async with self._claims.passing():
                    placement = await self._placement()
                    pool = placement.pool(line)
                    if pool.away_for_s is not None:
                        put_off = await self._waiting.put_off(line, wait_s=pool.away_for_s)
                        return f"{put_off} wait {pool.away_for_s:.1f} s for an OpenCode server, all are away"
                    limit = self._limits.batch if pool.free is None else min(self._limits.batch, pool.free)
                    if limit == 0:
                        return "no free OpenCode server"
                    lease = await held.enter_async_context(self._leases.hold())
                    claimed = await self._executions.claim_queued(pool=pool, limit=limit, lease=lease)
                paced = await self._dispatch_all(claimed, placement, lease, tally)
            await self._report.run()
            if (per_s := pool.pace_of(paced)) is not None:
                spaced = await self._waiting.space_out(line, per_s=per_s)
                return f"{spaced} more wait for their turn, {per_s:g} a second"
            if took_all(claimed, limit):
                return ""
        return _MORE

    async def _placement(self) -> Placement:
        placed = dict(self._placed)
        loads = await self._instances.loads(besides=placed)
        return Placement(loads, await self._breakers.gates(), Counter(placed.values()))

    async def _dispatch_all(
        self, claimed: Sequence[ClaimedDispatch], placement: Placement, lease: Lease, tally: Tally
    ) -> Collection[str]:
        """Return the servers that take no more prompts in this second."""
        by_instance: dict[str, list[tuple[ClaimedDispatch, Instance]]] = defaultdict(list)
        waiting: list[tuple[ClaimedDispatch, PlaceWait]] = []
        for item in sorted(claimed, key=_may_go_anywhere):
            instance = placement.place(item.execution, item.servers, stays=item.open_attempt)
            if instance is None:
                waiting.append((item, placement.wait_for(item.execution, item.servers, stays=item.open_attempt)))
            else:
                self._placed[item.execution.id] = instance.id
                by_instance[instance.id].append((item, instance))
        try:
            return await self._dispatch_placed(by_instance, waiting, placement, lease, tally)
        finally:
            for items in by_instance.values():
                for item, _ in items:
                    self._placed.pop(item.execution.id, None)

    async def _dispatch_placed(
        self,
        by_instance: Mapping[str, Sequence[tuple[ClaimedDispatch, Instance]]],
        waiting: list[tuple[ClaimedDispatch, PlaceWait]],
        placement: Placement,
        lease: Lease,
        tally: Tally,
    ) -> Collection[str]:
        allowed: list[tuple[ClaimedDispatch, Instance]] = []
        paced: set[str] = set()
        for items in by_instance.values():
            instance = items[0][1]
            if placement.is_probe(instance) and not await self._breakers.take_probe(instance.id):
                waiting += [(item, PlaceWait(AWAY, _NO_PLACE_WAIT_S)) for item, _ in items]
                continue
            granted = await self._granted(instance, len(items))
            allowed += items[:granted]
            waiting += [(item, PlaceWait(PACE)) for item, _ in items[granted:]]
            if granted < len(items):
                paced.add(instance.id)
        begun: list[tuple[ClaimedDispatch, Instance]] = []
        for item, instance in allowed:
            if self._file_room.take(item.execution):
                begun.append((item, instance))
            else:
                waiting.append((item, PlaceWait(_FILES)))
        await asyncio.gather(
            *(self._one(item, instance, lease, tally) for item, instance in begun),
            *(self._put_back(item, wait, lease, tally) for item, wait in waiting),
        )
        return paced

    async def _granted(self, instance: Instance, wanted: int) -> int:
        """How many prompts this server may get in the current second: accepting is its bottleneck."""
        return await self._throttle.take(
            f"submits:{instance.id}", per_s=_PACE_WINDOW_S, limit=instance.submits_per_second, wanted=wanted
        )

    async def _one(self, claimed: ClaimedDispatch, instance: Instance, lease: Lease, tally: Tally) -> None:
        try:
            with about(claimed.execution):
                await tally.settle(
                    claimed.execution.id,
                    self._dispatch(claimed, instance, lease),
                    lambda error: self._after_failure(claimed.execution, lease, error),
                )
        finally:
            self._file_room.give_back(claimed.execution)
            self._placed.pop(claimed.execution.id, None)

    async def _put_back(self, claimed: ClaimedDispatch, wait: PlaceWait, lease: Lease, tally: Tally) -> None:
        with about(claimed.execution):
            await tally.settle(
                claimed.execution.id,
                self._wait(claimed.execution, wait, lease),
                lambda error: self._after_failure(claimed.execution, lease, error),
            )

    async def _wait(self, execution: Execution, wait: PlaceWait, lease: Lease) -> str:
        wait_s = wait.wait_s
        if wait_s is None and wait.reason in {AWAY, OWN}:
            wait_s = self._pace_of(execution)
        elif wait_s is None:
            wait_s = (_NO_ROOM_WAIT_S if wait.reason == ROOM else _NO_PLACE_WAIT_S) * (0.5 + self._chance.jitter())
        await self._requeue(execution, lease, wait_s=wait_s, reason=wait.reason, failed=False, verdict=None)
        return "waiting"

    def _pace_of(self, execution: Execution) -> float:
        waited_s = (self._clock.now() - execution.created_at).total_seconds()
        return pace_of_waiting(waited_s, jitter=self._chance.jitter())

    async def _dispatch(self, claimed: ClaimedDispatch, instance: Instance, lease: Lease) -> str:
        execution = claimed.execution
        if claimed.lone_deliveries > self._limits.lone_deliveries:
            await self._end.held(
                execution,
                lease,
                outcomes.failed(
                    execution,
                    code="too_many_deliveries",
                    detail="each worker that took it alone ended without a result",
                    reason=DeadLetterReason.TOO_MANY_DELIVERIES,
                    may_still_run=claimed.open_attempt,
                ),
            )
            return "parked"
        started = await self._submit_prompt.resume(execution, instance, lease) if claimed.open_attempt else None
        if started is None and claimed.cancel_requested:
            reason = execution.cancel_reason or "cancelled"
            await self._end.held(execution, lease, outcomes.cancelled(execution, reason=reason))
            return "cancelled"
        if started is None and not claimed.open_attempt and (known := await self._reuse.find(execution)) is not None:
            await self._end.held(execution, lease, outcomes.answered_before(execution, known))
            return "answered before"
        if started is None:
            try:
                left = await self._why_left(claimed, instance)
                started = await self._submit_prompt.submit(
                    execution, instance, lease, masking=claimed.masking, left=left
                )
            except BudgetReachedError as error:
                return await self._budgets.wait(execution, lease, error.shortage)
            except DirectoryWaitError as error:
                return await self._wait(execution, PlaceWait(error.reason), lease)
        log.info("execution.submitted", instance_id=instance.id)
        if started.check_now:
            self._hints.publish(Hint(HintTask.COMPLETE, execution.id, execution.organization_id))
        await self._progress.append(execution.organization_id, execution.id, state_event(Status.RUNNING))
        return "dispatched"

    async def _why_left(self, claimed: ClaimedDispatch, instance: Instance) -> SessionLeft | None:
        """None: its session's server is this one, or it had none."""
        execution = claimed.execution
        if execution.instance_id in {None, instance.id}:
            return None
        before = await self._instances.find(str(execution.instance_id))
        return why_left(before, execution.organization_id, claimed.servers)

    async def _after_failure(self, execution: Execution, lease: Lease, error: NubabelError) -> str:
        if isinstance(error, UnavailableError) or isinstance(error.__cause__, UnavailableError):
            return await self._wait_for_server(execution, lease, error)
        if isinstance(error, NotLookedThroughError):
            return await self._wait_for_masking(execution, lease)
        if isinstance(error, PromptRefusedError):
            await self._end.held(execution, lease, outcomes.refused_for_content(execution, error))
            return "refused"
        decision = next_attempt(error, execution.failures + 1, self._retry, jitter=self._chance.jitter())
        log.warning("execution.dispatch_failed", error=str(error), failures=execution.failures + 1)
        in_doubt = isinstance(error, UncertainError)
        if isinstance(decision, GiveUp):
            finish = outcomes.failed(
                execution, code=decision.code, detail=str(error), reason=decision.reason, may_still_run=in_doubt
            )
            await self._end.held(execution, lease, finish)
            return "failed"
        # After an uncertain POST the attempt stays open: the next dispatch asks the server first.
        verdict = None if in_doubt else "not_submitted"
        await self._requeue(execution, lease, wait_s=decision.wait_s, reason=str(error), failed=True, verdict=verdict)
        return "again"

    async def _wait_for_server(self, execution: Execution, lease: Lease, error: NubabelError) -> str:
        """Its server is away: it waits as a row, for as long as answer_by allows; only answers count as failures.

        An attempt in doubt (its prompt may have arrived before) stays open, so that the next dispatch asks first.
        """
        wait_s = self._pace_of(execution)
        log.warning("execution.server_away", error=str(error), wait_s=round(wait_s, 1))
        verdict = None if isinstance(error, UncertainError) else "not_submitted"
        await self._requeue(execution, lease, wait_s=wait_s, reason=AWAY, failed=False, verdict=verdict)
        return "waiting"

    async def _wait_for_masking(self, execution: Execution, lease: Lease) -> str:
        """This machine was too busy to look through its question: it waits as for a server, and nothing was sent."""
        wait_s = self._pace_of(execution)
        log.warning("execution.not_looked_through", wait_s=round(wait_s, 1))
        await self._requeue(
            execution, lease, wait_s=wait_s, reason=WAITS_FOR_MASKING, failed=False, verdict="not_submitted"
        )
        return "waiting"

    async def _requeue(
        self, execution: Execution, lease: Lease, *, wait_s: float, reason: str, failed: bool, verdict: str | None
    ) -> None:
        await self._executions.requeue(
            execution,
            lease,
            wait_s=wait_s,
            kind=EventKind.RETRY if failed else EventKind.WAITING,
            detail={"reason": reason, "wait_s": round(wait_s, 3)},
            failed=failed,
            attempt_verdict=verdict,
        )


def _may_go_anywhere(item: ClaimedDispatch) -> bool:
    """Sorts what has only one server, its session's, before what may run on any: the one place could be taken."""
    return item.execution.instance_id is None
