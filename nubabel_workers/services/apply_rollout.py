"""Let what waits in the queue follow the rollout as it is set now: it was decided when the request came."""

from collections import defaultdict

import structlog

from nubabel_workers.domain.ports.orchestrators import CallStore
from nubabel_workers.domain.rollout import Orchestrator, Rollout

log = structlog.get_logger(__name__)

_PAGE = 1000


class ApplyRollout:
    def __init__(self, calls: CallStore, rollout: Rollout) -> None:
        self._calls = calls
        self._rollout = rollout

    async def run(self) -> int:
        """How many wait for another orchestrator now. What is bound to OpenCode (its prompt may be there) stays."""
        moved = 0
        position = 0
        while True:
            page = await self._calls.queued_choices(after_position=position, limit=_PAGE, settled=self._rollout.only)
            wrong: defaultdict[Orchestrator, list[str]] = defaultdict(list)
            for row in page:
                chosen = self._rollout.choose(row.organization_id, row.session_key)
                if chosen is not row.orchestrator:
                    wrong[chosen].append(row.execution_id)
            for orchestrator, execution_ids in wrong.items():
                changed = await self._calls.choose(orchestrator, execution_ids)
                moved += changed
            if len(page) < _PAGE:
                break
            position = page[-1].position
        if moved:
            log.info("rollout.applied", executions=moved, orchestrator=self._rollout.orchestrator)
        return moved
