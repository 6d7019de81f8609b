"""Keep organizations within their caps: what is held for a run, what a shortage does, who goes on when there is room.

An organization without caps costs one look at what was read of it a moment ago.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog

from nubabel_workers.domain.budget_button import BudgetButton
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
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.executions import Execution
from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.notifications import NewNotification, NotificationKind, SlackTarget, reply_target
from nubabel_workers.domain.ports import Chance, Clock, ExecutionStore, HintPublisher
from nubabel_workers.domain.ports.budgets import BudgetStore, Hold, Pause
from nubabel_workers.domain.tenants import NearCap
from nubabel_workers.domain.verdict import Verdict
from nubabel_workers.domain.wording import language_of
from nubabel_workers.services.count_usage import CountUsage
from nubabel_workers.services.read_limits import ReadLimits

log = structlog.get_logger(__name__)

_LATER_S = 5.0  # others' holds leave no room: they end
_SPENT_OUT_S = 30.0  # somebody may raise the cap meanwhile
_DUE = 50


@dataclass(frozen=True)
class BudgetLimits:
    """first_hold: for an organization whose runs are too few to guess from. Seconds: keep_s for which a paused run is
    kept; answer_by_s as for every request that waits; economy_run_s for a run when economy_from of a cap is used.
    button_cost: US dollars that a press of the button in Slack allows.
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
        notice = await self._notice(execution, shortage, paused=False) if shortage.spent_out else None
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
        ahead = until_next_step(self._count_usage.priced(verdict).usage, verdict.steps)
        return await self._budgets.extend(execution, lease, Hold(caps, ahead))

    async def pause(self, execution: Execution, lease: Lease, shortage: Shortage | None, stopped: Verdict) -> str:
        """Its run was told to stop; what it has done is kept.

        shortage: None when somebody told it who did not live to write it down; looking for room tells what there is.
        """
        pause = Pause(
            shortage,
            output="\n\n".join(text for text in (_before(execution), stopped.partial_text) if text) or None,
            usage=stopped.usage,
            usage_by_model=stopped.usage_by_model,
            counted_ids=stopped.ended_ids,
            after_ms=stopped.last_ms,
            step=step_of(stopped.usage, stopped.steps),
            notice=await self._notice(execution, shortage, paused=True) if shortage is not None else None,
        )
        self._tell(execution, await self._budgets.pause(execution, lease, pause, keep_s=self._limits.keep_s))
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
                resumed += 1
        return resumed

    @property
    def button_cost(self) -> float:
        """US dollars that a press of the button in Slack allows."""
        return self._limits.button_cost

    async def allow_by_button(self, organization_id: str, button: BudgetButton, *, actor: str) -> None:
        """As `allow`, and once for each button: it raises when what waits now is not what the button was shown for."""
        await self.allow(organization_id, button.execution_id, cost=self.button_cost, actor=actor, pauses=button.pauses)

    async def allow(
        self, organization_id: str, execution_id: str, *, cost: float, actor: str, pauses: int | None = None
    ) -> None:
        """Somebody lets it cost that much more, whatever the caps. Raises InvalidInputError: it does not wait.

        pauses: only if it has been paused so often by now.
        """
        allowed = await self._budgets.allow(
            organization_id,
            execution_id,
            cost=cost,
            answer_by_s=self._limits.answer_by_s,
            actor=actor,
            pauses=pauses,
        )
        if not allowed:
            raise InvalidInputError(f"{execution_id} does not wait for its budget", code="not_waiting_for_budget")
        self._hints.publish(Hint(HintTask.DISPATCH, execution_id, organization_id))

    async def limits_changed(self, organization_id: str) -> None:
        """What waits looks for room within seconds."""
        await self._budgets.wake(organization_id)

    async def books(self, organization_id: str) -> tuple[Caps, Books]:
        return await self.caps(organization_id) or Caps(), await self._budgets.books(organization_id)

    async def _notice(self, execution: Execution, shortage: Shortage, *, paused: bool) -> NewNotification | None:
        """One line in the thread; with a button where somebody in Slack may allow more."""
        target = reply_target(execution.reply)
        if not isinstance(target, SlackTarget):
            return None
        language = language_of(execution.prompt)
        pauses = execution.pauses + paused
        kind = NotificationKind.NOTICE
        payload: dict[str, Any] = {"text": words_for(shortage, language, paused=paused), "kind": kind.value}
        if await self._organization_limits.budget_approvers(execution.organization_id):
            button = BudgetButton(execution.id, pauses).shown(language, cost=self.button_cost)
            payload["button"] = button.as_dict()
        return NewNotification(kind, target.as_dict(), payload, f"budget#{pauses}" if paused else "budget")

    def _tell(self, execution: Execution, notification_id: str | None) -> None:
        if notification_id is not None:
            self._hints.publish(Hint(HintTask.DELIVER, notification_id, execution.organization_id))


def _before(execution: Execution) -> str | None:
    return execution.output if execution.pauses else None


def _seconds_until(then: datetime, now: datetime) -> float:
    return (then - now).total_seconds()
