"""Somebody in Slack pressed the button below a notice about a budget: the request may cost more, if they may say so.

Safe to run twice: the request goes on once, and each thing is told once.
"""

from dataclasses import dataclass

import structlog

from nubabel_workers.domain.budget_button import BudgetButton
from nubabel_workers.domain.decimals import in_full
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.executions import EventKind, Execution
from nubabel_workers.domain.foreign_ids import Naming, Sought
from nubabel_workers.domain.notifications import NewNotification, NotificationKind, SlackTarget, reply_target
from nubabel_workers.domain.ports import ClaimedInbound, ExecutionStore, TenantStore
from nubabel_workers.domain.wording import language_of, say
from nubabel_workers.services.keep_budgets import KeepBudgets
from nubabel_workers.services.report_foreign_ids import ReportForeignIds

log = structlog.get_logger(__name__)

_WORDS_ON_ITS_BUDGET = frozenset({EventKind.WAITING, EventKind.BUDGET_REACHED, EventKind.RESUMED, EventKind.FINISHED})
_DOOR = "slack button"
_BY = "slack:"  # how the actor's name begins, in timeline and audit log


@dataclass(frozen=True)
class Pressed:
    """outcome: for the row of the event. reply: what the thread is told; None: nothing is known of that button."""

    outcome: str
    reply: NewNotification | None = None


class AllowByButton:
    def __init__(
        self, executions: ExecutionStore, tenants: TenantStore, budgets: KeepBudgets, foreign_ids: ReportForeignIds
    ) -> None:
        self._executions = executions
        self._tenants = tenants
        self._budgets = budgets
        self._foreign_ids = foreign_ids

    async def press(self, claimed: ClaimedInbound) -> Pressed:
        """The organization is that of the workspace; what the button names counts only within it."""
        button = BudgetButton.read(claimed.event.button_value)
        execution = await self._named_by(button, claimed)
        if button is None or execution is None:
            log.warning("slack.button_of_nothing", user=claimed.event.user)
            return Pressed("nothing to allow")
        word, allowed_usd = await self._answer_to(button, execution, claimed)
        log.info("slack.button_pressed", execution_id=execution.id, user=claimed.event.user, outcome=word)
        return Pressed(word, _reply(word, button, execution, claimed, allowed_usd))

    async def _answer_to(
        self, button: BudgetButton, execution: Execution, claimed: ClaimedInbound
    ) -> tuple[str, float | None]:
        """A word, and the US dollars that were allowed: by this press, or by one that came first."""
        if not await self._may_allow(claimed):
            return "may_not_allow", None
        actor = _actor(claimed)
        try:
            cost = await self._budgets.allow_by_button(execution.organization_id, button, actor=actor)
        except InvalidInputError:
            before = await self._allowed_before(button, execution, actor)
            return ("waits_no_more", None) if before is None else ("allowed_more", before)
        return "allowed_more", cost

    async def _named_by(self, button: BudgetButton | None, claimed: ClaimedInbound) -> Execution | None:
        """None where the button's message is not in the conversation of its request."""
        if button is None:
            return None
        execution = await self._executions.find(claimed.organization_id, button.execution_id)
        if execution is None:
            sought = Sought(claimed.organization_id, button.execution_id)
            await self._foreign_ids.run(Naming(_actor(claimed), _DOOR, sought))
        target = reply_target(execution.reply) if execution is not None else None
        event = claimed.event
        asked_here = isinstance(target, SlackTarget) and (
            (target.workspace_id, target.channel, target.thread_ts)
            == (claimed.workspace_id, event.channel, event.thread_ts)
        )
        return execution if asked_here else None

    async def _may_allow(self, claimed: ClaimedInbound) -> bool:
        organization = await self._tenants.organization(claimed.organization_id)
        return (
            organization is not None
            and organization.disabled_at is None
            and not claimed.workspace_ended
            and claimed.event.user in organization.budget_approvers
        )

    async def _allowed_before(self, button: BudgetButton, execution: Execution, actor: str) -> float | None:
        """US dollars: of this press, whose worker died, or of somebody's by which it goes on."""
        timeline = await self._executions.timeline(execution.organization_id, execution.id)
        words = [event for event in timeline if event.kind in _WORDS_ON_ITS_BUDGET]
        by_button = [event for event in words if event.detail.get("button") == button.wait]
        found = next((event for event in by_button if event.detail.get("by") == actor), None)
        if found is None and by_button and words[-1] is by_button[-1]:
            found = by_button[-1]
        return None if found is None else float(found.detail["cost_usd"])


def _actor(claimed: ClaimedInbound) -> str:
    return f"{_BY}{claimed.workspace_id}:{claimed.event.user}"


def _reply(
    word: str, button: BudgetButton, execution: Execution, claimed: ClaimedInbound, allowed_usd: float | None
) -> NewNotification:
    """That it may go on is told once; anything else once to each who asked."""
    text = say(word, language_of(execution.prompt), usd=in_full(allowed_usd or 0))
    told_to = "" if word == "allowed_more" else claimed.event.user
    return NewNotification(
        NotificationKind.NOTICE,
        execution.reply,
        {"text": text},
        dedupe=f"{word}:{execution.id}:{button.wait}:{told_to}",
    )
