"""The store of budgets as operators use it; what runs do with it is tested on PostgreSQL."""

from dataclasses import dataclass, field
from typing import cast

from nubabel_workers.adapters.plans import load_plans
from nubabel_workers.domain.budget_button import BudgetButton
from nubabel_workers.domain.budgets import Amount, Books
from nubabel_workers.domain.ports import Chance, Clock, ExecutionStore, HintPublisher, ProgressStream, TenantStore
from nubabel_workers.domain.ports.budgets import BudgetStore
from nubabel_workers.domain.prices import PriceTable
from nubabel_workers.services.count_usage import CountUsage
from nubabel_workers.services.keep_budgets import BudgetLimits, KeepBudgets
from nubabel_workers.services.read_limits import ReadLimits


@dataclass
class FakeBudgets:
    waiting: set[str] = field(default_factory=set)  # executions
    allowed: dict[str, tuple[float, str]] = field(default_factory=dict)  # execution -> (cost, actor)
    steps: dict[str, Amount] = field(default_factory=dict)  # execution that was paused -> what it needs to go on
    woken: list[str] = field(default_factory=list)

    async def books(self, organization_id: str) -> Books:
        return Books(Amount(1.5, 1000), Amount(20, 50_000), Amount(0.25, 100), holds=2, queued=3, paused=1)

    async def wake(self, organization_id: str) -> int:
        self.woken.append(organization_id)
        return 0

    async def step(self, organization_id: str, execution_id: str) -> Amount:
        return self.steps.get(execution_id, Amount())

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
        if execution_id not in self.waiting:
            return False
        self.waiting.remove(execution_id)
        self.allowed[execution_id] = cost, actor
        return True

    def kept(
        self,
        executions: ExecutionStore,
        tenants: TenantStore,
        progress: ProgressStream,
        hints: HintPublisher,
        clock: Clock,
        chance: Chance,
    ) -> KeepBudgets:
        store, count = cast("BudgetStore", self), CountUsage(PriceTable({}))
        limits = ReadLimits(tenants, load_plans())
        return KeepBudgets(store, executions, limits, count, progress, hints, clock, chance, limits=BudgetLimits())
