"""Look at runs that may have ended, decide from OpenCode's own state, and finish them. Events are only hints."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from nubabel_workers.domain import outcomes
from nubabel_workers.domain.dead_letters import DeadLetterReason
from nubabel_workers.domain.errors import NotFoundError, NubabelError, TransientError
from nubabel_workers.domain.executions import EventKind, Execution
from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.ports import (
    Chance,
    ClaimedCheck,
    ExecutionStore,
    HintFlags,
    HintPublisher,
    InstanceStore,
    OpenCodeServer,
    OpenCodeServers,
    SessionMappings,
)
from nubabel_workers.domain.retry import GiveUp, RetryPolicy, next_attempt
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.domain.verdict import IDLE, RunError, SessionState, Verdict, VerdictKind, decide
from nubabel_workers.services.batches import BatchLimits, Tally
from nubabel_workers.services.end_execution import EndExecution
from nubabel_workers.services.hold_leases import LeaseHolder
from nubabel_workers.services.log_context import about
from nubabel_workers.services.submit_prompt import ids_of

log = structlog.get_logger(__name__)

_SETTLE_S = 0.15  # measured on opencode 1.18.33: the last message may be stored up to 300 ms after session.idle
_ABORT_S = 1.0  # measured: an abort is answered in 10-20 ms
_ABORT_LOOKS_S = (0.05, 0.1, 0.2, 0.4)


@dataclass(frozen=True)
class CheckLimits:
    """Seconds until the next look without news; model_retries: OpenCode's own, which have no end of their own.

    arrival_s: how long an accepted prompt may be missing on its server. Measured on opencode 1.18.33: while a directory
    is loaded, a prompt is stored some time after its 204.
    """

    again_s: float = 20.0
    unreachable_s: float = 3.0
    model_retries: int = 6
    arrival_s: float = 15.0
    arrival_look_s: float = 1.0


class CompleteExecutions:
    """Each claimed run ends final, queued for another attempt, or left running until the next look."""

    def __init__(
        self,
        executions: ExecutionStore,
        end: EndExecution,
        instances: InstanceStore,
        servers: OpenCodeServers,
        mappings: SessionMappings,
        leases: LeaseHolder,
        hints: HintPublisher,
        flags: HintFlags,
        chance: Chance,
        *,
        retry: RetryPolicy,
        limits: BatchLimits,
        checks: CheckLimits,
    ) -> None:
        self._executions = executions
        self._end = end
        self._instances = instances
        self._servers = servers
        self._mappings = mappings
        self._leases = leases
        self._hints = hints
        self._flags = flags
        self._chance = chance
        self._retry = retry
        self._limits = limits
        self._checks = checks

    async def run(self, execution_id: str | None) -> str:
        """Look at the named execution and others that are due. Returns one line for Flower."""
        await self._flags.clear(HintTask.COMPLETE)
        tally = Tally(self._limits)
        while not tally.full:
            async with self._leases.hold() as lease:
                claimed = await self._executions.claim_checks(
                    execution_id=execution_id, limit=self._limits.batch, lease=lease
                )
                looks = _Looks(self._instances, self._servers)
                await asyncio.gather(*(self._one(item, looks, lease, tally) for item in claimed))
            execution_id = None
            if len(claimed) < self._limits.batch:
                return str(tally)
        self._hints.publish(Hint(HintTask.COMPLETE, claimed[-1].execution.id))
        return str(tally)

    async def _one(self, claimed: ClaimedCheck, looks: "_Looks", lease: Lease, tally: Tally) -> None:
        execution = claimed.execution
        with about(execution):
            await tally.settle(
                execution.id,
                self._complete(claimed, looks, lease),
                lambda error: self._after_failure(claimed, lease, error),
            )

    async def _complete(self, claimed: ClaimedCheck, looks: "_Looks", lease: Lease) -> str:
        execution = claimed.execution
        if claimed.lone_deliveries > self._limits.lone_deliveries:
            return await self._fail(
                execution,
                lease,
                "too_many_deliveries",
                "each worker that looked at it alone ended without a result",
                DeadLetterReason.TOO_MANY_DELIVERIES,
                run=Verdict(VerdictKind.RUNNING),
            )
        try:
            server, verdict = await self._look(claimed, looks, lease)
        except NotFoundError:
            await self._executions.forget_opencode_session(execution, lease)
            await self._mappings.forget(execution.organization_id, execution.session_id)
            if claimed.cancel_requested or claimed.past_deadline:
                return await self._end_stopped(claimed, Verdict(VerdictKind.NOT_SUBMITTED), lease)
            return await self._again(execution, lease, TransientError("the session is lost on its server"), None)
        if claimed.cancel_requested or claimed.past_deadline:
            return await self._end_stopped(claimed, verdict, lease)
        if verdict.kind is VerdictKind.RUNNING and verdict.retry_attempt > self._checks.model_retries:
            await self._stop(server, execution, lease)
            error = TransientError(f"the model did not answer in {verdict.retry_attempt} tries")
            return await self._again(execution, lease, error, verdict)
        return await self._act_on(claimed, verdict, lease)

    async def _act_on(self, claimed: ClaimedCheck, verdict: Verdict, lease: Lease) -> str:
        execution = claimed.execution
        match verdict.kind:
            case VerdictKind.NOT_SUBMITTED if claimed.running_for_s < self._checks.arrival_s:
                await self._executions.release_check(execution, lease, check_after_s=self._checks.arrival_look_s)
                return "running"
            case VerdictKind.RUNNING | VerdictKind.UNSETTLED:
                await self._executions.release_check(execution, lease, check_after_s=self._checks.again_s)
                return "running"
            case VerdictKind.SUCCEEDED:
                await self._end.held(execution, lease, outcomes.answered(execution, verdict, execution.notes))
                return "completed"
            case VerdictKind.FAILED if verdict.error is not None and not verdict.error.retryable:
                return await self._fail(
                    execution,
                    lease,
                    "model_error",
                    _explain(verdict.error),
                    DeadLetterReason.PERMANENT_ERROR,
                    run=verdict,
                )
            case VerdictKind.ENDED_WITHOUT_ANSWER:
                return await self._fail(
                    execution, lease, "no_answer", "ended without text", DeadLetterReason.PERMANENT_ERROR, run=verdict
                )
            case _:
                return await self._again(execution, lease, TransientError(_explain_kind(verdict)), verdict)

    async def _end_stopped(self, claimed: ClaimedCheck, verdict: Verdict, lease: Lease) -> str:
        """After an abort for a wish or a deadline. An answer that was there before the abort is an answer."""
        execution = claimed.execution
        if verdict.kind is VerdictKind.SUCCEEDED:
            await self._end.held(execution, lease, outcomes.answered(execution, verdict, execution.notes))
            return "completed"
        if claimed.cancel_requested:
            reason = execution.cancel_reason or "cancelled"
            await self._end.held(execution, lease, outcomes.cancelled(execution, reason=reason, run=verdict))
            return "cancelled"
        return await self._fail(
            execution,
            lease,
            "deadline_exceeded",
            "the run took longer than its deadline",
            DeadLetterReason.PERMANENT_ERROR,
            run=verdict,
        )

    async def _look(self, claimed: ClaimedCheck, looks: "_Looks", lease: Lease) -> tuple[OpenCodeServer, Verdict]:
        execution = claimed.execution
        instance = await looks.instance(execution)
        server = self._servers.server(instance)
        state = await looks.state(instance, execution)
        verdict = await self._decide(server, execution, state, settled=False)
        if claimed.cancel_requested or claimed.past_deadline:
            return server, await self._abort(server, execution, verdict, lease)
        if verdict.kind is VerdictKind.UNSETTLED:
            await asyncio.sleep(_SETTLE_S)
            busy = await server.busy_sessions(execution.opencode_directory)
            state = busy.get(_session_of(execution), IDLE)
            verdict = await self._decide(server, execution, state, settled=True)
        return server, verdict

    async def _stop(self, server: OpenCodeServer, execution: Execution, lease: Lease) -> None:
        # Abort what this execution runs, never what the session's next one does: the lease says which it is.
        self._leases.time_to_act_s(lease, _ABORT_S)
        await server.abort(_session_of(execution))

    async def _abort(self, server: OpenCodeServer, execution: Execution, verdict: Verdict, lease: Lease) -> Verdict:
        """Abort what still runs and read what there is; the server ends a run within a second."""
        if verdict.kind not in {VerdictKind.RUNNING, VerdictKind.UNSETTLED, VerdictKind.RESUBMIT}:
            return verdict
        await self._stop(server, execution, lease)
        await self._executions.note_event(execution, EventKind.ABORTED, {})
        for wait_s in _ABORT_LOOKS_S:
            await asyncio.sleep(wait_s)
            busy = await server.busy_sessions(execution.opencode_directory)
            state = busy.get(_session_of(execution), IDLE)
            verdict = await self._decide(server, execution, state, settled=True)
            if verdict.kind is not VerdictKind.RUNNING:
                break
        return verdict

    async def _decide(
        self, server: OpenCodeServer, execution: Execution, state: SessionState, *, settled: bool
    ) -> Verdict:
        session_id = _session_of(execution)
        return decide(
            await server.run_messages(session_id),
            my_message_id=ids_of(execution, session_id).message_id,
            state=state,
            settled=settled,
            known_assistant_ids=frozenset(execution.known_assistant_ids),
        )

    async def _after_failure(self, claimed: ClaimedCheck, lease: Lease, error: NubabelError) -> str:
        """The server could not be asked: it may come back. A deadline or a wish to stop doesn't wait for that."""
        execution = claimed.execution
        log.warning("execution.check_failed", error=str(error))
        if claimed.cancel_requested or claimed.past_deadline:
            return await self._end_stopped(claimed, Verdict(VerdictKind.RUNNING), lease)
        await self._executions.release_check(execution, lease, check_after_s=self._checks.unreachable_s)
        return "unreachable"

    async def _again(self, execution: Execution, lease: Lease, error: TransientError, run: Verdict | None) -> str:
        """Another attempt with backoff, or the end if there were enough."""
        decision = next_attempt(error, execution.failures + 1, self._retry, jitter=self._chance.jitter())
        if isinstance(decision, GiveUp):
            return await self._fail(
                execution, lease, decision.code, str(error), DeadLetterReason.ATTEMPTS_EXHAUSTED, run=run
            )
        crashed = run is not None and run.kind is VerdictKind.RESUBMIT
        wait_s = 0.0 if crashed and execution.failures == 0 else decision.wait_s
        await self._executions.requeue(
            execution,
            lease,
            wait_s=wait_s,
            kind=EventKind.RESUBMIT if crashed else EventKind.RETRY,
            detail={"reason": str(error), "wait_s": round(wait_s, 3)},
            failed=True,
            attempt_verdict=run.kind.value if run else "session_lost",
        )
        log.warning("execution.retry", reason=str(error), wait_s=wait_s)
        if wait_s == 0.0:
            self._hints.publish(Hint(HintTask.DISPATCH, execution.id, execution.organization_id))
        return "again"

    async def _fail(
        self,
        execution: Execution,
        lease: Lease,
        code: str,
        detail: str,
        reason: DeadLetterReason,
        *,
        run: Verdict | None = None,
    ) -> str:
        finish = outcomes.failed(execution, code=code, detail=detail, reason=reason, run=run)
        await self._end.held(execution, lease, finish)
        return "failed"


class _Looks:
    """What the executions of one batch ask their servers for together: one status call per server and directory.

    Shielded: a row that runs out of time must not take along what others wait for as well.
    """

    def __init__(self, instances: InstanceStore, servers: OpenCodeServers) -> None:
        self._instances = instances
        self._servers = servers
        self._found: dict[str, asyncio.Future[Instance | None]] = {}
        self._busy: dict[tuple[str, str | None], asyncio.Future[Mapping[str, SessionState]]] = {}

    async def instance(self, execution: Execution) -> Instance:
        instance_id = execution.instance_id or ""
        if instance_id not in self._found:
            self._found[instance_id] = asyncio.ensure_future(self._instances.lately(instance_id))
        instance = await asyncio.shield(self._found[instance_id])
        if instance is None or instance.status == "removed":
            raise NotFoundError("the OpenCode server of this session was removed")
        return instance

    async def state(self, instance: Instance, execution: Execution) -> SessionState:
        key = (instance.id, execution.opencode_directory)
        if key not in self._busy:
            server = self._servers.server(instance)
            self._busy[key] = asyncio.ensure_future(server.busy_sessions(execution.opencode_directory))
        return (await asyncio.shield(self._busy[key])).get(_session_of(execution), IDLE)


def _session_of(execution: Execution) -> str:
    if execution.opencode_session_id is None:
        raise NotFoundError("the execution has no OpenCode session")
    return execution.opencode_session_id


def _explain(error: RunError) -> str:
    status = f" (status {error.status_code})" if error.status_code else ""
    return f"{error.name}{status}: {error.message}"


def _explain_kind(verdict: Verdict) -> str:
    if verdict.error is not None:
        return _explain(verdict.error)
    return {
        VerdictKind.RESUBMIT: "the server stopped working on it without an end (restart or crash)",
        VerdictKind.NOT_SUBMITTED: "the server does not know the prompt",
        VerdictKind.CANCELLED: "the run was aborted on the server",
    }.get(verdict.kind, verdict.kind.value)
