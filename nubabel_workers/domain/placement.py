"""On which OpenCode server an execution runs: its session's own, else the least loaded one that may serve it."""

from collections.abc import Sequence

from nubabel_workers.domain.executions import Execution
from nubabel_workers.domain.tenants import Instance


class Placement:
    """Server loads at one moment; each placed execution counts at once, so that a batch spreads."""

    def __init__(self, instances: Sequence[Instance]) -> None:
        self._instances = {instance.id: instance for instance in instances}
        self._in_flight = {instance.id: instance.in_flight for instance in instances}

    def free_slots(self) -> int:
        return sum(max(0, self._free(instance)) for instance in self._instances.values() if _serves(instance))

    def place(self, execution: Execution) -> Instance | None:
        """None: all that may serve it are full. A session stays where its history is, also on a draining server."""
        pinned = self._instances.get(execution.instance_id) if execution.instance_id else None
        candidates = [pinned] if pinned else self._open_to(execution.organization_id)
        free = [instance for instance in candidates if self._free(instance) > 0]
        if not free:
            return None
        chosen = min(free, key=lambda instance: (self._in_flight[instance.id] / instance.capacity_runs, instance.id))
        self._in_flight[chosen.id] += 1
        return chosen

    def _open_to(self, organization_id: str) -> list[Instance]:
        """Servers for new sessions: the organization's own where it has any (even if down), else shared ones."""
        open_ones = [i for i in self._instances.values() if i.status == "active" and i.healthy]
        own = [i for i in self._instances.values() if i.organization_id == organization_id]
        return [i for i in open_ones if i.organization_id == (organization_id if own else None)]

    def _free(self, instance: Instance) -> int:
        return instance.capacity_runs - self._in_flight[instance.id]


def _serves(instance: Instance) -> bool:
    return instance.status in {"active", "draining"}
