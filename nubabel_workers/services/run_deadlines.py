"""How long a run may take."""

from nubabel_workers.domain.analysis import Analysis, Rules
from nubabel_workers.domain.executions import Execution
from nubabel_workers.services.read_limits import ReadLimits


class RunDeadlines:
    def __init__(self, organization_limits: ReadLimits, rules: Rules, *, default_s: float) -> None:
        self._organization_limits = organization_limits
        self._rules = rules
        self._default_s = default_s

    async def of(self, execution: Execution, analysis: Analysis) -> float:
        """Seconds: the caller's, else the category's, else the setting's; never more than the organization's longest
        run.
        """
        by_category = self._rules.deadlines_s.get(analysis.category or "")
        wanted_s = execution.deadline_s or by_category or self._default_s
        limits = await self._organization_limits.by_id(execution.organization_id)
        longest_s = None if limits is None else limits.longest_run_s
        return wanted_s if longest_s is None else min(wanted_s, longest_s)
