"""On which OpenCode server an execution runs: its session's own, else the least loaded one that may serve it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from nubabel_workers.domain.circuit_breaker import Gate
from nubabel_workers.domain.executions import Execution
from nubabel_workers.domain.tenants import Instance, ServersPolicy

FULL = "capacity"
AWAY = "server away"
OWN = "own server"
PACE = "pace"

_TAKE_BACK_S = 30.0
_FIRST_SHARE = 5  # a fifth of its capacity at once

_ALL_CLOSED: Mapping[str, Gate] = MappingProxyType({})


@dataclass(frozen=True)
class PlaceWait:
    """Why there is no place now. wait_s: until there may be one; None where nobody knows."""

    reason: str
    wait_s: float | None = None


def takes_now(instance: Instance) -> int:
    """Runs that a server may have at this moment: all of its capacity, or less in the half minute after it came back.

    A server that has just started loads each directory again, a second of CPU each, and would be away once more if all
    that waited for it came at once (measured on opencode 1.18.33: fifty directories at once block it for 43 s).
    """
    capacity = instance.capacity_runs
    if instance.recovered_ago_s is None or instance.recovered_ago_s >= _TAKE_BACK_S:
        return capacity
    first = max(1, capacity // _FIRST_SHARE)
    return first + int((capacity - first) * max(0.0, instance.recovered_ago_s) / _TAKE_BACK_S)


class Placement:
    """Server loads at one moment; each placed execution counts at once, so that a batch spreads.

    gates: of servers whose circuit breaker is not closed; they get one execution, as the probe, or none.
    """

    def __init__(self, instances: Sequence[Instance], gates: Mapping[str, Gate] = _ALL_CLOSED) -> None:
        self._instances = {instance.id: instance for instance in instances}
        self._in_flight = {instance.id: instance.in_flight for instance in instances}
        self._gates = gates
        self._probes = {instance_id: int(gate.lets_probe) for instance_id, gate in gates.items()}

    def free_slots(self) -> int:
        return sum(max(0, self._free(instance)) for instance in self._serving())

    def capacity(self) -> int:
        """Runs that all servers together take now, when nothing runs."""
        return sum(takes_now(instance) for instance in self._serving())

    def place(
        self, execution: Execution, servers: ServersPolicy = ServersPolicy.SHARED, *, stays: bool = False
    ) -> Instance | None:
        """None: all that may serve it are full or away. A session stays where its history is, also while draining,
        but not on a server that its organization's policy does not allow.

        stays: its prompt may have arrived there; that is to be found out, whatever the policy says by now.
        """
        pinned = self._pinned(execution, servers, stays=stays)
        candidates = [pinned] if pinned else self._open_to(execution.organization_id, servers)
        free = [
            one for one in candidates if self._free(one) > 0 and (one.healthy or one is pinned or self.is_probe(one))
        ]
        if not free:
            return None
        chosen = min(free, key=self._preference)
        self._in_flight[chosen.id] += 1
        if chosen.id in self._probes:
            self._probes[chosen.id] -= 1
        return chosen

    def is_probe(self, instance: Instance) -> bool:
        """Whether what was placed there is the one call that decides whether its breaker closes."""
        return instance.id in self._probes

    def wait_for(
        self, execution: Execution, servers: ServersPolicy = ServersPolicy.SHARED, *, stays: bool = False
    ) -> PlaceWait:
        """What an execution that got no place waits for."""
        pinned = self._pinned(execution, servers, stays=stays)
        candidates = [pinned] if pinned else self._open_to(execution.organization_id, servers)
        if not candidates and servers is ServersPolicy.DEDICATED:
            return PlaceWait(OWN)
        if not candidates or any(one.id not in self._probes and (one.healthy or one is pinned) for one in candidates):
            return PlaceWait(FULL)
        return PlaceWait(AWAY, self._soonest(candidates))

    def all_away_for_s(self) -> float | None:
        """Seconds until the first breaker lets a probe go, where all servers' are open; else None."""
        serving = self._serving()
        return self._soonest(serving) if all(one.id in self._probes for one in serving) else None

    def pace_of(self, paced: Collection[str]) -> float | None:
        """Prompts a second that all servers take together, where each that can be asked is among the paced; else None.

        paced: servers that take no more prompts in this second.
        """
        closed = [one for one in self._serving() if one.id not in self._probes]
        exhausted = all(one.id in paced for one in closed)
        return float(sum(one.submits_per_second for one in closed)) if closed and exhausted else None

    def _soonest(self, instances: Sequence[Instance]) -> float | None:
        waits = [self._gates[instance.id].wait_s for instance in instances if instance.id in self._gates]
        return min((wait_s for wait_s in waits if wait_s > 0), default=None)

    def _preference(self, instance: Instance) -> tuple[bool, float, str]:
        return not instance.healthy, self._in_flight[instance.id] / takes_now(instance), instance.id

    def _pinned(self, execution: Execution, servers: ServersPolicy, *, stays: bool) -> Instance | None:
        """Where its session's history is; None also when that server is given up, or not for it any more."""
        pinned = self._instances.get(execution.instance_id) if execution.instance_id else None
        if pinned is None or pinned.given_up:
            return None
        return pinned if stays or _may_serve(pinned, execution.organization_id, servers) else None

    def _serving(self) -> list[Instance]:
        return [instance for instance in self._instances.values() if instance.status in {"active", "draining"}]

    def _open_to(self, organization_id: str, servers: ServersPolicy) -> list[Instance]:
        """Servers for new sessions."""
        return [
            i
            for i in self._instances.values()
            if i.status == "active" and not i.given_up and _may_serve(i, organization_id, servers)
        ]

    def _free(self, instance: Instance) -> int:
        free = takes_now(instance) - self._in_flight[instance.id]
        return min(free, self._probes.get(instance.id, free))


def _may_serve(instance: Instance, organization_id: str, servers: ServersPolicy) -> bool:
    """Only its own where it is to have its own, even if all are down; else none that is somebody's."""
    return instance.organization_id == (organization_id if servers is ServersPolicy.DEDICATED else None)
