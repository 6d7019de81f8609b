"""Tell whoever asks what an execution in the queue waits for. Looked up then; nothing is kept about it."""

from nubabel_workers.domain.executions import Execution, Status
from nubabel_workers.domain.limits import Limits
from nubabel_workers.domain.placement import Placement, pool_of
from nubabel_workers.domain.ports import AdmissionStore, InstanceStore
from nubabel_workers.domain.waiting import Waiting, waiting_of
from nubabel_workers.services.read_limits import ReadLimits


class ReadWaiting:
    def __init__(self, store: AdmissionStore, instances: InstanceStore, limits: ReadLimits) -> None:
        self._store = store
        self._instances = instances
        self._limits = limits

    async def of(self, execution: Execution) -> Waiting | None:
        """None: it neither waits in the queue nor for its budget (any more)."""
        if execution.status not in {Status.QUEUED, Status.WAITING_BUDGET}:
            return None
        line = await self._store.line(execution.organization_id, execution.id)
        if line is None:
            return None
        limits = await self._limits.by_id(execution.organization_id) or Limits()
        pool = Placement(await self._instances.loads()).pool(pool_of(execution.organization_id, line.servers))
        return waiting_of(line, limits, free_places=pool.free or 0)
