"""Money and tokens that organizations may use: caps, what is held for a run, and which cap leaves no room. Pure.

A run's estimate is held before its prompt leaves, so that runs that start at once cannot use the same money. Used and
held together never pass a cap, but for what one step of a live session costs more than was held for it.
"""

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from datetime import datetime
from enum import StrEnum

from nubabel_workers.domain.errors import NubabelError
from nubabel_workers.domain.executions import Overrides, Usage
from nubabel_workers.domain.limits import Limits
from nubabel_workers.domain.wording import Language, say

WAITS_FOR_BUDGET = "budget"  # the reason, in the row and the timeline


class Cap(StrEnum):
    """Days and months are UTC's. Money is US dollars."""

    COST_PER_EXECUTION = "cost_per_execution"
    COST_PER_USER_DAY = "cost_per_user_day"
    COST_PER_DAY = "cost_per_day"
    COST_PER_MONTH = "cost_per_month"
    TOKENS_PER_DAY = "tokens_per_day"
    TOKENS_PER_MONTH = "tokens_per_month"


@dataclass(frozen=True)
class Caps:
    """What an organization may use at most; None: as much as it likes."""

    cost_per_execution: float | None = None
    cost_per_user_day: float | None = None
    cost_per_day: float | None = None
    cost_per_month: float | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None

    @property
    def limit_something(self) -> bool:
        return any(getattr(self, field.name) is not None for field in fields(self))

    @classmethod
    def of(cls, limits: Limits) -> "Caps":
        return cls(**{cap.value: getattr(limits, cap) for cap in Cap})


@dataclass(frozen=True)
class Amount:
    """Money (US dollars) and tokens."""

    cost: float = 0.0
    tokens: int = 0

    @classmethod
    def of(cls, usage: Usage) -> "Amount":
        return cls(usage.cost, usage.total_tokens)


@dataclass(frozen=True)
class Shortage:
    """No room under a cap. frees_at: when its day or month is over; None: when somebody raises it.

    spent_out: it stays so even when everything that runs now ends without using what is held for it. step_cost: US
    dollars of one step of a run that was paused before; 0: it has none yet.
    """

    cap: Cap
    spent_out: bool
    frees_at: datetime | None
    step_cost: float = 0.0


@dataclass(frozen=True)
class Books:
    """What an organization has used and what is held for its runs. queued, paused: how many wait for room."""

    today: Amount
    this_month: Amount
    held: Amount
    holds: int
    queued: int
    paused: int


@dataclass(frozen=True)
class Economy:
    """How requests are served when most of a budget is used. near: of which cap. Seconds: run_s at most."""

    near: Cap
    category: str
    run_s: float

    def spare(self, overrides: Overrides, known_categories: Collection[str]) -> Overrides:
        """The cheaper category, where the caller has chosen none and the rules know it."""
        if overrides.category is not None or self.category not in known_categories:
            return overrides
        return replace(overrides, category=self.category)


def nearest_cap(caps: Caps, books: Books, *, share: float) -> Cap | None:
    """The first cap of a day or month of which that share is used or held; None: there is room."""
    used = {
        Cap.COST_PER_MONTH: books.this_month.cost + books.held.cost,
        Cap.TOKENS_PER_MONTH: books.this_month.tokens + books.held.tokens,
        Cap.COST_PER_DAY: books.today.cost + books.held.cost,
        Cap.TOKENS_PER_DAY: books.today.tokens + books.held.tokens,
    }
    most = {cap: getattr(caps, cap) for cap in used}
    return next((cap for cap, amount in used.items() if most[cap] is not None and amount >= share * most[cap]), None)


class BudgetReachedError(NubabelError):
    """There is no room under one of the organization's caps; nothing was started."""

    def __init__(self, shortage: Shortage) -> None:
        super().__init__(f"no room under {shortage.cap}")
        self.shortage = shortage


def until_next_step(usage: Usage, steps: int) -> Amount:
    """What a run will have used after one more step like those before. usage: so far, of so many that have ended."""
    step = step_of(usage, steps)
    return Amount(usage.cost + step.cost, usage.total_tokens + step.tokens)


def step_of(usage: Usage, steps: int) -> Amount:
    """What one step used on the average, sub-agents included."""
    return Amount(usage.cost / steps, usage.total_tokens // steps) if steps else Amount()


def words_for(shortage: Shortage, language: Language, *, paused: bool) -> str:
    """What a thread is told. paused: the run had begun; its work is kept."""
    when = "budget_until_raised" if shortage.frees_at is None else f"budget_until_{_period(shortage.cap)}"
    return " ".join(
        (
            say(f"budget_{_whose(shortage.cap)}", language),
            say("budget_paused" if paused else "budget_kept", language),
            say(when, language),
        )
    )


def _period(cap: Cap) -> str:
    return "month" if cap in {Cap.COST_PER_MONTH, Cap.TOKENS_PER_MONTH} else "day"


def _whose(cap: Cap) -> str:
    if cap is Cap.COST_PER_EXECUTION:
        return "of_request"
    if cap is Cap.COST_PER_USER_DAY:
        return "of_user"
    return f"of_{_period(cap)}"
