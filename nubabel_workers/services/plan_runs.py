"""How a request is to be run: the analysis, the deadline, and what is spared when its organization has to economize."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nubabel_workers.domain.analysis import Analysis, Rules, analyse
from nubabel_workers.domain.budgets import Economy
from nubabel_workers.domain.executions import Execution
from nubabel_workers.domain.wording import language_of, say
from nubabel_workers.services.keep_budgets import KeepBudgets
from nubabel_workers.services.run_deadlines import RunDeadlines


def _told(reasons: Sequence[str], economy: Economy, category_chosen: bool) -> tuple[str, ...]:
    """Who chose the category, if it was not the caller."""
    why = f"economy: most of {economy.near} is used"
    choice = f"category {economy.category}: "
    told = [f"{choice}{why}" if category_chosen and one.startswith(choice) else one for one in reasons]
    return tuple(told) if category_chosen else (*told, why)


@dataclass(frozen=True)
class RunPlan:
    """deadline_s: seconds. notes: said beside the answer."""

    analysis: Analysis
    deadline_s: float
    notes: Sequence[str] = ()


class PlanRuns:
    def __init__(self, budgets: KeepBudgets, deadlines: RunDeadlines, rules: Rules) -> None:
        self._budgets = budgets
        self._deadlines = deadlines
        self._rules = rules

    async def of(self, execution: Execution, available_agents: Sequence[str]) -> RunPlan:
        """Raises InvalidInputError when the caller named something that does not exist."""
        economy = await self._budgets.economy_for(execution)
        if economy is None:
            analysis = analyse(execution.prompt, execution.overrides, self._rules, available_agents)
            return RunPlan(analysis, await self._deadlines.of(execution, analysis))
        spared = economy.spare(execution.overrides, self._rules.categories)
        analysis = analyse(execution.prompt, spared, self._rules, available_agents)
        analysis = replace(analysis, reasons=_told(analysis.reasons, economy, spared is not execution.overrides))
        deadline_s = min(economy.run_s, await self._deadlines.of(execution, analysis))
        return RunPlan(analysis, deadline_s, (say("economy", language_of(execution.prompt)),))

    async def again(self, execution: Execution) -> RunPlan:
        """As its last try was planned and written down: under one key one thing is asked."""
        analysis = Analysis.from_dict(execution.analysis)
        return RunPlan(analysis, await self._deadlines.of(execution, analysis))
