"""Look at runs that may have ended, decide from OpenCode's own state, and finish them. Events are only hints."""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from nubabel_workers.domain import outcomes
from nubabel_workers.domain.budgets import WAITS_FOR_BUDGET, Shortage
from nubabel_workers.domain.dead_letters import DeadLetterReason
from nubabel_workers.domain.errors import ForeignSessionError, NotFoundError, NubabelError, TransientError
from nubabel_workers.domain.executions import EventKind, Execution, SessionLeft, Status
from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.opencode_models import UNKNOWN_MODEL, missing_model
from nubabel_workers.domain.ports import (
    Chance,
    ClaimedCheck,
    ExecutionStore,
    HintPublisher,
    OpenCodeServer,
    ProgressStream,
    SessionMappings,
    WaitingStore,
)
from nubabel_workers.domain.progress import state_event
from nubabel_workers.domain.retry import GiveUp, RetryPolicy, next_attempt
from nubabel_workers.domain.verdict import LOST, UNSEEN, RunError, Verdict, VerdictKind
from nubabel_workers.services.batches import BatchLimits, Tally, took_all
from nubabel_workers.services.end_execution import EndExecution
from nubabel_workers.services.hold_leases import LeaseHolder
from nubabel_workers.services.keep_budgets import KeepBudgets
from nubabel_workers.services.log_context import about
from nubabel_workers.services.observe_runs import Batch, ObserveRuns, ServerLeftError
from nubabel_workers.services.report_foreign_session import ReportForeignSession

log = structlog.get_logger(__name__)


_ENDED_BY_ITSELF = frozenset({VerdictKind.SUCCEEDED, VerdictKind.FAILED, VerdictKind.ENDED_WITHOUT_ANSWER})
_KEEP_THEIR_PLACE = frozenset({"running", "unreachable", "lost", "left", "crashed"})


@dataclass(frozen=True)
class CheckLimits:
    """Seconds until the next look without news; model_retries: OpenCode's own, which have no end of their own.

    stalled_s: a run that has not come further for so long stands still, and is stopped and tried again. capped_s: until
    the next look where the organization has a budget.

    arrival_s: how long an accepted prompt may be missing on its server. Measured on opencode 1.18.33: while a directory
    is loaded, a prompt is stored some time after its 204.
    """

    again_s: float = 20.0
    unreachable_s: float = 3.0
    model_retries: int = 6
    stalled_s: float = 600.0
    capped_s: float = 5.0
    arrival_s: float = 15.0
    arrival_look_s: float = 1.0


class CompleteExecutions:
    """Each claimed run ends final, queued for another attempt, or left running until the next look."""

    def __init__(
        self,
        executions: ExecutionStore,
        end: EndExecution,
        foreign: ReportForeignSession,
        observe: ObserveRuns,
        budgets: KeepBudgets,
        mappings: SessionMappings,
        waiting: WaitingStore,
        progress: ProgressStream,
        leases: LeaseHolder,
        hints: HintPublisher,
        chance: Chance,
        *,
        retry: RetryPolicy,
        limits: BatchLimits,
        checks: CheckLimits,
        default_model: str | None,
    ) -> None:
        """default_model: `provider/model` of prompts for requests that name none; None: the server's own choice."""
        self._executions = executions
        self._end = end
        self._foreign = foreign
        self._observe = observe
        self._budgets = budgets
        self._mappings = mappings
        self._waiting = waiting
        self._progress = progress
        self._leases = leases
        self._hints = hints
        self._chance = chance
        self._retry = retry
        self._limits = limits
        self._checks = checks
        self._default_model = default_model

    async def run(self, execution_id: str | None) -> str:
        """Look at the named execution and others that are due. Returns one line for Flower."""
        tally = Tally(self._limits)
        while not tally.full:
            async with self._leases.hold() as lease:
                claimed = await self._executions.claim_checks(
                    execution_id=execution_id, limit=self._limits.batch, lease=lease
                )
                async with self._observe.batch() as batch:
                    await asyncio.gather(*(self._one(item, batch, lease, tally) for item in claimed))
            execution_id = None
            await self._give_places_away(tally)
            if took_all(claimed, self._limits.batch):
                return str(tally)
        self._hints.publish(Hint(HintTask.COMPLETE, claimed[-1].execution.id))
        return str(tally)

    async def _give_places_away(self, tally: Tally) -> None:
        """Whoever waits for a place hears of those that became free; asked afterwards, so that nobody is missed."""
        if _KEEP_THEIR_PLACE.issuperset(tally.words):
            return
        try:
            waiting = await self._waiting.next_in_line()
        except NubabelError as error:
            log.warning("line.not_asked", error=str(error))  # the scheduler asks again
            return
        if waiting is not None:
            self._hints.publish(Hint(HintTask.DISPATCH, waiting))

    async def _one(self, claimed: ClaimedCheck, batch: Batch, lease: Lease, tally: Tally) -> None:
        execution = claimed.execution
        work = self._park if claimed.lone_deliveries > self._limits.lone_deliveries else self._complete
        with about(execution):
            await tally.settle(
                execution.id,
                work(claimed, batch, lease),
                lambda error: self._after_failure(claimed, lease, error),
            )

    async def _park(self, claimed: ClaimedCheck, _batch: Batch, lease: Lease) -> str:
        return await self._fail(
            claimed.execution,
            lease,
            "too_many_deliveries",
            "each worker that looked at it alone ended without a result",
            DeadLetterReason.TOO_MANY_DELIVERIES,
            run=UNSEEN,
        )

    async def _complete(self, claimed: ClaimedCheck, batch: Batch, lease: Lease) -> str:
        execution = claimed.execution
        try:
            server, verdict = await self._observe.look(claimed, batch, lease)
        except ServerLeftError as error:
            await self._leave_session(execution, lease, error.because, away_since=error.away_since)
            return await self._after_loss(claimed, lease, str(error))
        except NotFoundError:
            await self._leave_session(execution, lease, SessionLeft.LOST)
            return await self._after_loss(claimed, lease, "the session is lost on its server")
        if claimed.cancel_requested or claimed.past_deadline:
            return await self._end_stopped(claimed, verdict, lease)
        if verdict.kind is VerdictKind.RUNNING and (hopeless := self._why_hopeless(claimed, verdict)):
            return await self._stop_and_try_again(server, claimed, verdict, TransientError(hopeless), lease)
        return await self._judge(server, claimed, verdict, lease)

    async def _after_loss(self, claimed: ClaimedCheck, lease: Lease, words: str) -> str:
        if claimed.cancel_requested or claimed.past_deadline:
            return await self._end_stopped(claimed, LOST, lease)
        return await self._again(claimed.execution, lease, TransientError(words), LOST)

    async def _judge(self, server: OpenCodeServer, claimed: ClaimedCheck, verdict: Verdict, lease: Lease) -> str:
        execution = claimed.execution
        if verdict.kind is VerdictKind.RUNNING:
            return await self._go_on(server, claimed, verdict, lease)
        if verdict.kind is VerdictKind.CANCELLED and execution.waiting_for == WAITS_FOR_BUDGET:
            shortage = await self._budgets.shortage_after(execution, verdict)
            return await self._budgets.pause(execution, lease, shortage, verdict)
        if verdict.kind is VerdictKind.NOT_SUBMITTED and (agent := await _missing_agent(server, execution)):
            detail = f"the server has no agent {agent!r}"
            return await self._fail(
                execution, lease, "unknown_agent", detail, DeadLetterReason.PERMANENT_ERROR, run=verdict
            )
        if verdict.kind is VerdictKind.RESUBMIT and (missing := await self._missing_model(server, execution, verdict)):
            return await self._fail(
                execution, lease, UNKNOWN_MODEL, missing, DeadLetterReason.PERMANENT_ERROR, run=verdict
            )
        return await self._act_on(claimed, verdict, lease)

    async def _missing_model(self, server: OpenCodeServer, execution: Execution, verdict: Verdict) -> str | None:
        """What is wrong with the prompt's model, where no step was begun: a server that does not know it takes the
        prompt and does nothing, like one that crashed at once.
        """
        named = execution.analysis.get("model")
        model = named or self._default_model
        if verdict.assistant_ids or not isinstance(model, str):
            return None
        known = await server.models(execution.opencode_directory)
        return missing_model(model, known, is_default=named is None)

    def _why_hopeless(self, claimed: ClaimedCheck, verdict: Verdict) -> str | None:
        """Why a run that goes on will come to nothing; None where there is hope."""
        if verdict.retry_attempt > self._checks.model_retries:
            return f"the model did not answer in {verdict.retry_attempt} tries"
        if verdict.mark == claimed.mark and claimed.unchanged_for_s > self._checks.stalled_s:
            return f"the run stood still for {claimed.unchanged_for_s:.0f} s"
        return None

    async def _go_on(self, server: OpenCodeServer, claimed: ClaimedCheck, verdict: Verdict, lease: Lease) -> str:
        """It runs, and may as long as its organization's budget has room for what it uses."""
        execution = claimed.execution
        shortage = await self._budgets.shortage_of(execution, verdict, lease)
        if shortage is not None:
            return await self._pause(server, claimed, shortage, verdict, lease)
        again_s = self._checks.again_s
        if await self._budgets.caps(execution.organization_id) is not None:
            again_s = min(again_s, self._checks.capped_s)
        await self._executions.release_check(execution, lease, check_after_s=again_s, mark=verdict.mark)
        return "running"

    async def _pause(
        self, server: OpenCodeServer, claimed: ClaimedCheck, shortage: Shortage, running: Verdict, lease: Lease
    ) -> str:
        """OpenCode has no pause: the run is stopped, and a new prompt lets it go on."""
        execution = claimed.execution
        stopped = await self._observe.abort(server, execution, running, lease)
        if stopped.kind in _ENDED_BY_ITSELF:
            return await self._act_on(claimed, stopped, lease)
        if stopped.kind is VerdictKind.RUNNING:  # the next run must not meet it
            await self._leave_session(execution, lease, SessionLeft.UNSTOPPED)
        return await self._budgets.pause(execution, lease, shortage, stopped)

    async def _stop_and_try_again(
        self, server: OpenCodeServer, claimed: ClaimedCheck, running: Verdict, error: TransientError, lease: Lease
    ) -> str:
        execution = claimed.execution
        stopped = await self._observe.abort(server, execution, running, lease)
        if stopped.kind is VerdictKind.SUCCEEDED:  # the model answered at the last moment
            return await self._act_on(claimed, stopped, lease)
        if stopped.kind is VerdictKind.RUNNING:  # the next attempt must not meet it
            await self._leave_session(execution, lease, SessionLeft.UNSTOPPED)
        return await self._again(execution, lease, error, replace(stopped, kind=VerdictKind.CANCELLED))

    async def _leave_session(
        self, execution: Execution, lease: Lease, because: SessionLeft, *, away_since: datetime | None = None
    ) -> None:
        await self._executions.forget_opencode_session(execution, lease, because=because, away_since=away_since)
        await self._mappings.forget(execution.organization_id, execution.session_id)

    async def _act_on(self, claimed: ClaimedCheck, verdict: Verdict, lease: Lease) -> str:
        execution = claimed.execution
        match verdict.kind:
            case VerdictKind.NOT_SUBMITTED if claimed.running_for_s < self._checks.arrival_s:
                await self._executions.release_check(execution, lease, check_after_s=self._checks.arrival_look_s)
                return "running"
            case VerdictKind.UNSETTLED:
                await self._executions.release_check(
                    execution, lease, check_after_s=self._checks.again_s, mark=verdict.mark
                )
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

    async def _after_failure(self, claimed: ClaimedCheck, lease: Lease, error: NubabelError) -> str:
        """The server could not be asked: it may come back. A deadline or a wish to stop doesn't wait for that.

        One that mixes sessions up is believed nothing more: the run ends, whatever else it would have said.
        """
        execution = claimed.execution
        if isinstance(error, ForeignSessionError):
            await self._foreign.run(execution, str(execution.instance_id), error)
            await self._leave_session(execution, lease, SessionLeft.FOREIGN)
            reason = DeadLetterReason.PERMANENT_ERROR
            return await self._fail(execution, lease, error.code, str(error), reason, run=UNSEEN)
        log.warning("execution.check_failed", error=str(error))
        if claimed.cancel_requested or claimed.past_deadline:
            return await self._end_stopped(claimed, UNSEEN, lease)
        await self._executions.release_check(execution, lease, check_after_s=self._checks.unreachable_s)
        return "unreachable"

    async def _again(self, execution: Execution, lease: Lease, error: TransientError, run: Verdict) -> str:
        """Another attempt with backoff, or the end if there were enough."""
        decision = next_attempt(error, execution.failures + 1, self._retry, jitter=self._chance.jitter())
        if isinstance(decision, GiveUp):
            return await self._fail(execution, lease, decision.code, str(error), decision.reason, run=run)
        crashed = run.kind is VerdictKind.RESUBMIT
        wait_s = 0.0 if crashed and execution.failures == 0 else decision.wait_s
        await self._executions.requeue(
            execution,
            lease,
            wait_s=wait_s,
            kind=EventKind.RESUBMIT if crashed else EventKind.RETRY,
            detail={"reason": str(error), "wait_s": round(wait_s, 3)},
            failed=True,
            attempt_verdict=run.kind.value,
            usage=run.usage,
            usage_by_model=run.usage_by_model,
            counted_ids=run.ended_ids,
        )
        log.warning("execution.retry", reason=str(error), wait_s=wait_s)
        await self._progress.append(execution.organization_id, execution.id, state_event(Status.QUEUED))
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


async def _missing_agent(server: OpenCodeServer, execution: Execution) -> str | None:
    """The agent that the prompt named, if the server has none of that name: it took the prompt and dropped it."""
    agent = execution.analysis.get("agent")
    if not isinstance(agent, str) or agent in await server.agents(execution.opencode_directory):
        return None
    return agent


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
