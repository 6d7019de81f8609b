"""Keep organizations within their caps: what is held for a run, what a shortage does, who goes on when there is room.

An organization without caps costs one look at what was read of it a moment ago.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog

from nubabel_workers.domain.budget_button import BudgetButton, cost_allowed
from nubabel_workers.domain.budgets import (
    Amount,
    Books,
    Caps,
    Economy,
    Shortage,
    nearest_cap,
    step_of,
    until_next_step,
    words_for,
)
from nubabel_workers.domain.decimals import in_full
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.executions import Execution, Status
from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.notifications import NewNotification, NotificationKind, SlackTarget, reply_target
from nubabel_workers.domain.ports import Chance, Clock, ExecutionStore, HintPublisher, ProgressStream
from nubabel_workers.domain.ports.budgets import BudgetStore, Hold, Pause
from nubabel_workers.domain.progress import state_event
from nubabel_workers.domain.tenants import NearCap
from nubabel_workers.domain.verdict import Verdict
from nubabel_workers.domain.wording import language_of
from nubabel_workers.services.count_usage import CountUsage
from nubabel_workers.services.read_limits import ReadLimits

log = structlog.get_logger(__name__)

NOT_WAITING = "not_waiting_for_budget"

_LATER_S = 5.0  # others' holds leave no room: they end
_SPENT_OUT_S = 30.0  # somebody may raise the cap meanwhile
_DUE = 50


@dataclass(frozen=True)
class BudgetLimits:
    """first_hold: for an organization whose runs are too few to guess from. Seconds: keep_s for which a paused run is
    kept; answer_by_s as for every request that waits; economy_run_s for a run when economy_from of a cap is used.
    button_cost: US dollars that a press of the button in Slack allows, or a step of its run where that costs more.
    """

    first_hold: Amount = field(default_factory=lambda: Amount(0.25, 50_000))
    keep_s: float = 7 * 86_400.0
    answer_by_s: float = 3600.0
    economy_from: float = 0.8
    economy_category: str = "quick"
    economy_run_s: float = 300.0
    button_cost: float = 1.0


class KeepBudgets:
    def __init__(
        self,
        budgets: BudgetStore,
        executions: ExecutionStore,
        organization_limits: ReadLimits,
        count_usage: CountUsage,
        progress: ProgressStream,
        hints: HintPublisher,
        clock: Clock,
        chance: Chance,
        *,
        limits: BudgetLimits,
    ) -> None:
        self._budgets = budgets
        self._executions = executions
        self._organization_limits = organization_limits
        self._count_usage = count_usage
        self._progress = progress
        self._hints = hints
        self._clock = clock
        self._chance = chance
        self._limits = limits

    async def caps(self, organization_id: str) -> Caps | None:
        """None: there are none."""
        limits = await self._organization_limits.by_id(organization_id)
        if limits is None:
            return None
        caps = Caps.of(limits)
        return caps if caps.limit_something else None

    # --- before a run ---

    async def economy_for(self, execution: Execution) -> Economy | None:
        """How to spare, where most of the organization's budget is used and its policy is to economize."""
        organization_id = execution.organization_id
        caps = await self.caps(organization_id)
        if caps is None or await self._organization_limits.near_cap(organization_id) is NearCap.KEEP:
            return None
        near = nearest_cap(caps, await self._budgets.books(organization_id), share=self._limits.economy_from)
        return None if near is None else Economy(near, self._limits.economy_category, self._limits.economy_run_s)

    async def hold_for(self, execution: Execution, category: str | None) -> Hold | None:
        """What has to be held for its next run; None where nothing is capped."""
        caps = await self.caps(execution.organization_id)
        if caps is None:
            return None
        estimate = await self._budgets.estimate(execution.organization_id, category)
        return Hold(caps, estimate or self._limits.first_hold)

    async def shortage_before(self, execution: Execution, hold: Hold) -> Shortage | None:
        """Asked for one that had no room before: it makes no session on a server in vain."""
        return await self._budgets.shortage(execution, hold) if execution.waiting_for is not None else None

    async def wait(self, execution: Execution, lease: Lease, shortage: Shortage) -> str:
        """Back to the queue. Its thread is told, once, when no run's end will make room."""
        jitter = 0.5 + self._chance.jitter()
        wait_s = (_SPENT_OUT_S if shortage.spent_out else _LATER_S) * jitter
        if shortage.frees_at is not None:
            wait_s = min(wait_s, max(1.0, _seconds_until(shortage.frees_at, self._clock.now())))
        notice = await self._queue_notice(execution, shortage) if shortage.spent_out else None
        told = await self._budgets.wait(execution, lease, shortage, wait_s=wait_s, notice=notice)
        self._tell(execution, told)
        log.info("execution.waits_for_budget", cap=shortage.cap, spent_out=shortage.spent_out)
        return "waiting for budget"

    # --- while it runs ---

    async def shortage_of(self, execution: Execution, verdict: Verdict, lease: Lease) -> Shortage | None:
        """Hold what it may have used by the next look; a shortage: there is no room for that."""
        caps = await self.caps(execution.organization_id)
        if caps is None:
            return None
        return await self._budgets.extend(execution, lease, Hold(caps, self._ahead(verdict)))

    async def shortage_after(self, execution: Execution, stopped: Verdict) -> Shortage | None:
        """What stopped it, where whoever told it to stop did not live to write that down. None: there is room now."""
        caps = await self.caps(execution.organization_id)
        if caps is None:
            return None
        return await self._budgets.shortage(execution, Hold(caps, self._ahead(stopped)), extends=True)

    def _ahead(self, verdict: Verdict) -> Amount:
        return until_next_step(self._count_usage.priced(verdict).usage, verdict.steps)

    async def pause(self, execution: Execution, lease: Lease, shortage: Shortage | None, stopped: Verdict) -> str:
        """Its run was told to stop; what it has done is kept. shortage: None where there is room again by now."""
        step = step_of(stopped.usage, stopped.steps)
        pause = Pause(
            shortage,
            output="\n\n".join(text for text in (_before(execution), stopped.partial_text) if text) or None,
            usage=stopped.usage,
            usage_by_model=stopped.usage_by_model,
            counted_ids=stopped.ended_ids,
            after_ms=stopped.last_ms,
            step=step,
            notice=(
                None
                if shortage is None
                else await self._paused_notice(execution, shortage, step.cost, pauses=execution.pauses + 1)
            ),
        )
        self._tell(execution, await self._budgets.pause(execution, lease, pause, keep_s=self._limits.keep_s))
        await self._say_where_it_stands(execution.organization_id, execution.id, Status.WAITING_BUDGET)
        log.info("execution.paused", cap=shortage.cap if shortage is not None else None, cost=stopped.usage.cost)
        return "paused"

    # --- afterwards ---

    async def resume_those_with_room(self) -> int:
        """Look for room for paused ones that are due; give back the holds of what runs no more."""
        stale = await self._budgets.release_stale()
        if stale:
            log.warning("budget.stale_holds_released", holds=stale)
        resumed = 0
        for due in await self._budgets.due(again_s=_SPENT_OUT_S, limit=_DUE):
            execution = await self._executions.find(due.organization_id, due.execution_id)
            if execution is None:
                continue
            hold = await self.hold_for(execution, execution.analysis.get("category"))
            if await self._budgets.resume(execution, hold, answer_by_s=self._limits.answer_by_s):
                self._hints.publish(Hint(HintTask.DISPATCH, execution.id, execution.organization_id))
                await self._say_where_it_stands(execution.organization_id, execution.id, Status.QUEUED)
                resumed += 1
            elif due.untold and hold is not None:
                await self._tell_of_pause(execution, hold)
        return resumed

    async def _tell_of_pause(self, execution: Execution, hold: Hold) -> None:
        """Whoever paused it did not know that there would be no room for going on."""
        shortage = await self._budgets.shortage(execution, hold)
        if shortage is None:
            return
        notice = await self._paused_notice(execution, shortage, shortage.step_cost, pauses=execution.pauses)
        if notice is not None:
            self._tell(execution, await self._budgets.tell_paused(execution, notice))

    async def allow_by_button(self, organization_id: str, button: BudgetButton, *, actor: str) -> float:
        """What the button says, once, or less where operators allow less by now; US dollars.

        Raises InvalidInputError: what waits now is not what it was shown for.
        """
        step = await self._budgets.step(organization_id, button.execution_id)
        cost = min(button.cost, cost_allowed(self._limits.button_cost, step=step.cost))
        await self._allow(organization_id, button.execution_id, cost=cost, actor=actor, button=button)
        return cost

    async def allow(self, organization_id: str, execution_id: str, *, cost: float, actor: str) -> None:
        """Somebody lets it cost that much more (US dollars), whatever the caps.

        Raises InvalidInputError: it does not wait, or could not go on with so little.
        """
        step = await self._budgets.step(organization_id, execution_id)
        if cost < step.cost:
            least = cost_allowed(0.0, step=step.cost)
            raise InvalidInputError(
                f"one step of {execution_id} costs about {in_full(step.cost)} US dollars: "
                f"allow at least {in_full(least, places=2)}",
                code="less_than_a_step",
            )
        await self._allow(organization_id, execution_id, cost=cost, actor=actor, button=None)

    async def _allow(
        self, organization_id: str, execution_id: str, *, cost: float, actor: str, button: BudgetButton | None
    ) -> None:
        allowed = await self._budgets.allow(
            organization_id,
            execution_id,
            cost=cost,
            answer_by_s=self._limits.answer_by_s,
            actor=actor,
            button=button,
        )
        if not allowed:
            raise InvalidInputError(f"{execution_id} does not wait for its budget", code=NOT_WAITING)
        self._hints.publish(Hint(HintTask.DISPATCH, execution_id, organization_id))
        await self._say_where_it_stands(organization_id, execution_id, Status.QUEUED)

    async def limits_changed(self, organization_id: str) -> None:
        """What waits looks for room within seconds."""
        await self._budgets.wake(organization_id)

    async def books(self, organization_id: str) -> tuple[Caps, Books]:
        return await self.caps(organization_id) or Caps(), await self._budgets.books(organization_id)

    async def _paused_notice(
        self, execution: Execution, shortage: Shortage, step_cost: float, *, pauses: int
    ) -> NewNotification | None:
        """pauses: with this one."""
        text = words_for(shortage, language_of(execution.prompt), paused=True)
        dedupe = f"budget#{execution.replays}_{pauses}"
        return await self._notice(execution, text, dedupe, pauses=pauses, step_cost=step_cost)

    async def _queue_notice(self, execution: Execution, shortage: Shortage) -> NewNotification | None:
        text = words_for(shortage, language_of(execution.prompt), paused=False)
        dedupe = f"budget_queued#{execution.replays}_{execution.attempt}"
        return await self._notice(execution, text, dedupe, pauses=execution.pauses, step_cost=shortage.step_cost)

    async def _notice(
        self, execution: Execution, text: str, dedupe: str, *, pauses: int, step_cost: float
    ) -> NewNotification | None:
        """One line in the thread; with a button where somebody in Slack may allow more."""
        target = reply_target(execution.reply)
        if not isinstance(target, SlackTarget):
            return None
        kind = NotificationKind.NOTICE
        payload: dict[str, Any] = {"text": text, "kind": kind.value}
        if await self._organization_limits.budget_approvers(execution.organization_id):
            cost = cost_allowed(self._limits.button_cost, step=step_cost)
            button = BudgetButton(execution.id, execution.replays, pauses, execution.attempt, cost)
            payload["button"] = button.shown(language_of(execution.prompt)).as_dict()
        return NewNotification(kind, target.as_dict(), payload, dedupe)

    async def _say_where_it_stands(self, organization_id: str, execution_id: str, status: Status) -> None:
        """To whoever follows it. It may be lost: they look at the row now and then."""
        await self._progress.append(organization_id, execution_id, state_event(status))

    def _tell(self, execution: Execution, notification_id: str | None) -> None:
        if notification_id is not None:
            self._hints.publish(Hint(HintTask.DELIVER, notification_id, execution.organization_id))


def _before(execution: Execution) -> str | None:
    return execution.output if execution.pauses else None


def _seconds_until(then: datetime, now: datetime) -> float:
    return (then - now).total_seconds()
