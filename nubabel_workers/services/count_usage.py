"""What a run on OpenCode has used: sub-agents included, and priced where the server names no cost."""

from dataclasses import replace

from nubabel_workers.domain.errors import NotFoundError
from nubabel_workers.domain.executions import Execution, Usage
from nubabel_workers.domain.ports import OpenCodeServer
from nubabel_workers.domain.prices import PriceTable
from nubabel_workers.domain.verdict import RunMessage, Verdict, calls_sub_agents, with_sub_agents

_MOST_SESSIONS = 500  # of sub-agents in one conversation; what is beyond is said to be more
_FROM_THE_BEGINNING = ""


class CountUsage:
    """A run that called no sub-agent is counted without asking the server anything."""

    def __init__(self, prices: PriceTable) -> None:
        self._prices = prices

    async def run(self, server: OpenCodeServer, execution: Execution, verdict: Verdict) -> Verdict:
        """Raises the errors of the OpenCode port."""
        if verdict.delegated and execution.opencode_session_id is not None:
            verdict = await self._with_sub_agents(server, execution, execution.opencode_session_id, verdict)
        return self.priced(verdict)

    def priced(self, verdict: Verdict) -> Verdict:
        """Where the server names no cost, and there is a price."""
        by_model = self._prices.priced(verdict.usage_by_model)
        # What is not known of the whole run (it could not be looked at) stays unknown.
        start = Usage(lower_bound=verdict.usage.lower_bound)
        return replace(verdict, usage=sum(by_model.values(), start=start), usage_by_model=by_model)

    async def _with_sub_agents(
        self, server: OpenCodeServer, execution: Execution, session_id: str, verdict: Verdict
    ) -> Verdict:
        """OpenCode's own sums leave them out. Each sub-agent may have called others."""
        messages: list[RunMessage] = []
        complete = True
        sessions = await server.sub_agents(session_id)
        seen: set[str] = {session_id}
        while sessions:
            one = sessions.pop()
            if one in seen:
                continue
            seen.add(one)
            if len(seen) > _MOST_SESSIONS:
                complete = False
                break
            try:
                said = await server.run_messages(one, since=_FROM_THE_BEGINNING)
                if calls_sub_agents(said):
                    sessions += await server.sub_agents(one)
            except NotFoundError:  # deleted meanwhile
                complete = False
                continue
            messages += said
        known = frozenset(execution.known_assistant_ids)
        counted = with_sub_agents(verdict, messages, known_assistant_ids=known)
        return counted if complete else replace(counted, usage=replace(counted.usage, lower_bound=True))
