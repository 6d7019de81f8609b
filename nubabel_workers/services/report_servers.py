"""Share what this process saw of the OpenCode servers, and go on with what waited for one that is back."""

import structlog

from nubabel_workers.domain.errors import NubabelError
from nubabel_workers.domain.ports import CircuitBreakers, HintPublisher, WaitingStore
from nubabel_workers.services.wake_waiting import wake_in_steps

log = structlog.get_logger(__name__)


class ReportServers:
    """Call run() after each batch of calls: it exchanges nothing while all is well."""

    def __init__(self, breakers: CircuitBreakers, waiting: WaitingStore, hints: HintPublisher) -> None:
        self._breakers = breakers
        self._waiting = waiting
        self._hints = hints

    async def run(self) -> None:
        for instance_id in await self._breakers.report():
            try:
                await self._wake(instance_id)
            except NubabelError as error:  # their own wait ends soon, too
                log.warning("opencode.waiting_not_woken", instance_id=instance_id, error=str(error))

    async def _wake(self, instance_id: str) -> None:
        count = await wake_in_steps(lambda: self._waiting.wake(instance_id), self._hints)
        log.info("opencode.server_back", instance_id=instance_id, woken=count)
