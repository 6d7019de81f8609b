"""What keeping budgets needs from the outside."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from nubabel_workers.domain.budget_button import BudgetButton
from nubabel_workers.domain.budgets import Amount, Books, Caps, Shortage
from nubabel_workers.domain.executions import Execution, Usage
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.notifications import NewNotification


@dataclass(frozen=True)
class Hold:
    """What is to be held for a run, under these caps."""

    caps: Caps
    amount: Amount


@dataclass(frozen=True)
class Pause:
    """A run that was stopped at a cap. output: its work so far. after_ms: the server's clock at its last message.

    shortage: None where there is room again. step: what there has to be room for, for it to go on.
    """

    shortage: Shortage | None
    output: str | None
    usage: Usage
    usage_by_model: Mapping[str, Usage]
    counted_ids: frozenset[str]
    after_ms: int
    step: Amount
    notice: NewNotification | None = None


@dataclass(frozen=True)
class Due:
    """A paused one whose time to look for room has come. untold: its thread has not heard of this pause."""

    organization_id: str
    execution_id: str
    untold: bool


class BudgetStore(Protocol):
    """Holds of runs. They are placed by ExecutionStore.begin_attempt and settled by its finish and requeue."""

    async def estimate(self, organization_id: str, category: str | None) -> Amount | None:
        """What nine of ten of its last runs of that category stayed under, as it was a moment ago; None: too few."""
        ...

    async def shortage(self, execution: Execution, hold: Hold, *, extends: bool = False) -> Shortage | None:
        """Whether there is no room for it now. Changes nothing.

        extends: for all of its latest run, not for a new one.
        """
        ...

    async def extend(self, execution: Execution, lease: Lease, hold: Hold) -> Shortage | None:
        """Hold at least that much for a running one; a shortage: it is written down that it is to be paused."""
        ...

    async def wait(
        self, execution: Execution, lease: Lease, shortage: Shortage, *, wait_s: float, notice: NewNotification | None
    ) -> str | None:
        """Back to the queue; the id of the notice's row, if it has to be told now: once between two attempts.

        Of one that is spent out `answer_by` moves to when the cap frees, and as far behind that as it was.
        """
        ...

    async def pause(self, execution: Execution, lease: Lease, pause: Pause, *, keep_s: float) -> str | None:
        """The attempt ends, what it used is counted, its hold is gone; kept for keep_s seconds. The notice's id.

        Its progress message goes until there is progress again.
        """
        ...

    async def tell_paused(self, execution: Execution, notice: NewNotification) -> str | None:
        """Of one whose pause nobody told of; the notice's id. None: it was told by now, or goes on."""
        ...

    async def due(self, *, again_s: float, limit: int) -> list[Due]:
        """Take paused ones whose time to look for room has come; each caller gets different ones."""
        ...

    async def resume(self, execution: Execution, hold: Hold | None, *, answer_by_s: float) -> bool:
        """Back to the queue, where there is room for it; without a hold, always."""
        ...

    async def step(self, organization_id: str, execution_id: str) -> Amount:
        """What has to be allowed at least for one that was paused to go on; nothing for one that was not."""
        ...

    async def allow(
        self,
        organization_id: str,
        execution_id: str,
        *,
        cost: float,
        answer_by_s: float,
        actor: str,
        button: BudgetButton | None = None,
    ) -> bool:
        """Somebody's word: it may cost that much more, whatever the caps; and goes on. False: it waits no more.

        button: only if what waits now is what that button was shown for. Buttons of it in its thread go.
        """
        ...

    async def books(self, organization_id: str) -> Books: ...

    async def wake(self, organization_id: str) -> int:
        """The caps were changed: whatever waits for the budget looks for room now; how many."""
        ...

    async def release_stale(self) -> int:
        """Holds of what runs no more are given back; how many there were. None are left when nobody was killed."""
        ...
