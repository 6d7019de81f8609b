"""Answer a claimed execution by a call of its orchestrator: prepare, begin, ask, finish; or what follows a failure."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from nubabel_workers.domain import outcomes
from nubabel_workers.domain.budgets import BudgetReachedError
from nubabel_workers.domain.dead_letters import DeadLetterReason
from nubabel_workers.domain.earlier_turns import MOST_EARLIER_TURNS
from nubabel_workers.domain.errors import (
    LeaseLostError,
    NotFoundError,
    NotLookedThroughError,
    NubabelError,
    PromptRefusedError,
    UnavailableError,
    UncertainError,
)
from nubabel_workers.domain.executions import EventKind, Execution, Status, Usage
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.masking import WAITS_FOR_MASKING
from nubabel_workers.domain.placement import ORCHESTRATOR_AWAY
from nubabel_workers.domain.ports import Chance, ClaimedDispatch, Clock, ExecutionStore, ProgressStream, SessionMappings
from nubabel_workers.domain.ports.orchestrators import Call, CallableOrchestrator, CallAnswer, CallStore
from nubabel_workers.domain.progress import state_event
from nubabel_workers.domain.retry import GiveUp, RetryPolicy, next_attempt, pace_of_waiting
from nubabel_workers.domain.rollout import Orchestrator
from nubabel_workers.domain.verdict import LOST, Verdict, VerdictKind
from nubabel_workers.domain.wording import language_of, say
from nubabel_workers.services.count_usage import CountUsage
from nubabel_workers.services.end_execution import EndExecution
from nubabel_workers.services.gather_context import GatherContext, Gathered
from nubabel_workers.services.heed_orchestrators import HeedOrchestrators
from nubabel_workers.services.keep_budgets import KeepBudgets
from nubabel_workers.services.mask_prompt import MASKED_WITHIN_S, READING, MaskPrompt, Outgoing
from nubabel_workers.services.plan_runs import PlanRuns, RunPlan
from nubabel_workers.services.reuse_answers import ReuseAnswers

log = structlog.get_logger(__name__)

_WRITE_S = 3.0  # to write down what became of a call when this process stops
# Whoever knows the key tells all that it used when it is asked again; a model is simply asked once more.
_FORGETS_CALLS = frozenset({Orchestrator.FALLBACK})


@dataclass(frozen=True)
class CallPace:
    """prepare_s: seconds until a call goes out. lone_deliveries: how often a suspect row is tried."""

    prepare_s: float = 25.0
    lone_deliveries: int = 5
    earlier_turns_bytes: int = 24_000


@dataclass(frozen=True)
class _Prepared:
    """A call, and what is written down before it goes out. outgoing: with the turns before this one, but for who knows
    the conversation.
    """

    run: RunPlan
    outgoing: Outgoing
    gathered: Gathered
    notes: Sequence[str]
    remote_session_id: str | None


class CallOrchestrator:
    """Each execution ends final, or queued again with a reason. Says in a word which."""

    def __init__(
        self,
        executions: ExecutionStore,
        calls: CallStore,
        orchestrators: Mapping[Orchestrator, CallableOrchestrator],
        context: GatherContext,
        masking: MaskPrompt,
        budgets: KeepBudgets,
        count_usage: CountUsage,
        plan_runs: PlanRuns,
        reuse: ReuseAnswers,
        heed: HeedOrchestrators,
        end: EndExecution,
        mappings: SessionMappings,
        progress: ProgressStream,
        chance: Chance,
        clock: Clock,
        *,
        retry: RetryPolicy,
        pace: CallPace,
    ) -> None:
        self._executions = executions
        self._calls = calls
        self._orchestrators = orchestrators
        self._context = context
        self._masking = masking
        self._budgets = budgets
        self._count_usage = count_usage
        self._plan_runs = plan_runs
        self._reuse = reuse
        self._heed = heed
        self._end = end
        self._mappings = mappings
        self._progress = progress
        self._chance = chance
        self._clock = clock
        self._retry = retry
        self._pace = pace

    async def run(self, claimed: ClaimedDispatch, orchestrator: Orchestrator, lease: Lease) -> str:
        execution = claimed.execution
        try:
            return await self._answer(claimed, orchestrator, lease)
        except LeaseLostError:
            raise
        except BudgetReachedError as error:
            return await self._budgets.wait(execution, lease, error.shortage)
        except PromptRefusedError as error:
            await self._end.held(execution, lease, outcomes.refused_for_content(execution, error))
            return "refused"
        except TimeoutError:
            return await self._fail(
                execution,
                lease,
                "deadline_exceeded",
                f"{orchestrator} took longer than the run's deadline",
                in_doubt=True,
            )
        except NubabelError as error:
            return await self._after_failure(claimed, orchestrator, lease, error)

    async def _answer(self, claimed: ClaimedDispatch, orchestrator: Orchestrator, lease: Lease) -> str:
        execution = claimed.execution
        if claimed.lone_deliveries > self._pace.lone_deliveries:
            detail = "each worker that took it alone ended without a result"
            return await self._fail(
                execution,
                lease,
                "too_many_deliveries",
                detail,
                reason=DeadLetterReason.TOO_MANY_DELIVERIES,
                in_doubt=claimed.open_attempt,
            )
        if claimed.cancel_requested:
            return await self.stopped(claimed, lease)
        if not claimed.open_attempt and (known := await self._reuse.find(execution)) is not None:
            await self._end.held(execution, lease, outcomes.answered_before(execution, known))
            return "answered before"
        if (wait_s := await self._heed.wait_s(orchestrator)) is not None:
            spread_s = wait_s * (1 + self._chance.jitter())  # as those that are put off together
            return await self._again(
                execution, lease, ORCHESTRATOR_AWAY, wait_s=spread_s, failed=False, in_doubt=claimed.open_attempt
            )
        try:
            async with asyncio.timeout(self._pace.prepare_s):
                prepared = await self._prepare(claimed, orchestrator)
                await self._begin(execution, lease, orchestrator, prepared)
        except BaseException as error:
            await self._heed.not_called()
            if isinstance(error, TimeoutError):
                raise UnavailableError("preparing the call took too long") from None
            raise
        await self._progress.append(execution.organization_id, execution.id, state_event(Status.RUNNING))
        answer, notes = await self._ask(claimed, orchestrator, prepared)
        return await self._finish(claimed, orchestrator, lease, answer, notes)

    async def _prepare(self, claimed: ClaimedDispatch, orchestrator: Orchestrator) -> _Prepared:
        """Everything but the files: these orchestrators take none, which is said beside the answer."""
        execution = claimed.execution
        by = asyncio.get_running_loop().time() + MASKED_WITHIN_S
        begun = execution.attempt > 0 and bool(execution.analysis)
        run = await (self._plan_runs.again(execution) if begun else self._plan_runs.of(execution, ()))
        question = await self._masking.question(execution, claimed.masking, by=by)
        read = await self._context.gather(replace(execution, attachments=()), ends_at=READING.ends_at(by))
        gathered = read.noting(run.notes)
        outgoing = await self._masking.run(
            execution,
            claimed.masking,
            question,
            context=[gathered.thread] if gathered.thread else [],
            files=(),
            by=by,
            about_context=gathered.about_thread,
        )
        last = None if execution.begins_session else await self._calls.last_call(execution)
        remote_session_id = last.remote_session_id if last is not None and last.orchestrator is orchestrator else None
        if remote_session_id is None:
            outgoing = outgoing.after(await self._turns_before(claimed, by))
        names = ", ".join(attachment.name for attachment in execution.attachments)
        unread = (say("files_left_out", language_of(execution.prompt), names=names),) if names else ()
        return _Prepared(
            run,
            outgoing,
            gathered,
            gathered.noting([*unread, *outgoing.notes]).notes,
            remote_session_id,
        )

    async def _begin(self, execution: Execution, lease: Lease, orchestrator: Orchestrator, prepared: _Prepared) -> None:
        analysis = prepared.run.analysis
        hold = await self._budgets.hold_for(execution, analysis.category)
        await self._calls.begin(
            execution,
            lease,
            orchestrator=orchestrator,
            analysis=analysis.as_dict(),
            context=prepared.gathered.remembered,
            notes=prepared.notes,
            cleaning=prepared.outgoing.cleaning,
            run_deadline_s=prepared.run.deadline_s,
            hold=hold,
        )

    async def _ask(
        self, claimed: ClaimedDispatch, orchestrator: Orchestrator, prepared: _Prepared
    ) -> tuple[CallAnswer, Sequence[str]]:
        """With the notes beside the answer. Who turns out not to know the conversation any more gets the turns before
        it as well.
        """
        execution = claimed.execution
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + prepared.run.deadline_s
        called = self._orchestrators[orchestrator]
        call = Call(
            key=f"{execution.id}#{execution.replays}",
            texts=prepared.outgoing.texts,
            category=prepared.run.analysis.category,
            skills=tuple(prepared.run.analysis.skills),
            remote_session_id=prepared.remote_session_id,
            metadata={"session_id": execution.session_id, "execution_id": execution.id},
        )
        try:
            answer = await self._heed.answer(orchestrator, called, call, timeout_s=ends_at - loop.time())
        except NotFoundError:
            if call.remote_session_id is None:
                raise
        else:
            return answer, prepared.notes
        log.warning("call.session_lost", orchestrator=orchestrator)
        earlier = await self._turns_before(claimed, loop.time() + MASKED_WITHIN_S)
        begun_anew = replace(call, texts=[*earlier.texts, *call.texts], remote_session_id=None)
        answer = await self._heed.answer(orchestrator, called, begun_anew, timeout_s=max(0.1, ends_at - loop.time()))
        return answer, [*earlier.notes, *prepared.notes]

    async def _turns_before(self, claimed: ClaimedDispatch, by: float) -> Outgoing:
        execution = claimed.execution
        if execution.begins_session:
            return Outgoing()
        max_bytes = self._pace.earlier_turns_bytes
        turns = await self._executions.earlier_turns(execution, limit=MOST_EARLIER_TURNS, max_bytes=max_bytes)
        return await self._masking.earlier(execution, claimed.masking, turns, max_bytes=max_bytes, by=by)

    async def _finish(
        self,
        claimed: ClaimedDispatch,
        orchestrator: Orchestrator,
        lease: Lease,
        answer: CallAnswer,
        notes: Sequence[str],
    ) -> str:
        execution = claimed.execution
        if answer.remote_session_id is not None:
            await self._calls.remember_session(execution, answer.remote_session_id)
        verdict = self._verdict(answer, forgotten=claimed.open_attempt and orchestrator in _FORGETS_CALLS)
        if answer.error is not None or not answer.text.strip():
            detail = answer.error or "it answered without text"
            code = "no_answer" if answer.error is None else "orchestrator_failed"
            return await self._fail(execution, lease, code, detail, run=verdict)
        told = outcomes.answered_by_nobody if answer.canned else outcomes.answered
        finish = told(execution, verdict, notes)
        # An OpenCode session that it may have had does not know this turn: the next one there begins anew, with all.
        await self._end.held(execution, lease, replace(finish, abandon_session=True))
        await self._mappings.forget(execution.organization_id, execution.session_id)
        return "canned" if answer.canned else "completed"

    def _verdict(self, answer: CallAnswer, *, forgotten: bool) -> Verdict:
        """forgotten: an earlier call of it used something, too, and nobody said how much."""
        usage = answer.usage or Usage()
        by_model = {answer.model: usage} if answer.model is not None else {}
        succeeded = answer.error is None
        verdict = Verdict(
            VerdictKind.SUCCEEDED if succeeded else VerdictKind.FAILED,
            text=answer.text if succeeded else "",
            partial_text=answer.text,
            cut=answer.cut,
            usage=replace(usage, lower_bound=usage.lower_bound or forgotten),
            usage_by_model=by_model,
        )
        return self._count_usage.priced(verdict)

    async def _after_failure(
        self, claimed: ClaimedDispatch, orchestrator: Orchestrator, lease: Lease, error: NubabelError
    ) -> str:
        """What an earlier call that was in doubt used stays unknown, whatever became of this one."""
        execution = claimed.execution
        in_doubt = claimed.open_attempt or isinstance(error, UncertainError)
        waited_s = (self._clock.now() - execution.created_at).total_seconds()
        jitter = self._chance.jitter()
        if isinstance(error, NotLookedThroughError):
            log.warning("call.not_looked_through")
            wait_s = pace_of_waiting(waited_s, jitter=jitter)
            return await self._again(
                execution, lease, WAITS_FOR_MASKING, wait_s=wait_s, failed=False, in_doubt=in_doubt
            )
        if isinstance(error, UnavailableError):
            told_s = error.retry_after_s  # all that hear of the same moment must not come in it
            wait_s = told_s * (1 + jitter) if told_s else pace_of_waiting(waited_s, jitter=jitter)
            log.warning("call.orchestrator_away", orchestrator=orchestrator, error=str(error))
            return await self._again(
                execution, lease, ORCHESTRATOR_AWAY, wait_s=wait_s, failed=False, in_doubt=in_doubt
            )
        decision = next_attempt(error, execution.failures + 1, self._retry, jitter=jitter)
        if isinstance(decision, GiveUp):
            return await self._fail(
                execution, lease, decision.code, str(error), reason=decision.reason, in_doubt=in_doubt
            )
        return await self._again(execution, lease, str(error), wait_s=decision.wait_s, failed=True, in_doubt=in_doubt)

    async def _again(
        self, execution: Execution, lease: Lease, reason: str, *, wait_s: float, failed: bool, in_doubt: bool
    ) -> str:
        """In doubt its attempt stays open: the next call goes out under the same key."""
        await self._executions.requeue(
            execution,
            lease,
            wait_s=wait_s,
            kind=EventKind.RETRY if failed else EventKind.WAITING,
            detail={"reason": reason, "wait_s": round(wait_s, 3)},
            failed=failed,
            attempt_verdict=None if in_doubt else "not_answered",
        )
        return "again" if failed else "waiting"

    async def stopped(self, claimed: ClaimedDispatch, lease: Lease) -> str:
        execution = claimed.execution
        found = await self._executions.find(execution.organization_id, execution.id)
        reason = (found.cancel_reason if found else None) or "cancelled"
        asked = claimed.open_attempt or (found is not None and found.status is Status.RUNNING)
        # What the call has used until now, nobody told.
        finish = outcomes.cancelled(execution, reason=reason, run=LOST if asked else None)
        await self._end.held(execution, lease, finish)
        return "cancelled"

    async def give_back(self, execution: Execution, lease: Lease) -> None:
        """This process stops. What cannot be written down now, the end of the lease says a moment later."""
        try:
            async with asyncio.timeout(_WRITE_S):
                await self._executions.requeue(
                    execution,
                    lease,
                    wait_s=0,
                    kind=EventKind.RESUBMIT,
                    detail={"reason": "its worker stopped"},
                    failed=False,
                    attempt_verdict=None,
                )
        except (NubabelError, TimeoutError) as error:
            log.warning("call.not_given_back", error=str(error))

    async def _fail(
        self,
        execution: Execution,
        lease: Lease,
        code: str,
        detail: str,
        *,
        reason: DeadLetterReason = DeadLetterReason.PERMANENT_ERROR,
        run: Verdict | None = None,
        in_doubt: bool = False,
    ) -> str:
        finish = outcomes.failed(execution, code=code, detail=detail, reason=reason, run=run, may_still_run=in_doubt)
        await self._end.held(execution, lease, finish)
        return "failed"
